import { afterStep, instructionBreakpoint } from "../cpu/debug.ts";
import { deliverEvent } from "../cpu/interrupts.ts";
import { Cpu, Event, Mode, TLB_ENTRIES, TlbEntry } from "../cpu/layout.ts";
import { lookupSlow, quickLookup } from "../cpu/lookup.ts";
import { Slot } from "../cpu/slots.ts";
import { get32, get64, RFLAGS, set32, set64, Vector } from "../cpu/state.ts";
import { Builder, hostFn, type I32, type I64, wrap } from "../ir/builder.ts";
import type { DispatcherPart, Stmt } from "../ir/ir.ts";
import type { WasmType } from "../wasm/opcodes.ts";

/**
 * The dispatcher's own parts, in the description language. The interpreter (interpreter.ts) puts them
 * around its cases:
 *
 * ```text
 * run(budget)
 *   slow:      what EVENT asks for; injected events; single steps; the exit
 *     lookup:    rip → micro-op
 *       dispatch:  the cases
 * ```
 *
 * Budgets are counted in micro-op bytes (16 an instruction): `limit - uop` is what is left, so that straight
 * code costs nothing to account for.
 */

/** Decodes the one instruction at `Cpu.RIP` for a step, followed by a stop; the fetch has succeeded. */
export const decodeStep = hostFn("decodeStep", ["i32", "i32"], "i32");

/** The dispatcher's WebAssembly locals, in order; the first is the function's parameter. */
export const LOCALS: readonly WasmType[] = ["i32", "i32", "i32", "i32", "i64", "i32", "i32", "i32", "i32"];
export const Local = {
  BUDGET: 0,
  LEFT: 1,
  UOP: 2,
  LIMIT: 3,
  RIP: 4,
  CPU: 5,
  STEPPING: 6,
  SAVED: 7,
  STEP_FLAGS: 8,
} as const;

class Dispatcher extends Builder {
  constructor() {
    super();
    for (const _ of LOCALS) this.temp();
  }
  get32(local: number): I32 {
    return this.let(wrap({ k: "temp", type: "i32", id: local }) as I32, true);
  }
  get rip(): I64 {
    return this.let(wrap({ k: "temp", type: "i64", id: Local.RIP }) as I64, true);
  }
  set(local: number, value: I32 | I64): void {
    this.push({ s: "set", id: local, type: LOCALS[local]!, value: value.node });
  }
  to(part: DispatcherPart): void {
    this.end({ kind: "part", part });
  }
}

/** Exits to the host with basic exit reason `reason` (SDM Vol. 3D app. C). */
function exit(d: Dispatcher, reason: number): void {
  set32(d, Cpu.EXIT_REASON, reason);
  d.to("exit");
}

const is64 = (d: Dispatcher): I32 => get32(d, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64);
const cut = (d: Dispatcher, rip: I64): I64 => is64(d).select(rip, rip.and(0xffff_ffffn));

/**
 * Delivers an event and exits on a triple fault. It counts like an instruction: a handler that faults at once,
 * for ever, must not outlast the budget.
 */
function deliver(d: Dispatcher, vector: I32, error: I32, hasError: I32, kind: number): void {
  d.set(Local.LEFT, d.get32(Local.LEFT).sub(16));
  set32(d, Cpu.EVENT, Event.NONE);
  const failed = d.call<I32>(deliverEvent, vector, error, hasError, d.i32(kind), get64(d, Cpu.RIP));
  d.if(failed, () => exit(d, 2));
  set32(d, Cpu.EVENT, Event.NONE);
}

/** What happens when a micro-op left: ends with RIP set and falls through to the look-up, or exits. */
export function slowPart(): { stmts: Stmt[]; temps: number } {
  const d = new Dispatcher();
  const event = get32(d, Cpu.EVENT);
  set32(d, Cpu.LINK, 0);
  d.if(d.get32(Local.STEPPING), () => d.set(Local.LEFT, d.get32(Local.SAVED).add(d.get32(Local.LEFT))));
  const done = event.eq(Event.BRANCH).or(event.eq(Event.EXIT_DONE)).or(event.eq(Event.TRAP));
  d.if(done, () => d.set(Local.LEFT, d.get32(Local.LEFT).sub(16)));
  const executed = d.get32(Local.BUDGET).sub(d.get32(Local.LEFT)).shrS(4).s64();
  set64(d, Cpu.ICOUNT, get64(d, Cpu.ICOUNT_BASE).add(executed));
  const uop = d.get32(Local.UOP);
  // Events at an instruction that is not done: RIP is its own. After a failed fetch (no micro-op) it is set.
  const unfinished = event.eq(Event.FAULT).or(event.eq(Event.EXIT_RETRY)).or(event.eq(Event.SYNC));
  d.if(unfinished.and(uop.ne(0)), () => {
    const pos = d.load("i32.load16_u", uop, 2).and(0xfff);
    set64(d, Cpu.RIP, cut(d, get64(d, Cpu.RIP_BASE).add(pos.u64())));
  });
  set64(d, Cpu.RIP, cut(d, get64(d, Cpu.RIP)));

  d.if(event.eq(Event.EXIT_RETRY), () => {
    // Answers belong to one instruction: those of an earlier one, used up by now, make room.
    const icount = get64(d, Cpu.ICOUNT);
    d.if(get64(d, Cpu.REPLAY_ICOUNT).ne(icount), () => {
      set32(d, Cpu.REPLAY_COUNT, 0);
      set64(d, Cpu.REPLAY_ICOUNT, icount);
    });
    d.to("exit");
  });
  d.if(
    event.eq(Event.SYNC),
    () => set32(d, Cpu.SYNCED, 1),
    () => {
      // The instruction is over, one way or another: so are its answers.
      d.if(event.ne(Event.LOOKUP), () => set32(d, Cpu.REPLAY_NEXT, get32(d, Cpu.REPLAY_COUNT)));
    },
  );
  const executedOne = event.ne(Event.SYNC).and(event.ne(Event.LOOKUP));
  const stepped = d.let(d.get32(Local.STEPPING).ne(0).and(executedOne));
  const flags = d.get32(Local.STEP_FLAGS);
  d.set(Local.STEPPING, d.i32(0));
  // A shadow ends with the instruction under it; one that this instruction began stays.
  d.if(stepped, () => set32(d, Cpu.SHADOW, get32(d, Cpu.SHADOW).and(flags.xor(-1))));
  d.if(event.eq(Event.EXIT_DONE), () => d.to("exit"));
  d.if(
    event.eq(Event.FAULT),
    () => {
      set32(d, Cpu.SYNCED, 0);
      deliver(d, get32(d, Cpu.EXC_VECTOR), get32(d, Cpu.EXC_ERROR), get32(d, Cpu.EXC_HAS_ERROR), 2);
    },
    () => {
      d.if(
        event.eq(Event.TRAP),
        () => deliver(d, get32(d, Cpu.EXC_VECTOR), get32(d, Cpu.EXC_ERROR), get32(d, Cpu.EXC_HAS_ERROR), 2),
        () =>
          d.if(stepped, () => {
            const trap = d.call<I32>(afterStep, flags);
            d.if(trap, () => deliver(d, d.i32(Vector.DB), d.i32(0), d.i32(0), 2));
          }),
      );
    },
  );
  set32(d, Cpu.EVENT, Event.NONE);
  d.if(stepped.and(get32(d, Cpu.STEP)), () => exit(d, 37));

  // Before the next instruction: what the host injected, then whether it wants to inject.
  const inject = get32(d, Cpu.INJECT);
  d.if(inject, () => {
    set32(d, Cpu.INJECT, 0);
    deliver(d, inject.and(0xff), d.i32(0), d.i32(0), 0);
  });
  // An instruction whose exit was answered takes its answers before anything else can: a handler's own
  // accesses would use them up.
  const answering = get32(d, Cpu.REPLAY_NEXT).ltU(get32(d, Cpu.REPLAY_COUNT));
  const open = d.let(get32(d, Cpu.SHADOW).or(answering).eqz());
  const unblocked = open.and(get32(d, Cpu.NMI_BLOCKED).eqz());
  d.if(get32(d, Cpu.NMI_PENDING).and(unblocked), () => {
    set32(d, Cpu.NMI_PENDING, 0);
    deliver(d, d.i32(Vector.NMI), d.i32(0), d.i32(0), 1);
  });
  const enabled = get32(d, Cpu.RFLAGS).shrU(9).and(1);
  d.if(get32(d, Cpu.WANT_WINDOW).and(enabled).and(open), () => exit(d, 7));
  d.if(d.get32(Local.LEFT).ltS(0), () => exit(d, 52));
  d.set(Local.RIP, get64(d, Cpu.RIP));

  // One instruction on its own: a shadow ends behind it, a trap or an exit follows it.
  const rflags = get32(d, Cpu.RFLAGS);
  // TF and RF as `StepFlag` has them.
  const began = rflags.and(RFLAGS.TF).or(rflags.and(RFLAGS.RF).shrU(7));
  const armed = get64(d, Cpu.DR + 8 * 7)
    .wrap()
    .and(0xff);
  // So does one whose answers hold an interrupt or NMI off.
  const delays = answering.and(get32(d, Cpu.WANT_WINDOW).or(get32(d, Cpu.NMI_PENDING)));
  const alone = get32(d, Cpu.SHADOW).or(rflags.and(RFLAGS.TF)).or(get32(d, Cpu.STEP)).or(armed).or(delays);
  d.if(alone, () => {
    const linear = d.let(is64(d).select(d.rip, d.rip.add(get64(d, Cpu.SEG_BASE + 8)).and(0xffff_ffffn)));
    d.if(armed, () => {
      const hit = d.call<I32>(instructionBreakpoint, linear);
      d.if(hit, () => {
        deliver(d, d.i32(Vector.DB), d.i32(0), d.i32(0), 2);
        set32(d, Cpu.EVENT, Event.LOOKUP);
        d.to("slow");
      });
    });
    const found = d.call<I32>(lookupSlow, d.rip);
    d.set(Local.UOP, found);
    d.if(found.eqz(), () => d.to("slow"));
    const entry = get32(d, Cpu.TLB).add(
      linear
        .shrU(7)
        .wrap()
        .and((TLB_ENTRIES - 1) << 5),
    );
    const host = linear.wrap().add(d.load("i32.load", entry, TlbEntry.ADDEND));
    const single = d.call<I32>(decodeStep, host, get32(d, Cpu.MODE));
    d.set(Local.UOP, single);
    d.set(Local.LIMIT, single);
    d.set(Local.SAVED, d.get32(Local.LEFT));
    d.set(Local.STEPPING, d.i32(2));
    set32(d, Slot.NO_STEP_TRAP, 0);
    d.set(Local.STEP_FLAGS, get32(d, Cpu.SHADOW).or(began));
    d.to("dispatch");
  });
  return { stmts: d.stmts, temps: d.tempCount };
}

/** The micro-op for `rip` by TLB and hash, made the current one where both have it: then `found` ends the part. */
function findUop(d: Dispatcher, rip: I64, found: (uop: I32) => void): void {
  quickLookup(d, rip, (uop) => {
    const link = get32(d, Cpu.LINK);
    d.if(link, () => {
      d.store("i32.store", link, uop);
      set32(d, Cpu.LINK, 0);
    });
    d.set(Local.UOP, uop);
    d.set(Local.LIMIT, uop.add(d.get32(Local.LEFT)));
    found(uop);
  });
}

/**
 * Where a region was left with no event: RIP leads to the next, which is called without a dispatch; or to micro-ops,
 * or it has to be looked up.
 */
export function afterRegionPart(regionHandler: number): { stmts: Stmt[]; temps: number } {
  const d = new Dispatcher();
  d.if(get32(d, Cpu.EVENT), () => {
    d.set(Local.UOP, get32(d, Cpu.REGION_UOP));
    d.to("slow");
  });
  const next = get32(d, Cpu.REGION_UOP);
  d.if(next, () => {
    d.set(Local.UOP, next);
    d.set(Local.LIMIT, next.add(d.get32(Local.LEFT)));
    d.to("dispatch");
  });
  d.set(Local.RIP, get64(d, Cpu.RIP));
  d.unlikely(d.get32(Local.LEFT).ltS(0), () => d.to("lookup"));
  findUop(d, d.rip, (uop) => {
    d.if(d.load("i32.load16_u", uop).eq(regionHandler), () => d.to("region"));
    d.to("dispatch");
  });
  d.to("lookup");
  return { stmts: d.stmts, temps: d.tempCount };
}

/** Finds the micro-op for RIP: the hash inline, the rest by call. Falls through to the dispatch. */
export function lookupPart(): { stmts: Stmt[]; temps: number } {
  const d = new Dispatcher();
  const rip = d.rip;
  const left = d.get32(Local.LEFT);
  d.unlikely(left.ltS(0), () => {
    set64(d, Cpu.RIP, rip);
    set32(d, Cpu.EVENT, Event.BUDGET);
    d.to("slow");
  });
  findUop(d, rip, () => d.to("dispatch"));
  const uop = d.call<I32>(lookupSlow, rip);
  d.set(Local.UOP, uop);
  d.set(Local.LIMIT, uop.add(left));
  d.unlikely(uop.eqz(), () => d.to("slow"));
  return { stmts: d.stmts, temps: d.tempCount };
}
