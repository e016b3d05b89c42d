import type { Builder, I32, I64, V128 } from "../ir/builder.ts";
import { ARITHMETIC } from "./arithmetic.ts";
import { logCoefficients } from "./constants.ts";
import { Env, Flag, note } from "./env.ts";
import {
  add,
  evaluate,
  fixed,
  LOG1P_LIMIT,
  multiply,
  multiplyBy64,
  normalize,
  polynomial,
  reciprocal,
  SQRT2,
  select,
  shiftRight,
  subtract,
} from "./fixed.ts";
import { FORMATS, formatFn, isNan, type Unpacked } from "./formats.ts";
import { BIAS, SPECIAL, TOP_BIT } from "./round.ts";
import { highHalf, lowHalf, type Wide } from "./wide.ts";

/*
 * log2(m) = 2 / ln 2 · artanh(s) with s = (m - 1) / (m + 1): for m between √½ and √2, s² is below 0.0295 and 19
 * terms of the series leave out less than 2^-96.
 */

const format = FORMATS.f80;

/** A quarter of log2(m) / s as Q0. */
const series = polynomial("logSeries", () => logCoefficients(19, 126), false);

/** A logarithm's magnitude: mantissa with bit 127 set, and biased exponent. */
interface Float {
  readonly mantissa: Wide;
  readonly exp: I32;
}

/** The logarithm for s, both normalized. */
function fromRatio(f: Builder, s: Float): Float {
  const small = shiftRight(f, s.mantissa, f.i32(BIAS - 1).sub(s.exp));
  const quarter = evaluate(f, series, multiply(f, small, small));
  const product = normalize(f, multiply(f, s.mantissa, quarter));
  return { mantissa: product.mantissa, exp: f.let(s.exp.add(2).sub(product.shift)) };
}

/** Rounds y · log. An exact logarithm is rounded as such, but PE (and so UE) is noted as for the others. */
function finishProduct(f: Builder, y: Unpacked, sign: I32, log: Float, isExact: boolean, env: I32): void {
  const { mantissa, shift } = normalize(f, multiplyBy64(f, y.sig, log.mantissa));
  const exp = f.let(
    y.exp
      .add(log.exp)
      .sub(BIAS - 1)
      .sub(shift),
  );
  if (isExact) note(f, exp.ltS(1).shl(4).or(Flag.PE));
  const extra = isExact ? mantissa.lo : mantissa.lo.or(1);
  format.finish(f, y.sign.xor(sign), exp, mantissa.hi, extra, env);
}

/** (x, y, env) → y · log2(x). */
export const logarithm = formatFn("log2", format, 2, ["i32"], "v128", (f, [rawX, rawY], [env]) => {
  const x = format.unpack(f, rawX!, env!);
  const y = format.unpack(f, rawY!, env!);
  const full = f.let(env!.or(3 << Env.PC_SHIFT));
  f.if(isNan(x).or(isNan(y)), () => format.returnNaN(f, rawX!, rawY!));
  const xIsZero = f.let(x.sig.eqz());
  const below = f.let(x.exp.ltS(BIAS));
  const isOne = f.let(x.exp.eq(BIAS).and(x.sig.eq(TOP_BIT)));
  f.if(x.sign.and(xIsZero.eqz()), () => format.returnInvalid(f));
  const noteDenormal = (): void => f.if(x.denormal.or(y.denormal), () => note(f, Flag.DE));
  f.if(x.exp.eq(SPECIAL), () => {
    f.if(y.sig.eqz(), () => format.returnInvalid(f));
    noteDenormal();
    format.returnInfinity(f, y.sign);
  });
  f.if(y.exp.eq(SPECIAL), () => {
    f.if(isOne, () => format.returnInvalid(f));
    noteDenormal();
    format.returnInfinity(f, y.sign.xor(below));
  });
  f.if(xIsZero, () => {
    f.if(y.sig.eqz(), () => format.returnInvalid(f));
    note(f, Flag.ZE);
    format.returnInfinity(f, y.sign.xor(1));
  });
  noteDenormal();
  f.if(y.sig.eqz(), () => format.returnZero(f, y.sign.xor(below)));
  f.if(isOne, () => format.returnZero(f, y.sign));

  // x = m · 2^k with m in (√½, √2]; halved: m = sig · 2^-64, else sig · 2^-63.
  const halved = f.let(x.sig.gtU(SQRT2));
  const k = f.let(x.exp.sub(BIAS).add(halved));
  const kSign = f.let(k.ltS(0));
  const kMagnitude = f.let(kSign.select(f.i32(0).sub(k), k));
  const difference = f.let(halved.select(f.i64(0).sub(x.sig), x.sig.xor(TOP_BIT)));
  const kFixed: Wide = { hi: kMagnitude.u64().shl(47), lo: f.i64(0) };
  f.if(difference.eqz(), () => {
    const whole = normalize(f, kFixed);
    const log = { mantissa: whole.mantissa, exp: f.let(f.i32(BIAS + 16).sub(whole.shift)) };
    finishProduct(f, y, kSign, log, true, full);
  });
  // (m + 1) / 4, halved / 2, in [½, 1): 2^127 and half of what follows.
  const part: I64 = halved.select(x.sig, difference);
  const divisor = { hi: part.shrU(1).or(TOP_BIT), lo: part.shl(63) };
  const shift = f.let(difference.clz());
  const dividend = { hi: difference.shl(shift), lo: f.i64(0) };
  const ratio = normalize(f, multiply(f, dividend, reciprocal(f, divisor)));
  const exp = f.let(
    f
      .i32(BIAS - 1)
      .sub(shift.wrap())
      .sub(ratio.shift),
  );
  const log = fromRatio(f, { mantissa: ratio.mantissa, exp });
  f.if(kMagnitude.eqz(), () => finishProduct(f, y, halved, log, false, full));
  // k + log, with 111 bits after the point; the logarithm is at most a half.
  const aligned = shiftRight(f, log.mantissa, f.i32(BIAS + 16).sub(log.exp));
  const sum = select(kSign.eq(halved), add(f, kFixed, aligned), subtract(f, kFixed, aligned));
  const whole = normalize(f, sum);
  const total = { mantissa: whole.mantissa, exp: f.let(f.i32(BIAS + 16).sub(whole.shift)) };
  finishProduct(f, y, kSign, total, false, full);
  format.returnRaw(f, rawX!);
});

/**
 * (x, y, env) → y · log2(x + 1). For |x| up to 1 - √½; beyond that, where the SDM defines nothing, x + 1 is
 * rounded first.
 */
export const logarithm1p = formatFn("log2p1", format, 2, ["i32"], "v128", (f, [rawX, rawY], [env]) => {
  const x = format.unpack(f, rawX!, env!);
  const y = format.unpack(f, rawY!, env!);
  const full = f.let(env!.or(3 << Env.PC_SHIFT));
  f.if(isNan(x).or(isNan(y)), () => format.returnNaN(f, rawX!, rawY!));
  const inRange = x.exp.ltS(BIAS - 2).or(x.exp.eq(BIAS - 2).and(x.sig.leU(LOG1P_LIMIT)));
  f.if(inRange.eqz(), () => {
    const sum = f.call<V128>(
      ARITHMETIC.f80.add,
      rawX![0],
      rawX![1] as I32,
      f.i64(TOP_BIT),
      f.i32(BIAS),
      full,
    );
    const operand = [lowHalf(f, sum), highHalf(f, sum).wrap()] as const;
    f.return(f.call<V128>(logarithm, ...operand, rawY![0], rawY![1] as I32, full));
  });
  const sign = f.let(x.sign.xor(y.sign));
  f.if(y.exp.eq(SPECIAL).and(x.sig.eqz()), () => format.returnInvalid(f));
  f.if(x.denormal.or(y.denormal), () => note(f, Flag.DE));
  f.if(y.exp.eq(SPECIAL), () => format.returnInfinity(f, sign));
  f.if(x.sig.eqz().or(y.sig.eqz()), () => format.returnZero(f, sign));

  // s = x / (2 + x), with the divisor brought into [½, 1): a quarter for positive x, a half for negative.
  const magnitude = shiftRight(f, { hi: x.sig, lo: f.i64(0) }, f.i32(BIAS - 1).sub(x.exp));
  const half = shiftRight(f, magnitude, f.i32(1));
  const quarter = shiftRight(f, magnitude, f.i32(2));
  const positive = add(f, fixed(f, 1n << 127n), quarter);
  const divisor = select(x.sign, { hi: half.hi.not(), lo: half.lo.not() }, positive);
  const dividend = { hi: x.sig, lo: f.i64(0) };
  const ratio = normalize(f, multiply(f, dividend, reciprocal(f, divisor)));
  const exp = f.let(x.exp.sub(1).add(x.sign).sub(ratio.shift));
  const log = fromRatio(f, { mantissa: ratio.mantissa, exp });
  finishProduct(f, y, x.sign, log, false, full);
  format.returnRaw(f, rawX!);
});
