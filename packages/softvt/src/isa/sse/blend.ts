import { Cpu } from "../../cpu/layout.ts";
import type { Builder, I32, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { avx } from "../sse-common.ts";
import { binaryHalves, constant, sse, sseBinaryImm, WIDE_INTEGER } from "./define.ts";

/** Blends: lanes from the source where a mask says so (SDM Vol. 2A, BLENDPD and on). */

/** By immediate: which of its bits decides each word of the result. */
export function immediateMask(c: Builder, imm: I32, bits: readonly number[]): V128 {
  const select = constant(
    c,
    16,
    bits.map((bit) => 1 << bit),
  );
  return c.op("i16x8.eq", [c.op("v128.and", [c.op("i16x8.splat", [imm]), select]), select]);
}

for (const [name, opcode, bits, vexForms] of [
  ["BLENDPS", "0C", [0, 0, 1, 1, 2, 2, 3, 3], { wide: "avx", immShift: 4 }],
  ["BLENDPD", "0D", [0, 0, 0, 0, 1, 1, 1, 1], { wide: "avx", immShift: 2 }],
  ["PBLENDW", "0E", [0, 1, 2, 3, 4, 5, 6, 7], WIDE_INTEGER],
] as const)
  sseBinaryImm(
    name,
    `66 0F 3A ${opcode}`,
    "sse4.1",
    (c, dst, src, imm) => c.op("v128.bitselect", [src, dst, immediateMask(c, imm, bits)]),
    vexForms,
  );

/** By the lanes' top bits in XMM0, or with VEX in a register that the immediate names. */
for (const [name, opcode, vexOpcode, wide, shape, bits] of [
  ["PBLENDVB", "10", "4C", "avx2", "i8x16", 8],
  ["BLENDVPS", "14", "4A", "avx", "i32x4", 32],
  ["BLENDVPD", "15", "4B", "avx", "i64x2", 64],
] as const) {
  const blend = (c: Insn, masks: readonly V128[]): void =>
    binaryHalves(c, (_, dst, src, half) => {
      const mask = c.op(`${shape}.shr_s`, [masks[half]!, c.i32(bits - 1)]);
      return c.op("v128.bitselect", [src, dst, mask]);
    });
  sse(
    name,
    `66 0F 38 ${opcode}`,
    "Vx+,Wx",
    "sse4.1",
    (c) => blend(c, [c.load("v128.load", c.cpu, Cpu.XMM)]),
    { vexForms: null },
  );
  for (const l of [0, 1] as const)
    avx(
      `V${name}`,
      `66 W0 0F 3A ${vexOpcode}`,
      "Vx=,Hx,Wx,Lx",
      { feature: l === 0 ? "avx" : wide, vex: { l, threeOperand: true } },
      (c) => blend(c, c.readHalves(2)),
    );
}
