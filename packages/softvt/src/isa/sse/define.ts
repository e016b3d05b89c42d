import { Cpu } from "../../cpu/layout.ts";
import type { Builder, I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { type InsnOptions, insn } from "../registry.ts";
import { enterMmx, mmxCheck, sseCheck } from "../sse-common.ts";

/** CPUID features that vector instructions belong to. */
export type VectorFeature =
  | "mmx"
  | "sse"
  | "sse2"
  | "sse3"
  | "ssse3"
  | "sse4.1"
  | "sse4.2"
  | "aes"
  | "pclmulqdq";

/** What a two-operand instruction makes of its destination's old value and its source. */
export type Binary = (c: Builder, dst: V128, src: V128) => V128;
export type Unary = (c: Builder, src: V128) => V128;

/** A WebAssembly instruction of two vectors as it is. */
export const lanewise =
  (op: string): Binary =>
  (c, a, b) =>
    c.op(op, [a, b]);

/** The immediate byte, 0 to 255. */
export const imm8 = (c: Insn): I32 => c.immediateField().and(0xff);

/** An instruction on XMM registers. */
export function sse(
  name: string,
  encoding: string,
  operands: string,
  feature: VectorFeature,
  describe: (c: Insn) => void,
  options: InsnOptions = {},
): void {
  insn(name, encoding, operands, { feature, ...options }, (c) => {
    sseCheck(c);
    describe(c);
  });
}

/** An instruction on MMX registers; `describe` ends with `writeMmx` or, having no such result, `enterMmx`. */
export function mmx(
  name: string,
  encoding: string,
  operands: string,
  feature: VectorFeature,
  describe: (c: Insn) => void,
): void {
  insn(name, encoding, operands, { feature }, (c) => {
    mmxCheck(c);
    describe(c);
  });
}

/** Writes the MMX register in ModRM.reg (`a`) or ModRM.rm (`b`): exponent and sign become all ones. */
export function writeMmx(c: Insn, field: "a" | "b", value: I64): void {
  const register = c.cpu.add(c.field(field));
  c.store("i64.store", register, value, Cpu.FPR);
  c.store("i32.store16", register, c.i32(0xffff), Cpu.FPR + 8);
  enterMmx(c);
}

/** `xmm1 = op(xmm1, xmm2/m128)`; memory must be aligned. */
export function sseBinary(name: string, encoding: string, feature: VectorFeature, op: Binary): void {
  sse(name, encoding, "Vx+,Wx", feature, (c) => {
    const src = c.readVector(1);
    c.writeVector(0, op(c, c.readVector(0), src));
  });
}

/** The same with an immediate byte. */
export function sseBinaryImm(
  name: string,
  encoding: string,
  feature: VectorFeature,
  op: (c: Insn, dst: V128, src: V128) => V128,
): void {
  sse(name, encoding, "Vx+,Wx,Ib", feature, (c) => {
    const src = c.readVector(1);
    c.writeVector(0, op(c, c.readVector(0), src));
  });
}

/** `xmm1 = op(xmm2/m128)`. */
export function sseUnary(name: string, encoding: string, feature: VectorFeature, op: Unary): void {
  sse(name, encoding, "Vx=,Wx", feature, (c) => c.writeVector(0, op(c, c.readVector(1))));
}

/** A 64-bit value in both halves. MMX operations are done on such and their low half is the result. */
export const both = (c: Builder, x: I64): V128 => c.op("i64x2.splat", [x]);
/** `low` and `high` as one vector: how an MMX operation that looks across its operands wants them. */
export const pair = (c: Builder, low: I64, high: I64): V128 =>
  c.op("i64x2.replace_lane", [both(c, low), high], [1]);
export const low64 = (c: Builder, x: V128): I64 => c.op<I64>("i64x2.extract_lane", [x], [0]);
export const high64 = (c: Builder, x: V128): I64 => c.op<I64>("i64x2.extract_lane", [x], [1]);
/** A 64-bit value, the upper half zero. */
export const zeroExtended = (c: Builder, x: I64): V128 => c.op("i64x2.replace_lane", [c.v128(0n), x], [0]);

/** `mm1 = op(mm1, mm2/m64)`, `op` on the low halves. */
export function mmxBinary(name: string, encoding: string, feature: VectorFeature, op: Binary): void {
  mmx(name, encoding, "Pq+,Qq", feature, (c) => {
    const src = both(c, c.read(1));
    writeMmx(c, "a", low64(c, op(c, both(c, c.read(0)), src)));
  });
}

/** `mm1 = op(mm1:mm2)`, `op` on the two as one vector (destination low), of whose result the low half counts. */
export function mmxPaired(name: string, encoding: string, feature: VectorFeature, op: Unary): void {
  mmx(name, encoding, "Pq+,Qq", feature, (c) => {
    const src = c.read(1);
    writeMmx(c, "a", low64(c, op(c, pair(c, c.read(0), src))));
  });
}

export function mmxUnary(name: string, encoding: string, feature: VectorFeature, op: Unary): void {
  mmx(name, encoding, "Pq=,Qq", feature, (c) => writeMmx(c, "a", low64(c, op(c, both(c, c.read(1))))));
}

/** Both forms of a lane-wise instruction: `66` with XMM registers, no prefix with MMX registers. */
export function packed(
  name: string,
  opcode: string,
  op: Binary,
  xmmFeature: VectorFeature = "sse2",
  mmxFeature: VectorFeature = "mmx",
): void {
  sseBinary(name, `66 ${opcode}`, xmmFeature, op);
  mmxBinary(name, `NP ${opcode}`, mmxFeature, op);
}

/** A vector constant from its lanes, lowest first. */
export function constant(c: Builder, laneBits: 8 | 16 | 32 | 64, lanes: readonly number[]): V128 {
  let value = 0n;
  lanes.forEach((lane, index) => {
    value |= BigInt.asUintN(laneBits, BigInt(lane)) << BigInt(index * laneBits);
  });
  return c.v128(value);
}

export const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
