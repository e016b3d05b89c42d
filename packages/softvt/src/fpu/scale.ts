import type { I32 } from "../ir/builder.ts";
import { Env, Flag, note } from "./env.ts";
import { FORMATS, formatFn, isNan } from "./formats.ts";
import { BIAS, SPECIAL } from "./round.ts";

const format = FORMATS.f80;

/** Beyond any exponent, so that scaling by more changes nothing. */
const FAR = 0x1_0000;

/** (a, b, env) → a · 2^trunc(b) (SDM Vol. 2, FSCALE). */
export const scale = formatFn("scale", format, 2, ["i32"], "v128", (f, [rawA, rawB], [env]) => {
  const a = format.unpack(f, rawA!, env!);
  const b = format.unpack(f, rawB!, env!);
  f.unlikely(a.exp.eq(SPECIAL).or(b.exp.eq(SPECIAL)), () => {
    f.if(isNan(a).or(isNan(b)), () => format.returnNaN(f, rawA!, rawB!));
    f.if(b.exp.eq(SPECIAL), () => {
      const wrong = b.sign.select(a.exp.eq(SPECIAL), a.sig.eqz());
      f.if(wrong, () => format.returnInvalid(f));
    });
    f.if(a.denormal.or(b.denormal), () => note(f, Flag.DE));
    f.if(a.exp.eq(SPECIAL), () => format.returnInfinity(f, a.sign));
    f.if(b.sign, () => format.returnZero(f, a.sign));
    f.if(a.sig.eqz(), () => format.returnZero(f, a.sign));
    format.returnInfinity(f, a.sign);
  });
  f.if(a.denormal.or(b.denormal), () => note(f, Flag.DE));
  f.if(a.sig.eqz(), () => format.returnZero(f, a.sign));
  const power = b.exp.sub(BIAS);
  const magnitude: I32 = power
    .ltS(0)
    .select(f.i32(0), power.gtS(15).select(f.i32(FAR), b.sig.shrU(f.i64(63).sub(power.u64())).wrap()));
  const by = b.sign.select(f.i32(0).sub(magnitude), magnitude);
  format.finish(f, a.sign, a.exp.add(by), a.sig, f.i64(0), env!.or(3 << Env.PC_SHIFT));
});

/** (a, env) → a's exponent as a number, with what FXTRACT notes: ZE for zero, which has none. */
export const exponent = formatFn("exponent", format, 1, ["i32"], "v128", (f, [raw], [env]) => {
  const a = format.unpack(f, raw!, env!);
  f.unlikely(a.exp.eq(SPECIAL), () => {
    f.if(isNan(a), () => format.returnNaN(f, raw!, raw!));
    format.returnInfinity(f, f.i32(0));
  });
  f.if(a.sig.eqz(), () => {
    note(f, Flag.ZE);
    format.returnInfinity(f, f.i32(1));
  });
  f.if(a.denormal, () => note(f, Flag.DE));
  const unbiased = f.let(a.exp.sub(BIAS));
  const sign = f.let(unbiased.ltS(0));
  const magnitude = f.let(sign.select(f.i32(0).sub(unbiased), unbiased).u64());
  f.if(magnitude.eqz(), () => format.returnZero(f, f.i32(0)));
  const shift = f.let(magnitude.clz());
  const exp = f.i32(BIAS + 63).sub(shift.wrap());
  format.finish(f, sign, exp, magnitude.shl(shift), f.i64(0), env!.or(3 << Env.PC_SHIFT));
});

/** (a, env) → a with the exponent 0, nothing noted that `exponent` has not. */
export const significand = formatFn("significand", format, 1, ["i32"], "v128", (f, [raw], [env]) => {
  const a = format.unpack(f, raw!, env!);
  f.unlikely(a.exp.eq(SPECIAL), () => {
    f.if(isNan(a), () => format.returnNaN(f, raw!, raw!));
    format.returnInfinity(f, a.sign);
  });
  f.if(a.sig.eqz(), () => format.returnZero(f, a.sign));
  format.finish(f, a.sign, f.i32(BIAS), a.sig, f.i64(0), env!.or(3 << Env.PC_SHIFT));
});
