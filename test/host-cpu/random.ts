/** Seeded random numbers and operand values that tend to find bugs, for tests that must repeat. */

/** Operand sizes in bits. */
export type IntegerBits = 8 | 16 | 32 | 64 | 128;
export type FloatBits = 32 | 64 | 80;

/** xoshiro128** 1.1 (Blackman, Vigna: "Scrambled linear pseudorandom number generators"), seeded by splitmix32. */
export class Random {
  readonly #s = new Uint32Array(4);

  /** Equal seeds give equal sequences. @param seed the low 32 bits count. */
  constructor(readonly seed: number) {
    let state = seed >>> 0;
    for (let i = 0; i < 4; i++) {
      state = (state + 0x9e3779b9) >>> 0;
      let z = state;
      z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      this.#s[i] = z ^ (z >>> 15);
    }
  }

  /** 0 to 2^32 - 1. */
  u32(): number {
    const s = this.#s;
    const result = Math.imul(rotateLeft(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = rotateLeft(s[3]!, 11);
    return result;
  }

  /** `bits` evenly random bits. */
  bits(bits: number): bigint {
    let value = 0n;
    for (let have = 0; have < bits; have += 32) value = (value << 32n) | BigInt(this.u32());
    return BigInt.asUintN(bits, value);
  }

  u64(): bigint {
    return this.bits(64);
  }

  /** An integer of [0, limit). The bias of 2^-32 × limit does not matter here. */
  below(limit: number): number {
    return Math.floor((this.u32() / 0x100000000) * limit);
  }

  /** An integer of [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True with a probability of 1 / n. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(from: readonly T[]): T {
    if (from.length === 0) throw new RangeError("pick: nothing to pick from");
    return from[this.below(from.length)]!;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.u32() & 0xff);
  }

  /** An integer operand as unsigned bits: boundary, near a boundary, small, sparse, or evenly random. */
  integer(bits: IntegerBits): bigint {
    switch (this.below(8)) {
      case 0:
      case 1:
        return this.pick(integerBoundaries(bits));
      case 2:
        return BigInt.asUintN(bits, this.pick(integerBoundaries(bits)) + BigInt(this.between(-2, 2)));
      case 3:
        return BigInt.asUintN(bits, BigInt(this.between(-16, 16)));
      case 4: // runs of equal bits, which make carries travel
        return BigInt.asUintN(bits, (1n << BigInt(this.below(bits))) - (1n << BigInt(this.below(bits))));
      default:
        return this.bits(bits);
    }
  }

  /** A floating-point operand as bits: every class of IEEE 754 often, and close to equal exponents. */
  float(bits: FloatBits): bigint {
    const specials = FLOAT_SPECIALS[bits];
    switch (this.below(8)) {
      case 0:
      case 1:
      case 2:
        return this.pick(specials);
      case 3: // small integers and halves: exact results
        return bits === 80 ? extended(this.between(-64, 64) / 2) : ieee(this.between(-64, 64) / 2, bits);
      case 4:
        return this.bits(bits);
      default:
        return this.#moderate(bits);
    }
  }

  /** 128 bits of lanes: floats of the lane size, or integers. */
  vector(lane: "i8" | "i16" | "i32" | "i64" | "f32" | "f64"): bigint {
    const bits = Number(lane.slice(1)) as 8 | 16 | 32 | 64;
    let value = 0n;
    for (let at = 0; at < 128; at += bits) {
      const element = lane === "f32" || lane === "f64" ? this.float(bits as 32 | 64) : this.integer(bits);
      value |= element << BigInt(at);
    }
    return value;
  }

  /** Random fraction, exponent within 40 of one: sums cancel and round, products stay finite. */
  #moderate(bits: FloatBits): bigint {
    const { exponentBits, fractionBits, bias } = FLOAT_FORMATS[bits];
    const exponent = BigInt(bias + this.between(-40, 40));
    const sign = BigInt(this.below(2));
    const integerBit = bits === 80 ? 1n << 63n : 0n;
    // Some fractions have few bits, so that ties between two roundings occur.
    let fraction = this.bits(bits === 80 ? 63 : fractionBits);
    if (this.oneIn(3)) fraction &= ~0n << BigInt(this.below(fractionBits));
    return (
      (sign << BigInt(exponentBits + fractionBits)) |
      (exponent << BigInt(fractionBits)) |
      integerBit |
      fraction
    );
  }
}

function rotateLeft(value: number, count: number): number {
  return (value << count) | (value >>> (32 - count));
}

const FLOAT_FORMATS = {
  32: { exponentBits: 8, fractionBits: 23, bias: 127 },
  64: { exponentBits: 11, fractionBits: 52, bias: 1023 },
  80: { exponentBits: 15, fractionBits: 64, bias: 16383 },
} as const;

const boundaries = new Map<number, readonly bigint[]>();

/** Edges of an unsigned and signed integer of this size, of every smaller size, and usual shift counts. */
export function integerBoundaries(bits: IntegerBits): readonly bigint[] {
  let values = boundaries.get(bits);
  if (!values) {
    const set = new Set<bigint>([0n, 1n, 2n, 3n, 0xfn, 0x10n, 31n, 32n, 33n, 63n, 64n, 65n]);
    for (const size of [8, 16, 32, 64, 128]) {
      if (size > bits) break;
      const half = 1n << BigInt(size - 1);
      for (const edge of [half - 1n, half, half + 1n, 2n * half - 1n, 2n * half, -half, -half - 1n]) {
        set.add(BigInt.asUintN(bits, edge));
      }
    }
    for (const pattern of ["55", "aa", "99", "0f", "f0"]) set.add(BigInt(`0x${pattern.repeat(bits / 8)}`));
    values = [...set].map((value) => BigInt.asUintN(bits, value));
    boundaries.set(bits, values);
  }
  return values;
}

/** Values of every class: zeros, denormals, edges of the normal range, infinities, quiet and signalling NaNs. */
export const FLOAT_SPECIALS: Readonly<Record<FloatBits, readonly bigint[]>> = {
  32: specials(32),
  64: specials(64),
  80: [
    ...specials(80),
    // Encodings that only the 80-bit format has (SDM Vol. 1 sec. 8.2.2): pseudo-denormal, unnormal,
    // pseudo-infinity, pseudo-NaN; and the packed-decimal indefinite's upper half.
    0x0000_8000000000000000n,
    0x0000_ffffffffffffffffn,
    0x3fff_4000000000000000n,
    0x7ffe_0000000000000001n,
    0x7fff_0000000000000000n,
    0x7fff_3fffffffffffffffn,
    0xffff_c000000000000000n,
  ],
};

function specials(bits: FloatBits): bigint[] {
  const { exponentBits, fractionBits, bias } = FLOAT_FORMATS[bits];
  const integer = bits === 80 ? 1n << 63n : 0n;
  const fractionOnes = (1n << BigInt(bits === 80 ? 63 : fractionBits)) - 1n;
  const quiet = 1n << BigInt((bits === 80 ? 63 : fractionBits) - 1);
  const exponent = (value: number): bigint => BigInt(value) << BigInt(fractionBits);
  const top = 2 ** exponentBits - 1;
  const normal = (value: number, fraction = 0n): bigint => exponent(value) | integer | fraction;
  const positive = [
    0n,
    1n, // least denormal
    fractionOnes, // greatest denormal
    normal(1), // least normal
    normal(1, fractionOnes),
    normal(top - 1, fractionOnes), // greatest finite
    normal(top), // infinity
    normal(top, quiet),
    normal(top, quiet | 0x1234n),
    normal(top, 1n), // signalling
    normal(top, quiet - 1n), // signalling
    normal(bias), // 1
    normal(bias - 1), // 0.5
    normal(bias, quiet), // 1.5
    normal(bias, fractionOnes), // just below 2
    normal(bias - 1, fractionOnes), // just below 1
    // Around the edges of int16, int32 and int64, for conversions.
    ...[15, 31, 32, 63, 64].flatMap((power) => [
      normal(bias + power),
      normal(bias + power - 1, fractionOnes),
    ]),
    normal(bias + fractionBits - 1, 1n),
  ];
  return [...positive, ...positive.map((value) => value | (1n << BigInt(exponentBits + fractionBits)))];
}

/** The bits of a number in binary32 or binary64. */
export function ieee(value: number, bits: 32 | 64): bigint {
  const view = new DataView(new ArrayBuffer(8));
  if (bits === 32) view.setFloat32(0, value);
  else view.setFloat64(0, value);
  return bits === 32 ? BigInt(view.getUint32(0)) : view.getBigUint64(0);
}

/** The bits of a finite number that is normal or zero, in the 80-bit format: exact. */
export function extended(value: number): bigint {
  const bits = ieee(value, 64);
  const sign = (bits >> 63n) << 79n;
  if (value === 0) return sign;
  const exponent = ((bits >> 52n) & 0x7ffn) - 1023n + 16383n;
  return sign | (exponent << 64n) | (1n << 63n) | ((bits & ((1n << 52n) - 1n)) << 11n);
}
