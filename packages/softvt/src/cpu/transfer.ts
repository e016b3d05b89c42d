import { fn, type I32, type I64 } from "../ir/builder.ts";
import { readFlags } from "./flags.ts";
import { commitFrame, frameFlat, frameHere, frameOn, framePush, stackPeek } from "./frame.ts";
import { tssStack, tssStack64 } from "./interrupts.ts";
import { Cpu, gpr, Seg } from "./layout.ts";
import { limitOf, realMode, selectorOf, updateMode, v86Mode } from "./mode.ts";
import { checkTarget } from "./return.ts";
import {
  checkStackSegment,
  Descriptor,
  errorOf,
  fetchDescriptor,
  fetchUpper,
  isNull,
  loadReal,
  markAccessed,
  rplOf,
  SystemType,
  storeDescriptor,
  storeNull,
} from "./segments.ts";
import { get32, get64, set32, set64, Vector } from "./state.ts";
import { longMode, refuse, returnOnEvent } from "./system.ts";
import { farTask, TaskSource } from "./task.ts";

/**
 * Far jumps and calls (SDM Vol. 2 JMP, CALL; Vol. 3A sec. 5.8): direct to a code segment, through call gates, and
 * to tasks. They set `Cpu.RIP`, or EVENT where they fault, with nothing changed.
 */

/**
 * A code segment as the target of a direct far jump or call at the current privilege: its descriptor with the
 * accessed bit set. Test EVENT.
 */
const directTarget = fn("directTarget", ["i32", "i64", "i64"], "i64", (f, selector, raw, offset) => {
  const cpl = get32(f, Cpu.CPL);
  const dpl = Descriptor.dpl(raw);
  const denied = Descriptor.isConforming(raw).select(dpl.gtU(cpl), rplOf(selector).gtU(cpl).or(dpl.ne(cpl)));
  const both = longMode(f).and(Descriptor.isLong(raw)).and(Descriptor.isBig(raw));
  refuse(f, denied.or(both), Vector.GP, errorOf(selector), f.i64(0));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector), f.i64(0));
  f.call(checkTarget, raw, offset);
  returnOnEvent(f, f.i64(0));
  f.return(f.call<I64>(markAccessed, selector, raw));
});

/** Goes on in code segment `code` at privilege `cpl`. */
const enterCode = fn(
  "enterCode",
  ["i32", "i64", "i32", "i64"],
  undefined,
  (f, selector, code, cpl, offset) => {
    f.call(storeDescriptor, f.i32(Seg.CS), errorOf(selector).or(cpl), code);
    set32(f, Cpu.CPL, cpl);
    set64(f, Cpu.RIP, offset);
    f.call(updateMode);
  },
);

/** The offset in call gate `gate` of `selector`: 16, 32 or 64 bits. Test EVENT. */
const gateOffset = fn("gateOffset", ["i32", "i64"], "i64", (f, selector, gate) => {
  const low = gate.and(0xffff);
  const wide = f.let(low.or(gate.shrU(32).and(0xffff_0000n)));
  f.if(longMode(f), () => {
    const upper = f.call<I64>(fetchUpper, selector, f.i32(Vector.GP));
    f.return(wide.or(upper.shl(32)));
  });
  f.return(gate.bit(43).select(wide, low));
});

/**
 * The code segment that a call gate names, if jumps (`call` 0) or calls may take it: its descriptor with the
 * accessed bit set. Test EVENT.
 */
const gateTarget = fn("gateTarget", ["i32", "i64", "i32"], "i64", (f, gateSelector, gate, call) => {
  const cpl = get32(f, Cpu.CPL);
  const gateDpl = Descriptor.dpl(gate);
  const denied = gateDpl.ltU(cpl).or(gateDpl.ltU(rplOf(gateSelector)));
  refuse(f, denied, Vector.GP, errorOf(gateSelector), f.i64(0));
  refuse(f, Descriptor.absent(gate), Vector.NP, errorOf(gateSelector), f.i64(0));
  const selector = gate.shrU(16).wrap().and(0xffff);
  refuse(f, isNull(selector), Vector.GP, 0, f.i64(0));
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f, f.i64(0));
  const dpl = Descriptor.dpl(raw);
  // A jump cannot change privilege: only a conforming segment may be more privileged.
  const tooInner = call.eqz().and(Descriptor.isConforming(raw).eqz()).and(dpl.ne(cpl));
  const notLong = longMode(f).and(Descriptor.isLong(raw).eqz().or(Descriptor.isBig(raw)));
  const bad = Descriptor.isCode(raw).eqz().or(dpl.gtU(cpl)).or(tooInner).or(notLong);
  refuse(f, bad, Vector.GP, errorOf(selector), f.i64(0));
  refuse(f, Descriptor.absent(raw), Vector.NP, errorOf(selector), f.i64(0));
  f.return(f.call<I64>(markAccessed, selector, raw));
});

/** 1 for a call gate's type in the current mode. */
const isCallGate = (type: I32, long: I32): I32 =>
  type.eq(SystemType.CALL_GATE32).or(type.eq(SystemType.CALL_GATE16).and(long.eqz()));

const isTask = (type: I32): I32 => type.eq(SystemType.TASK_GATE).or(type.and(0x15).eq(SystemType.TSS16));

/** CALL through a gate to an inner privilege level: SS:RSP, parameters, CS:RIP on the stack of the TSS. */
const callInner = fn("callInner", ["i64", "i64", "i64", "i64"], undefined, (f, gate, code, offset, rip) => {
  const dpl = f.let(Descriptor.dpl(code));
  const selector = gate.shrU(16).wrap().and(0xffff);
  const oldSs = f.let(selectorOf(f, Seg.SS).u64());
  const oldSp = f.let(get64(f, gpr(4)));
  f.if(longMode(f), () => {
    const sp = f.call<I64>(tssStack64, dpl);
    returnOnEvent(f);
    f.call(frameFlat, sp, dpl);
    for (const value of [oldSs, oldSp, selectorOf(f, Seg.CS).u64(), rip]) f.call(framePush, f.i32(8), value);
    returnOnEvent(f);
    commitFrame(f);
    storeNull(f, Seg.SS, dpl, dpl);
    f.call(enterCode, selector, code, dpl, offset);
    f.return();
  });
  const bytes = f.let(gate.bit(43).shl(1).add(2));
  const pointer = f.call<I64>(tssStack, dpl);
  returnOnEvent(f);
  const ss = f.let(pointer.shrU(32).wrap());
  const stack = f.call<I64>(checkStackSegment, ss, dpl, f.i32(Vector.TS));
  returnOnEvent(f);
  f.call(frameOn, ss, stack, pointer.and(0xffff_ffffn), dpl);
  f.call(framePush, bytes, oldSs);
  f.call(framePush, bytes, oldSp);
  const left = f.variable("i32", gate.shrU(32).wrap().and(0x1f));
  f.block((done) => {
    f.loop((again) => {
      f.if(left.get().eqz(), () => f.break(done));
      const index = f.let(left.get().sub(1));
      left.set(index);
      f.call(framePush, bytes, f.call<I64>(stackPeek, index.mul(bytes), bytes));
      returnOnEvent(f);
      f.continue(again);
    });
  });
  f.call(framePush, bytes, selectorOf(f, Seg.CS).u64());
  f.call(framePush, bytes, rip);
  returnOnEvent(f);
  commitFrame(f);
  f.call(storeDescriptor, f.i32(Seg.SS), ss, stack);
  f.call(enterCode, selector, code, dpl, offset);
});

/** What a far pointer names if it is no code segment: a call gate, a TSS or a task gate. `call`: 0 or 1. */
const farSystem = fn("farSystem", ["i32", "i64", "i32", "i64"], undefined, (f, selector, raw, call, rip) => {
  const type = f.let(Descriptor.type(raw));
  const long = longMode(f);
  f.if(isTask(type).and(long.eqz()), () => {
    const source = call.select(f.i32(TaskSource.CALL), f.i32(TaskSource.JMP));
    f.call(farTask, selector, raw, source, f.call<I32>(readFlags), rip);
    f.return();
  });
  refuse(f, isCallGate(type, long).eqz(), Vector.GP, errorOf(selector));
  const code = f.call<I64>(gateTarget, selector, raw, call);
  returnOnEvent(f);
  const offset = f.call<I64>(gateOffset, selector, raw);
  returnOnEvent(f);
  f.call(checkTarget, code, offset);
  returnOnEvent(f);
  const cpl = get32(f, Cpu.CPL);
  const inner = Descriptor.isConforming(code).eqz().and(Descriptor.dpl(code).ltU(cpl));
  f.if(call.and(inner), () => {
    f.call(callInner, raw, code, offset, rip);
    f.return();
  });
  f.if(call, () => {
    const bytes = f.let(longMode(f).select(f.i32(8), raw.bit(43).shl(1).add(2)));
    f.call(frameHere);
    f.call(framePush, bytes, selectorOf(f, Seg.CS).u64());
    f.call(framePush, bytes, rip);
    returnOnEvent(f);
    commitFrame(f);
  });
  f.call(enterCode, raw.shrU(16).wrap().and(0xffff), code, cpl, offset);
});

/** JMP far to `selector`:`offset`; `rip` is that of the next instruction. */
export const farJump = fn("farJump", ["i32", "i64", "i64"], undefined, (f, selector, offset, rip) => {
  f.if(realMode(f).or(v86Mode(f)), () => {
    refuse(f, offset.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
    f.call(loadReal, f.i32(Seg.CS), selector);
    set64(f, Cpu.RIP, offset);
    f.call(updateMode);
    f.return();
  });
  refuse(f, isNull(selector), Vector.GP);
  const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
  returnOnEvent(f);
  f.if(raw.bit(44).eqz(), () => {
    f.call(farSystem, selector, raw, f.i32(0), rip);
    f.return();
  });
  refuse(f, Descriptor.isCode(raw).eqz(), Vector.GP, errorOf(selector));
  const code = f.call<I64>(directTarget, selector, raw, offset);
  returnOnEvent(f);
  f.call(enterCode, selector, code, get32(f, Cpu.CPL), offset);
});

/** CALL far with operand size `bytes`; `rip` is the return address. */
export const farCall = fn(
  "farCall",
  ["i32", "i64", "i32", "i64"],
  undefined,
  (f, selector, offset, bytes, rip) => {
    const pushReturn = (): void => {
      f.call(frameHere);
      f.call(framePush, bytes, selectorOf(f, Seg.CS).u64());
      f.call(framePush, bytes, rip);
      returnOnEvent(f);
      commitFrame(f);
    };
    f.if(realMode(f).or(v86Mode(f)), () => {
      refuse(f, offset.gtU(limitOf(f, Seg.CS).u64()), Vector.GP);
      pushReturn();
      f.call(loadReal, f.i32(Seg.CS), selector);
      set64(f, Cpu.RIP, offset);
      f.call(updateMode);
      f.return();
    });
    refuse(f, isNull(selector), Vector.GP);
    const raw = f.call<I64>(fetchDescriptor, selector, f.i32(Vector.GP));
    returnOnEvent(f);
    f.if(raw.bit(44).eqz(), () => {
      f.call(farSystem, selector, raw, f.i32(1), rip);
      f.return();
    });
    refuse(f, Descriptor.isCode(raw).eqz(), Vector.GP, errorOf(selector));
    const code = f.call<I64>(directTarget, selector, raw, offset);
    returnOnEvent(f);
    pushReturn();
    f.call(enterCode, selector, code, get32(f, Cpu.CPL), offset);
  },
);
