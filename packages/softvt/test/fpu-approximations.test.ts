/**
 * RCPPS, RCPSS, RSQRTPS, RSQRTSS (SDM Vol. 2): approximations with a bound, a relative error of at most 1.5 · 2^-12.
 * Digits differ between processors, so results are judged by the bound; the host's, where there is one, by the same
 * judge.
 */
import { afterAll, describe, expect, it } from "vitest";
import { HostCpu, type MemoryBytes, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { type FxImage, hostState } from "../../../test/host-cpu/state.ts";
import "../src/isa/sse-float/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

const BOUND = 1.5 * 2 ** -12;
const SIGN = 0x8000_0000;
const INFINITY = 0x7f80_0000;
const QUIET = 0x40_0000;
const INDEFINITE = 0xffc0_0000;
const LEAST_NORMAL = 0x80_0000;
/** RCP's result is normal up to 1.1111111111010… · 2^125, zero from 1.00000000000110000000001b · 2^126; between, either. */
const LAST_NORMAL_RESULT = 0x7e7f_e800 - 1;
const FIRST_TINY_RESULT = 0x7e80_0c01;

const scratch = new DataView(new ArrayBuffer(4));
function toFloat(bits: number): number {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}

/** What is wrong with `result` as the approximation for `operand`, both as bits; undefined where nothing is. */
function judge(isRoot: boolean, operand: number, result: number): string | undefined {
  const sign = operand & SIGN;
  const magnitude = operand & ~SIGN;
  const exactly = (bits: number): string | undefined =>
    result === bits >>> 0
      ? undefined
      : `expected 0x${(bits >>> 0).toString(16)}, got 0x${result.toString(16)}`;
  if (magnitude > INFINITY) return exactly(operand | QUIET);
  // Denormal operands count as zeros of their sign.
  if (magnitude < LEAST_NORMAL) return exactly(sign | INFINITY);
  if (isRoot && sign !== 0) return exactly(INDEFINITE);
  if (magnitude === INFINITY) return exactly(sign);
  if (!isRoot && magnitude >= FIRST_TINY_RESULT) return exactly(sign);
  if (!isRoot && magnitude > LAST_NORMAL_RESULT && (result & ~SIGN) === 0) return exactly(sign);
  const value = toFloat(operand);
  const error = toFloat(result) / (isRoot ? 1 / Math.sqrt(value) : 1 / value) - 1;
  return Math.abs(error) <= BOUND ? undefined : `error ${error} of ${value}, at most ${BOUND}`;
}

const EDGES = [0, 1, LEAST_NORMAL - 1, LEAST_NORMAL, LAST_NORMAL_RESULT, LAST_NORMAL_RESULT + 1, 0x7e80_0000]
  .concat([FIRST_TINY_RESULT - 1, FIRST_TINY_RESULT, 0x7eff_ffff, 0x7f00_0000, 0x7f7f_ffff, INFINITY])
  .concat([INFINITY + 1, INFINITY + QUIET - 1, INFINITY + QUIET, 0x7fff_ffff, 0x3f80_0000, 0x3f80_0001])
  .flatMap((bits) => [bits, (bits | SIGN) >>> 0]);

/** Both signs of every exponent, with the ends of the fraction and fractions all over. */
function* operands(random: Random): Generator<number> {
  yield* EDGES;
  for (let exponent = 0; exponent < 256; exponent++) {
    for (const sign of [0, SIGN]) {
      const base = (sign | (exponent << 23)) >>> 0;
      yield base;
      yield base + 0x7f_ffff;
      for (let i = 0; i < 30; i++) yield base + random.below(0x80_0000);
    }
  }
  // Every fraction of 12 bits and its neighbours, at odd and even exponents: where a table changes.
  for (let step = 0; step < 0x1000; step++) {
    for (const base of [0x3f80_0000, 0x4000_0000]) {
      yield base + step * 0x800;
      yield base + step * 0x800 + 0x7ff;
      yield base + step * 0x800 + random.below(0x800);
    }
  }
}

const engine = new FpEngine();
const opened = HostCpu.open();
const hostUnavailable = "unavailable" in opened ? opened.unavailable : undefined;
afterAll(() => {
  if (hostUnavailable === undefined) (opened as HostCpu).close();
});

type Run = (
  code: Uint8Array,
  source: bigint,
  memory: boolean,
  mxcsr: number,
) => { mxcsr: number; xmm1: bigint };

const MEMORY = 0x6000_8000;
const DESTINATION = 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210n;

function runner(
  execute: (code: Uint8Array, image: MemoryBytes[], state: ReturnType<typeof hostState>) => FxImage,
): Run {
  return (code, source, memory, mxcsr) => {
    const state = hostState(STACK_START);
    state.fx.mxcsr = mxcsr;
    state.fx.setXmm(1, DESTINATION);
    state.fx.setXmm(2, memory ? 0n : source);
    state.gpr[3] = BigInt(MEMORY);
    const bytes = Uint8Array.from({ length: 16 }, (_, i) => Number((source >> BigInt(8 * i)) & 0xffn));
    const fx = execute(code, memory ? [{ address: MEMORY, bytes }] : [], state);
    return { mxcsr: fx.mxcsr, xmm1: fx.xmm(1) };
  };
}

const RUNS: Record<string, Run> = {
  engine: runner((code, image, state) => engine.run(code, state, image).fx as FxImage),
  host: runner((code, image, state) => (opened as HostCpu).run(code, state, { memory: image }).fx),
};

const lanes = (value: bigint): number[] =>
  [0, 1, 2, 3].map((i) => Number((value >> BigInt(32 * i)) & 0xffff_ffffn));

describe.each(Object.keys(RUNS))("by the %s", (name) => {
  const run = RUNS[name]!;
  for (const [title, opcode, isRoot] of [
    ["RCP", 0x53, false],
    ["RSQRT", 0x52, true],
  ] as const) {
    it(`${title}PS is within its bound, four at a time, from a register and from memory`, (context) => {
      if (name === "host" && hostUnavailable !== undefined) context.skip(hostUnavailable);
      const all = [...operands(new Random(opcode))];
      const wrong: string[] = [];
      for (let i = 0; i < all.length; i += 4) {
        const four = [0, 1, 2, 3].map((j) => all[i + j] ?? 0x3f80_0000);
        const source = four.reduceRight((sum, bits) => (sum << 32n) | BigInt(bits), 0n);
        const memory = i % 8 === 0;
        const code = Uint8Array.of(0x0f, opcode, memory ? 0x0b : 0xca);
        const results = lanes(run(code, source, memory, 0x1f80).xmm1);
        for (const [lane, bits] of four.entries()) {
          const problem = judge(isRoot, bits, results[lane]!);
          if (problem !== undefined) wrong.push(`0x${bits.toString(16)}: ${problem}`);
        }
      }
      expect(all.length).toBeGreaterThan(40_000);
      expect(wrong).toEqual([]);
    });

    it(`${title}SS is, and leaves the other lanes alone`, (context) => {
      if (name === "host" && hostUnavailable !== undefined) context.skip(hostUnavailable);
      const random = new Random(opcode + 1);
      const some = [...EDGES, ...Array.from({ length: 2000 }, () => random.below(2 ** 32))];
      const wrong: string[] = [];
      for (const [i, bits] of some.entries()) {
        const memory = i % 2 === 0;
        const code = Uint8Array.of(0xf3, 0x0f, opcode, memory ? 0x0b : 0xca);
        const [result, ...others] = lanes(run(code, BigInt(bits), memory, 0x1f80).xmm1);
        const problem = judge(isRoot, bits, result!);
        if (problem !== undefined) wrong.push(`0x${bits.toString(16)}: ${problem}`);
        expect(others).toEqual(lanes(DESTINATION).slice(1));
      }
      expect(wrong).toEqual([]);
    });

    it(`${title} takes no notice of MXCSR and raises nothing`, (context) => {
      if (name === "host" && hostUnavailable !== undefined) context.skip(hostUnavailable);
      const results = new Map<number, bigint>();
      // Unmasked, with each rounding, flush-to-zero and denormals-are-zero.
      for (const mxcsr of [0x1f80, 0x0000, 0x2000, 0x4000, 0x6000, 0x8040, 0x8000, 0x0040]) {
        for (const bits of EDGES) {
          const code = Uint8Array.of(0x0f, opcode, 0xca);
          const after = run(code, BigInt(bits) * 0x1_0000_0001_0000_0001_0000_0001n, false, mxcsr);
          expect(after.mxcsr).toBe(mxcsr);
          expect(results.get(bits) ?? after.xmm1).toBe(after.xmm1);
          results.set(bits, after.xmm1);
        }
      }
    });
  }
});

it("the judge finds errors beyond the bound and results that are none", () => {
  expect(judge(false, 0x3f80_0000, 0x3f80_0000)).toBeUndefined();
  expect(judge(false, 0x3f80_0000, 0x3f80_0c00)).toBeUndefined(); // 1 + 1.5 · 2^-12
  expect(judge(false, 0x3f80_0000, 0x3f80_0c01)).toMatch(/error/);
  expect(judge(true, 0x4080_0000, 0x3f00_0c01)).toMatch(/error/); // 1/√4
  expect(judge(true, 0xbf80_0000, 0x3f80_0000)).toMatch(/expected 0xffc00000/);
  expect(judge(false, SIGN >>> 0, 0x7f80_0000)).toMatch(/expected 0xff800000/);
  expect(judge(false, 0x3f80_0000, 0)).toMatch(/error -1/);
});
