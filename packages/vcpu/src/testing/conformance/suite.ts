import type { Engine } from "../../engine.ts";
import { avxCases } from "./avx-cases.ts";
import type { CaseGroup, ConformanceCase, Need } from "./case.ts";
import { debugCases } from "./debug-cases.ts";
import { exitCases } from "./exit-cases.ts";
import { fpuCases } from "./fpu-cases.ts";
import type { Guest } from "./guest.ts";
import { interruptCases } from "./interrupt-cases.ts";
import { ioCases } from "./io-cases.ts";
import { longCases } from "./long-cases.ts";
import { Machine } from "./machine.ts";
import { pagingCases } from "./paging-cases.ts";
import { protectedCases } from "./protected-cases.ts";
import { realCases } from "./real-cases.ts";
import { segmentCases } from "./segment-cases.ts";
import { smpCases } from "./smp-cases.ts";
import { stateCases } from "./state-cases.ts";
import { systemCases } from "./system-cases.ts";
import { taskCases, v86Cases } from "./task-cases.ts";

/** Groups that need a processor and memory only: they can be run on anything that executes x86. */
export const processorGroups: readonly CaseGroup<Guest>[] = [
  realCases,
  segmentCases,
  protectedCases,
  pagingCases,
  longCases,
  systemCases,
  taskCases,
  v86Cases,
  debugCases,
  fpuCases,
];

/** Groups about the engine contract: exits, events, state. */
export const engineGroups: readonly CaseGroup[] = [
  ioCases,
  exitCases,
  interruptCases,
  stateCases,
  avxCases,
  smpCases,
];

/** The part of a test framework that the suite uses; vitest, jest, mocha and `node:test` have it. */
export interface TestFramework {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => Promise<void>): void;
  /** Records a case that is not run. Default: it appears as a test that passes, with the reason in its name. */
  skip?(name: string, reason: string): void;
}

export interface ConformanceOptions {
  /** Why a case is not for this engine; `undefined`: run it. */
  readonly skip?: (test: {
    readonly group: string;
    readonly name: string;
    readonly needs: readonly Need[];
  }) => string | undefined;
}

/**
 * Defines the conformance tests of an engine: small guests that check, through the public contract only, that it is the
 * processor that the SDM describes and that its exits say what they should.
 *
 * Every case gets an engine and a machine of its own, 16 MiB of RAM, one or two vCPUs.
 *
 * @example
 * ```ts
 * import { describe, it } from "vitest";
 * engineConformance("softvt", () => createSoftVt(), { describe, it });
 * ```
 */
export function engineConformance(
  name: string,
  makeEngine: () => Engine | Promise<Engine>,
  framework: TestFramework,
  options: ConformanceOptions = {},
): void {
  const skip =
    framework.skip ?? ((test, reason) => framework.it(`${test} (skipped: ${reason})`, async () => {}));
  framework.describe(`${name}: engine conformance`, () => {
    for (const { title, cases } of [...processorGroups, ...engineGroups]) {
      framework.describe(title, () => {
        for (const test of cases) {
          const reason = options.skip?.({ group: title, name: test.name, needs: test.needs });
          if (reason === undefined) framework.it(test.name, () => runCase(test, makeEngine));
          else skip(test.name, reason);
        }
      });
    }
  });
}

/** Runs one case on an engine of its own. @throws ConformanceError where the engine is wrong. */
export async function runCase(
  test: ConformanceCase,
  makeEngine: () => Engine | Promise<Engine>,
): Promise<void> {
  const machine = await Machine.create(await makeEngine(), test.vcpus ?? 1);
  try {
    await test.run(machine);
  } finally {
    await machine.close();
  }
}
