import type { Builder, I32, I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { isSpecial } from "./arithmetic.ts";
import { Flag, note, Rounding, roundingOf } from "./env.ts";
import { FORMATS, type Format, formatFn, isNan } from "./formats.ts";
import { BIAS, TOP_BIT } from "./round.ts";
import { multiplyWide, shiftLeftWide, shiftRightSticky, type Wide } from "./wide.ts";

/** What changes its sign before the sum is made: bits of the fused operation's `signs`. */
export const Negated = { PRODUCT: 1, ADDEND: 2 } as const;

interface Term {
  readonly sign: I32;
  readonly exp: I32;
  readonly sig: Wide;
}

const select = (cond: I32, a: Wide, b: Wide): Wide => ({
  hi: cond.select(a.hi, b.hi),
  lo: cond.select(a.lo, b.lo),
});

/**
 * The sum of two numbers of 128 bits, neither zero, rounded once. Product and addend leave the lowest bits of theirs free,
 * so that what a shift loses is well behind whatever cancellation leaves.
 */
function addWide(f: Builder, format: Format, x: Term, y: Term, env: I32): void {
  const isLess = x.sig.hi.ltU(y.sig.hi).or(x.sig.hi.eq(y.sig.hi).and(x.sig.lo.ltU(y.sig.lo)));
  const swap = f.let(x.exp.ltS(y.exp).or(x.exp.eq(y.exp).and(isLess)));
  const exp = f.let(swap.select(y.exp, x.exp));
  const sign = f.let(swap.select(y.sign, x.sign));
  const chosen = select(swap, y.sig, x.sig);
  const big = { hi: f.let(chosen.hi), lo: f.let(chosen.lo) };
  const distance = f.let(exp.sub(swap.select(x.exp, y.exp)));
  const small = shiftRightSticky(f, select(swap, x.sig, y.sig), distance);
  f.if(x.sign.eq(y.sign), () => {
    const lo = f.let(big.lo.add(small.lo));
    const carry = f.let(lo.ltU(big.lo).u64());
    const hi = f.let(big.hi.add(small.hi).add(carry));
    // Both summands are below 2^128: a carry shows in a sum that is less than one of them.
    const overflows = hi.ltU(big.hi).or(hi.eq(big.hi).and(carry.ne(0)));
    f.if(overflows, () => {
      const below = lo.shrU(1).or(lo.and(1)).or(hi.shl(63));
      format.finish(f, sign, exp.add(1), hi.shrU(1).or(TOP_BIT), below, env);
    });
    format.finish(f, sign, exp, hi, lo, env);
  });
  const borrow = big.lo.ltU(small.lo).u64();
  const hi = f.variable("i64", big.hi.sub(small.hi).sub(borrow));
  const lo = f.variable("i64", big.lo.sub(small.lo));
  const top = f.variable("i32", exp);
  f.if(hi.get().eqz(), () => {
    f.if(lo.get().eqz(), () => format.returnZero(f, roundingOf(env).eq(Rounding.DOWN)));
    hi.set(lo.get());
    lo.set(f.i64(0));
    top.set(exp.sub(64));
  });
  const shift = f.let(hi.get().clz());
  const normal = shiftLeftWide({ hi: hi.get(), lo: lo.get() }, shift);
  format.finish(f, sign, top.get().sub(shift.wrap()), normal.hi, normal.lo, env);
}

/**
 * (a, b, c, signs, env) → a · b + c, either negated as `Negated` says, rounded once (SDM Vol. 1 sec. 14.5). Of NaNs the
 * first operand's goes on.
 */
const describeFused = (format: Format): Fn =>
  formatFn("fusedMultiplyAdd", format, 3, ["i32", "i32"], format.result, (f, raw, [signs, env]) => {
    const [rawA, rawB, rawC] = raw as [(typeof raw)[0], (typeof raw)[0], (typeof raw)[0]];
    const [a, b, c] = [rawA, rawB, rawC].map((one) => format.unpack(f, one, env!));
    const sign = f.let(a!.sign.xor(b!.sign).xor(signs!.and(Negated.PRODUCT)));
    const signC = f.let(c!.sign.xor(signs!.shrU(1).and(1)));
    const isZero = f.let(a!.sig.eqz().or(b!.sig.eqz()));
    const noteDenormal = (): void =>
      f.if(a!.denormal.or(b!.denormal).or(c!.denormal), () => note(f, Flag.DE));
    const special = [a!, b!, c!].map(isSpecial).reduce((x, y) => x.or(y));
    f.unlikely(special, () => {
      f.if(isNan(a!).or(isNan(b!)), () => {
        f.if(format.isSignaling(rawC), () => note(f, Flag.IE));
        format.returnNaN(f, rawA, rawB);
      });
      f.if(isNan(c!), () => format.returnNaN(f, rawC, rawC));
      const infinite = isSpecial(a!).or(isSpecial(b!));
      f.if(infinite, () => {
        const opposed = isSpecial(c!).and(sign.ne(signC));
        f.if(isZero.or(opposed), () => format.returnInvalid(f));
      });
      noteDenormal();
      format.returnInfinity(f, infinite.select(sign, signC));
    });
    noteDenormal();
    const exp = f.let(a!.exp.add(b!.exp).sub(BIAS - 1));
    f.if(isZero, () => {
      f.if(c!.sig.eqz(), () => {
        const isDown = roundingOf(env!).eq(Rounding.DOWN);
        format.returnZero(f, sign.eq(signC).select(sign, isDown));
      });
      format.finish(f, signC, c!.exp, c!.sig, f.i64(0), env!);
    });
    const whole = multiplyWide(f, a!.sig, b!.sig);
    const short = f.let(whole.hi.shrU(63).xor(1));
    const product = shiftLeftWide(whole, short);
    const x: Term = {
      sign,
      exp: f.let(exp.sub(short.wrap())),
      sig: { hi: f.let(product.hi), lo: f.let(product.lo) },
    };
    f.if(c!.sig.eqz(), () => format.finish(f, sign, x.exp, x.sig.hi, x.sig.lo, env!));
    const y: Term = { sign: signC, exp: c!.exp, sig: { hi: c!.sig, lo: f.i64(0) as I64 } };
    addWide(f, format, x, y, env!);
  });

export const FUSED: Readonly<Record<"f32" | "f64", Fn>> = {
  f32: describeFused(FORMATS.f32),
  f64: describeFused(FORMATS.f64),
};
