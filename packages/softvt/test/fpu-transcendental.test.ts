import { describe, expect, it } from "vitest";
import { STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { hostState } from "../../../test/host-cpu/state.ts";
import "../src/isa/x87/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

/*
 * The functions worked out with whole numbers to 400 bits and more, by other formulas than the engine's; the
 * results must be the nearest 64-bit numbers but for one case in some millions.
 */
const BITS = 420n;
const ONE = 1n << BITS;
const LOW64 = (1n << 64n) - 1n;

const times = (a: bigint, b: bigint): bigint => (a * b) >> BITS;
const over = (a: bigint, b: bigint): bigint => (a << BITS) / b;
function root(x: bigint): bigint {
  let r = ONE;
  for (;;) {
    const next = (r + over(x, r)) >> 1n;
    if (next === r || next === r + 1n || next === r - 1n) return next;
    r = next;
  }
}
/** Sum of a power series: terms made from the one before, until they vanish. */
function sum(
  first: bigint,
  next: (term: bigint, n: bigint) => bigint,
  use = (term: bigint, _: bigint): bigint => term,
): bigint {
  let total = 0n;
  let term = first;
  for (let n = 1n; term !== 0n; n++) {
    total += use(term, n);
    term = next(term, n);
  }
  return total;
}
const sine = (r: bigint): bigint => sum(r, (t, n) => -times(times(t, r), r) / (2n * n * (2n * n + 1n)));
const cosine = (r: bigint): bigint => sum(ONE, (t, n) => -times(times(t, r), r) / (2n * n * (2n * n - 1n)));
/** By halving the angle four times. */
function arctan(t: bigint): bigint {
  let x = t;
  for (let i = 0; i < 4; i++) x = over(x, ONE + root(ONE + times(x, x)));
  return (
    16n *
    sum(
      x,
      (term) => -times(times(term, x), x),
      (term, n) => term / (2n * n - 1n),
    )
  );
}
const PI = 4n * arctan(ONE);
const exponential = (x: bigint): bigint => sum(ONE, (t, n) => times(t, x) / n);
/** By Newton's iteration on the exponential. */
function logarithm(x: bigint): bigint {
  let y = BigInt(Math.round(Math.log(Number(x >> (BITS - 60n)) / 2 ** 60) * 2 ** 50)) << (BITS - 50n);
  for (let i = 0; i < 5; i++) y += over(2n * (x - exponential(y)), x + exponential(y));
  return y;
}
const LN2 = logarithm(2n * ONE);

interface Number80 {
  readonly sign: bigint;
  readonly significand: bigint;
  readonly exponent: number;
}
const parts = (x: bigint): Number80 => ({
  sign: x >> 79n === 1n ? -1n : 1n,
  significand: x & LOW64,
  exponent: Number((x >> 64n) & 0x7fffn) - 16383,
});
/** As a fixed-point number. */
function toFixed(x: bigint): bigint {
  const { sign, significand, exponent } = parts(x);
  const shift = BITS + BigInt(exponent - 63);
  return sign * (shift >= 0n ? significand << shift : significand >> -shift);
}
const number = (sign: number, exponent: number, significand: bigint): bigint =>
  (BigInt(sign) << 79n) | (BigInt(exponent + 16383) << 64n) | significand | (1n << 63n);

/** π as x87 knows it: 66 bits (SDM Vol. 1 sec. 8.3.8: C90FDAA2 2168C234 C). */
const PI66 = 0xc90fdaa22168c234cn << (BITS - 66n);
function reduced(x: bigint): { r: bigint; quadrant: number } {
  const right = PI66 / 2n;
  let q = (2n * x + right) / (2n * right);
  let r = x - q * right;
  if (2n * r < -right) {
    r += right;
    q -= 1n;
  }
  return { r, quadrant: Number(((q % 4n) + 4n) % 4n) };
}
const sineOf = (x: bigint): bigint => {
  const { r, quadrant } = reduced(x);
  const value = quadrant % 2 === 0 ? sine(r) : cosine(r);
  return quadrant < 2 ? value : -value;
};
const cosineOf = (x: bigint): bigint => {
  const { r, quadrant } = reduced(x);
  const value = quadrant % 2 === 0 ? cosine(r) : sine(r);
  return quadrant === 1 || quadrant === 2 ? -value : value;
};

const engine = new FpEngine();

/** D9 `modrm` on ST(0) and ST(1): ST(0) and ST(1) after it. */
function run(modrm: number, st0: bigint, st1: bigint): [bigint, bigint] {
  const state = hostState(STACK_START);
  state.fx.ftw = 3;
  state.fx.setSt(0, st0);
  state.fx.setSt(1, st1);
  const { fx } = engine.run(Uint8Array.of(0xd9, modrm), state);
  return [fx!.st(0), fx!.st(1)];
}

/** Error of a result in thousandths of a unit in the last place. */
function thousandths(result: bigint, exact: bigint): number {
  const { exponent } = parts(result);
  const difference = toFixed(result) - exact;
  const shift = BITS + BigInt(exponent - 63);
  return Math.abs(Number((difference * 1000n) >> shift));
}

const random = new Random(42);
const significand = (): bigint =>
  random.oneIn(3) ? random.bits(63) & (~0n << BigInt(random.below(60))) : random.bits(63);
const between = (low: number, high: number): bigint =>
  number(random.below(2), random.between(low, high), significand());
const positive = (low: number, high: number): bigint => number(0, random.between(low, high), significand());

describe("transcendental functions are the nearest numbers", () => {
  const cases: readonly [string, () => [bigint, bigint][]][] = [
    [
      "F2XM1",
      () => {
        const x = between(-40, -1);
        return [[run(0xf0, x, 0n)[0], exponential(times(toFixed(x), LN2)) - ONE]];
      },
    ],
    [
      "FYL2X",
      () => {
        const x = random.oneIn(3) ? positive(-1, 0) : positive(-40, 40);
        const y = between(-10, 10);
        return [[run(0xf1, x, y)[0], times(toFixed(y), over(logarithm(toFixed(x)), LN2))]];
      },
    ],
    [
      "FYL2XP1",
      () => {
        const x = between(-40, -3);
        const y = between(-10, 10);
        return [[run(0xf9, x, y)[0], times(toFixed(y), over(logarithm(ONE + toFixed(x)), LN2))]];
      },
    ],
    [
      "FPATAN",
      () => {
        const [x, y] = [between(-20, 20), between(-20, 20)];
        const [fx, fy] = [toFixed(x), toFixed(y)];
        const [ax, ay] = [fx < 0n ? -fx : fx, fy < 0n ? -fy : fy];
        const acute = ay > ax ? PI / 2n - arctan(over(ax, ay)) : arctan(over(ay, ax));
        const angle = fx < 0n ? PI - acute : acute;
        return [[run(0xf3, x, y)[0], fy < 0n ? -angle : angle]];
      },
    ],
    [
      "FSIN, FCOS, FSINCOS and FPTAN",
      () => {
        const x = random.oneIn(2) ? between(-40, 4) : between(-4, 62);
        const fixed = toFixed(x);
        const [cos, sin] = run(0xfb, x, 0n);
        expect([run(0xfe, x, 0n)[0], run(0xff, x, 0n)[0]]).toEqual([sin, cos]);
        const [one, tan] = run(0xf2, x, 0n);
        expect(one).toBe(0x3fff_8000000000000000n);
        const [exactSine, exactCosine] = [sineOf(fixed), cosineOf(fixed)];
        return [
          [sin, exactSine],
          [cos, exactCosine],
          [tan, over(exactSine, exactCosine)],
        ];
      },
    ],
  ];
  it.each(cases)("%s", (_, draw) => {
    let worst = 0;
    for (let i = 0; i < 600; i++)
      for (const [result, exact] of draw()) worst = Math.max(worst, thousandths(result, exact));
    expect(worst).toBeGreaterThan(400);
    expect(worst).toBeLessThanOrEqual(500);
  });
});
