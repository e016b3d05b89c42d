import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { readFlags } from "./flags.ts";
import { commitFrame, frameFlat, frameHere, frameOn, framePush } from "./frame.ts";
import { Cpu, Event, gpr, Seg } from "./layout.ts";
import { accessOf, realMode, selectorOf, updateMode, v86Mode } from "./mode.ts";
import {
  checkStackSegment,
  Descriptor,
  errorOf,
  fetchDescriptor,
  isNull,
  loadReal,
  markAccessed,
  refuseAbsent,
  SystemType,
  storeDescriptor,
  storeNull,
} from "./segments.ts";
import { Slot } from "./slots.ts";
import { get32, get64, RFLAGS, set32, set64, Vector } from "./state.ts";
import { longMode, nonCanonical, refuse, returnOnEvent, systemRead } from "./system.ts";
import { TaskSource, throughTaskGate } from "./task.ts";

/**
 * Delivery of interrupts and exceptions (SDM Vol. 3A ch. 6; Vol. 2 INT n): through the interrupt vector table
 * in real mode, through gates in protected and IA-32e mode.
 */

const DR7 = Cpu.DR + 7 * 8;

/** `kind` of `deliverEvent`. */
export const EventKind = {
  EXTERNAL: 0,
  NMI: 1,
  EXCEPTION: 2,
  /** INT n. */
  SOFTWARE_INTERRUPT: 3,
  /** INT3 and INTO. */
  SOFTWARE_EXCEPTION: 4,
  /** INT1 (ICEBP). */
  PRIVILEGED: 5,
} as const;

/** Error code that names an IDT entry. */
const idtError = (vector: I32): I32 => vector.shl(3).or(2);

/** RFLAGS inside the handler: TF, NT, VM and RF clear; IF too if `masks`. AC only where real mode clears it. */
function enterFlags(f: Builder, masks: I32, alsoClear = 0): void {
  const cleared = RFLAGS.TF | RFLAGS.NT | RFLAGS.VM | RFLAGS.RF | alsoClear;
  const flags = get32(f, Cpu.RFLAGS).and(~cleared);
  set32(f, Cpu.RFLAGS, masks.select(flags.and(~RFLAGS.IF), flags));
}

const deliverReal = fn("deliverReal", ["i32", "i64", "i64"], undefined, (f, vector, flags, rip) => {
  const beyond = vector.shl(2).add(3).gtU(get32(f, Cpu.IDT_LIMIT));
  refuse(f, beyond, Vector.GP, idtError(vector));
  const entry = f.call<I64>(systemRead[32]!, get64(f, Cpu.IDT_BASE).add(vector.shl(2).u64()));
  returnOnEvent(f);
  f.call(frameHere);
  f.call(framePush, f.i32(2), flags);
  f.call(framePush, f.i32(2), selectorOf(f, Seg.CS).u64());
  f.call(framePush, f.i32(2), rip);
  returnOnEvent(f);
  commitFrame(f);
  enterFlags(f, f.i32(1), RFLAGS.AC);
  f.call(loadReal, f.i32(Seg.CS), entry.shrU(16).wrap());
  set64(f, Cpu.RIP, entry.and(0xffff));
  f.call(updateMode);
});

/**
 * The stack for privilege level `dpl` from the TSS: SS selector in bits 47:32, ESP below (SDM Vol. 3A sec.
 * 8.2.1, 8.6).
 */
export const tssStack = fn("tssStack", ["i32"], "i64", (f, dpl) => {
  const is32 = accessOf(f, Seg.TR).shrU(3).and(1);
  const at = is32.select(dpl.shl(3).add(4), dpl.shl(2).add(2));
  const last = at.add(is32.select(f.i32(5), f.i32(3)));
  const limit = get32(f, Cpu.SEG_LIMIT + 4 * Seg.TR);
  refuse(f, last.gtU(limit), Vector.TS, errorOf(selectorOf(f, Seg.TR)), f.i64(0));
  const base = get64(f, Cpu.SEG_BASE + 8 * Seg.TR).add(at.u64());
  const sp = f.variable("i64", f.i64(0));
  f.if(
    is32,
    () => sp.set(f.call<I64>(systemRead[32]!, base)),
    () => sp.set(f.call<I64>(systemRead[16]!, base)),
  );
  returnOnEvent(f, f.i64(0));
  const ss = f.call<I64>(systemRead[16]!, base.add(is32.select(f.i64(4), f.i64(2))));
  f.return(sp.get().or(ss.shl(32)));
});

/** RSP0 to RSP2 (`index` 0 to 2) or IST1 to IST7 (`index` 4 to 10) of the 64-bit TSS (SDM Vol. 3A fig. 8-11). */
export const tssStack64 = fn("tssStack64", ["i32"], "i64", (f, index) => {
  const at = index.shl(3).add(4);
  const limit = get32(f, Cpu.SEG_LIMIT + 4 * Seg.TR);
  refuse(f, at.add(7).gtU(limit), Vector.TS, errorOf(selectorOf(f, Seg.TR)), f.i64(0));
  f.return(f.call<I64>(systemRead[64]!, get64(f, Cpu.SEG_BASE + 8 * Seg.TR).add(at.u64())));
});

/** Through an interrupt or trap gate outside IA-32e mode. */
const deliverGate = fn(
  "deliverGate",
  ["i64", "i32", "i32", "i64", "i64"],
  undefined,
  (f, gate, error, hasError, flags, rip) => {
    const selector = gate.shrU(16).wrap().and(0xffff);
    const is32 = gate.bit(43);
    const bytes = is32.shl(1).add(2);
    const offset = f.let(is32.select(gate.and(0xffff).or(gate.shrU(32).and(0xffff_0000n)), gate.and(0xffff)));
    const cpl = get32(f, Cpu.CPL);
    const v86 = v86Mode(f);
    refuse(f, isNull(selector), Vector.GP);
    const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
    returnOnEvent(f);
    const dpl = Descriptor.dpl(raw);
    refuse(f, Descriptor.isCode(raw).eqz().or(dpl.gtU(cpl)), Vector.GP, errorOf(selector));
    refuseAbsent(f, raw, selector);
    const inner = f.let(Descriptor.isConforming(raw).eqz().and(dpl.ltU(cpl)));
    // From virtual-8086 mode only privilege level 0 can be entered.
    refuse(f, v86.and(inner.eqz().or(dpl.ne(0))), Vector.GP, errorOf(selector));
    const newCpl = f.let(inner.select(dpl, cpl));
    const code = f.call<I64>(markAccessed, selector, raw);
    returnOnEvent(f);
    const stack = f.variable("i64", f.i64(0));
    const newSs = f.variable("i32", f.i32(0));
    f.if(
      inner,
      () => {
        const pointer = f.call<I64>(tssStack, dpl);
        returnOnEvent(f);
        newSs.set(pointer.shrU(32).wrap());
        stack.set(f.call<I64>(checkStackSegment, newSs.get(), dpl, f.i32(Vector.TS)));
        returnOnEvent(f);
        f.call(frameOn, newSs.get(), stack.get(), pointer.and(0xffff_ffffn), dpl);
        const push = (value: I64): void => {
          f.call(framePush, bytes, value);
        };
        f.if(v86, () => {
          for (const seg of [Seg.GS, Seg.FS, Seg.DS, Seg.ES]) push(selectorOf(f, seg).u64());
        });
        push(selectorOf(f, Seg.SS).u64());
        push(get64(f, gpr(4)));
      },
      () => f.call(frameHere),
    );
    f.call(framePush, bytes, flags);
    f.call(framePush, bytes, selectorOf(f, Seg.CS).u64());
    f.call(framePush, bytes, rip);
    f.if(hasError, () => f.call(framePush, bytes, error.u64()));
    returnOnEvent(f);
    refuse(f, offset.wrap().gtU(Descriptor.limit(code)), Vector.GP);
    commitFrame(f);
    f.if(inner, () => f.call(storeDescriptor, f.i32(Seg.SS), newSs.get(), stack.get()));
    f.if(v86, () => {
      for (const seg of [Seg.GS, Seg.FS, Seg.DS, Seg.ES]) storeNull(f, seg, f.i32(0));
    });
    f.call(storeDescriptor, f.i32(Seg.CS), errorOf(selector).or(newCpl), code);
    set32(f, Cpu.CPL, newCpl);
    enterFlags(f, gate.bit(40).eqz());
    set64(f, Cpu.RIP, offset);
    f.call(updateMode);
  },
);

const deliverProtected = fn(
  "deliverProtected",
  ["i32", "i32", "i32", "i32", "i64", "i64"],
  undefined,
  (f, vector, error, hasError, software, flags, rip) => {
    const beyond = vector.shl(3).add(7).gtU(get32(f, Cpu.IDT_LIMIT));
    refuse(f, beyond, Vector.GP, idtError(vector));
    const gate = f.call<I64>(systemRead[64]!, get64(f, Cpu.IDT_BASE).add(vector.shl(3).u64()));
    returnOnEvent(f);
    const type = Descriptor.type(gate);
    const isTask = type.eq(SystemType.TASK_GATE);
    // Interrupt and trap gates: 6, 7, 14, 15.
    const known = type.and(0x16).eq(6).or(isTask);
    const refused = software.and(Descriptor.dpl(gate).ltU(get32(f, Cpu.CPL)));
    refuse(f, known.eqz().or(refused), Vector.GP, idtError(vector));
    refuse(f, Descriptor.absent(gate), Vector.NP, idtError(vector));
    f.if(isTask, () => {
      f.call(throughTaskGate, gate, f.i32(TaskSource.CALL), flags.wrap(), rip, hasError, error);
      f.return();
    });
    f.call(deliverGate, gate, error, hasError, flags, rip);
  },
);

const deliverLong = fn(
  "deliverLong",
  ["i32", "i32", "i32", "i32", "i64", "i64"],
  undefined,
  (f, vector, error, hasError, software, flags, rip) => {
    const beyond = vector.shl(4).add(15).gtU(get32(f, Cpu.IDT_LIMIT));
    refuse(f, beyond, Vector.GP, idtError(vector));
    const entry = get64(f, Cpu.IDT_BASE).add(vector.shl(4).u64());
    const gate = f.call<I64>(systemRead[64]!, entry);
    returnOnEvent(f);
    const upper = f.call<I64>(systemRead[64]!, entry.add(8));
    returnOnEvent(f);
    const cpl = get32(f, Cpu.CPL);
    const known = Descriptor.type(gate).and(0x1e).eq(SystemType.INTERRUPT_GATE32);
    const refused = software.and(Descriptor.dpl(gate).ltU(cpl));
    refuse(f, known.eqz().or(refused), Vector.GP, idtError(vector));
    refuse(f, Descriptor.absent(gate), Vector.NP, idtError(vector));

    const selector = gate.shrU(16).wrap().and(0xffff);
    refuse(f, isNull(selector), Vector.GP);
    const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
    returnOnEvent(f);
    const dpl = Descriptor.dpl(raw);
    const notLong = Descriptor.isLong(raw).eqz().or(Descriptor.isBig(raw));
    const wrong = Descriptor.isCode(raw).eqz().or(notLong).or(dpl.gtU(cpl));
    refuse(f, wrong, Vector.GP, errorOf(selector));
    refuseAbsent(f, raw, selector);
    const code = f.call<I64>(markAccessed, selector, raw);
    returnOnEvent(f);

    const inner = f.let(Descriptor.isConforming(raw).eqz().and(dpl.ltU(cpl)));
    const newCpl = f.let(inner.select(dpl, cpl));
    const ist = gate.shrU(32).wrap().and(7);
    const sp = f.variable("i64", get64(f, gpr(4)));
    f.if(ist.ne(0).or(inner), () => {
      // IST1 follows RSP2 and a reserved quadword.
      sp.set(f.call<I64>(tssStack64, ist.select(ist.add(3), dpl)));
      returnOnEvent(f);
    });
    f.call(frameFlat, sp.get().and(~0xfn), newCpl);
    const push = (value: I64): void => {
      f.call(framePush, f.i32(8), value);
    };
    push(selectorOf(f, Seg.SS).u64());
    push(get64(f, gpr(4)));
    push(flags);
    push(selectorOf(f, Seg.CS).u64());
    push(rip);
    f.if(hasError, () => push(error.u64()));
    returnOnEvent(f);
    const target = f.let(gate.and(0xffff).or(gate.shrU(32).and(0xffff_0000n)).or(upper.shl(32)));
    refuse(f, nonCanonical(target), Vector.GP);

    commitFrame(f);
    f.if(inner, () => storeNull(f, Seg.SS, newCpl, newCpl));
    f.call(storeDescriptor, f.i32(Seg.CS), errorOf(selector).or(newCpl), code);
    set32(f, Cpu.CPL, newCpl);
    enterFlags(f, gate.bit(40).eqz());
    set64(f, Cpu.RIP, target);
    f.call(updateMode);
  },
);

/**
 * One attempt to enter the handler of `vector`: (vector, error, hasError, software, flags, rip). `software`: 1
 * checks the gate's DPL; `flags` is the RFLAGS image to push. Where it fails EVENT is set and nothing but
 * memory below the stack and accessed bits has changed; error codes lack EXT.
 */
export const enterHandler = fn(
  "enterHandler",
  ["i32", "i32", "i32", "i32", "i64", "i64"],
  undefined,
  (f, vector, error, hasError, software, flags, rip) => {
    f.if(
      longMode(f),
      () => f.call(deliverLong, vector, error, hasError, software, flags, rip),
      () =>
        f.if(
          realMode(f),
          () => f.call(deliverReal, vector, flags, rip),
          () => f.call(deliverProtected, vector, error, hasError, software, flags, rip),
        ),
    );
    returnOnEvent(f);
    set32(f, Slot.NO_STEP_TRAP, 1);
    set32(f, Cpu.SHADOW, 0);
  },
);

/** Faults whose frame shows RF set, a bit each: all but #DB, #BP, #OF and interrupts (SDM Vol. 3B sec. 18.3.1.1). */
const RF_VECTORS =
  0x003b_ffff & ~((1 << Vector.DB) | (1 << Vector.NMI) | (1 << Vector.BP) | (1 << Vector.OF));

/** Contributory exceptions, a bit each (SDM Vol. 3A table 6-5): #DE, #TS, #NP, #SS, #GP. */
const CONTRIBUTORY =
  (1 << Vector.DE) | (1 << Vector.TS) | (1 << Vector.NP) | (1 << Vector.SS) | (1 << Vector.GP);

const isOneOf = (f: Builder, vectors: number, vector: I32): I32 =>
  f.i32(vectors).shrU(vector).and(vector.ltU(32));

/**
 * Delivers an event: (vector, error code, whether it is pushed, `EventKind`, RIP to push). Faults on the way
 * are delivered in its place, or become a double fault, as SDM Vol. 3A table 6-5 says.
 * Task switches end the loop at the latest when every TSS is busy.
 *
 * Returns 0 when delivered (`Cpu.RIP` is the handler, the mode updated, EVENT clear), 1 on a triple fault.
 * An access that would leave the engine (an IDT or a stack in MMIO space) cannot be repeated here and
 * counts as a triple fault; INT n and its kin, being instructions, do repeat.
 */
export const deliverEvent = fn(
  "deliverEvent",
  ["i32", "i32", "i32", "i32", "i64"],
  "i32",
  (f, firstVector, firstError, firstHasError, kind, rip) => {
    const vector = f.variable("i32", firstVector);
    const error = f.variable("i32", firstError);
    const hasError = f.variable("i32", firstHasError);
    const resume = f.variable("i64", rip);
    const software = f.variable(
      "i32",
      kind.eq(EventKind.SOFTWARE_INTERRUPT).or(kind.eq(EventKind.SOFTWARE_EXCEPTION)),
    );
    /** 0 benign, 1 contributory, 2 page fault, 3 double fault. */
    const severity = f.variable("i32", f.i32(0));
    const isException = f.variable("i32", kind.eq(EventKind.EXCEPTION));
    const classOf = (v: I32): I32 =>
      v.eq(Vector.DF).select(f.i32(3), v.eq(Vector.PF).select(f.i32(2), isOneOf(f, CONTRIBUTORY, v)));
    f.if(isException.get(), () => severity.set(classOf(firstVector)));
    set32(f, Cpu.ACTIVITY, 0);
    set32(f, Cpu.EVENT, Event.NONE);
    f.if(kind.eq(EventKind.NMI), () => set32(f, Cpu.NMI_BLOCKED, 1));
    f.loop((again) => {
      const v = vector.get();
      const image = f.let(f.call(readFlags).u64());
      const faulting = isException.get().and(isOneOf(f, RF_VECTORS, v));
      const flags = image.or(faulting.u64().shl(16));
      // The handler of #DB may use the debug registers: general detect goes off.
      f.if(v.eq(Vector.DB), () => set64(f, DR7, get64(f, DR7).and(~0x2000n)));
      f.call(enterHandler, v, error.get(), hasError.get(), software.get(), flags, resume.get());
      const event = get32(f, Cpu.EVENT);
      f.if(event.eqz(), () => f.return(f.i32(0)));
      set32(f, Cpu.EVENT, Event.NONE);
      f.if(event.ne(Event.FAULT), () => f.return(f.i32(1)));
      const second = get32(f, Cpu.EXC_VECTOR);
      // Delivered by a task switch, and the new task begins with an exception of its own.
      f.if(get32(f, Slot.TASK_COMMITTED), () => {
        set32(f, Slot.TASK_COMMITTED, 0);
        vector.set(second);
        error.set(get32(f, Cpu.EXC_ERROR));
        hasError.set(get32(f, Cpu.EXC_HAS_ERROR));
        severity.set(classOf(second));
        software.set(f.i32(0));
        isException.set(f.i32(1));
        resume.set(get64(f, Cpu.RIP));
        f.continue(again);
      });
      const first = severity.get();
      const then = f.let(classOf(second));
      f.if(first.eq(3), () => f.return(f.i32(1)));
      const both = first
        .eq(1)
        .and(then.eq(1))
        .or(first.eq(2).and(then.ne(0)));
      f.if(
        both,
        () => {
          vector.set(f.i32(Vector.DF));
          error.set(f.i32(0));
          hasError.set(f.i32(1));
          severity.set(f.i32(3));
        },
        () => {
          const ext = software
            .get()
            .eqz()
            .and(isOneOf(f, CONTRIBUTORY & ~1, second));
          vector.set(second);
          error.set(get32(f, Cpu.EXC_ERROR).or(ext));
          hasError.set(get32(f, Cpu.EXC_HAS_ERROR));
          severity.set(then);
        },
      );
      software.set(f.i32(0));
      isException.set(f.i32(1));
      f.continue(again);
    });
    f.return(f.i32(1));
  },
);
