import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { Env, Flag, x87Env } from "../../fpu/env.ts";
import { pack80, SPECIAL } from "../../fpu/round.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";

/*
 * The register stack (SDM Vol. 1 sec. 8.1.2). ST(i) is named by i · 16, as a micro-op's field b has it. In the
 * tag word a register is empty (11) or not: the other tags follow from the contents when FNSTENV stores them.
 */

type Index = I32 | number;

/** Offset of ST(i)'s physical register from FPR: `index` is i · 16. */
export const physical = (f: Builder, index: Index): I32 => get32(f, Cpu.TOP).shl(4).add(index).and(0x70);

/** 1 where the physical register at `offset` is empty. Tags are two bits: offset / 16 · 2. */
export const isEmptyAt = (f: Builder, offset: I32): I32 =>
  get32(f, Cpu.FTW).shrU(offset.shrU(3)).and(3).eq(3);
export const isEmpty = (f: Builder, index: Index): I32 => isEmptyAt(f, physical(f, index));

export const significandAt = (f: Builder, offset: I32): I64 => f.load("i64.load", f.cpu.add(offset), Cpu.FPR);
export const exponentAt = (f: Builder, offset: I32): I32 =>
  f.load("i32.load16_u", f.cpu.add(offset), Cpu.FPR + 8);

/** ST(i) in the two parts that functions take. */
export function readSt(f: Builder, index: Index): [I64, I32] {
  const offset = f.let(physical(f, index));
  return [significandAt(f, offset), exponentAt(f, offset)];
}

/** Stores into the physical register at `offset` and marks it as not empty. */
export function writeAt(f: Builder, offset: I32, value: V128): void {
  f.store("v128.store", f.cpu.add(offset), value, Cpu.FPR);
  set32(f, Cpu.FTW, get32(f, Cpu.FTW).and(f.i32(3).shl(offset.shrU(3)).xor(-1)));
}

/** The "floating-point indefinite": the masked response to invalid operations. */
export const indefinite = (f: Builder): V128 => pack80(f, f.i32(1), f.i32(SPECIAL), f.i64(3n << 62n));

/** Exceptions that were noted and are not masked. */
export const unmaskedNoted = (f: Builder): I32 =>
  get32(f, Cpu.FP_FLAGS).and(get32(f, Cpu.FCW).xor(-1)).and(Flag.ALL);

/**
 * Ends an operation: brings what it noted into the status word, C1 included, with ES and B where something is
 * not masked (SDM Vol. 1 sec. 8.1.3, 8.5). Gives the unmasked exceptions: with one of Flag.EARLY a register
 * result must not be stored nor the stack changed, with OE or UE one in memory neither.
 */
export const endX87 = fn("endX87", [], "i32", (f) => {
  const flags = get32(f, Cpu.FP_FLAGS);
  const status = f.let(get32(f, Cpu.FSW).and(~Flag.UP));
  f.if(flags.eqz(), () => {
    set32(f, Cpu.FSW, status);
    f.return(f.i32(0));
  });
  const unmasked = f.let(unmaskedNoted(f));
  const isEarly = unmasked.and(Flag.EARLY).ne(0);
  // C1 of an operation that is not carried out tells of a stack overflow only.
  const overflow = flags.and(Flag.SF).shl(3);
  const early = flags.and(f.i32(Flag.EARLY | Flag.SF).or(overflow));
  const kept = isEarly.select(early, flags);
  const summary = unmasked.ne(0).select(f.i32(0x8080), f.i32(0));
  set32(f, Cpu.FSW, status.or(kept).or(summary));
  f.return(unmasked);
});

/** Nothing noted so far. Gives the environment. */
export function beginX87(f: Builder): I32 {
  set32(f, Cpu.FP_FLAGS, 0);
  return f.let(x87Env(f));
}

/** Stack underflow with ST(index) as destination: gives the unmasked exceptions. */
export const underflow = fn("x87Underflow", ["i32"], "i32", (f, index) => {
  set32(f, Cpu.FP_FLAGS, Flag.IE | Flag.SF);
  const unmasked = f.call<I32>(endX87);
  f.if(unmasked.eqz(), () => writeAt(f, f.let(physical(f, index)), indefinite(f)));
  f.return(unmasked);
});

/**
 * Pushes a value and ends the operation that made it. A register that is not empty there is a stack overflow,
 * which is found first: C1 set, and the indefinite instead of the value. An unmasked denormal is pushed all the
 * same. Gives the unmasked exceptions.
 */
export const push = fn("x87Push", ["v128"], "i32", (f, value) => {
  const top = f.let(get32(f, Cpu.TOP).sub(1).and(7));
  const offset = f.let(top.shl(4));
  const result = f.variable("v128", value);
  const faulted = get32(f, Cpu.FP_FLAGS).and(Flag.SF);
  f.unlikely(isEmptyAt(f, offset).or(faulted).eqz(), () => {
    set32(f, Cpu.FP_FLAGS, Flag.IE | Flag.SF | Flag.UP);
    result.set(indefinite(f));
  });
  const unmasked = f.call<I32>(endX87);
  f.if(unmasked.and(Flag.IE).eqz(), () => {
    set32(f, Cpu.TOP, top);
    writeAt(f, offset, result.get());
  });
  f.return(unmasked);
});

/** Marks ST(0) as empty and pops it. */
export function pop(f: Builder): void {
  const top = get32(f, Cpu.TOP);
  set32(f, Cpu.FTW, get32(f, Cpu.FTW).or(f.i32(3).shl(top.shl(1))));
  set32(f, Cpu.TOP, top.add(1).and(7));
}

/** Stores a result into ST(index) unless what `endX87` gave forbids it. */
export function writeResult(f: Builder, unmasked: I32, index: Index, value: V128): void {
  f.if(unmasked.and(Flag.EARLY).eqz(), () => writeAt(f, f.let(physical(f, index)), value));
}

/** The environment of what ignores precision control. */
export const fullPrecision = (env: I32): I32 => env.or(3 << Env.PC_SHIFT);
