import type { Builder, I32, V128 } from "../../ir/builder.ts";
import { type Binary, constant, lanewise, packed, range, sseBinary, sseBinaryImm } from "./define.ts";
import { swizzle } from "./permute.ts";

/** Packed integer multiplication and sums of differences (SDM Vol. 2B). */

packed("PMULLW", "0F D5", lanewise("i16x8.mul"));
sseBinary("PMULLD", "66 0F 38 40", "sse4.1", lanewise("i32x4.mul"));
packed("PMADDWD", "0F F5", lanewise("i32x4.dot_i16x8_s"));

/** High words of the eight 32-bit products. */
const highWords =
  (sign: "s" | "u"): Binary =>
  (c, a, b) =>
    c.op(
      "i8x16.shuffle",
      [c.op(`i32x4.extmul_low_i16x8_${sign}`, [a, b]), c.op(`i32x4.extmul_high_i16x8_${sign}`, [a, b])],
      range(16).map((i) => 4 * (i >> 1) + 2 + (i & 1)),
    );
packed("PMULHW", "0F E5", highWords("s"));
packed("PMULHUW", "0F E4", highWords("u"), "sse2", "sse");

/** 64-bit products of the even doublewords. */
const evenProducts =
  (sign: "s" | "u"): Binary =>
  (c, a, b) => {
    const even = (x: V128): V128 =>
      c.op("i8x16.shuffle", [x, x], [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11]);
    return c.op(`i64x2.extmul_low_i32x4_${sign}`, [even(a), even(b)]);
  };
packed("PMULUDQ", "0F F4", evenProducts("u"), "sse2", "sse2");
sseBinary("PMULDQ", "66 0F 38 28", "sse4.1", evenProducts("s"));

/** Rounded high words. WebAssembly's saturates -1 × -1 where this one wraps. */
packed(
  "PMULHRSW",
  "0F 38 0B",
  (c, a, b) => {
    const least = c.op("i16x8.splat", [c.i32(0x8000)]);
    const wraps = c.op("v128.and", [c.op("i16x8.eq", [a, least]), c.op("i16x8.eq", [b, least])]);
    return c.op("v128.xor", [c.op("i16x8.q15mulr_sat_s", [a, b]), wraps]);
  },
  "ssse3",
  "ssse3",
);

/** Unsigned bytes of the destination times signed ones of the source, neighbours added with saturation. */
packed(
  "PMADDUBSW",
  "0F 38 04",
  (c, a, b) => {
    const eight = c.i32(8);
    const even = c.op("i16x8.mul", [
      c.op("v128.and", [a, c.op("i16x8.splat", [c.i32(0xff)])]),
      c.op("i16x8.shr_s", [c.op("i16x8.shl", [b, eight]), eight]),
    ]);
    const odd = c.op("i16x8.mul", [c.op("i16x8.shr_u", [a, eight]), c.op("i16x8.shr_s", [b, eight])]);
    return c.op("i16x8.add_sat_s", [even, odd]);
  },
  "ssse3",
  "ssse3",
);

const absoluteDifference: Binary = (c, a, b) =>
  c.op("v128.or", [c.op("i8x16.sub_sat_u", [a, b]), c.op("i8x16.sub_sat_u", [b, a])]);

packed(
  "PSADBW",
  "0F F6",
  (c, a, b) => {
    const bytes = absoluteDifference(c, a, b);
    const words = c.op("i16x8.add", [
      c.op("v128.and", [bytes, c.op("i16x8.splat", [c.i32(0xff)])]),
      c.op("i16x8.shr_u", [bytes, c.i32(8)]),
    ]);
    const doublewords = c.op("i32x4.dot_i16x8_s", [words, c.op("i16x8.splat", [c.i32(1)])]);
    const upper = c.op("i64x2.shr_u", [doublewords, c.i32(32)]);
    return c.op("v128.and", [
      c.op("i64x2.add", [doublewords, upper]),
      c.op("i64x2.splat", [c.i64(0xffff_ffff)]),
    ]);
  },
  "sse2",
  "sse",
);

/** Eight sums of four differences: a sliding window of the destination against one block of the source. */
const slidingSums = (c: Builder, dst: V128, src: V128, imm: I32): V128 => {
  const window = imm.shrU(2).and(1).shl(2);
  const block = imm.and(3).shl(2);
  const term = (j: number): V128 => {
    const sliding = swizzle(
      c,
      dst,
      c.op("i8x16.add", [constant(c, 8, range(16)), c.op("i8x16.splat", [window.add(j)])]),
    );
    const fixed = swizzle(c, src, c.op("i8x16.splat", [block.add(j) as I32]));
    return c.op("i16x8.extend_low_i8x16_u", [absoluteDifference(c, sliding, fixed)]);
  };
  const add = (a: V128, b: V128): V128 => c.op("i16x8.add", [a, b]);
  return add(add(term(0), term(1)), add(term(2), term(3)));
};
sseBinaryImm("MPSADBW", "66 0F 3A 42", "sse4.1", slidingSums, { wide: "avx2", immShift: 3 });
