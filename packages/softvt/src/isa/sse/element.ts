import type { I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { enterMmx } from "../sse-common.ts";
import { both, constant, imm8, low64, mmx, range, sse, writeMmx } from "./define.ts";
import { bytesDown } from "./permute.ts";

/** Single elements in and out of vectors, by an immediate index (SDM Vol. 2B, PEXTRB and on). */

/** Element `imm` of `x`, in the low bits of what is returned. */
function element(c: Insn, x: V128, bits: number): I64 {
  const index = imm8(c).and(128 / bits - 1);
  return low64(c, bytesDown(c, x, index.mul(bits / 8))).zeroExtend(bits);
}

/** `x` with element `imm` replaced by the low bits of `value`. */
function withElement(c: Insn, x: V128, value: I64, bits: 8 | 16 | 32 | 64): V128 {
  const shape = `i${bits}x${128 / bits}`;
  const splat = (v: I64): V128 => c.op(`${shape}.splat`, [bits === 64 ? v : v.wrap()]);
  const index = imm8(c)
    .and(128 / bits - 1)
    .u64();
  const here = c.op(`${shape}.eq`, [constant(c, bits, range(128 / bits)), splat(index)]);
  return c.op("v128.bitselect", [splat(value), x, here]);
}

// A register destination is cleared above the element; in memory the element alone is written.
for (const [name, opcode, register, memory, bits] of [
  ["PEXTRB", "14", "Rd=", "Mb=", 8],
  ["PEXTRW", "15", "Rd=", "Mw=", 16],
] as const)
  for (const operand of [register, memory])
    sse(name, `66 0F 3A ${opcode}`, `${operand},Vx,Ib`, "sse4.1", (c) =>
      c.write(0, element(c, c.readVector(1), bits)),
    );
sse("PEXTRD", "66 0F 3A 16", "Ey=,Vx,Ib", "sse4.1", (c) =>
  c.write(0, element(c, c.readVector(1), c.bits(0))),
);
sse("EXTRACTPS", "66 0F 3A 17", "Ed=,Vx,Ib", "sse4.1", (c) => c.write(0, element(c, c.readVector(1), 32)));
sse("PEXTRW", "66 0F C5", "Gd=,Ux,Ib", "sse2", (c) => c.write(0, element(c, c.readVector(1), 16)));
mmx("PEXTRW", "NP 0F C5", "Gd=,Nq,Ib", "sse", (c) => {
  const count = imm8(c).and(3).shl(4).u64();
  c.write(0, c.read(1).shrU(count).zeroExtend(16));
  enterMmx(c);
});

for (const [name, encoding, feature, register, memory, bits] of [
  ["PINSRB", "66 0F 3A 20", "sse4.1", "Rd", "Mb", 8],
  ["PINSRW", "66 0F C4", "sse2", "Rd", "Mw", 16],
] as const)
  for (const operand of [register, memory])
    sse(name, encoding, `Vx+,${operand},Ib`, feature, (c) => {
      const src = c.read(1);
      c.writeVector(0, withElement(c, c.readVector(0), src, bits));
    });
sse("PINSRD", "66 0F 3A 22", "Vx+,Ey,Ib", "sse4.1", (c) => {
  const src = c.read(1);
  c.writeVector(0, withElement(c, c.readVector(0), src, c.bits(1) === 64 ? 64 : 32));
});
for (const operand of ["Rd", "Mw"])
  mmx("PINSRW", "NP 0F C4", `Pq+,${operand},Ib`, "sse", (c) => {
    const src = c.read(1);
    const count = c.let(imm8(c).and(3).shl(4).u64());
    const hole = c.i64(0xffff).shl(count).not();
    writeMmx(c, "a", c.read(0).and(hole).or(src.zeroExtend(16).shl(count)));
  });

/** Source element by bits 7:6 (in memory: the only one) to destination element 5:4, then zeros by 3:0. */
for (const operand of ["Ux", "Md"])
  sse("INSERTPS", "66 0F 3A 21", `Vx+,${operand},Ib`, "sse4.1", (c) => {
    const imm = imm8(c);
    const lanes = (value: I32): V128 => c.op("i32x4.splat", [value]);
    const src = c.isMemory(1)
      ? lanes(c.read(1).wrap())
      : lanes(c.op<I32>("i32x4.extract_lane", [bytesDown(c, c.readVector(1), imm.shrU(6).shl(2))], [0]));
    const here = c.op("i32x4.eq", [constant(c, 32, range(4)), lanes(imm.shrU(4).and(3))]);
    const bits = constant(c, 32, [1, 2, 4, 8]);
    const zeros = c.op("i32x4.eq", [c.op("v128.and", [lanes(imm), bits]), bits]);
    const inserted = c.op("v128.bitselect", [src, c.readVector(0), here]);
    c.writeVector(0, c.op("v128.andnot", [inserted, zeros]));
  });

/** What the lower and the upper half are widened from: the source's low part, in two. Memory operands are just that. */
function sourceParts(c: Insn): V128[] {
  const bits = c.bits(1);
  const all = bits === 128 ? c.readVector(1) : both(c, c.read(1));
  if (c.halves === 1) return [all];
  const bytes = bits / 16;
  return [
    all,
    c.op(
      "i8x16.shuffle",
      [all, all],
      range(16).map((i) => (i + bytes) % 16),
    ),
  ];
}

for (const [suffix, low, narrow, wide, steps] of [
  ["BW", 0, "Wq", "Wdq", ["i16x8.extend_low_i8x16"]],
  ["BD", 1, "Wd", "Wq", ["i16x8.extend_low_i8x16", "i32x4.extend_low_i16x8"]],
  ["BQ", 2, "Ww", "Wd", ["i16x8.extend_low_i8x16", "i32x4.extend_low_i16x8", "i64x2.extend_low_i32x4"]],
  ["WD", 3, "Wq", "Wdq", ["i32x4.extend_low_i16x8"]],
  ["WQ", 4, "Wd", "Wq", ["i32x4.extend_low_i16x8", "i64x2.extend_low_i32x4"]],
  ["DQ", 5, "Wq", "Wdq", ["i64x2.extend_low_i32x4"]],
] as const)
  for (const [stem, opcode, sign] of [
    ["PMOVSX", 0x20, "s"],
    ["PMOVZX", 0x30, "u"],
  ] as const)
    sse(
      `${stem}${suffix}`,
      `66 0F 38 ${(opcode + low).toString(16)}`,
      `Vx=,${narrow}`,
      "sse4.1",
      (c) => {
        const widen = (x: V128, step: string): V128 => c.op(`${step}_${sign}`, [x]);
        const parts = sourceParts(c);
        c.writeHalves(
          0,
          parts.map((part) => steps.reduce(widen, part)),
        );
      },
      { vexForms: { wide: "avx2", wideOperands: `Vx=,${wide}` } },
    );
