/**
 * Tables for AES's S-box by arithmetic on nibbles (FIPS 197 sec. 4.2, 5.1.1).
 *
 * GF(2^8) is also GF(16)[Y] / (Y² + Y + ν): a byte as two nibbles hY + l, whose inverse takes a handful of
 * operations in GF(16), each a look-up in 16 bytes. Changes of basis are linear, so they are two look-ups as well.
 */

/** Product in GF(16) = GF(2)[x] / (x⁴ + x + 1). */
function times16(a: number, b: number): number {
  let product = 0;
  for (let bit = 3; bit >= 0; bit--) {
    product <<= 1;
    if (product & 0x10) product ^= 0x13;
    if ((b >> bit) & 1) product ^= a;
  }
  return product;
}

const NIBBLES = Array.from({ length: 16 }, (_, i) => i);
/** A constant for which Y² + Y + ν has no root. */
const NU = NIBBLES.find((nu) => NIBBLES.every((y) => (times16(y, y) ^ y ^ nu) !== 0))!;

/** Product of hY + l, as bytes with h above l. */
function timesTower(a: number, b: number): number {
  const [ah, al, bh, bl] = [a >> 4, a & 15, b >> 4, b & 15];
  const hh = times16(ah, bh);
  return ((hh ^ times16(ah, bl) ^ times16(al, bh)) << 4) | (times16(hh, NU) ^ times16(al, bl));
}

/** A root of AES's polynomial x⁸ + x⁴ + x³ + x + 1 in the tower: where AES's x goes. */
const ROOT = Array.from({ length: 256 }, (_, i) => i).find((r) => {
  const powers = [1];
  for (let i = 1; i <= 8; i++) powers.push(timesTower(powers[i - 1]!, r));
  return r > 1 && (powers[8]! ^ powers[4]! ^ powers[3]! ^ powers[1]! ^ 1) === 0;
})!;

type Linear = (x: number) => number;

/** The linear map that takes bit i to `images[i]`. */
const linear =
  (images: readonly number[]): Linear =>
  (x) =>
    images.reduce((sum, image, bit) => ((x >> bit) & 1 ? sum ^ image : sum), 0);

/** The inverse of a linear map on bytes. */
function inverse(map: Linear): Linear {
  const table = new Uint8Array(256);
  for (let x = 0; x < 256; x++) table[map(x)] = x;
  return (x) => table[x]!;
}

const toTower = linear(
  Array.from({ length: 8 }, (_, bit) => {
    let power = 1;
    for (let i = 0; i < bit; i++) power = timesTower(power, ROOT);
    return power;
  }),
);
const fromTower = inverse(toTower);
/** The S-box's affine map without its constant: each bit with the four above it, around. */
const affine: Linear = (x) => {
  const twice = x | (x << 8);
  return (x ^ (twice >> 4) ^ (twice >> 5) ^ (twice >> 6) ^ (twice >> 7)) & 0xff;
};
const AFFINE_CONSTANT = 0x63;

/** Logarithm of 0: any sum with it stays over 15 after a reduction by 15, where a look-up gives 0. */
const LOG_ZERO = 64;
const POWERS: number[] = [1];
for (let i = 1; i < 15; i++) POWERS.push(times16(POWERS[i - 1]!, 2));
const log = (x: number): number => (x === 0 ? LOG_ZERO : POWERS.indexOf(x));

/** Sixteen bytes each, by nibble. */
export const FIELD = {
  EXP: [...POWERS, 0],
  LOG: NIBBLES.map(log),
  /** Logarithm of the inverse. */
  LOG_INVERSE: NIBBLES.map((x) => (x === 0 ? LOG_ZERO : (15 - log(x)) % 15)),
  SQUARE: NIBBLES.map((x) => times16(x, x)),
  NU_SQUARE: NIBBLES.map((x) => times16(NU, times16(x, x))),
} as const;

/** A substitution: the map into the tower and the one out of it, each by low and high nibble. */
export interface Substitution {
  readonly inLow: readonly number[];
  readonly inHigh: readonly number[];
  readonly outLow: readonly number[];
  readonly outHigh: readonly number[];
}

function substitution(into: Linear, intoConstant: number, out: Linear, outConstant: number): Substitution {
  return {
    inLow: NIBBLES.map((n) => into(n) ^ intoConstant),
    inHigh: NIBBLES.map((n) => into(n << 4)),
    outLow: NIBBLES.map((n) => out(n) ^ outConstant),
    outHigh: NIBBLES.map((n) => out(n << 4)),
  };
}

const unaffine = inverse(affine);
export const SUB_BYTES = substitution(toTower, 0, (x) => affine(fromTower(x)), AFFINE_CONSTANT);
export const INV_SUB_BYTES = substitution(
  (x) => toTower(unaffine(x)),
  toTower(unaffine(AFFINE_CONSTANT)),
  fromTower,
  0,
);
