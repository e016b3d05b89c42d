import type { Builder, V128 } from "../../ir/builder.ts";
import {
  both,
  high64,
  imm8,
  lanewise,
  low64,
  mmx,
  mmxBinary,
  mmxPaired,
  pair,
  range,
  sse,
  sseBinary,
  sseBinaryImm,
  unaryHalves,
  WIDE_FLOAT,
  WIDE_INTEGER,
  writeMmx,
} from "./define.ts";
import { atMost, bytesDown, type ImmediateFields, immediateIndices, swizzle } from "./permute.ts";

/** Packs, unpacks, shuffles (SDM Vol. 2B). */

// Packs: the destination's lanes below the source's, narrowed with saturation. Sources are signed.
for (const [name, opcode, op] of [
  ["PACKSSWB", "0F 63", "i8x16.narrow_i16x8_s"],
  ["PACKUSWB", "0F 67", "i8x16.narrow_i16x8_u"],
  ["PACKSSDW", "0F 6B", "i16x8.narrow_i32x4_s"],
] as const) {
  sseBinary(name, `66 ${opcode}`, "sse2", lanewise(op));
  mmxPaired(name, `NP ${opcode}`, "mmx", (c, x) => c.op(op, [x, x]));
}
sseBinary("PACKUSDW", "66 0F 38 2B", "sse4.1", lanewise("i16x8.narrow_i32x4_u"));

/** Shuffle indices that interleave lanes of `bytes` bytes of two vectors' low or high halves. */
const interleaved = (bytes: number, half: "low" | "high"): number[] =>
  range(16).map((i) => {
    const lane = Math.floor(i / bytes);
    return (lane >> 1) * bytes + (i % bytes) + (half === "high" ? 8 : 0) + (lane % 2) * 16;
  });
const interleave =
  (bytes: number, half: "low" | "high") =>
  (c: Builder, dst: V128, src: V128): V128 =>
    c.op("i8x16.shuffle", [dst, src], interleaved(bytes, half));

for (const [suffix, low, high, bytes] of [
  ["BW", "60", "68", 1],
  ["WD", "61", "69", 2],
  ["DQ", "62", "6A", 4],
] as const) {
  sseBinary(`PUNPCKL${suffix}`, `66 0F ${low}`, "sse2", interleave(bytes, "low"));
  sseBinary(`PUNPCKH${suffix}`, `66 0F ${high}`, "sse2", interleave(bytes, "high"));
  // The whole of two MMX registers interleaved is 128 bits: of these PUNPCKL wants the low half.
  mmx(`PUNPCKL${suffix}`, `NP 0F ${low}`, "Pq+,Qd", "mmx", (c) => {
    const src = both(c, c.read(1));
    writeMmx(c, "a", low64(c, interleave(bytes, "low")(c, both(c, c.read(0)), src)));
  });
  mmx(`PUNPCKH${suffix}`, `NP 0F ${high}`, "Pq+,Qq", "mmx", (c) => {
    const src = both(c, c.read(1));
    writeMmx(c, "a", high64(c, interleave(bytes, "low")(c, both(c, c.read(0)), src)));
  });
}
for (const [name, encoding, feature, bytes, half, vexForms] of [
  ["PUNPCKLQDQ", "66 0F 6C", "sse2", 8, "low", WIDE_INTEGER],
  ["PUNPCKHQDQ", "66 0F 6D", "sse2", 8, "high", WIDE_INTEGER],
  ["UNPCKLPS", "NP 0F 14", "sse", 4, "low", WIDE_FLOAT],
  ["UNPCKHPS", "NP 0F 15", "sse", 4, "high", WIDE_FLOAT],
  ["UNPCKLPD", "66 0F 14", "sse2", 8, "low", WIDE_FLOAT],
  ["UNPCKHPD", "66 0F 15", "sse2", 8, "high", WIDE_FLOAT],
] as const)
  sseBinary(name, encoding, feature, interleave(bytes, half), vexForms);

// Shuffles by immediate, of one source.
const WORDS = range(8);
export const DOUBLEWORDS: ImmediateFields = {
  bits: 2,
  field: [0, 0, 1, 1, 2, 2, 3, 3],
  scale: 4,
  base: [0, 2, 0, 2, 0, 2, 0, 2],
};
const LOW_WORDS: ImmediateFields = {
  bits: 2,
  field: WORDS.map((i) => (i < 4 ? i : undefined)),
  scale: 2,
  base: WORDS.map((i) => (i < 4 ? 0 : 2 * i)),
};
const HIGH_WORDS: ImmediateFields = {
  bits: 2,
  field: WORDS.map((i) => (i < 4 ? undefined : i - 4)),
  scale: 2,
  base: WORDS.map((i) => (i < 4 ? 2 * i : 8)),
};
for (const [name, encoding, fields] of [
  ["PSHUFD", "66 0F 70", DOUBLEWORDS],
  ["PSHUFLW", "F2 0F 70", LOW_WORDS],
  ["PSHUFHW", "F3 0F 70", HIGH_WORDS],
] as const)
  sse(
    name,
    encoding,
    "Vx=,Wx,Ib",
    "sse2",
    (c) => unaryHalves(c, (_, x) => swizzle(c, x, immediateIndices(c, fields, imm8(c)))),
    { vexForms: WIDE_INTEGER },
  );
mmx("PSHUFW", "NP 0F 70", "Pq=,Qq,Ib", "sse", (c) =>
  writeMmx(c, "a", low64(c, swizzle(c, both(c, c.read(1)), immediateIndices(c, LOW_WORDS, imm8(c))))),
);

// Of two sources: the low half of the result from the destination, the high half from the source.
export const DOUBLE_FIELDS: ImmediateFields = {
  bits: 1,
  field: [0, 0, 0, 0, 1, 1, 1, 1],
  scale: 8,
  base: [0, 2, 4, 6, 0, 2, 4, 6],
};
for (const [name, encoding, feature, fields, immShift] of [
  ["SHUFPS", "NP 0F C6", "sse", DOUBLEWORDS, 0],
  ["SHUFPD", "66 0F C6", "sse2", DOUBLE_FIELDS, 2],
] as const)
  sseBinaryImm(
    name,
    encoding,
    feature,
    (c, dst, src, imm) => {
      const indices = immediateIndices(c, fields, imm);
      return c.op(
        "i8x16.shuffle",
        [swizzle(c, dst, indices), swizzle(c, src, indices)],
        range(16).map((i) => (i < 8 ? i : 16 + i)),
      );
    },
    { wide: "avx", immShift },
  );

// By bytes. An index with its top bit set gives zero; its other upper bits do not count.
sseBinary("PSHUFB", "66 0F 38 00", "ssse3", (c, dst, src) =>
  swizzle(c, dst, c.op("v128.and", [src, c.op("i8x16.splat", [c.i32(0x8f)])])),
);
mmxBinary("PSHUFB", "NP 0F 38 00", "ssse3", (c, dst, src) =>
  swizzle(c, dst, c.op("v128.and", [src, c.op("i8x16.splat", [c.i32(0x87)])])),
);
sseBinaryImm("PALIGNR", "66 0F 3A 0F", "ssse3", (c, dst, src, imm) => {
  const count = atMost(imm, 32);
  return c.op("v128.or", [bytesDown(c, src, count), bytesDown(c, dst, count.sub(16))]);
});
mmx("PALIGNR", "NP 0F 3A 0F", "Pq+,Qq,Ib", "ssse3", (c) => {
  const src = c.read(1);
  writeMmx(c, "a", low64(c, bytesDown(c, pair(c, src, c.read(0)), atMost(imm8(c), 16))));
});
