import { Cpu } from "../../cpu/layout.ts";
import { set32 } from "../../cpu/state.ts";
import { ARITHMETIC, type Arithmetic } from "../../fpu/arithmetic.ts";
import { CONVERT, WIDEN } from "../../fpu/convert.ts";
import { highHalf, lowHalf } from "../../fpu/wide.ts";
import { fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { x87 } from "./common.ts";
import { beginX87, endX87, isEmpty, readSt, underflow, writeResult } from "./stack.ts";

type Soft = Exclude<keyof Arithmetic, "sqrt">;

/** (destination, a, b), each i · 16: ST(destination) = ST(a) op ST(b). Gives the unmasked exceptions. */
const onRegisters = (op: Soft): Fn =>
  fn(`x87_${op}`, ["i32", "i32", "i32"], "i32", (f, to, a, b) => {
    f.unlikely(isEmpty(f, a).or(isEmpty(f, b)), () => f.return(f.call<I32>(underflow, to)));
    const env = beginX87(f);
    const value = f.call<V128>(ARITHMETIC.f80[op], ...readSt(f, a), ...readSt(f, b), env);
    const unmasked = f.call<I32>(endX87);
    writeResult(f, unmasked, to, value);
    f.return(unmasked);
  });

/** (significand, sign | exponent, 1 to exchange the operands): ST(0) = ST(0) op the operand. */
const onOperand = (op: Soft): Fn =>
  fn(`x87_${op}_operand`, ["i64", "i32", "i32"], "i32", (f, sig, se, reverse) => {
    f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
    const env = beginX87(f);
    const [sig0, se0] = readSt(f, 0);
    const [a, b] = [reverse.select(sig, sig0), reverse.select(sig0, sig)];
    const [ae, be] = [reverse.select(se, se0), reverse.select(se0, se)];
    const value = f.call<V128>(ARITHMETIC.f80[op], a, ae, b, be, env);
    const unmasked = f.call<I32>(endX87);
    writeResult(f, unmasked, 0, value);
    f.return(unmasked);
  });

const REGISTERS: Record<Soft, Fn> = {
  add: onRegisters("add"),
  subtract: onRegisters("subtract"),
  multiply: onRegisters("multiply"),
  divide: onRegisters("divide"),
};
const OPERAND: Record<Soft, Fn> = {
  add: onOperand("add"),
  subtract: onOperand("subtract"),
  multiply: onOperand("multiply"),
  divide: onOperand("divide"),
};

/** A memory operand of 32 or 64 bits as an 80-bit one. */
export function readFloat(c: Insn, bits: 32 | 64): [I64, I32] {
  const wide = c.call<V128>(WIDEN[bits === 32 ? "f32" : "f64"], c.read(0));
  return [lowHalf(c, wide), highHalf(c, wide).wrap()];
}

/** A memory operand of 16 or 32 bits, an integer, as an 80-bit number. */
export function readInteger(c: Insn): [I64, I32] {
  const wide = c.call<V128>(CONVERT.f80.fromInteger, c.readSigned(0), c.i32(0));
  return [lowHalf(c, wide), highHalf(c, wide).wrap()];
}

const OPERATIONS: readonly [string, Soft, number, 0 | 1][] = [
  ["ADD", "add", 0, 0],
  ["MUL", "multiply", 1, 0],
  ["SUB", "subtract", 4, 0],
  ["SUBR", "subtract", 5, 1],
  ["DIV", "divide", 6, 0],
  ["DIVR", "divide", 7, 1],
];

for (const [name, op, digit, reverse] of OPERATIONS) {
  const zero = (c: Insn): I32 => c.i32(0);
  const st = (c: Insn): I32 => c.field("b");
  const operand = (c: Insn, parts: [I64, I32]): I32 => c.call<I32>(OPERAND[op], ...parts, c.i32(reverse));
  x87(`F${name}`, `D8 /${digit}`, "Md", (c) => operand(c, readFloat(c, 32)));
  x87(`F${name}`, `DC /${digit}`, "Mq", (c) => operand(c, readFloat(c, 64)));
  x87(`FI${name}`, `DA /${digit}`, "Md", (c) => operand(c, readInteger(c)));
  x87(`FI${name}`, `DE /${digit}`, "Mw", (c) => operand(c, readInteger(c)));
  x87(`F${name}`, `D8 /${digit}`, "Nq", (c) => {
    const operands = reverse ? [st(c), zero(c)] : [zero(c), st(c)];
    return c.call<I32>(REGISTERS[op], zero(c), ...operands);
  });
  // With ST(i) as destination the encodings of an operation and its reverse are exchanged (SDM Vol. 2, FSUB).
  const swapped = digit < 4 ? digit : digit ^ 1;
  const toRegister = (c: Insn): I32 => {
    const operands = reverse ? [zero(c), st(c)] : [st(c), zero(c)];
    return c.call<I32>(REGISTERS[op], st(c), ...operands);
  };
  x87(`F${name}`, `DC /${swapped}`, "Nq", toRegister);
  x87(`F${name}P`, `DE /${swapped}`, "Nq", toRegister, 1);
}

const sqrt = fn("x87_sqrt", [], "i32", (f) => {
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
  const env = beginX87(f);
  const value = f.call<V128>(ARITHMETIC.f80.sqrt, ...readSt(f, 0), env);
  const unmasked = f.call<I32>(endX87);
  writeResult(f, unmasked, 0, value);
  f.return(unmasked);
});

const round = fn("x87_round", [], "i32", (f) => {
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
  const env = beginX87(f);
  const value = f.call<V128>(CONVERT.f80.roundToInteger, ...readSt(f, 0), env);
  const unmasked = f.call<I32>(endX87);
  writeResult(f, unmasked, 0, value);
  f.return(unmasked);
});

x87("FSQRT", "D9 =FA", "", (c) => c.call<I32>(sqrt));
x87("FRNDINT", "D9 =FC", "", (c) => c.call<I32>(round));

/** (bits of ST(0)'s sign | exponent to keep, to invert): FABS and FCHS, which only a stack fault can stop. */
const changeSign = fn("x87ChangeSign", ["i32", "i32"], "i32", (f, keep, invert) => {
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
  set32(f, Cpu.FP_FLAGS, 0);
  const [sig, se] = readSt(f, 0);
  const unmasked = f.call<I32>(endX87);
  const parts = f.op<V128>("i64x2.splat", [sig]);
  const changed = f.op("i64x2.replace_lane", [parts, se.and(keep).xor(invert).u64()], [1]);
  writeResult(f, unmasked, 0, changed);
  f.return(unmasked);
});

x87("FCHS", "D9 =E0", "", (c) => c.call<I32>(changeSign, c.i32(0xffff), c.i32(0x8000)));
x87("FABS", "D9 =E1", "", (c) => c.call<I32>(changeSign, c.i32(0x7fff), c.i32(0)));
