/**
 * Floating point by its definition, with whole numbers of any size: what the soft float is compared with. It
 * shares nothing with it but the bits' meaning (SDM Vol. 1 sec. 4.2.2, 4.8, 4.9; IEEE 754-2008 sec. 4 and 7).
 */
export type Name = "f32" | "f64" | "f80";

export interface FormatBits {
  readonly exponentBits: number;
  /** Fraction bits, without the integer bit. */
  readonly fraction: number;
  readonly explicit: boolean;
}
export const BITS: Readonly<Record<Name, FormatBits>> = {
  f32: { exponentBits: 8, fraction: 23, explicit: false },
  f64: { exponentBits: 11, fraction: 52, explicit: false },
  f80: { exponentBits: 15, fraction: 63, explicit: true },
};

export const IE = 1;
export const DE = 2;
export const ZE = 4;
export const OE = 8;
export const UE = 16;
export const PE = 32;
const UP = 0x200;

export interface Environment {
  /** 0 nearest, 1 down, 2 up, 3 towards zero. */
  readonly mode: number;
  readonly daz: boolean;
  readonly ftz: boolean;
  /** Masked exceptions. */
  readonly masks: number;
  /** Bits of precision for the 80-bit format. */
  readonly precision: 24 | 53 | 64;
}

export interface Result {
  readonly bits: bigint;
  readonly flags: number;
}

type Value =
  | { readonly kind: "nan"; readonly signaling: boolean }
  | { readonly kind: "unsupported" }
  | { readonly kind: "infinity"; readonly sign: number }
  /** m · 2^e; zero has m = 0. */
  | {
      readonly kind: "finite";
      readonly sign: number;
      readonly m: bigint;
      readonly e: number;
      readonly denormal: boolean;
    };

const one = (bits: number): bigint => 1n << BigInt(bits);
const bitLength = (x: bigint): number => x.toString(2).length;

export function decode(name: Name, bits: bigint, daz = false): Value {
  const { exponentBits, fraction, explicit } = BITS[name];
  const stored = explicit ? fraction + 1 : fraction;
  const sign = Number(bits >> BigInt(stored + exponentBits)) & 1;
  const exponent = Number((bits >> BigInt(stored)) & (one(exponentBits) - 1n));
  const significand = bits & (one(stored) - 1n);
  const rest = significand & (one(fraction) - 1n);
  const greatest = 2 ** exponentBits - 1;
  const bias = 2 ** (exponentBits - 1) - 1;
  if (explicit && exponent !== 0 && significand >> BigInt(fraction) === 0n) return { kind: "unsupported" };
  if (exponent === greatest) {
    if (rest === 0n) return { kind: "infinity", sign };
    return { kind: "nan", signaling: rest >> BigInt(fraction - 1) === 0n };
  }
  const denormal = exponent === 0 && significand !== 0n;
  const m = explicit || exponent === 0 ? significand : significand | one(fraction);
  return {
    kind: "finite",
    sign,
    m: denormal && daz ? 0n : m,
    e: Math.max(exponent, 1) - bias - fraction,
    denormal: denormal && !daz,
  };
}

const quietBit = (name: Name): bigint => one(BITS[name].fraction - 1);
function special(name: Name, sign: number, rest: bigint): bigint {
  const { exponentBits, fraction, explicit } = BITS[name];
  const stored = explicit ? fraction + 1 : fraction;
  const integer = explicit ? one(fraction) : 0n;
  return (
    (BigInt(sign) << BigInt(stored + exponentBits)) |
    ((one(exponentBits) - 1n) << BigInt(stored)) |
    integer |
    rest
  );
}
export const infinity = (name: Name, sign: number): bigint => special(name, sign, 0n);
const indefinite = (name: Name): bigint => special(name, 1, quietBit(name));
export function zero(name: Name, sign: number): bigint {
  const { exponentBits, fraction, explicit } = BITS[name];
  return BigInt(sign) << BigInt((explicit ? fraction + 1 : fraction) + exponentBits);
}

/** A positive number: its exponent (2^exponent ≤ it < 2 · 2^exponent) and its multiple of 2^-k, rounded down. */
export interface Positive {
  readonly exponent: number;
  scaled(k: number): { whole: bigint; exact: boolean };
}

export function ratio(numerator: bigint, denominator: bigint): Positive {
  let exponent = bitLength(numerator) - bitLength(denominator);
  const at = (k: number): [bigint, bigint] =>
    k >= 0 ? [numerator << BigInt(k), denominator] : [numerator, denominator << BigInt(-k)];
  const [n, d] = at(-exponent);
  if (n < d) exponent--;
  return {
    exponent,
    scaled: (k) => {
      const [x, y] = at(k);
      return { whole: x / y, exact: x % y === 0n };
    },
  };
}

function integerSqrt(x: bigint): bigint {
  if (x < 2n) return x;
  let root = one((bitLength(x) + 1) >> 1);
  for (;;) {
    const next = (root + x / root) >> 1n;
    if (next >= root) return root;
    root = next;
  }
}

function squareRoot(m: bigint, e: number): Positive {
  const even = e % 2 === 0 ? m : m << 1n;
  const half = (e % 2 === 0 ? e : e - 1) / 2;
  return {
    exponent: Math.floor((bitLength(m) - 1 + e) / 2),
    scaled: (k) => {
      const shift = 2 * (k + half);
      const radicand = shift >= 0 ? even << BigInt(shift) : even >> BigInt(-shift);
      const lost = shift < 0 && (even & (one(-shift) - 1n)) !== 0n;
      const whole = integerSqrt(radicand);
      return { whole, exact: !lost && whole * whole === radicand };
    },
  };
}

const roundsAway = (mode: number, sign: number, whole: bigint, half: boolean, more: boolean): boolean => {
  if (mode === 0) return half && (more || (whole & 1n) === 1n);
  return (half || more) && mode === (sign === 1 ? 1 : 2);
};

/** `value` to units of 2^-k. */
function toUnits(
  value: Positive,
  k: number,
  mode: number,
  sign: number,
): { n: bigint; inexact: boolean; up: boolean } {
  const { whole, exact } = value.scaled(k + 1);
  const half = (whole & 1n) === 1n;
  const up = roundsAway(mode, sign, whole >> 1n, half, !exact);
  return { n: (whole >> 1n) + (up ? 1n : 0n), inexact: half || !exact, up };
}

export function round(name: Name, sign: number, value: Positive, env: Environment): Result {
  const { exponentBits, fraction, explicit } = BITS[name];
  const precision = name === "f80" ? env.precision : fraction + 1;
  const bias = 2 ** (exponentBits - 1) - 1;
  const [least, greatest] = [1 - bias, bias];
  const encode = (n: bigint, unit: number): bigint => {
    // n · 2^unit has as many bits as the format, or one more that is zero.
    const shift = fraction + 1 - bitLength(n);
    let significand = shift >= 0 ? n << BigInt(shift) : n >> BigInt(-shift);
    let exponent = unit - shift + fraction + bias;
    if (exponent < 1) {
      significand >>= BigInt(1 - exponent);
      exponent = significand >> BigInt(fraction) === 0n ? 0 : 1;
    }
    const stored = explicit ? fraction + 1 : fraction;
    const kept = explicit ? significand : significand & (one(fraction) - 1n);
    return zero(name, sign) | (BigInt(exponent) << BigInt(stored)) | kept;
  };
  const unbounded = precision - 1 - value.exponent;
  const first = toUnits(value, unbounded, env.mode, sign);
  const exponent = bitLength(first.n) - 1 - unbounded;
  const inexact = (first.inexact ? PE : 0) | (first.up ? UP : 0);
  if (exponent > greatest) {
    if ((env.masks & OE) === 0) {
      const wrapped = exponent - 24576;
      if (name !== "f80") return { bits: 0n, flags: OE | inexact };
      if (wrapped <= greatest) return { bits: encode(first.n, -unbounded - 24576), flags: OE | inexact };
    }
    const away = env.mode === 0 || env.mode === (sign === 1 ? 1 : 2);
    if (away) return { bits: infinity(name, sign), flags: OE | PE | UP };
    return { bits: encode(one(precision) - 1n, greatest + 1 - precision), flags: OE | PE };
  }
  if (exponent >= least) return { bits: encode(first.n, -unbounded), flags: inexact };
  if ((env.masks & UE) === 0) {
    if (name !== "f80") return { bits: 0n, flags: UE | inexact };
    return { bits: encode(first.n, -unbounded + 24576), flags: UE | inexact };
  }
  if (env.ftz) return { bits: zero(name, sign), flags: UE | PE };
  // Denormal: a fixed unit. With less precision it is that of the least normal number.
  const k = precision - 1 - least;
  const second = toUnits(value, k, env.mode, sign);
  const flags = (second.inexact ? UE | PE : 0) | (second.up ? UP : 0);
  return { bits: second.n === 0n ? zero(name, sign) : encode(second.n, -k), flags };
}

/** What comes of operands of which one is a NaN or unsupported; SDM Vol. 1 table 4-7. */
function notANumber(name: Name, operands: readonly bigint[]): Result {
  const values = operands.map((bits) => decode(name, bits));
  if (values.some((v) => v.kind === "unsupported")) return { bits: indefinite(name), flags: IE };
  const flags = values.some((v) => v.kind === "nan" && v.signaling) ? IE : 0;
  let nans = operands.filter((_, i) => values[i]!.kind === "nan");
  if (name === "f80" && nans.length === 2) {
    const quiet = nans.filter((bits) => (bits & quietBit(name)) !== 0n);
    if (quiet.length === 1) nans = quiet;
    else {
      const significand = (x: bigint): bigint => x & (one(64) - 1n);
      const [x, y] = nans as [bigint, bigint];
      const first = significand(x) > significand(y) || (significand(x) === significand(y) && x < y);
      nans = [first ? x : y];
    }
  }
  return { bits: nans[0]! | quietBit(name), flags };
}

export type Operation = "add" | "subtract" | "multiply" | "divide" | "sqrt";

export function compute(op: Operation, name: Name, operands: readonly bigint[], env: Environment): Result {
  const values = operands.map((bits) => decode(name, bits, env.daz));
  if (values.some((v) => v.kind === "nan" || v.kind === "unsupported")) return notANumber(name, operands);
  const invalid: Result = { bits: indefinite(name), flags: IE };
  const denormal = values.some((v) => v.kind === "finite" && v.denormal) ? DE : 0;
  const withDenormal = ({ bits, flags }: Result): Result => ({ bits, flags: flags | denormal });
  const a = values[0] as Exclude<Value, { kind: "nan" | "unsupported" }>;
  const b = (values[1] ?? values[0]) as typeof a;
  const isZero = (v: typeof a): boolean => v.kind === "finite" && v.m === 0n;
  if (op === "sqrt") {
    if (isZero(a)) return { bits: zero(name, a.sign), flags: 0 };
    if (a.sign === 1) return invalid;
    if (a.kind === "infinity") return { bits: infinity(name, 0), flags: 0 };
    return withDenormal(round(name, 0, squareRoot(a.m, a.e), env));
  }
  const product = a.sign ^ b.sign;
  if (op === "multiply" || op === "divide") {
    const isDivision = op === "divide";
    if (a.kind === "infinity" || b.kind === "infinity") {
      if (isDivision ? a.kind === b.kind : isZero(a) || isZero(b)) return invalid;
      const gone = isDivision && b.kind === "infinity";
      return withDenormal({ bits: gone ? zero(name, product) : infinity(name, product), flags: 0 });
    }
    if (isDivision && isZero(b)) return isZero(a) ? invalid : { bits: infinity(name, product), flags: ZE };
    if (isZero(a) || isZero(b)) return withDenormal({ bits: zero(name, product), flags: 0 });
    const e = isDivision ? a.e - b.e : a.e + b.e;
    const [n, d] = isDivision ? [a.m, b.m] : [a.m * b.m, 1n];
    const value = e >= 0 ? ratio(n << BigInt(e), d) : ratio(n, d << BigInt(-e));
    return withDenormal(round(name, product, value, env));
  }
  const signB = op === "subtract" ? b.sign ^ 1 : b.sign;
  if (a.kind === "infinity" || b.kind === "infinity") {
    if (a.kind === b.kind && a.sign !== signB) return invalid;
    return withDenormal({ bits: infinity(name, a.kind === "infinity" ? a.sign : signB), flags: 0 });
  }
  const e = Math.min(a.e, b.e);
  const term = (m: bigint, from: number, sign: number): bigint =>
    (m << BigInt(from - e)) * (sign === 1 ? -1n : 1n);
  const sum = term(a.m, a.e, a.sign) + term(b.m, b.e, signB);
  if (sum === 0n) {
    const sign = a.sign === signB && isZero(a) && isZero(b) ? a.sign : env.mode === 1 ? 1 : 0;
    return withDenormal({ bits: zero(name, sign), flags: 0 });
  }
  const sign = sum < 0n ? 1 : 0;
  const magnitude = sign === 1 ? -sum : sum;
  const value = e >= 0 ? ratio(magnitude << BigInt(e), 1n) : ratio(magnitude, one(-e));
  return withDenormal(round(name, sign, value, env));
}
