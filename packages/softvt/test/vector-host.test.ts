/**
 * The vector instructions against the host's own processor: the descriptions as the BigInt evaluator reads them,
 * and the engine as WebAssembly runs it.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { type Case, cases } from "../../../test/host-cpu/cases.ts";
import { differences, type EngineResult } from "../../../test/host-cpu/compare.ts";
import { HostCpu, type HostResult } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { fromTable } from "../../../test/host-cpu/table.ts";
import "../src/isa/sse/index.ts";
import "../src/isa/avx/index.ts";
import { SPECS } from "../src/isa/registry.ts";
import { EvaluatorCpu } from "./support/evaluator.ts";

// What this room declared, before the engine brings in everything else.
const VECTOR = [...SPECS];
const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

describe.skipIf(skipped)(`vector instructions${skipped ? ` (${skipped})` : ""}`, () => {
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

  const check = (test: Case, expected: HostResult, actual: EngineResult, by: string): void => {
    const found = differences(test, expected, actual);
    expect(found, `${test.name} ${Buffer.from(test.code).toString("hex")} by the ${by}`).toEqual([]);
  };

  let total = 0;
  afterAll(() => console.log(`${VECTOR.length} entries, ${total} cases by the engine and by the evaluator`));

  VECTOR.forEach((entry, index) => {
    const prefix = entry.prefix ?? "";
    const title = `${entry.name} ${prefix}${entry.map}:${entry.opcode.toString(16)} ${entry.operandText}`;
    it(title, (context) => {
      const spec = fromTable(entry);
      if ("unsuitable" in spec) return context.skip(spec.unsuitable);
      const lacking = spec.feature === undefined ? undefined : host.features.lacks(spec.feature);
      if (lacking) return context.skip(lacking);
      let count = 0;
      for (const mode of spec.modes ?? ([64, 32] as const))
        for (const test of cases(spec, new Random(index + mode), { mode, perForm: 3 })) {
          const expected = host.run(test.code, test.state, test.options);
          check(test, expected, soft.run(test), "engine");
          check(test, expected, evaluator.run(test), "evaluator");
          count++;
        }
      expect(count).toBeGreaterThan(0);
      total += count;
    });
  });
});
