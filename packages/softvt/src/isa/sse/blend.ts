import { Cpu } from "../../cpu/layout.ts";
import type { V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { constant, imm8, sse, sseBinaryImm } from "./define.ts";

/** Blends: lanes from the source where a mask says so (SDM Vol. 2A, BLENDPD and on). */

/** By immediate: which of its bits decides each word of the result. */
function immediateMask(c: Insn, bits: readonly number[]): V128 {
  const select = constant(
    c,
    16,
    bits.map((bit) => 1 << bit),
  );
  return c.op("i16x8.eq", [c.op("v128.and", [c.op("i16x8.splat", [imm8(c)]), select]), select]);
}

for (const [name, opcode, bits] of [
  ["BLENDPS", "0C", [0, 0, 1, 1, 2, 2, 3, 3]],
  ["BLENDPD", "0D", [0, 0, 0, 0, 1, 1, 1, 1]],
  ["PBLENDW", "0E", [0, 1, 2, 3, 4, 5, 6, 7]],
] as const)
  sseBinaryImm(name, `66 0F 3A ${opcode}`, "sse4.1", (c, dst, src) =>
    c.op("v128.bitselect", [src, dst, immediateMask(c, bits)]),
  );

/** By the lanes' top bits in XMM0. */
for (const [name, opcode, shape, bits] of [
  ["PBLENDVB", "10", "i8x16", 8],
  ["BLENDVPS", "14", "i32x4", 32],
  ["BLENDVPD", "15", "i64x2", 64],
] as const)
  sse(name, `66 0F 38 ${opcode}`, "Vx+,Wx", "sse4.1", (c) => {
    const src = c.readVector(1);
    const mask = c.op(`${shape}.shr_s`, [c.load("v128.load", c.cpu, Cpu.XMM), c.i32(bits - 1)]);
    c.writeVector(0, c.op("v128.bitselect", [src, c.readVector(0), mask]));
  });
