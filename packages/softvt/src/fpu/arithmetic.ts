import type { Builder, I32, I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Flag, note, Rounding, roundingOf } from "./env.ts";
import { type ArithmeticName, FORMATS, type Format, formatFn, isNan, type Unpacked } from "./formats.ts";
import { BIAS, SPECIAL, TOP_BIT } from "./round.ts";
import { multiplyWide, shiftLeftWide, shiftRightSticky, sticky } from "./wide.ts";

export const isSpecial = (u: Unpacked): I32 => u.exp.eq(SPECIAL);

/**
 * A binary operation: takes the operands apart, sorts out NaNs, and leaves the rest to `describe`; `infinite`
 * describes what happens where an operand is an infinity, and returns, or raises what it must and falls through.
 * DE is noted where nothing comes before it: invalid operations and divisions by zero do (SDM Vol. 1 sec. 4.9.2).
 */
function binary(
  name: string,
  format: Format,
  infinite: (f: Builder, a: Unpacked, b: Unpacked, noteDenormal: () => void) => void,
  describe: (f: Builder, a: Unpacked, b: Unpacked, env: I32, noteDenormal: () => void) => void,
): Fn {
  return formatFn(name, format, 2, ["i32"], format.result, (f, [rawA, rawB], [env]) => {
    const a = format.unpack(f, rawA!, env!);
    const b = format.unpack(f, rawB!, env!);
    const noteDenormal = (): void => f.if(a.denormal.or(b.denormal), () => note(f, Flag.DE));
    f.unlikely(isSpecial(a).or(isSpecial(b)), () => {
      f.if(isNan(a).or(isNan(b)), () => format.returnNaN(f, rawA!, rawB!));
      infinite(f, a, b, noteDenormal);
    });
    describe(f, a, b, env!, noteDenormal);
  });
}

/** Sum (or, with b's sign inverted, difference) of two finite numbers. */
function addMagnitudes(f: Builder, format: Format, a: Unpacked, b: Unpacked, signB: I32, env: I32): void {
  const swap = f.let(a.exp.ltS(b.exp).or(a.exp.eq(b.exp).and(a.sig.ltU(b.sig))));
  const exp = f.let(swap.select(b.exp, a.exp));
  const big = f.let(swap.select(b.sig, a.sig));
  const sign = f.let(swap.select(signB, a.sign));
  const distance = exp.sub(swap.select(a.exp, b.exp));
  const small = shiftRightSticky(f, { hi: swap.select(a.sig, b.sig), lo: f.i64(0) }, f.let(distance));
  f.if(a.sign.eq(signB), () => {
    const sum = f.let(big.add(small.hi));
    f.if(big.eqz(), () => format.returnZero(f, sign));
    f.if(sum.ltU(big), () => {
      const below = small.lo.shrU(1).or(small.lo.and(1)).or(sum.shl(63));
      format.finish(f, sign, exp.add(1), sum.shrU(1).or(TOP_BIT), below, env);
    });
    format.finish(f, sign, exp, sum, small.lo, env);
  });
  const hi = f.variable("i64", big.sub(small.hi).sub(sticky(small.lo)));
  const lo = f.variable("i64", f.i64(0).sub(small.lo));
  const top = f.variable("i32", exp);
  f.if(hi.get().eqz(), () => {
    f.if(lo.get().eqz(), () => format.returnZero(f, roundingOf(env).eq(Rounding.DOWN)));
    hi.set(lo.get());
    lo.set(f.i64(0));
    top.set(exp.sub(64));
  });
  const difference = { hi: hi.get(), lo: lo.get() };
  const shift = f.let(difference.hi.clz());
  const normal = shiftLeftWide(difference, shift);
  format.finish(f, sign, top.get().sub(shift.wrap()), normal.hi, normal.lo, env);
}

function describeAdd(format: Format, name: string, inverted: 0 | 1): Fn {
  return binary(
    name,
    format,
    (f, a, b, noteDenormal) => {
      const signB = b.sign.xor(inverted);
      f.if(isSpecial(a).and(isSpecial(b)).and(a.sign.ne(signB)), () => format.returnInvalid(f));
      noteDenormal();
      format.returnInfinity(f, isSpecial(a).select(a.sign, signB));
    },
    (f, a, b, env, noteDenormal) => {
      noteDenormal();
      addMagnitudes(f, format, a, b, f.let(b.sign.xor(inverted)), env);
    },
  );
}

const describeMultiply = (format: Format): Fn =>
  binary(
    "multiply",
    format,
    (f, a, b, noteDenormal) => {
      f.if(a.sig.eqz().or(b.sig.eqz()), () => format.returnInvalid(f));
      noteDenormal();
      format.returnInfinity(f, a.sign.xor(b.sign));
    },
    (f, a, b, env, noteDenormal) => {
      const sign = f.let(a.sign.xor(b.sign));
      noteDenormal();
      f.if(a.sig.eqz().or(b.sig.eqz()), () => format.returnZero(f, sign));
      const product = multiplyWide(f, a.sig, b.sig);
      const exp = f.let(a.exp.add(b.exp).sub(BIAS - 1));
      f.if(product.hi.ltS(0), () => format.finish(f, sign, exp, product.hi, product.lo, env));
      const normal = shiftLeftWide(product, f.i64(1));
      format.finish(f, sign, exp.sub(1), normal.hi, normal.lo, env);
    },
  );

/**
 * (hi · 2^64 + lo) / divisor for a normalized divisor greater than hi: quotient and remainder, by two digits of
 * 32 bits (Knuth, The Art of Computer Programming, vol. 2, sec. 4.3.1, algorithm D).
 */
export function divideWide(f: Builder, hi: I64, lo: I64, divisor: I64): { quotient: I64; remainder: I64 } {
  const high = f.let(divisor.shrU(32));
  const low = f.let(divisor.and(0xffff_ffffn));
  const digit = (rest: I64, next: I64): { digit: I64; rest: I64 } => {
    const estimate = f.let(rest.divU(high));
    const guess = f.variable("i64", estimate.gtU(0xffff_ffffn).select(f.i64(0xffff_ffffn), estimate));
    // rest - guess · high stays below 2^33; while it is below 2^32 the guess may be too big, by 2 at most.
    f.loop((label) => {
      const over = f.let(rest.sub(guess.get().mul(high)));
      f.if(over.gtU(0xffff_ffffn), () => f.break(label));
      f.if(guess.get().mul(low).leU(over.shl(32).or(next)), () => f.break(label));
      guess.set(guess.get().sub(1));
    });
    const found = guess.get();
    return { digit: found, rest: f.let(rest.shl(32).or(next).sub(found.mul(divisor))) };
  };
  const first = digit(hi, f.let(lo.shrU(32)));
  const second = digit(first.rest, f.let(lo.and(0xffff_ffffn)));
  return { quotient: f.let(first.digit.shl(32).or(second.digit)), remainder: second.rest };
}

/** a / b of significands: 64 bits of quotient with its top bit set, what is below, and by how much exp is less. */
export function divideSignificands(f: Builder, a: I64, b: I64): { sig: I64; extra: I64; less: I32 } {
  const less = f.let(a.ltU(b));
  const hi = f.let(less.select(a, a.shrU(1)));
  const lo = f.let(less.select(f.i64(0), a.shl(63)));
  const { quotient, remainder } = divideWide(f, hi, lo, b);
  const half = b.sub(remainder);
  const extra = remainder.eq(half).select(f.i64(TOP_BIT), remainder.gtU(half).select(f.i64(-1), f.i64(1)));
  return { sig: quotient, extra: f.let(remainder.eqz().select(f.i64(0), extra)), less };
}

const describeDivide = (format: Format): Fn =>
  binary(
    "divide",
    format,
    (f, a, b, noteDenormal) => {
      f.if(isSpecial(a).and(isSpecial(b)), () => format.returnInvalid(f));
      noteDenormal();
      const sign = a.sign.xor(b.sign);
      f.if(isSpecial(a), () => format.returnInfinity(f, sign));
      format.returnZero(f, sign);
    },
    (f, a, b, env, noteDenormal) => {
      const sign = f.let(a.sign.xor(b.sign));
      f.if(b.sig.eqz(), () => {
        f.if(a.sig.eqz(), () => format.returnInvalid(f));
        note(f, Flag.ZE);
        format.returnInfinity(f, sign);
      });
      noteDenormal();
      f.if(a.sig.eqz(), () => format.returnZero(f, sign));
      const { sig, extra, less } = divideSignificands(f, a.sig, b.sig);
      format.finish(f, sign, a.exp.sub(b.exp).add(BIAS).sub(less), sig, extra, env);
    },
  );

/** Square root, bit by bit: `root` grows by one bit a step while `rest` keeps radicand - root². */
const describeSqrt = (format: Format): Fn =>
  formatFn("sqrt", format, 1, ["i32"], format.result, (f, [raw], [env]) => {
    const a = format.unpack(f, raw!, env!);
    f.unlikely(isSpecial(a), () => {
      f.if(isNan(a), () => format.returnNaN(f, raw!, raw!));
      f.if(a.sign, () => format.returnInvalid(f));
      format.returnInfinity(f, a.sign);
    });
    f.if(a.sig.eqz(), () => format.returnZero(f, a.sign));
    f.if(a.sign, () => format.returnInvalid(f));
    f.if(a.denormal, () => note(f, Flag.DE));
    // value = m · 2^e with m in [1, 4) and e even: m enters as 2.62 bits, two at a time.
    const unbiased = f.let(a.exp.sub(BIAS));
    const odd = unbiased.and(1);
    const radicand = f.variable("i64", odd.select(a.sig, a.sig.shrU(1)));
    const lost = f.variable("i64", odd.select(f.i64(0), a.sig.and(1)).shl(63));
    const root = f.variable("i64", f.i64(0));
    // rest < 2 · root + 1 needs 65 bits towards the end: its top bit is held apart.
    const rest = f.variable("i64", f.i64(0));
    const restTop = f.variable("i32", f.i32(0));
    const step = f.variable("i32", f.i32(0));
    f.loop((label) => {
      const r = rest.get();
      const top = f.let(restTop.get().shl(2).or(r.shrU(62).wrap()));
      const low = f.let(r.shl(2).or(radicand.get().shrU(62)));
      radicand.set(radicand.get().shl(2).or(lost.get().shrU(62)));
      lost.set(f.i64(0));
      const q = root.get();
      const trialTop = q.shrU(62).wrap();
      const trial = f.let(q.shl(2).or(1));
      const fits = f.let(top.gtU(trialTop).or(top.eq(trialTop).and(low.geU(trial))));
      const borrow = low.ltU(trial);
      restTop.set(fits.select(top.sub(trialTop).sub(borrow), top));
      rest.set(fits.select(low.sub(trial), low));
      root.set(q.shl(1).or(fits.u64()));
      step.set(step.get().add(1));
      f.if(step.get().eq(64), () => f.break(label));
    });
    const q = root.get();
    const inexact = restTop.get().ne(0).or(rest.get().ne(0));
    // Half a unit more, squared, is root² + root + ¼: the rest tells on which side the root lies.
    const above = restTop.get().ne(0).or(rest.get().gtU(q));
    const extra = above.select(f.i64(-1), f.i64(1));
    format.finish(f, f.i32(0), unbiased.shrS(1).add(BIAS), q, inexact.select(extra, f.i64(0)), env!);
  });

export interface Arithmetic {
  readonly add: Fn;
  readonly subtract: Fn;
  readonly multiply: Fn;
  readonly divide: Fn;
  readonly sqrt: Fn;
}

const arithmetic = (format: Format): Arithmetic => ({
  add: describeAdd(format, "add", 0),
  subtract: describeAdd(format, "subtract", 1),
  multiply: describeMultiply(format),
  divide: describeDivide(format),
  sqrt: describeSqrt(format),
});

/** (a, b, env) → result, with its exceptions noted; sqrt: (a, env). */
export const ARITHMETIC: Readonly<Record<ArithmeticName, Arithmetic>> = {
  f32: arithmetic(FORMATS.f32),
  f64: arithmetic(FORMATS.f64),
  f80: arithmetic(FORMATS.f80),
};
