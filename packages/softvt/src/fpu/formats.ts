import { type Builder, fn, type I32, type I64, type V128 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import type { WasmType } from "../wasm/opcodes.ts";
import { Env, Flag, note } from "./env.ts";
import { BIAS, pack80, roundNarrow, roundX87, SPECIAL, TOP_BIT } from "./round.ts";
import { highHalf, lowHalf, sticky } from "./wide.ts";

/** An operand taken apart. `exp` is SPECIAL for infinities (sig = 2^63), NaNs, and unsupported (bit 63 clear). */
export interface Unpacked {
  readonly sign: I32;
  readonly exp: I32;
  /** Normalized; 0 for zero. */
  readonly sig: I64;
  /** 1 where the operand is denormal: the operation has to note DE. */
  readonly denormal: I32;
}

/** Exponent of an unpacked zero: below everything else by more than 64 bits. */
const ZERO_EXP = -0x10_0000;

/** An operand as instructions hold it: the bits (f32 zero-extended), or significand and sign | exponent. */
export type Raw = readonly [I64] | readonly [I64, I32];

/** What the arithmetic has to know of a format. Results are an I64 of bits, or a V128 as `pack80` makes it. */
export interface Format {
  readonly name: "f16" | "f32" | "f64" | "f80";
  /** Types of one operand's parts. */
  readonly parts: readonly WasmType[];
  readonly result: WasmType;
  unpack(f: Builder, raw: Raw, env: I32): Unpacked;
  /** Rounds, packs and returns from the function being described. */
  finish(f: Builder, sign: I32, exp: I32, sig: I64, extra: I64, env: I32): void;
  returnZero(f: Builder, sign: I32): void;
  returnInfinity(f: Builder, sign: I32): void;
  /** Notes IE and returns the default NaN ("QNaN floating-point indefinite", SDM Vol. 1 sec. 4.8.3.7). */
  returnInvalid(f: Builder): void;
  /** Returns an operand as it came. */
  returnRaw(f: Builder, raw: Raw): void;
  /** 1 where the operand makes even a quiet operation invalid: a signaling NaN, or unsupported. */
  isSignaling(raw: Raw): I32;
  /** Returns a quiet NaN with the upper bits of a significand. */
  returnQuiet(f: Builder, sign: I32, sig: I64): void;
  /** Returns the NaN that comes of operands of which at least one is a NaN or unsupported; notes IE. */
  returnNaN(f: Builder, a: Raw, b: Raw): void;
}

export const isNan = (u: Unpacked): I32 => u.exp.eq(SPECIAL).and(u.sig.ne(TOP_BIT));

interface Layout {
  readonly bits: 16 | 32 | 64;
  readonly fraction: number;
  readonly bias: number;
}

const F16: Layout = { bits: 16, fraction: 10, bias: 15 };
const F32: Layout = { bits: 32, fraction: 23, bias: 127 };
const F64: Layout = { bits: 64, fraction: 52, bias: 1023 };

/** 1 where `bits` is a NaN whose quiet bit is clear. */
function isSignaling(layout: Layout, bits: I64): I32 {
  const quiet = 1n << BigInt(layout.fraction - 1);
  const infinity = (1n << BigInt(layout.bits - 1)) - (1n << BigInt(layout.fraction));
  const magnitude = bits.and((1n << BigInt(layout.bits - 1)) - 1n);
  return magnitude.gtU(infinity).and(magnitude.ltU(infinity | quiet));
}

/** A rounded number (`roundNarrow`) in 32 or 64 bits. */
function packNarrow(f: Builder, layout: Layout, value: V128): I64 {
  const sig = lowHalf(f, value);
  const top = highHalf(f, value);
  const exp = f.let(top.and(0x7fff));
  const special = (1n << BigInt(layout.bits - 1 - layout.fraction)) - 1n;
  const field = exp
    .eq(SPECIAL)
    .select(f.i64(special), exp.eqz().select(f.i64(0), exp.sub(BIAS - layout.bias)));
  const fraction = sig.shl(1).shrU(64 - layout.fraction);
  return field
    .shl(layout.fraction)
    .or(fraction)
    .or(top.shrU(15).shl(layout.bits - 1));
}

function narrow(layout: Layout): Format {
  const { bits, fraction, bias } = layout;
  const exponentMask = (1 << (bits - 1 - fraction)) - 1;
  const sign64 = 1n << BigInt(bits - 1);
  const infinity = sign64 - (1n << BigInt(fraction));
  const quiet = 1n << BigInt(fraction - 1);
  const discard = 63 - fraction;
  const [min, max] = [BIAS - bias + 1, BIAS + bias];
  const name = `f${bits}` as const;
  const signed = (sign: I32): I64 => sign.u64().shl(bits - 1);
  /** SSE's rule (SDM Vol. 1 table 4-7): the first operand if it is a NaN, else the second. */
  const nan = fn(`nan_${name}`, ["i64", "i64"], "i64", (f, a, b) => {
    f.if(isSignaling(layout, a).or(isSignaling(layout, b)), () => note(f, Flag.IE));
    const first = a.and(sign64 - 1n).gtU(infinity);
    f.return(first.select(a, b).or(quiet));
  });
  const finish = fn(
    `round_${name}`,
    ["i32", "i32", "i64", "i64", "i32"],
    "i64",
    (f, sign, exp, sig, extra, env) => {
      const limits = [f.i32(discard), f.i32(min), f.i32(max)];
      const value = f.call<V128>(roundNarrow, sign, exp, sig.or(sticky(extra)), env, ...limits);
      f.return(packNarrow(f, layout, value));
    },
  );
  return {
    name,
    parts: ["i64"],
    result: "i64",
    unpack(f, [raw], env) {
      const cut = f.let(raw.shl(64 - fraction).shrU(1));
      const field = f.let(raw.shrU(fraction).wrap().and(exponentMask));
      const sig = f.variable("i64", cut.or(TOP_BIT));
      const exp = f.variable("i32", field.add(BIAS - bias));
      const denormal = f.variable("i32", f.i32(0));
      f.if(field.eq(exponentMask), () => exp.set(f.i32(SPECIAL)));
      f.if(field.eqz(), () =>
        f.if(
          cut.eqz().or(env.and(Env.DAZ).ne(0)),
          () => {
            sig.set(f.i64(0));
            exp.set(f.i32(ZERO_EXP));
          },
          () => {
            const shift = cut.clz();
            sig.set(cut.shl(shift));
            exp.set(f.i32(min).sub(shift.wrap()));
            denormal.set(f.i32(1));
          },
        ),
      );
      const sign = f.let(
        raw
          .shrU(bits - 1)
          .wrap()
          .and(1),
      );
      return { sign, exp: exp.get(), sig: sig.get(), denormal: denormal.get() };
    },
    finish: (f, sign, exp, sig, extra, env) => f.return(f.call<I64>(finish, sign, exp, sig, extra, env)),
    returnZero: (f, sign) => f.return(signed(sign)),
    returnInfinity: (f, sign) => f.return(signed(sign).or(infinity)),
    returnInvalid: (f) => {
      note(f, Flag.IE);
      f.return(f.i64(sign64 | infinity | quiet));
    },
    returnRaw: (f, [raw]) => f.return(raw),
    isSignaling: ([raw]) => isSignaling(layout, raw),
    returnQuiet: (f, sign, sig) =>
      f.return(
        sig
          .shl(1)
          .shrU(64 - fraction)
          .or(signed(sign))
          .or(infinity | quiet),
      ),
    returnNaN: (f, [a], [b]) => f.return(f.call<I64>(nan, a, b)),
  };
}

/** 1 where the operand is in a format that x87 does not know: unnormal, pseudo-infinity, pseudo-NaN. */
export const isUnsupported = (sig: I64, se: I32): I32 => se.and(0x7fff).ne(0).and(sig.geS(0));

/** NaN and signaling NaN in the 80-bit format; both false for unsupported ones. */
const isNaN80 = (sig: I64, se: I32): I32 => se.and(0x7fff).eq(0x7fff).and(sig.ltS(0)).and(sig.shl(1).ne(0));
export const isSignaling80 = (sig: I64, se: I32): I32 => isNaN80(sig, se).and(sig.bit(62).eqz());

/** x87's rule (SDM Vol. 1 table 4-7): a quiet NaN before a signaling one, else the larger significand. */
const nan80 = fn("nan_f80", ["i64", "i32", "i64", "i32"], "v128", (f, aSig, aSe, bSig, bSe) => {
  const [aNaN, bNaN] = [f.let(isNaN80(aSig, aSe)), f.let(isNaN80(bSig, bSe))];
  const [aSignals, bSignals] = [f.let(isSignaling80(aSig, aSe)), f.let(isSignaling80(bSig, bSe))];
  f.if(isUnsupported(aSig, aSe).or(isUnsupported(bSig, bSe)), () => {
    note(f, Flag.IE);
    f.return(pack80(f, f.i32(1), f.i32(SPECIAL), f.i64(3n << 62n)));
  });
  f.if(aSignals.or(bSignals), () => note(f, Flag.IE));
  const sameKind = aSignals.eq(bSignals);
  const larger = aSig.gtU(bSig).or(aSig.eq(bSig).and(aSe.and(0xffff).ltU(bSe.and(0xffff))));
  const bothNaN = sameKind.select(larger, bSignals);
  const first = f.let(bNaN.eqz().or(aNaN.and(bothNaN)));
  const se = first.select(aSe, bSe);
  f.return(pack80(f, se.shrU(15).and(1), f.i32(SPECIAL), first.select(aSig, bSig).or(1n << 62n)));
});

/** Bit of an 80-bit operand's sign | exponent part that says: converted from a denormal, note DE. */
export const WAS_DENORMAL = 0x1_0000;

const extended: Format = {
  name: "f80",
  parts: ["i64", "i32"],
  result: "v128",
  unpack(f, raw) {
    const sig0 = raw[0];
    const se = raw[1] as I32;
    const field = f.let(se.and(0x7fff));
    const sig = f.variable("i64", sig0);
    const exp = f.variable("i32", field);
    const denormal = f.variable("i32", se.shrU(16).and(1));
    f.if(
      field.eqz(),
      () =>
        f.if(
          sig0.eqz(),
          () => exp.set(f.i32(ZERO_EXP)),
          () => {
            const shift = sig0.clz();
            sig.set(sig0.shl(shift));
            exp.set(f.i32(1).sub(shift.wrap()));
            denormal.set(f.i32(1));
          },
        ),
      () => f.if(sig0.geS(0), () => exp.set(f.i32(SPECIAL))),
    );
    return { sign: f.let(se.shrU(15).and(1)), exp: exp.get(), sig: sig.get(), denormal: denormal.get() };
  },
  finish: (f, sign, exp, sig, extra, env) => f.return(f.call<V128>(roundX87, sign, exp, sig, extra, env)),
  returnZero: (f, sign) => f.return(pack80(f, sign, f.i32(0), f.i64(0))),
  returnInfinity: (f, sign) => f.return(pack80(f, sign, f.i32(SPECIAL), f.i64(TOP_BIT))),
  returnInvalid: (f) => {
    note(f, Flag.IE);
    f.return(pack80(f, f.i32(1), f.i32(SPECIAL), f.i64(3n << 62n)));
  },
  returnRaw: (f, raw) => f.return(pack80(f, f.i32(0), (raw[1] as I32).and(0xffff), raw[0])),
  isSignaling: (raw) => isSignaling80(raw[0], raw[1] as I32).or(isUnsupported(raw[0], raw[1] as I32)),
  returnQuiet: (f, sign, sig) => f.return(pack80(f, sign, f.i32(SPECIAL), sig.or(3n << 62n))),
  returnNaN: (f, a, b) => f.return(f.call<V128>(nan80 as Fn, a[0], a[1] as I32, b[0], b[1] as I32)),
};

/** The formats that there is arithmetic in. */
export type ArithmeticName = Exclude<Format["name"], "f16">;

/** IEEE 754's binary16, which is only converted to. */
export const HALF: Format = narrow(F16);

export const FORMATS: Readonly<Record<ArithmeticName, Format>> = {
  f32: narrow(F32),
  f64: narrow(F64),
  f80: extended,
};

/** Declares a function on `count` operands of `format` and more parameters, the last of which is often env. */
export function formatFn(
  name: string,
  format: Format,
  count: number,
  more: readonly WasmType[],
  result: WasmType | undefined,
  describe: (f: Builder, operands: Raw[], rest: readonly I32[]) => void,
): Fn {
  const width = format.parts.length;
  const params = [...Array.from({ length: count }, () => format.parts).flat(), ...more];
  return fn(`${name}_${format.name}`, params, result, (f, ...values) => {
    const operands = Array.from({ length: count }, (_, i) => values.slice(i * width, (i + 1) * width));
    describe(f, operands as unknown as Raw[], values.slice(count * width) as I32[]);
  });
}
