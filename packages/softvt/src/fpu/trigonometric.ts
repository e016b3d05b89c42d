import type { Builder, I32 } from "../ir/builder.ts";
import { divideWide } from "./arithmetic.ts";
import { arctanCoefficients, arctanEighths, cosineCoefficients, pi, sineCoefficients } from "./constants.ts";
import { Env, Flag, note } from "./env.ts";
import {
  add,
  evaluate,
  fixed,
  multiply,
  normalize,
  polynomial,
  reciprocal,
  select,
  shiftRight,
  subtract,
} from "./fixed.ts";
import { FORMATS, formatFn, isNan, type Unpacked } from "./formats.ts";
import { Condition } from "./remainder.ts";
import { BIAS, SPECIAL, TOP_BIT } from "./round.ts";
import type { Wide } from "./wide.ts";

const format = FORMATS.f80;

/** r² is at most 0.617: fifteen terms leave out less than 2^-110. */
const sine = polynomial("sineSeries", () => sineCoefficients(15, 127), true);
const cosine = polynomial("cosineSeries", () => cosineCoefficients(15, 127), true);
/** u² is at most 2^-8 and a bit: fourteen terms leave out less than 2^-114. */
const arctan = polynomial("arctanSeries", () => arctanCoefficients(14, 127), true);

/**
 * π/2 as x87 processors know it when they reduce an argument: 66 bits of π, not more (SDM Vol. 1 sec. 8.3.8).
 * The result is the function of the argument so reduced. In units of 2^-65.
 */
const HALF_PI = 0x3_243f_6a88_85a3_08d3n;
/** The greatest significand with exponent -1 below π/4. */
const QUARTER_PI = 0xc90f_daa2_2168_c234n;

/** What FSIN … are to compute. */
export const Trig = { SINE: 0, COSINE: 1, TANGENT: 2 } as const;

interface Angle {
  /** The reduced argument's magnitude, at most π/4: mantissa with bit 127 set, biased exponent. */
  readonly mantissa: Wide;
  readonly exp: I32;
  readonly sign: I32;
  /** How many right angles were taken away, modulo 4. */
  readonly quadrant: I32;
}

/** Takes away as many right angles as bring x (below 2^63) nearest to 0. */
function reduceAngle(f: Builder, x: Unpacked): Angle {
  const hi = f.variable("i64", x.sig);
  const lo = f.variable("i64", f.i64(0));
  const exp = f.variable("i32", x.exp);
  const sign = f.variable("i32", x.sign);
  const quadrant = f.variable("i32", f.i32(0));
  f.if(x.exp.gtS(BIAS - 1).or(x.exp.eq(BIAS - 1).and(x.sig.gtU(QUARTER_PI))), () => {
    // In units of 2^-65: 66 bits, doubled bit by bit, as in a division.
    const right = fixed(f, HALF_PI);
    const isFraction = f.let(x.exp.ltS(BIAS));
    const restHi = f.variable("i64", x.sig.shrU(62));
    const restLo = f.variable("i64", x.sig.shl(2));
    f.if(isFraction, () => {
      restHi.set(x.sig.shrU(63));
      restLo.set(x.sig.shl(1));
    });
    const left = f.variable("i32", isFraction.select(f.i32(0), x.exp.sub(BIAS)));
    const count = f.variable("i32", f.i32(0));
    f.loop((label) => {
      const rest: Wide = { hi: restHi.get(), lo: restLo.get() };
      const fits = f.let(rest.hi.gtU(right.hi).or(rest.hi.eq(right.hi).and(rest.lo.geU(right.lo))));
      const less = subtract(f, rest, right);
      const next = select(fits, less, rest);
      const nextHi = f.let(next.hi);
      const nextLo = f.let(next.lo);
      count.set(count.get().shl(1).or(fits));
      restHi.set(nextHi);
      restLo.set(nextLo);
      f.if(left.get().eqz(), () => f.break(label));
      left.set(left.get().sub(1));
      restHi.set(nextHi.shl(1).or(nextLo.shrU(63)));
      restLo.set(nextLo.shl(1));
    });
    const rest: Wide = { hi: restHi.get(), lo: restLo.get() };
    const other = subtract(f, right, rest);
    const nearer = f.let(other.hi.ltU(rest.hi).or(other.hi.eq(rest.hi).and(other.lo.ltU(rest.lo))));
    const chosen = select(nearer, other, rest);
    const number = normalize(f, { hi: f.let(chosen.hi), lo: f.let(chosen.lo) });
    hi.set(number.mantissa.hi);
    lo.set(number.mantissa.lo);
    // Bit 127 stands for 2^62 in units of 2^-65.
    exp.set(f.i32(BIAS + 62).sub(number.shift));
    sign.set(x.sign.xor(nearer));
    const turns = count.get().add(nearer);
    quadrant.set(x.sign.select(f.i32(0).sub(turns), turns).and(3));
  });
  return {
    mantissa: { hi: hi.get(), lo: lo.get() },
    exp: exp.get(),
    sign: sign.get(),
    quadrant: quadrant.get(),
  };
}

/**
 * (x, which: Trig, env) → its sine, cosine or tangent. From 2^63 on C2 is noted and x returned (SDM Vol. 2, FSIN).
 * The result is within 2^-95 of that of the reduced argument before it is rounded to 64 bits.
 */
export const trigonometric = formatFn("trig", format, 1, ["i32", "i32"], "v128", (f, [raw], [which, env]) => {
  const x = format.unpack(f, raw!, env!);
  const full = f.let(env!.or(3 << Env.PC_SHIFT));
  const one = (sign: I32): void => format.finish(f, sign, f.i32(BIAS), f.i64(TOP_BIT), f.i64(0), full);
  f.unlikely(x.exp.eq(SPECIAL), () => {
    f.if(isNan(x), () => format.returnNaN(f, raw!, raw!));
    format.returnInvalid(f);
  });
  f.if(x.exp.geS(BIAS + 63), () => {
    note(f, Condition.C2);
    format.returnRaw(f, raw!);
  });
  f.if(x.sig.eqz(), () => {
    f.if(which!.eq(Trig.COSINE), () => one(f.i32(0)));
    format.returnZero(f, x.sign);
  });
  f.if(x.denormal, () => note(f, Flag.DE));
  const angle = reduceAngle(f, x);
  const r = shiftRight(f, angle.mantissa, f.i32(BIAS - 1).sub(angle.exp));
  const square = multiply(f, r, r);
  const odd = f.let(angle.quadrant.and(1));

  const sineOf = (): { mantissa: Wide; exp: I32 } => {
    const { mantissa, shift } = normalize(f, multiply(f, angle.mantissa, evaluate(f, sine, square)));
    return { mantissa, exp: f.let(angle.exp.add(1).sub(shift)) };
  };
  const cosineOf = (): { mantissa: Wide; exp: I32 } => {
    const { mantissa, shift } = normalize(f, evaluate(f, cosine, square));
    return { mantissa, exp: f.let(f.i32(BIAS).sub(shift)) };
  };
  const finish = (sign: I32, value: { mantissa: Wide; exp: I32 }): void =>
    format.finish(f, sign, value.exp, value.mantissa.hi, value.mantissa.lo.or(1), full);

  f.if(which!.eq(Trig.TANGENT), () => {
    // A small tangent lies above its argument, by less than the quotient's error.
    f.if(odd.eqz().and(angle.exp.ltS(BIAS - 48)), () => finish(angle.sign, angle));
    const s = sineOf();
    const c = cosineOf();
    // tan = s / c, or -c / s after an odd number of right angles.
    const over = select(odd, c.mantissa, s.mantissa);
    const under = select(odd, s.mantissa, c.mantissa);
    const inverse = reciprocal(f, { hi: f.let(under.hi), lo: f.let(under.lo) });
    const { mantissa, shift } = normalize(f, multiply(f, over, inverse));
    const distance = odd.select(c.exp.sub(s.exp), s.exp.sub(c.exp));
    finish(angle.sign.xor(odd), { mantissa, exp: f.let(distance.add(BIAS).sub(shift)) });
  });
  // Of sine and cosine, one right angle on each is the other; two change the sign.
  const wantsCosine = odd.xor(which!);
  const turned = f.let(which!.add(angle.quadrant).shrU(1).and(1));
  f.if(
    wantsCosine,
    () => finish(turned, cosineOf()),
    () => finish(angle.sign.xor(turned), sineOf()),
  );
  format.returnRaw(f, raw!);
});

/** Angles as Q2. */
const Q2 = 126;

/** (x, y, env) → the angle of the point (x, y): arctan(y / x) in the right quadrant. */
export const arctangent = formatFn("atan", format, 2, ["i32"], "v128", (f, [rawX, rawY], [env]) => {
  const x = format.unpack(f, rawX!, env!);
  const y = format.unpack(f, rawY!, env!);
  const full = f.let(env!.or(3 << Env.PC_SHIFT));
  f.if(isNan(x).or(isNan(y)), () => format.returnNaN(f, rawX!, rawY!));
  f.if(x.denormal.or(y.denormal), () => note(f, Flag.DE));

  const finish = (angle: Wide): void => {
    const { mantissa, shift } = normalize(f, angle);
    format.finish(f, y.sign, f.i32(BIAS + 1).sub(shift), mantissa.hi, mantissa.lo.or(1), full);
  };
  const PI = pi(Q2);
  const constant = (value: bigint): void => finish(fixed(f, value));
  const [xInfinite, yInfinite] = [f.let(x.exp.eq(SPECIAL)), f.let(y.exp.eq(SPECIAL))];
  f.if(y.sig.eqz().or(xInfinite.and(yInfinite.eqz())), () => {
    f.if(x.sign.eqz(), () => format.returnZero(f, y.sign));
    constant(PI);
  });
  f.if(yInfinite, () => {
    f.if(xInfinite.eqz(), () => constant(PI >> 1n));
    f.if(x.sign, () => constant((3n * PI) >> 2n));
    constant(PI >> 2n);
  });
  f.if(x.sig.eqz(), () => constant(PI >> 1n));

  // t = smaller / larger, 128 bits of it.
  const swap = f.let(y.exp.gtS(x.exp).or(y.exp.eq(x.exp).and(y.sig.gtU(x.sig))));
  const top = f.let(swap.select(x.sig, y.sig));
  const bottom = f.let(swap.select(y.sig, x.sig));
  const less = f.let(top.ltU(bottom));
  const first = divideWide(
    f,
    f.let(less.select(top, top.shrU(1))),
    f.let(less.select(f.i64(0), top.shl(63))),
    bottom,
  );
  const second = divideWide(f, first.remainder, f.i64(0), bottom);
  const mantissa: Wide = { hi: first.quotient, lo: second.quotient };
  const exp = f.let(swap.select(x.exp, y.exp).sub(swap.select(y.exp, x.exp)).add(BIAS).sub(less));
  const t = shiftRight(f, mantissa, f.i32(BIAS).sub(exp));

  // arctan t = arctan c + arctan u with c the nearest eighth, u = (t - c) / (1 + t c).
  const eighths = f.let(t.hi.shrU(59).add(1).shrU(1).wrap());
  const uHi = f.variable("i64", t.hi);
  const uLo = f.variable("i64", t.lo);
  const baseHi = f.variable("i64", f.i64(0));
  const baseLo = f.variable("i64", f.i64(0));
  const negative = f.variable("i32", f.i32(0));
  f.if(eighths.ne(0), () => {
    const c: Wide = { hi: eighths.u64().shl(60), lo: f.i64(0) };
    const below = f.let(t.hi.ltU(c.hi));
    const distance = select(below, subtract(f, c, t), subtract(f, t, c));
    // (1 + t c) / 2 as Q0, 1 itself (t = c = 1) but for its last bit.
    const eighth = shiftRight(f, t, f.i32(3));
    const scaled = multiplySmall(f, eighth, eighths);
    const sum = add(f, fixed(f, 1n << 127n), scaled);
    const isOne = f.let(sum.hi.geS(0));
    const divisor = select(isOne, fixed(f, (1n << 128n) - 1n), sum);
    const u = multiply(
      f,
      { hi: f.let(distance.hi), lo: f.let(distance.lo) },
      reciprocal(f, { hi: f.let(divisor.hi), lo: f.let(divisor.lo) }),
    );
    uHi.set(u.hi);
    uLo.set(u.lo);
    negative.set(below);
    f.switch(
      eighths.sub(1),
      Array.from({ length: 8 }, (_, i) => (): void => {
        const angle = fixed(f, arctanEighths(i + 1, Q2));
        baseHi.set(angle.hi);
        baseLo.set(angle.lo);
      }),
      () => {},
    );
  });
  const u: Wide = { hi: uHi.get(), lo: uLo.get() };
  const twice: Wide = { hi: f.let(u.hi.shl(1).or(u.lo.shrU(63))), lo: f.let(u.lo.shl(1)) };
  const factor = evaluate(f, arctan, multiply(f, twice, twice));
  f.if(eighths.or(swap).or(x.sign).eqz(), () => {
    const small = normalize(f, multiply(f, mantissa, factor));
    format.finish(f, y.sign, exp.add(1).sub(small.shift), small.mantissa.hi, small.mantissa.lo.or(1), full);
  });
  const part = multiply(f, u, factor);
  const base: Wide = { hi: baseHi.get(), lo: baseLo.get() };
  const acute = select(negative.get(), subtract(f, base, part), add(f, base, part));
  const turned = subtract(f, fixed(f, PI >> 1n), { hi: f.let(acute.hi), lo: f.let(acute.lo) });
  const half = select(swap, turned, acute);
  const kept: Wide = { hi: f.let(half.hi), lo: f.let(half.lo) };
  finish(select(x.sign, subtract(f, fixed(f, PI), kept), kept));
  format.returnRaw(f, rawX!);
});

/** a · n for a small n. */
function multiplySmall(f: Builder, a: Wide, n: I32): Wide {
  const factor = n.u64();
  const low = a.lo.shrU(32).mul(factor);
  const carry = low.add(a.lo.and(0xffff_ffffn).mul(factor).shrU(32)).shrU(32);
  return { hi: f.let(a.hi.mul(factor).add(carry)), lo: f.let(a.lo.mul(factor)) };
}
