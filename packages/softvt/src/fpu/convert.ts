import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Env, Flag, note } from "./env.ts";
import {
  type ArithmeticName,
  FORMATS,
  type Format,
  formatFn,
  HALF,
  isNan,
  type Unpacked,
} from "./formats.ts";
import { BIAS, pack80, roundsUp, SPECIAL, TOP_BIT } from "./round.ts";
import { pair, shiftRightSticky } from "./wide.ts";

/** Whatever the precision control says, with all 64 bits: what is no arithmetic instruction ignores it. */
const fullPrecision = (env: I32): I32 => env.or(3 << Env.PC_SHIFT);

/** The integer that `u` (finite, below 2^64) rounds to, as a magnitude. */
function toMagnitude(f: Builder, u: Unpacked, env: I32): { magnitude: I64; up: I32; inexact: I32 } {
  const parts = shiftRightSticky(f, { hi: u.sig, lo: f.i64(0) }, f.let(f.i32(BIAS + 63).sub(u.exp)));
  const up = roundsUp(f, env, u.sign, parts.hi.wrap().and(1), parts.lo);
  return { magnitude: f.let(parts.hi.add(up.u64())), up, inexact: parts.lo.ne(0) };
}

/**
 * (operand, bits, env) → the integer of `bits` (16, 32, 64) that it rounds to, sign-extended; the least one
 * ("integer indefinite"), with IE, where it does not fit.
 */
const describeToInteger = (format: Format): Fn =>
  formatFn("toInteger", format, 1, ["i32", "i32"], "i64", (f, [raw], [bits, env]) => {
    const u = format.unpack(f, raw!, env!);
    const least = f.let(f.i64(-1).shl(bits!.sub(1).u64()));
    f.if(u.exp.leS(BIAS + 63), () => {
      const { magnitude, up, inexact } = toMagnitude(f, u, env!);
      const limit = least.not().add(u.sign.u64());
      f.if(magnitude.leU(limit), () => {
        f.if(inexact, () => note(f, up.shl(9).or(Flag.PE)));
        f.return(u.sign.select(f.i64(0).sub(magnitude), magnitude));
      });
    });
    note(f, Flag.IE);
    f.return(least);
  });

/** (integer, env) → the number. */
const describeFromInteger = (format: Format): Fn =>
  fn(`fromInteger_${format.name}`, ["i64", "i32"], format.result, (f, value, env) => {
    const sign = f.let(value.ltS(0));
    const magnitude = f.let(sign.select(f.i64(0).sub(value), value));
    f.if(magnitude.eqz(), () => format.returnZero(f, f.i32(0)));
    const shift = f.let(magnitude.clz());
    const exp = f.i32(BIAS + 63).sub(shift.wrap());
    format.finish(f, sign, exp, magnitude.shl(shift), f.i64(0), fullPrecision(env));
  });

/** (operand, env) → the operand rounded to an integer in its own format. `notesDenormal`: x87's does. */
const describeRoundToInteger = (format: Format, notesDenormal: boolean): Fn =>
  formatFn("roundToInteger", format, 1, ["i32"], format.result, (f, [raw], [env]) => {
    const u = format.unpack(f, raw!, env!);
    f.if(u.exp.geS(BIAS + 63), () => {
      f.if(isNan(u), () => format.returnNaN(f, raw!, raw!));
      format.returnRaw(f, raw!);
    });
    f.if(u.sig.eqz(), () => format.returnZero(f, u.sign));
    if (notesDenormal) f.if(u.denormal, () => note(f, Flag.DE));
    const { magnitude, up, inexact } = toMagnitude(f, u, env!);
    f.if(inexact, () => note(f, up.shl(9).or(Flag.PE)));
    f.if(magnitude.eqz(), () => format.returnZero(f, u.sign));
    const shift = f.let(magnitude.clz());
    const exp = f.i32(BIAS + 63).sub(shift.wrap());
    format.finish(f, u.sign, exp, magnitude.shl(shift), f.i64(0), fullPrecision(env!));
  });

/** (operand, env) → the operand in another format. A stored x87 register never notes DE. */
const describeConvert = (from: Format, to: Format): Fn =>
  formatFn(`to_${to.name}`, from, 1, ["i32"], to.result, (f, [raw], [env]) => {
    const u = from.unpack(f, raw!, env!);
    f.unlikely(u.exp.eq(SPECIAL), () => {
      f.if(u.sig.eq(TOP_BIT), () => to.returnInfinity(f, u.sign));
      f.if(u.sig.geS(0), () => to.returnInvalid(f));
      f.if(from.isSignaling(raw!), () => note(f, Flag.IE));
      to.returnQuiet(f, u.sign, u.sig);
    });
    f.if(u.sig.eqz(), () => to.returnZero(f, u.sign));
    if (from.name !== "f80") f.if(u.denormal, () => note(f, Flag.DE));
    to.finish(f, u.sign, u.exp, u.sig, f.i64(0), fullPrecision(env!));
  });

export interface Conversions {
  readonly toInteger: Fn;
  readonly fromInteger: Fn;
  readonly roundToInteger: Fn;
  /** By target; a format's own is not there. */
  readonly to: Readonly<Partial<Record<Format["name"], Fn>>>;
}

const conversions = (format: Format, ...others: Format[]): Conversions => ({
  toInteger: describeToInteger(format),
  fromInteger: describeFromInteger(format),
  roundToInteger: describeRoundToInteger(format, format.name === "f80"),
  to: Object.fromEntries(others.map((other) => [other.name, describeConvert(format, other)])),
});

/** (single, env) → half; env's rounding and not FTZ counts (SDM Vol. 1 sec. 14.4.1). */
export const singleToHalf = describeConvert(FORMATS.f32, HALF);

export const CONVERT: Readonly<Record<ArithmeticName, Conversions>> = {
  f32: conversions(FORMATS.f32, FORMATS.f64, FORMATS.f80),
  f64: conversions(FORMATS.f64, FORMATS.f32, FORMATS.f80),
  f80: conversions(FORMATS.f80, FORMATS.f32, FORMATS.f64),
};

/** Bits of the greatest packed decimal number: 18 digits. */
const BCD_LIMIT = 10n ** 18n;

/** (lower 64 bits, upper 16 bits) of an 80-bit packed decimal → the number, exactly (SDM Vol. 1 sec. 4.7). */
export const fromBcd = fn("fromBcd", ["i64", "i32"], "v128", (f, low, high) => {
  const value = f.variable("i64", high.shrU(4).and(15).mul(10).add(high.and(15)).u64());
  const rest = f.variable("i64", low);
  const left = f.variable("i32", f.i32(16));
  f.loop((label) => {
    value.set(value.get().mul(10).add(rest.get().shrU(60)));
    rest.set(rest.get().shl(4));
    left.set(left.get().sub(1));
    f.if(left.get().eqz(), () => f.break(label));
  });
  const sign = high.shrU(15).and(1);
  const magnitude = value.get();
  f.if(magnitude.eqz(), () => f.return(pack80(f, sign, f.i32(0), f.i64(0))));
  const shift = f.let(magnitude.clz());
  f.return(pack80(f, sign, f.i32(BIAS + 63).sub(shift.wrap()), magnitude.shl(shift)));
});

/** (80-bit operand, env) → packed decimal: 64 bits in the lower half, 16 in the upper. */
export const toBcd = formatFn("toBcd", FORMATS.f80, 1, ["i32"], "v128", (f, [raw], [env]) => {
  const u = FORMATS.f80.unpack(f, raw!, env!);
  f.if(u.exp.leS(BIAS + 63), () => {
    const { magnitude, up, inexact } = toMagnitude(f, u, env!);
    f.if(magnitude.ltU(BCD_LIMIT), () => {
      f.if(inexact, () => note(f, up.shl(9).or(Flag.PE)));
      const rest = f.variable("i64", magnitude);
      const digits = f.variable("i64", f.i64(0));
      const done = f.variable("i32", f.i32(0));
      f.loop((label) => {
        const quotient = f.let(rest.get().divU(10));
        const digit = rest.get().sub(quotient.mul(10));
        digits.set(digits.get().or(digit.shl(done.get().shl(2).u64())));
        rest.set(quotient);
        done.set(done.get().add(1));
        f.if(done.get().eq(16), () => f.break(label));
      });
      const top = f.let(rest.get().divU(10));
      const upper = top
        .shl(4)
        .or(rest.get().sub(top.mul(10)))
        .or(u.sign.u64().shl(15));
      f.return(pair(f, digits.get(), upper));
    });
  });
  note(f, Flag.IE);
  f.return(pair(f, f.i64(0xc000_0000_0000_0000n), f.i64(0xffff)));
});

/** (bits) → the number as an 80-bit arithmetic operand: unrounded, NaNs as they are, WAS_DENORMAL as it was. */
const describeWiden = (format: Format): Fn =>
  fn(`widen_${format.name}`, ["i64"], "v128", (f, bits) => {
    const u = format.unpack(f, [bits], f.i32(0));
    const exp = u.sig.eqz().select(f.i32(0), u.exp);
    f.return(pair(f, u.sig, u.sign.shl(15).or(exp).or(u.denormal.shl(16)).u64()));
  });

export const WIDEN: Readonly<Record<"f32" | "f64", Fn>> = {
  f32: describeWiden(FORMATS.f32),
  f64: describeWiden(FORMATS.f64),
};
