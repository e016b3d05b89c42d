import { type Builder, fn, type I32, type I64, type V128 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { highHalf, lowHalf, multiplyWide, pair, shiftLeftWide, shiftRightSticky, type Wide } from "./wide.ts";

/*
 * Fixed-point numbers of 128 bits, unsigned: Q0 means a value below 1 (all bits are fraction), Q1 one bit before
 * the point. Errors are a few units in the last place, some 2^-120 of a result, against the 2^-64 that counts.
 */

const LOW64 = (1n << 64n) - 1n;

export const fixed = (f: Builder, value: bigint): Wide => ({
  hi: f.i64(BigInt.asUintN(64, value >> 64n)),
  lo: f.i64(value & LOW64),
});

export function add(f: Builder, a: Wide, b: Wide): Wide {
  const lo = f.let(a.lo.add(b.lo));
  return { hi: f.let(a.hi.add(b.hi).add(lo.ltU(a.lo).u64())), lo };
}

export function subtract(f: Builder, a: Wide, b: Wide): Wide {
  return { hi: f.let(a.hi.sub(b.hi).sub(a.lo.ltU(b.lo).u64())), lo: f.let(a.lo.sub(b.lo)) };
}

export const select = (cond: I32, a: Wide, b: Wide): Wide => ({
  hi: cond.select(a.hi, b.hi),
  lo: cond.select(a.lo, b.lo),
});

const multiplyFn = fn("fixedMultiply", ["i64", "i64", "i64", "i64"], "v128", (f, ah, al, bh, bl) => {
  const top = multiplyWide(f, ah, bh);
  const first = multiplyWide(f, ah, bl).hi;
  const second = multiplyWide(f, al, bh).hi;
  const sum = add(f, add(f, top, { hi: f.i64(0), lo: first }), { hi: f.i64(0), lo: second });
  f.return(pair(f, sum.lo, sum.hi));
});

const unwrap = (f: Builder, v: V128): Wide => ({ hi: f.let(highHalf(f, v)), lo: f.let(lowHalf(f, v)) });

/** The upper 128 bits of a product: Q0 · Q0 = Q0, Q0 · Q1 = Q1, Q1 · Q1 = Q2. */
export const multiply = (f: Builder, a: Wide, b: Wide): Wide =>
  unwrap(f, f.call<V128>(multiplyFn, a.hi, a.lo, b.hi, b.lo));

/** 1 / d as Q1 for d in [½, 1) as Q0, by one step of Newton's from a 52-bit estimate: some 100 bits are right. */
const reciprocalFn = fn("fixedReciprocal", ["i64", "i64"], "v128", (f, hi, lo) => {
  const estimate = f.op("f64.div", [f.f64(2 ** 127), f.op("f64.convert_i64_u", [hi])]);
  const r = f.let(f.op<I64>("i64.trunc_sat_f64_u", [estimate]));
  // d · r is 1 (Q1) but for a small error of either sign: new r = r + r · error.
  const product = multiplyWide(f, hi, r);
  const whole = add(f, product, { hi: f.i64(0), lo: multiplyWide(f, lo, r).hi });
  const error = subtract(f, fixed(f, 1n << 127n), whole);
  const negative = f.let(error.hi.ltS(0));
  const cut = error.hi.shl(48).or(error.lo.shrU(16));
  const magnitude = f.let(negative.select(f.i64(0).sub(cut), cut));
  const change = multiplyWide(f, r, magnitude);
  const shift = shiftRightSticky(f, change, f.i32(47));
  const start: Wide = { hi: r, lo: f.i64(0) };
  const less = subtract(f, start, shift);
  const more = add(f, start, shift);
  const result = select(negative, less, more);
  f.return(pair(f, result.lo, result.hi));
});
export const reciprocal = (f: Builder, d: Wide): Wide => unwrap(f, f.call<V128>(reciprocalFn, d.hi, d.lo));

/** A polynomial, by Horner's rule, as a function of w's two halves (Q0): c0 ± w (c1 ± w (c2 …)). */
export function polynomial(name: string, coefficients: () => bigint[], alternating: boolean): Fn {
  return fn(name, ["i64", "i64"], "v128", (f, hi, lo) => {
    const w = { hi, lo };
    const list = coefficients();
    let sum = fixed(f, list[list.length - 1]!);
    for (let k = list.length - 2; k >= 0; k--) {
      const term = multiply(f, w, sum);
      sum = (alternating ? subtract : add)(f, fixed(f, list[k]!), term);
    }
    // Just below the limit 1 for w = 0: the functions then round as those of a small argument have to.
    if (alternating) sum = subtract(f, sum, fixed(f, 1n));
    f.return(pair(f, sum.lo, sum.hi));
  });
}
export const evaluate = (f: Builder, series: Fn, w: Wide): Wide =>
  unwrap(f, f.call<V128>(series, w.hi, w.lo));

export interface Normalized {
  /** Bit 127 set (unless zero). */
  readonly mantissa: Wide;
  /** By how much it was shifted up: 0 to 127. */
  readonly shift: I32;
}

export function normalize(f: Builder, a: Wide): Normalized {
  const high = f.let(a.hi.eqz());
  const first = select(high, { hi: a.lo, lo: f.i64(0) }, a);
  const top: Wide = { hi: f.let(first.hi), lo: f.let(first.lo) };
  const count = f.let(top.hi.clz());
  const shifted = shiftLeftWide(top, count);
  return {
    mantissa: { hi: f.let(shifted.hi), lo: f.let(shifted.lo) },
    shift: f.let(count.wrap().add(high.shl(6))),
  };
}

/** `a` shifted right by a count that may be anything from 0 up. */
export const shiftRight = (f: Builder, a: Wide, count: I32): Wide => shiftRightSticky(f, a, f.let(count));

/** a · b of a 64-bit and a 128-bit number: the upper 128 bits. */
export function multiplyBy64(f: Builder, a: I64, b: Wide): Wide {
  const upper = multiplyWide(f, a, b.hi);
  return add(f, upper, { hi: f.i64(0), lo: multiplyWide(f, a, b.lo).hi });
}

/** √2 as a significand, rounded down: what lies above it is halved before its logarithm is taken. */
export const SQRT2 = 0xb504_f333_f9de_6484n;
/** 1 - √½ as a significand with exponent -2: the range of FYL2XP1. */
export const LOG1P_LIMIT = 0x95f6_1998_0c43_36f7n;
