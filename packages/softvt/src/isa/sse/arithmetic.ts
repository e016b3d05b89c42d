import type { Builder, V128 } from "../../ir/builder.ts";
import { constant, lanewise, mmxPaired, mmxUnary, packed, range, sseBinary, sseUnary } from "./define.ts";

/** Packed integer addition, subtraction, comparison, extremes, averages (SDM Vol. 2B). */

// Both XMM and MMX registers: name, opcode, operation; the MMX form's feature where it is not MMX.
for (const [name, opcode, op] of [
  ["PADDB", "FC", "i8x16.add"],
  ["PADDW", "FD", "i16x8.add"],
  ["PADDD", "FE", "i32x4.add"],
  ["PSUBB", "F8", "i8x16.sub"],
  ["PSUBW", "F9", "i16x8.sub"],
  ["PSUBD", "FA", "i32x4.sub"],
  ["PADDSB", "EC", "i8x16.add_sat_s"],
  ["PADDSW", "ED", "i16x8.add_sat_s"],
  ["PADDUSB", "DC", "i8x16.add_sat_u"],
  ["PADDUSW", "DD", "i16x8.add_sat_u"],
  ["PSUBSB", "E8", "i8x16.sub_sat_s"],
  ["PSUBSW", "E9", "i16x8.sub_sat_s"],
  ["PSUBUSB", "D8", "i8x16.sub_sat_u"],
  ["PSUBUSW", "D9", "i16x8.sub_sat_u"],
  ["PCMPEQB", "74", "i8x16.eq"],
  ["PCMPEQW", "75", "i16x8.eq"],
  ["PCMPEQD", "76", "i32x4.eq"],
  ["PCMPGTB", "64", "i8x16.gt_s"],
  ["PCMPGTW", "65", "i16x8.gt_s"],
  ["PCMPGTD", "66", "i32x4.gt_s"],
] as const)
  packed(name, `0F ${opcode}`, lanewise(op));
for (const [name, opcode, op] of [
  ["PAVGB", "E0", "i8x16.avgr_u"],
  ["PAVGW", "E3", "i16x8.avgr_u"],
  ["PMINUB", "DA", "i8x16.min_u"],
  ["PMINSW", "EA", "i16x8.min_s"],
  ["PMAXUB", "DE", "i8x16.max_u"],
  ["PMAXSW", "EE", "i16x8.max_s"],
] as const)
  packed(name, `0F ${opcode}`, lanewise(op), "sse2", "sse");
packed("PADDQ", "0F D4", lanewise("i64x2.add"), "sse2", "sse2");
packed("PSUBQ", "0F FB", lanewise("i64x2.sub"), "sse2", "sse2");

// XMM registers only.
for (const [name, opcode, op] of [
  ["PCMPEQQ", "29", "i64x2.eq"],
  ["PMINSB", "38", "i8x16.min_s"],
  ["PMINSD", "39", "i32x4.min_s"],
  ["PMINUW", "3A", "i16x8.min_u"],
  ["PMINUD", "3B", "i32x4.min_u"],
  ["PMAXSB", "3C", "i8x16.max_s"],
  ["PMAXSD", "3D", "i32x4.max_s"],
  ["PMAXUW", "3E", "i16x8.max_u"],
  ["PMAXUD", "3F", "i32x4.max_u"],
] as const)
  sseBinary(name, `66 0F 38 ${opcode}`, "sse4.1", lanewise(op));
sseBinary("PCMPGTQ", "66 0F 38 37", "sse4.2", lanewise("i64x2.gt_s"));

// Absolute values and signs.
for (const [suffix, shape, abs, sign] of [
  ["B", "i8x16", "1C", "08"],
  ["W", "i16x8", "1D", "09"],
  ["D", "i32x4", "1E", "0A"],
] as const) {
  const absolute = (c: Builder, x: V128): V128 => c.op(`${shape}.abs`, [x]);
  sseUnary(`PABS${suffix}`, `66 0F 38 ${abs}`, "ssse3", absolute);
  mmxUnary(`PABS${suffix}`, `NP 0F 38 ${abs}`, "ssse3", absolute);
  packed(
    `PSIGN${suffix}`,
    `0F 38 ${sign}`,
    (c, dst, src) => {
      // Negated where the source is negative, as (x ^ -1) - -1; zero where it is zero.
      const zero = c.v128(0n);
      const negative = c.op(`${shape}.lt_s`, [src, zero]);
      const signed = c.op(`${shape}.sub`, [c.op("v128.xor", [dst, negative]), negative]);
      return c.op("v128.andnot", [signed, c.op(`${shape}.eq`, [src, zero])]);
    },
    "ssse3",
    "ssse3",
  );
}

// Neighbours: even with odd lanes, the destination's results below the source's.
for (const [name, opcode, laneBytes, op] of [
  ["PHADDW", "01", 2, "i16x8.add"],
  ["PHADDD", "02", 4, "i32x4.add"],
  ["PHADDSW", "03", 2, "i16x8.add_sat_s"],
  ["PHSUBW", "05", 2, "i16x8.sub"],
  ["PHSUBD", "06", 4, "i32x4.sub"],
  ["PHSUBSW", "07", 2, "i16x8.sub_sat_s"],
] as const) {
  const bytes = range(16).map((i) => Math.floor(i / laneBytes) * 2 * laneBytes + (i % laneBytes));
  const horizontal = (c: Builder, dst: V128, src: V128): V128 =>
    c.op(op, [
      c.op("i8x16.shuffle", [dst, src], bytes),
      c.op(
        "i8x16.shuffle",
        [dst, src],
        bytes.map((byte) => byte + laneBytes),
      ),
    ]);
  sseBinary(name, `66 0F 38 ${opcode}`, "ssse3", horizontal);
  mmxPaired(name, `NP 0F 38 ${opcode}`, "ssse3", (c, x) => horizontal(c, x, x));
}

/** Minimum of eight unsigned words, and its lowest index in the word above it. */
const minimum = (c: Builder, x: V128): V128 => {
  // Value above index in each of eight doublewords: the least is the answer, its words exchanged.
  const keyed = (half: "low" | "high", first: number): V128 =>
    c.op("v128.or", [
      c.op("i32x4.shl", [c.op(`i32x4.extend_${half}_i16x8_u`, [x]), c.i32(16)]),
      constant(
        c,
        32,
        range(4).map((i) => first + i),
      ),
    ]);
  const least = (a: V128, b: V128): V128 => c.op("i32x4.min_u", [a, b]);
  const rotated = (v: V128, bytes: number): V128 =>
    c.op(
      "i8x16.shuffle",
      [v, v],
      range(16).map((i) => (i + bytes) % 16),
    );
  const four = least(keyed("low", 0), keyed("high", 4));
  const two = least(four, rotated(four, 8));
  const one = least(two, rotated(two, 4));
  return c.op("i8x16.shuffle", [one, c.v128(0n)], [2, 3, 0, 1, ...range(12).map(() => 16)]);
};
sseUnary("PHMINPOSUW", "66 0F 38 41", "sse4.1", minimum, {});
