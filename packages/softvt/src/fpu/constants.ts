/**
 * The numbers that the transcendental functions are made of, worked out with integers when the code is
 * generated. All are fixed-point, rounded down, with `bits` bits of fraction.
 */

const GUARD = 32n;

/** 1/n - 1/(3n³) + … (or with all signs alike) in fixed point: arctan (artanh) of p/q. */
function arctangentSeries(p: bigint, q: bigint, bits: bigint, alternating: boolean): bigint {
  let power = (p << bits) / q;
  let sum = 0n;
  for (let n = 1n, sign = 1n; power !== 0n; n += 2n, sign = -sign) {
    sum += (alternating ? sign : 1n) * (power / n);
    power = (power * p * p) / (q * q);
  }
  return sum;
}

function guarded(bits: number, compute: (bits: bigint) => bigint): bigint {
  return compute(BigInt(bits) + GUARD) >> GUARD;
}

/** π by Machin's formula. */
export const pi = (bits: number): bigint =>
  guarded(bits, (b) => 16n * arctangentSeries(1n, 5n, b, true) - 4n * arctangentSeries(1n, 239n, b, true));

/** ln 2 = 2 artanh(1/3). */
export const ln2 = (bits: number): bigint => guarded(bits, (b) => 2n * arctangentSeries(1n, 3n, b, false));

/** arctan(numerator / 8), numerator 0 to 8. */
export const arctanEighths = (numerator: number, bits: number): bigint =>
  numerator === 8
    ? pi(bits + 2) >> 4n
    : guarded(bits, (b) => arctangentSeries(BigInt(numerator), 8n, b, true));

/** 1/1!, 1/3!, 1/5!, … : sin(r) / r in powers of -r². */
export const sineCoefficients = (count: number, bits: number): bigint[] => factorials(count, bits, 1);

/** 1/0!, 1/2!, 1/4!, … : cos(r) in powers of -r². */
export const cosineCoefficients = (count: number, bits: number): bigint[] => factorials(count, bits, 0);

function factorials(count: number, bits: number, first: number): bigint[] {
  const out: bigint[] = [];
  let factorial = 1n;
  for (let n = 1; out.length < count; n++) {
    if ((n - 1) % 2 === first) out.push((1n << BigInt(bits)) / factorial);
    factorial *= BigInt(n);
  }
  return out;
}

/** 1, 1/3, 1/5, … : arctan(u) / u in powers of -u². */
export const arctanCoefficients = (count: number, bits: number): bigint[] =>
  Array.from({ length: count }, (_, k) => (1n << BigInt(bits)) / BigInt(2 * k + 1));

/** 2 / ln 2 · 1/(2k + 1): log2((1 + s) / (1 - s)) / s in powers of s². */
export const logCoefficients = (count: number, bits: number): bigint[] =>
  Array.from({ length: count }, (_, k) =>
    guarded(bits, (b) => (1n << (2n * b + 1n)) / ln2(Number(b)) / BigInt(2 * k + 1)),
  );

/** (ln 2)^(k + 1) / (k + 1)!: (2^x - 1) / x in powers of x. */
export function expCoefficients(count: number, bits: number): bigint[] {
  const b = BigInt(bits) + GUARD;
  const log = ln2(Number(b));
  const out: bigint[] = [];
  let term = log;
  for (let k = 2n; out.length < count; k++) {
    out.push(term >> GUARD);
    term = ((term * log) >> b) / k;
  }
  return out;
}
