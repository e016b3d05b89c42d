import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { segmentAddress, stackMask } from "./address.ts";
import { Cpu, gpr, Mode, Seg, TlbMode } from "./layout.ts";
import { Access, readSlow, writeSlow } from "./memory.ts";
import { accessOf, limitOf, Rights } from "./mode.ts";
import { Descriptor, errorOf } from "./segments.ts";
import { Slot } from "./slots.ts";
import { get32, get64, set32, set64, Vector } from "./state.ts";
import { LOW32, refuse, returnOnEvent, tlbAt } from "./system.ts";

/**
 * Stack frames of events and far transfers. What is pushed may go to a stack that SS does not name yet, and
 * nothing may change unless all of it succeeds: the frame under construction has its own pointer, base and
 * limit (`Slot.FRAME_*`), and `commitFrame` makes its pointer RSP. Pops read without moving RSP.
 */

const RSP = gpr(4);

/** The frame goes on the current stack, below `sp` (the whole of RSP's value counts under `mask`). */
export const frameHere = fn("frameHere", [], undefined, (f) => {
  const is64 = get32(f, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64);
  set64(f, Slot.FRAME_BASE, is64.select(f.i64(0), get64(f, Cpu.SEG_BASE + 8 * Seg.SS)));
  set64(f, Slot.FRAME_MASK, stackMask(f));
  set64(f, Slot.FRAME_SP, get64(f, RSP));
  set32(f, Slot.FRAME_LIMIT, limitOf(f, Seg.SS));
  set32(f, Slot.FRAME_ACCESS, accessOf(f, Seg.SS));
  set32(f, Slot.FRAME_TLB, get32(f, Cpu.TLB));
  set32(f, Slot.FRAME_ERROR, 0);
});

/** The frame goes on another stack outside IA-32e mode: `raw` is its segment's descriptor, `cpl` its privilege. */
export const frameOn = fn("frameOn", ["i32", "i64", "i64", "i32"], undefined, (f, selector, raw, sp, cpl) => {
  set64(f, Slot.FRAME_BASE, Descriptor.base(raw));
  set64(f, Slot.FRAME_MASK, Descriptor.isBig(raw).select(f.i64(LOW32), f.i64(0xffff)));
  set64(f, Slot.FRAME_SP, sp);
  set32(f, Slot.FRAME_LIMIT, Descriptor.limit(raw));
  set32(f, Slot.FRAME_ACCESS, Descriptor.access(raw));
  set32(f, Slot.FRAME_TLB, tlbFor(f, cpl));
  set32(f, Slot.FRAME_ERROR, errorOf(selector));
});

/** The frame goes below linear address `sp`: stacks of IA-32e mode's gates. */
export const frameFlat = fn("frameFlat", ["i64", "i32"], undefined, (f, sp, cpl) => {
  set64(f, Slot.FRAME_BASE, 0);
  set64(f, Slot.FRAME_MASK, -1n);
  set64(f, Slot.FRAME_SP, sp);
  set32(f, Slot.FRAME_ACCESS, Rights.L);
  set32(f, Slot.FRAME_TLB, tlbFor(f, cpl));
  set32(f, Slot.FRAME_ERROR, 0);
});

const tlbFor = (f: Builder, cpl: I32): I32 =>
  cpl.eq(3).select(tlbAt(f, TlbMode.USER), tlbAt(f, TlbMode.SUPERVISOR));

/** Linear address of `bytes` bytes at `offset` of the frame's stack; raises #SS outside its limit. */
const frameAddress = fn("frameAddress", ["i64", "i32"], "i64", (f, offset, bytes) => {
  const access = get32(f, Slot.FRAME_ACCESS);
  const flat = get64(f, Slot.FRAME_MASK).eq(-1n);
  f.if(flat, () => f.return(offset));
  const limit = get32(f, Slot.FRAME_LIMIT).u64();
  const last = offset.add(bytes.sub(1).u64());
  const top = access.and(Rights.DB).select(f.i64(LOW32), f.i64(0xffff));
  const down = access.and(Rights.CODE | Rights.CONFORMING).eq(Rights.CONFORMING);
  const outside = down.select(offset.leU(limit).or(last.gtU(top)), last.gtU(limit));
  const unusable = access.shrU(16).and(1);
  refuse(f, outside.or(unusable), Vector.SS, get32(f, Slot.FRAME_ERROR), f.i64(0));
  f.return(get64(f, Slot.FRAME_BASE).add(offset).and(LOW32));
});

/** Pushes the low `bytes` bytes (2, 4 or 8) of a value on the frame. Does nothing once EVENT is set. */
export const framePush = fn("framePush", ["i32", "i64"], undefined, (f, bytes, value) => {
  returnOnEvent(f);
  const mask = get64(f, Slot.FRAME_MASK);
  const sp = get64(f, Slot.FRAME_SP);
  const moved = f.let(sp.sub(bytes.u64()).and(mask));
  const va = f.call<I64>(frameAddress, moved, bytes);
  returnOnEvent(f);
  const tlb = get32(f, Slot.FRAME_TLB);
  const code = f.i32(Access.WRITE | Access.STACK);
  const write = (bits: number) => (): void => {
    f.call(writeSlow[bits]!, va, value, code, tlb);
  };
  f.switch(bytes.shrU(2), [write(16), write(32)], write(64));
  set64(f, Slot.FRAME_SP, sp.and(mask.not()).or(moved));
});

/** The frame's stack pointer becomes RSP. The upper half of a 16-bit stack's ESP stays. */
export function commitFrame(f: Builder): void {
  set64(f, RSP, get64(f, Slot.FRAME_SP));
}

/**
 * Reads `bytes` bytes (2, 4 or 8) of the current stack, `displacement` bytes above its top, without moving
 * it. Gives 0 once EVENT is set.
 */
export const stackPeek = fn("stackPeek", ["i32", "i32"], "i64", (f, displacement, bytes) => {
  returnOnEvent(f, f.i64(0));
  const offset = get64(f, RSP).add(displacement.u64()).and(stackMask(f));
  const va = f.call<I64>(segmentAddress, f.i32(Seg.SS), offset, bytes, f.i32(0));
  returnOnEvent(f, f.i64(0));
  const tlb = get32(f, Cpu.TLB);
  const code = f.i32(Access.READ | Access.STACK);
  const read = (bits: number) => (): void => {
    f.return(f.call<I64>(readSlow[bits]!, va, code, tlb));
  };
  f.switch(bytes.shrU(2), [read(16), read(32)], read(64));
  f.return(f.i64(0));
});

/** Moves the stack pointer to `sp`, as wide as a stack of width `mask` makes it. */
export const setStackPointer = fn("setStackPointer", ["i64", "i64"], undefined, (f, sp, mask) => {
  const old = get64(f, RSP);
  // Writing ESP clears the upper half of RSP; writing SP keeps the rest.
  const kept = mask.eq(0xffff).select(old.and(mask.not()), f.i64(0));
  set64(f, RSP, kept.or(sp.and(mask)));
});
