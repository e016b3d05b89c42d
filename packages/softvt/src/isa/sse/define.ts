import { Cpu } from "../../cpu/layout.ts";
import type { Builder, I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { sse as define, enterMmx, mmxCheck, type VectorOptions, type VexForms } from "../sse-common.ts";

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

/** An instruction on XMM registers, and with its VEX forms on YMM registers. */
export function sse(
  name: string,
  encoding: string,
  operands: string,
  feature: VectorFeature,
  describe: (c: Insn) => void,
  options: VectorOptions = {},
): void {
  define(name, encoding, operands, { feature, ...options }, describe);
}

/** Integer vectors of 256 bits come with AVX2, others with AVX; what has no such form has null. */
export const WIDE_INTEGER: VexForms = { wide: "avx2" };
export const WIDE_FLOAT: VexForms = { wide: "avx" };

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

/** `dst = op(dst, src)` for each 128-bit part; `op` knows which. */
export function binaryHalves(c: Insn, op: (c: Insn, dst: V128, src: V128, half: number) => V128): void {
  const src = c.readHalves(1);
  const dst = c.readHalves(0);
  c.writeHalves(
    0,
    src.map((x, half) => op(c, dst[half]!, x, half)),
  );
}

/** `dst = op(src)` for each 128-bit part. */
export function unaryHalves(c: Insn, op: (c: Insn, src: V128, half: number) => V128): void {
  const src = c.readHalves(1);
  c.writeHalves(
    0,
    src.map((x, half) => op(c, x, half)),
  );
}

/** `xmm1 = op(xmm1, xmm2/m128)`; memory must be aligned. */
export function sseBinary(
  name: string,
  encoding: string,
  feature: VectorFeature,
  op: Binary,
  vexForms: VexForms = WIDE_INTEGER,
): void {
  sse(name, encoding, "Vx+,Wx", feature, (c) => binaryHalves(c, op), { vexForms });
}

/** The immediate byte as the upper half of a vector sees it. */
export const immOfHalf = (c: Insn, half: number, shift: number): I32 =>
  half === 0 ? imm8(c) : imm8(c).shrU(shift);

/** The same with an immediate byte, of which the upper half's part is `immShift` bits further up. */
export function sseBinaryImm(
  name: string,
  encoding: string,
  feature: VectorFeature,
  op: (c: Insn, dst: V128, src: V128, imm: I32) => V128,
  { immShift = 0, ...vexForms }: VexForms & { readonly immShift?: number } = WIDE_INTEGER,
): void {
  sse(
    name,
    encoding,
    "Vx+,Wx,Ib",
    feature,
    (c) => binaryHalves(c, (_, dst, src, half) => op(c, dst, src, immOfHalf(c, half, immShift))),
    { vexForms },
  );
}

/** `xmm1 = op(xmm2/m128)`. */
export function sseUnary(
  name: string,
  encoding: string,
  feature: VectorFeature,
  op: Unary,
  vexForms: VexForms = WIDE_INTEGER,
): void {
  sse(name, encoding, "Vx=,Wx", feature, (c) => unaryHalves(c, op), { vexForms });
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
