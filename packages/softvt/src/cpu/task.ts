import { fn, type I64 } from "../ir/builder.ts";
import { loadPdptes } from "./control.ts";
import { writeFlags } from "./flags.ts";
import { commitFrame, frameHere, framePush } from "./frame.ts";
import { Cpu, Event, gpr, Seg } from "./layout.ts";
import { accessOf, limitOf, selectorOf, updateMode } from "./mode.ts";
import { flushTlb } from "./paging.ts";
import {
  checkStackSegment,
  Descriptor,
  errorOf,
  fetchDescriptor,
  isNull,
  markAccessed,
  rplOf,
  SystemType,
  setTssBusy,
  storeDescriptor,
  storeNull,
  storeSegment,
} from "./segments.ts";
import { Slot } from "./slots.ts";
import { updateSse } from "./sse-state.ts";
import { CR0, CR4, get32, get64, RFLAGS, set32, set64, Vector } from "./state.ts";
import { longMode, raiseAt, refuse, returnOnEvent, systemRead, systemWrite } from "./system.ts";

/**
 * Hardware task switching (SDM Vol. 3A ch. 8), outside IA-32e mode.
 *
 * Up to the commit nothing of the processor's state changes, so that a fault belongs to the old task and
 * repeating the instruction is harmless. From there on (`Slot.TASK_COMMITTED`) faults belong to the new task,
 * with its CS:EIP; whoever started the switch delivers them as such.
 */

/** What started a switch. */
export const TaskSource = { JMP: 0, CALL: 1, IRET: 2 } as const;

/** Offsets of what a switch saves and loads (SDM Vol. 3A fig. 8-2, 8-10). */
const TSS32 = {
  link: 0,
  cr3: 0x1c,
  ip: 0x20,
  flags: 0x24,
  gpr: 0x28,
  seg: 0x48,
  ldt: 0x60,
  trap: 0x64,
} as const;
const TSS16 = { link: 0, ip: 0x0e, flags: 0x10, gpr: 0x12, seg: 0x22, ldt: 0x2a } as const;

const LOCAL_BREAKPOINTS = 0x155n;
const DR6 = Cpu.DR + 6 * 8;
const DR7 = Cpu.DR + 7 * 8;
const DR6_BT = 0x8000n;

/** Writes the old task's EIP, EFLAGS, general and segment registers to its TSS. Test EVENT. */
const saveTask = fn("saveTask", ["i32", "i64"], undefined, (f, flags, rip) => {
  const base = get64(f, Cpu.SEG_BASE + 8 * Seg.TR);
  const save = (bits: 16 | 32): void => {
    const at = bits === 32 ? TSS32 : TSS16;
    const step = bits / 8;
    const put = (offset: number, value: I64): void => {
      f.call(systemWrite[bits]!, base.add(offset), value);
      returnOnEvent(f);
    };
    put(at.ip, rip);
    put(at.flags, flags.u64());
    for (let i = 0; i < 8; i++) put(at.gpr + i * step, get64(f, gpr(i)));
    const segments =
      bits === 32 ? [Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS] : [Seg.ES, Seg.CS, Seg.SS, Seg.DS];
    segments.forEach((seg, i) => {
      // A 32-bit slot's upper half is reserved and stays.
      f.call(systemWrite[16]!, base.add(at.seg + i * step), selectorOf(f, seg).u64());
      returnOnEvent(f);
    });
  };
  f.if(
    accessOf(f, Seg.TR).shrU(3).and(1),
    () => save(32),
    () => save(16),
  );
});

/** Loads LDTR for the new task; errors are #TS with its selector. */
const loadTaskLdt = fn("loadTaskLdt", ["i32"], undefined, (f, selector) => {
  f.if(isNull(selector), () => f.return());
  refuse(f, selector.and(4), Vector.TS, errorOf(selector));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.TS));
  returnOnEvent(f);
  const bad = Descriptor.type(raw).ne(SystemType.LDT).or(Descriptor.absent(raw));
  refuse(f, bad, Vector.TS, errorOf(selector));
  f.call(storeDescriptor, f.i32(Seg.LDTR), selector, raw);
});

const loadTaskCode = fn("loadTaskCode", ["i32"], undefined, (f, selector) => {
  refuse(f, isNull(selector), Vector.TS, errorOf(selector));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.TS));
  returnOnEvent(f);
  const dpl = Descriptor.dpl(raw);
  const rpl = rplOf(selector);
  const wrong = Descriptor.isConforming(raw).select(dpl.gtU(rpl), dpl.ne(rpl));
  refuse(f, Descriptor.isCode(raw).eqz().or(wrong), Vector.TS, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  const marked = f.call<I64>(markAccessed, selector, raw);
  returnOnEvent(f);
  f.call(storeDescriptor, f.i32(Seg.CS), selector, marked);
});

const loadTaskData = fn("loadTaskData", ["i32", "i32"], undefined, (f, seg, selector) => {
  f.if(isNull(selector), () => f.return());
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.TS));
  returnOnEvent(f);
  const type = Descriptor.type(raw);
  const dpl = Descriptor.dpl(raw);
  const unreadable = type.and(0x1a).eq(0x18);
  const denied = type
    .and(0x1c)
    .ne(0x1c)
    .and(rplOf(selector).gtU(dpl).or(get32(f, Cpu.CPL).gtU(dpl)));
  refuse(f, type.and(0x10).eqz().or(unreadable).or(denied), Vector.TS, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  const marked = f.call<I64>(markAccessed, selector, raw);
  returnOnEvent(f);
  f.call(storeDescriptor, seg, selector, marked);
});

/** The new task's segment registers, whose selectors are in place; then what may fault before it starts. */
const enterTask = fn(
  "enterTask",
  ["i32", "i32", "i32", "i32"],
  undefined,
  (f, is32, ldt, hasError, error) => {
    f.call(loadTaskLdt, ldt);
    returnOnEvent(f);
    f.if(
      get32(f, Cpu.RFLAGS).and(RFLAGS.VM),
      () => {
        for (const seg of [Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS]) {
          const selector = selectorOf(f, seg);
          f.call(storeSegment, f.i32(seg), selector, selector.u64().shl(4), f.i32(0xffff), f.i32(0xf3));
        }
      },
      () => {
        f.call(loadTaskCode, selectorOf(f, Seg.CS));
        returnOnEvent(f);
        const ss = selectorOf(f, Seg.SS);
        const stack = f.call<I64>(checkStackSegment, ss, get32(f, Cpu.CPL), f.i32(Vector.TS));
        returnOnEvent(f);
        f.call(storeDescriptor, f.i32(Seg.SS), ss, stack);
        for (const seg of [Seg.DS, Seg.ES, Seg.FS, Seg.GS]) {
          f.call(loadTaskData, f.i32(seg), selectorOf(f, seg));
          returnOnEvent(f);
        }
      },
    );
    f.call(updateMode);
    f.if(hasError, () => {
      f.call(frameHere);
      f.call(framePush, is32.select(f.i32(4), f.i32(2)), error.u64());
      returnOnEvent(f);
      commitFrame(f);
    });
    refuse(f, get64(f, Cpu.RIP).gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
  },
);

/**
 * Switches to the task of `selector` with descriptor `raw`, whose type and presence have been checked:
 * (selector, raw, `TaskSource`, EFLAGS and EIP to save, whether an error code is pushed, the code).
 */
export const switchTask = fn(
  "switchTask",
  ["i32", "i64", "i32", "i32", "i64", "i32", "i32"],
  undefined,
  (f, selector, raw, source, flags, rip, hasError, error) => {
    set32(f, Slot.TASK_COMMITTED, 0);
    const is32 = f.let(raw.bit(43));
    const base = f.let(Descriptor.base(raw));
    const limit = Descriptor.limit(raw);
    refuse(f, limit.ltU(is32.select(f.i32(0x67), f.i32(0x2b))), Vector.TS, errorOf(selector));

    // Everything of the new task is read first.
    const read = (bits: 16 | 32, at: I64 | number): I64 => {
      const value = f.let(f.call<I64>(systemRead[bits]!, base.add(at)));
      returnOnEvent(f);
      return value;
    };
    const cr3 = f.variable("i64", f.i64(0));
    const trap = f.variable("i32", f.i32(0));
    const fields = ["ip", "flags", ...Array.from({ length: 8 }, (_, i) => `gpr${i}`)] as const;
    const values = fields.map(() => f.variable("i64", f.i64(0)));
    const selectors = Array.from({ length: 6 }, () => f.variable("i64", f.i64(0)));
    const ldt = f.variable("i64", f.i64(0));
    f.if(
      is32,
      () => {
        cr3.set(read(32, TSS32.cr3));
        trap.set(read(16, TSS32.trap).wrap().and(1));
        values.forEach((value, i) => {
          value.set(read(32, TSS32.ip + 4 * i));
        });
        selectors.forEach((value, i) => {
          value.set(read(16, TSS32.seg + 4 * i));
        });
        ldt.set(read(16, TSS32.ldt));
      },
      () => {
        values.forEach((value, i) => {
          value.set(read(16, TSS16.ip + 2 * i));
        });
        selectors.slice(0, 4).forEach((value, i) => {
          value.set(read(16, TSS16.seg + 2 * i));
        });
        ldt.set(read(16, TSS16.ldt));
      },
    );

    const fromIret = source.eq(TaskSource.IRET);
    f.call(saveTask, fromIret.select(flags.and(~RFLAGS.NT), flags), rip);
    returnOnEvent(f);
    const old = f.let(selectorOf(f, Seg.TR));
    f.if(source.eq(TaskSource.CALL), () => {
      f.call(systemWrite[16]!, base, old.u64());
      returnOnEvent(f);
    });
    // A task gate names its own busy task only through an error that was refused before.
    f.if(source.ne(TaskSource.CALL), () => {
      f.call(setTssBusy, old, f.i32(0));
      returnOnEvent(f);
    });
    f.if(fromIret.eqz(), () => {
      f.call(setTssBusy, selector, f.i32(1));
      returnOnEvent(f);
    });

    set32(f, Slot.TASK_COMMITTED, 1);
    f.call(storeSegment, f.i32(Seg.TR), selector, base, limit, Descriptor.access(raw).or(2));
    set64(f, Cpu.CR0, get64(f, Cpu.CR0).or(CR0.TS));
    f.call(updateSse);
    set64(f, DR7, get64(f, DR7).and(~LOCAL_BREAKPOINTS));
    // Defined bits only.
    const image = values[1]!
      .get()
      .wrap()
      .and(is32.select(f.i32(0x3f_7fd5), f.i32(0x7fd5)));
    f.call(writeFlags, source.eq(TaskSource.CALL).select(image.or(RFLAGS.NT), image));
    set64(f, Cpu.RIP, values[0]!.get());
    for (let i = 0; i < 8; i++) {
      const loaded = values[2 + i]!.get();
      // A 16-bit TSS loads the low halves; the upper ones are undefined and stay.
      const kept = get64(f, gpr(i)).and(0xffff_0000n).or(loaded);
      set64(f, gpr(i), is32.select(loaded, kept));
    }
    const cs = selectors[1]!.get().wrap();
    const vm = get32(f, Cpu.RFLAGS).and(RFLAGS.VM).ne(0);
    const cpl = f.let(vm.select(f.i32(3), rplOf(cs)));
    set32(f, Cpu.CPL, cpl);
    selectors.forEach((value, i) => {
      storeNull(f, i, value.get().wrap(), i === Seg.SS ? cpl : 0);
    });
    storeNull(f, Seg.LDTR, ldt.get().wrap());
    const paging = get64(f, Cpu.CR0).bit(31);
    f.if(is32.and(paging), () => {
      set64(f, Cpu.CR3, cr3.get());
      f.call(flushTlb);
      f.if(get64(f, Cpu.CR4).wrap().and(CR4.PAE), () => f.call(loadPdptes, cr3.get()));
    });
    f.call(updateMode);
    f.if(get32(f, Cpu.EVENT).eqz(), () => {
      f.call(enterTask, is32, ldt.get().wrap(), hasError, error);
    });
    const event = get32(f, Cpu.EVENT);
    // The switch cannot be repeated: descriptor tables in MMIO space end it like an invalid TSS.
    refuse(f, event.ne(0).and(event.ne(Event.FAULT)), Vector.TS, errorOf(selector));
    returnOnEvent(f);
    f.if(trap.get(), () => {
      set64(f, DR6, get64(f, DR6).or(DR6_BT));
      f.call(raiseAt, f.i32(Vector.DB), f.i32(0));
      f.return();
    });
    set32(f, Slot.TASK_COMMITTED, 0);
  },
);

/** The available TSS that a task gate or far pointer names, checked; `selector` must be of the GDT. */
const availableTss = fn("availableTss", ["i32"], "i64", (f, selector) => {
  refuse(f, isNull(selector).or(selector.and(4)), Vector.GP, errorOf(selector), f.i64(0));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f, f.i64(0));
  const type = Descriptor.type(raw);
  const available = type.eq(SystemType.TSS16).or(type.eq(SystemType.TSS32));
  refuse(f, available.eqz(), Vector.GP, errorOf(selector), f.i64(0));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector), f.i64(0));
  f.return(raw);
});

/** Through a task gate in hand: (gate, `TaskSource`, EFLAGS and EIP to save, error code pushed?, error code). */
export const throughTaskGate = fn(
  "throughTaskGate",
  ["i64", "i32", "i32", "i64", "i32", "i32"],
  undefined,
  (f, gate, source, flags, rip, hasError, error) => {
    const selector = f.let(gate.shrU(16).wrap().and(0xffff));
    const raw = f.call<I64>(availableTss, selector);
    returnOnEvent(f);
    f.call(switchTask, selector, raw, source, flags, rip, hasError, error);
  },
);

/**
 * A far jump or call to a TSS or task gate, whose descriptor `raw` was fetched: (selector, raw, `TaskSource`,
 * EFLAGS, EIP of the next instruction). Not in IA-32e mode.
 */
export const farTask = fn(
  "farTask",
  ["i32", "i64", "i32", "i32", "i64"],
  undefined,
  (f, selector, raw, source, flags, rip) => {
    const dpl = Descriptor.dpl(raw);
    const denied = dpl.ltU(get32(f, Cpu.CPL)).or(dpl.ltU(rplOf(selector)));
    refuse(f, longMode(f).or(denied), Vector.GP, errorOf(selector));
    f.if(Descriptor.type(raw).eq(SystemType.TASK_GATE), () => {
      refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
      f.call(throughTaskGate, raw, source, flags, rip, f.i32(0), f.i32(0));
      f.return();
    });
    const tss = f.call<I64>(availableTss, selector);
    returnOnEvent(f);
    f.call(switchTask, selector, tss, source, flags, rip, f.i32(0), f.i32(0));
  },
);

/** IRET with NT set: back to the task that the current TSS links to. (EFLAGS, EIP to save.) */
export const returnFromTask = fn("returnFromTask", ["i32", "i64"], undefined, (f, flags, rip) => {
  const link = f.call<I64>(systemRead[16]!, get64(f, Cpu.SEG_BASE + 8 * Seg.TR));
  returnOnEvent(f);
  const selector = f.let(link.wrap());
  refuse(f, isNull(selector).or(selector.and(4)), Vector.TS, errorOf(selector));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.TS));
  returnOnEvent(f);
  const type = Descriptor.type(raw);
  const busy = type.eq(SystemType.TSS16_BUSY).or(type.eq(SystemType.TSS32_BUSY));
  refuse(f, busy.eqz(), Vector.TS, errorOf(selector));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector));
  f.call(switchTask, selector, raw, f.i32(TaskSource.IRET), flags, rip, f.i32(0), f.i32(0));
});
