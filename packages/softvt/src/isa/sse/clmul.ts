import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import { constant, high64, low64, pair, range, sseBinaryImm } from "./define.ts";
import { swizzle } from "./permute.ts";

/** PCLMULQDQ (SDM Vol. 2B): a product of polynomials over GF(2), 64 by 64 bits. */

/**
 * The low 64 bits of the product, by ordinary multiplications of every fourth bit: at most 15 ones meet in a
 * column below the topmost, so that carries stay within the three bits left free (the topmost's leave the word).
 */
const clmulLow = fn("clmulLow", ["i64", "i64"], "i64", (f, a, b) => {
  const masks = range(4).map((i) => 0x1111_1111_1111_1111n << BigInt(i));
  const x = masks.map((mask) => f.let(a.and(mask)));
  const y = masks.map((mask) => f.let(b.and(mask)));
  const column = (k: number): I64 =>
    range(4)
      .map((i) => x[i]!.mul(y[(k - i + 4) % 4]!))
      .reduce((sum, term) => sum.xor(term))
      .and(BigInt.asUintN(64, masks[k]!));
  f.return(
    column(0)
      .or(column(1))
      .or(column(2).or(column(3))),
  );
});

/** Bits 127 to 0 of each half in the opposite order, halves kept. */
function reversed(c: Builder, x: V128): V128 {
  const four = c.i32(4);
  const nibbles = constant(
    c,
    8,
    range(16).map((n) => ((n & 1) << 3) | ((n & 2) << 1) | ((n & 4) >> 1) | (n >> 3)),
  );
  const low = swizzle(c, nibbles, c.op("v128.and", [x, c.op("i8x16.splat", [c.i32(15)])]));
  const high = swizzle(c, nibbles, c.op("i8x16.shr_u", [x, four]));
  const bytes = c.op("v128.or", [c.op("i8x16.shl", [low, four]), high]);
  return c.op(
    "i8x16.shuffle",
    [bytes, bytes],
    range(16).map((i) => i ^ 7),
  );
}

/** The upper half is the lower one of the reversed factors, reversed: the 127-bit product read from its top. */
const clmul = fn("clmul", ["i64", "i64"], "v128", (f, a, b) => {
  const turned = f.let(reversed(f, pair(f, a, b)));
  const low = f.call<I64>(clmulLow, a, b);
  const high = f.call<I64>(clmulLow, low64(f, turned), high64(f, turned));
  const back = low64(f, reversed(f, pair(f, high, high)));
  f.return(pair(f, low, back.shrU(1)));
});

const product = (c: Builder, dst: V128, src: V128, imm: I32): V128 => {
  const half = (x: V128, bit: number): I64 => imm.and(bit).select(high64(c, x), low64(c, x));
  return c.call<V128>(clmul, half(dst, 1), half(src, 0x10));
};
sseBinaryImm("PCLMULQDQ", "66 0F 3A 44", "pclmulqdq", product, {});
