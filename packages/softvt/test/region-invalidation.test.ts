/**
 * What becomes of compiled code when something changes under it: every guest here ends in the same state, to the last
 * bit and instruction, whether interpreted, compiled before it runs, or compiled while it does.
 */
import { describe, expect, it } from "vitest";
import { type Guest, MIXED_TIERS } from "./guest.ts";
import {
  type Expectation,
  type Outcome,
  openScenario,
  outcomeOf,
  runSlices,
  type Scenario,
} from "./support/scenario.ts";
import { crossingScenarios, limitScenarios } from "./support/scenarios-code.ts";
import { faultScenarios } from "./support/scenarios-data.ts";
import { writtenScenarios } from "./support/scenarios-written.ts";

const [INTERPRETED, ...COMPILED] = MIXED_TIERS.map(([, compileAfter]) => compileAfter) as [
  number,
  ...number[],
];

const SCENARIOS: readonly (Scenario & Expectation)[] = [
  ...crossingScenarios,
  ...limitScenarios,
  ...writtenScenarios,
  ...faultScenarios,
];

async function play(scenario: Scenario, compileAfter: number): Promise<Outcome> {
  const guest = await openScenario(scenario, compileAfter);
  try {
    await runSlices(guest, scenario);
    expectRegions(guest, scenario, compileAfter);
    return outcomeOf(guest);
  } finally {
    await guest.close();
  }
}

/** A comparison with compiled code means something only where there was some. */
function expectRegions(guest: Guest, { isSegmented = false }: Scenario, compileAfter: number): void {
  const { compiled, failed } = guest.regionStats;
  expect(failed).toBe(0);
  if (compileAfter === INTERPRETED || (isSegmented && compileAfter > 0)) expect(compiled).toBe(0);
  else expect(compiled).toBeGreaterThan(0);
}

describe.each(SCENARIOS)("$name", (scenario) => {
  it("ends the same on every tier", async () => {
    const interpreted = await play(scenario, INTERPRETED);
    scenario.check(interpreted);
    for (const compileAfter of COMPILED)
      expect(await play(scenario, compileAfter), `compileAfter ${compileAfter}`).toEqual(interpreted);
  });

  it("goes on from a state that was saved half way, on any tier", async () => {
    const whole = await play(scenario, INTERPRETED);
    const half = Math.floor((await slicesOf(scenario)) / 2);
    for (const before of COMPILED) {
      const source = await openScenario(scenario, before);
      await runSlices(source, scenario, { until: half });
      expectRegions(source, scenario, before);
      const states = source.vcpus.map((vcpu) => vcpu.save());
      const ram = new Uint8Array(4 * 2 ** 20);
      source.memory.dma.read(0, ram);
      await source.close();
      for (const [, after] of MIXED_TIERS) {
        const target = await openScenario(scenario, after);
        target.memory.dma.write(0, ram);
        target.vcpus.forEach((vcpu, i) => {
          vcpu.restore(structuredClone(states[i]!));
        });
        await runSlices(target, scenario, { from: half });
        // Instructions are counted from where a vCPU began: they are no part of its state.
        const { instructions: _, ...rest } = outcomeOf(target);
        const { instructions: __, ...expected } = whole;
        expect(rest, `saved under ${before}, restored under ${after}`).toEqual(expected);
        await target.close();
      }
    }
  });
});

/** How many slices the interpreter takes. */
async function slicesOf(scenario: Scenario): Promise<number> {
  const guest = await openScenario(scenario, INTERPRETED);
  let slices = 0;
  await runSlices(guest, {
    ...scenario,
    between: (on, slice) => {
      scenario.between?.(on, slice);
      slices = slice;
    },
  });
  await guest.close();
  return slices;
}
