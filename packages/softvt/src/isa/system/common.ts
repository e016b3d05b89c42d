import { segmentAddress, stackMask } from "../../cpu/address.ts";
import { setStackPointer } from "../../cpu/frame.ts";
import { Cpu, Event, gpr, Mode, Seg } from "../../cpu/layout.ts";
import { readMemory, writeMemory } from "../../cpu/memory.ts";
import { Slot } from "../../cpu/slots.ts";
import { get32, get64, set32, Vector } from "../../cpu/state.ts";
import { LOW32 } from "../../cpu/system.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";

/** What the system instructions' descriptions share. */

/** Ends an instruction that has set `Cpu.RIP` itself: the dispatcher looks at interrupts, steps and the mode. */
export function finish(c: Insn): void {
  set32(c, Cpu.EVENT, Event.BRANCH);
  c.leave();
}

/**
 * Ends an instruction that transferred control by a function: as `finish`, or by its fault. A fault behind a
 * task switch is the new task's, with the RIP in `Cpu.RIP`.
 */
export function finishTransfer(c: Insn): void {
  c.unlikely(get32(c, Cpu.EVENT), () => {
    c.if(get32(c, Slot.TASK_COMMITTED), () => {
      set32(c, Slot.TASK_COMMITTED, 0);
      set32(c, Cpu.EVENT, Event.TRAP);
    });
    c.leave();
  });
  finish(c);
}

export const in64 = (c: Insn): I32 => get32(c, Cpu.MODE).and(Mode.CODE_MASK).eq(Mode.CODE64);

/** RIP as it is seen by software: outside 64-bit mode 32 bits. */
export const visible = (c: Insn, rip: I64): I64 => in64(c).select(rip, rip.and(LOW32));

/** #GP(0) in user mode while CR4.UMIP is set (SDM Vol. 3A sec. 2.5). */
export function checkUmip(c: Insn): void {
  const umip = get64(c, Cpu.CR4).bit(11);
  c.faultIf(umip.and(get32(c, Cpu.CPL).ne(0)), Vector.GP);
}

/** Whether the memory operand goes by SS: 1 or 0. */
export const goesByStack = (c: Insn): I32 => c.bySs();

/** Reads `bits` at `va`, `bytes` into the memory operand whose address was checked as a whole. */
export function readOperandAt(c: Insn, bits: number, va: I64): I64 {
  return readMemory(c, bits, va, { onEvent: () => c.leave(), stack: goesByStack(c) });
}

export function writeOperandAt(c: Insn, bits: number, va: I64, value: I64): void {
  writeMemory(c, bits, va, value, { onEvent: () => c.leave(), stack: goesByStack(c) });
}

/** Writes a selector or the like: registers take it zero-extended to the operand size, memory 16 bits of it. */
export function writeWord(c: Insn, index: number, value: I64): void {
  if (!c.isMemory(index)) {
    c.write(index, value);
    return;
  }
  writeOperandAt(c, 16, c.address(16, true), value);
}

/** Pushes the low `bits` of `value` in a slot of the operand size; `stored` bits of it are written. */
export function push(c: Insn, value: I64, stored = c.opsize): void {
  const mask = stackMask(c);
  const sp = c.let(
    get64(c, gpr(4))
      .sub(c.opsize / 8)
      .and(mask),
  );
  const va = c.call<I64>(segmentAddress, c.i32(Seg.SS), sp, c.i32(c.opsize / 8), c.i32(1));
  c.leaveOnEvent();
  c.writeAt(stored, va, value, true);
  c.call(setStackPointer, sp, mask);
}

/** The operand-size value on top of the stack; `drop` then takes it off. */
export function pop(c: Insn): { value: I64; drop: () => void } {
  const mask = c.let(stackMask(c));
  const sp = c.let(get64(c, gpr(4)).and(mask));
  const va = c.call<I64>(segmentAddress, c.i32(Seg.SS), sp, c.i32(c.opsize / 8), c.i32(0));
  c.leaveOnEvent();
  const value = c.readAt(c.opsize, va, true);
  return { value, drop: () => c.call(setStackPointer, sp.add(c.opsize / 8), mask) };
}
