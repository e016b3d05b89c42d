import { expCoefficients } from "./constants.ts";
import { Env, Flag, note } from "./env.ts";
import { evaluate, multiplyBy64, normalize, polynomial, shiftRight } from "./fixed.ts";
import { FORMATS, formatFn, isNan } from "./formats.ts";
import { BIAS, SPECIAL, TOP_BIT } from "./round.ts";

const format = FORMATS.f80;

/** (2^x - 1) / x as Q1: 24 terms, the next is below 2^-90. */
const rising = polynomial("expRising", () => expCoefficients(24, 127), false);
/** The same for negative x, in |x|. */
const falling = polynomial("expFalling", () => expCoefficients(24, 127), true);

/** (x, env) → 2^x - 1 for |x| ≤ 1; beyond that, where the SDM defines nothing, x. */
export const exponential = formatFn("exp2m1", format, 1, ["i32"], "v128", (f, [raw], [env]) => {
  const x = format.unpack(f, raw!, env!);
  const full = env!.or(3 << Env.PC_SHIFT);
  f.unlikely(x.exp.eq(SPECIAL), () => {
    f.if(isNan(x), () => format.returnNaN(f, raw!, raw!));
    f.if(x.sign, () => format.finish(f, f.i32(1), f.i32(BIAS), f.i64(TOP_BIT), f.i64(0), full));
    format.returnInfinity(f, f.i32(0));
  });
  f.if(x.sig.eqz(), () => format.returnZero(f, x.sign));
  f.if(x.denormal, () => note(f, Flag.DE));
  f.if(x.exp.geS(BIAS), () => {
    // 2^1 - 1 = 1, 2^-1 - 1 = -½.
    const isOne = x.exp.eq(BIAS).and(x.sig.eq(TOP_BIT));
    f.if(isOne, () => format.finish(f, x.sign, f.i32(BIAS).sub(x.sign), x.sig, f.i64(0), full));
    format.returnRaw(f, raw!);
  });
  const w = shiftRight(f, { hi: x.sig, lo: f.i64(0) }, f.i32(BIAS - 1).sub(x.exp));
  const result = (series: typeof rising): void => {
    const { mantissa, shift } = normalize(f, multiplyBy64(f, x.sig, evaluate(f, series, w)));
    format.finish(f, x.sign, x.exp.add(1).sub(shift), mantissa.hi, mantissa.lo.or(1), full);
  };
  f.if(
    x.sign,
    () => result(falling),
    () => result(rising),
  );
  format.returnRaw(f, raw!);
});
