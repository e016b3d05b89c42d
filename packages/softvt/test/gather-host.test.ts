/**
 * Gathers against the host's own processor: the engine and the BigInt evaluator. The generator of forms knows no indices in
 * vectors, so their addresses are made here: in the data window, now and then where nothing is.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { knownDifference } from "../../../test/differential/known-differences.ts";
import type { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { type Case, randomState } from "../../../test/host-cpu/cases.ts";
import { differences, type EngineResult } from "../../../test/host-cpu/compare.ts";
import { encode } from "../../../test/host-cpu/encode.ts";
import type { Form } from "../../../test/host-cpu/forms.ts";
import { CODE_START, HOST_LAYOUT, HostCpu } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import "../src/isa/avx/index.ts";
import { type InsnSpec, SPECS } from "../src/isa/registry.ts";
import { EvaluatorCpu } from "./support/evaluator.ts";

const GATHERS = SPECS.filter(({ vex }) => vex?.vsib);
const CASES = 150;
const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : (opened.features.lacks("avx2") ?? "");

describe.skipIf(skipped)(`gathers${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  const image = new Random(7).bytes(0x10000);
  let evaluator: EvaluatorCpu;
  let soft: SoftCpu;
  beforeAll(async () => {
    host.setImage(image);
    evaluator = new EvaluatorCpu(image, host.readOnly);
    const { SoftCpu } = await import("../../../test/differential/soft-cpu.ts");
    soft = await SoftCpu.open(host.readOnly);
    soft.setImage(image);
  });
  afterAll(async () => {
    host.close();
    await soft.close();
  });

  const indexBits = (spec: InsnSpec): 32 | 64 => ((spec.opcode & 1) === 0 ? 32 : 64);

  function make(spec: InsnSpec, mode: 64 | 32, random: Random): Case {
    const registers = mode === 64 ? 16 : 8;
    const [destination, index, mask] = distinct(random, registers);
    const base = random.oneIn(6) ? undefined : random.pick([0, 3, 5, 6, mode === 64 ? 13 : 7]);
    const disp = random.pick([0, 1, -8, 0x7f, 0x1234]) + (base === undefined ? HOST_LAYOUT.DATA + 0x4000 : 0);
    const scale = random.pick([1, 2, 4, 8] as const);
    const useFs = random.oneIn(6) && mode === 64;
    const prefixes = [...(random.oneIn(6) && mode === 64 ? [0x67] : []), ...(useFs ? [0x64] : [])];
    const code = encode(
      {
        prefixes,
        map: spec.map,
        mandatory: 0x66,
        opcode: spec.opcode,
        w: spec.rexW,
        vex: { l: spec.vex?.l ?? 0, vvvv: mask },
        reg: destination,
        rm: { base, index, scale, disp, vsib: true },
      },
      CODE_START,
      mode,
    );
    const state = randomState(random);
    if (base !== undefined) state.gpr[base] = BigInt(HOST_LAYOUT.DATA + 0x6000);
    if (useFs) state.fsBase = 0x100n;
    const bits = indexBits(spec);
    const lane = (): bigint => {
      // Not canonical, or by the scale nothing. Other addresses far away might be this process's own.
      if (bits === 64 && random.oneIn(16)) return 1n << 62n;
      const reach = random.oneIn(12) ? 0x20000 : 0x2000;
      return BigInt.asUintN(bits, BigInt(random.between(-reach, reach) >> Math.log2(scale)));
    };
    const vector = (): bigint => {
      let value = 0n;
      for (let i = 0; i < 128 / bits; i++) value = (value << BigInt(bits)) | lane();
      return value;
    };
    state.fx.setXmm(index!, vector());
    state.fx.setYmmHigh(index!, vector());
    const form = { spec: { ...spec, modes: [mode] }, operands: [] } as unknown as Form;
    return { name: `${spec.name} ${mode}`, form, code, state, options: { mode, memory: [] } };
  }

  GATHERS.forEach((spec, number) => {
    it(`${spec.name} ${spec.vex?.l === 1 ? 256 : 128}`, () => {
      let landed = 0;
      let faulted = 0;
      for (const mode of [64, 32] as const) {
        const random = new Random(number * 2 + mode);
        for (let i = 0; i < CASES; i++) {
          const test = make(spec, mode, random);
          const expected = host.run(test.code, test.state, test.options);
          const check = (actual: EngineResult, by: string): void => {
            const label = `${test.name} ${Buffer.from(test.code).toString("hex")} by the ${by}`;
            const found = differences(test, expected, actual);
            if (found.length > 0 && knownDifference(test, expected, actual) === undefined)
              expect(found, label).toEqual([]);
          };
          if (expected.end.kind === "landed") landed++;
          else faulted++;
          check(soft.run(test), "engine");
          check(evaluator.run(test), "evaluator");
        }
      }
      expect(landed).toBeGreaterThan(CASES / 2);
      expect(faulted).toBeGreaterThan(5);
    });
  });

  it("refuses registers that are not three, and addresses without SIB", () => {
    // vpgatherdd xmm1, [rax+xmm1], xmm2; xmm1, [rax+xmm2], xmm1; xmm1, [rax+xmm2], xmm2; then modrm without SIB
    for (const bytes of [
      [0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x08],
      [0xc4, 0xe2, 0x71, 0x90, 0x0c, 0x10],
      [0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x10],
      [0xc4, 0xe2, 0x69, 0x90, 0x08],
      [0xc4, 0xe2, 0x69, 0x90, 0xc8],
    ]) {
      const code = Uint8Array.from(bytes);
      const state = randomState(new Random(1));
      const undefinedOpcode = { kind: "fault", vector: 6, errorCode: 0, address: undefined };
      const options = { mode: 64 as const, memory: [] };
      expect(host.run(code, state).end, String(bytes)).toEqual(undefinedOpcode);
      expect(soft.run({ code, state, options }).end, String(bytes)).toEqual(undefinedOpcode);
    }
  });
});

function distinct(random: Random, count: number): number[] {
  const all = Array.from({ length: count }, (_, i) => i);
  return [0, 1, 2].map(() => all.splice(random.below(all.length), 1)[0]!);
}
