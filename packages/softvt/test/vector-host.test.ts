/** The vector instructions' descriptions, by the BigInt evaluator, against the host's own processor. */
import { afterAll, describe, expect, it } from "vitest";
import { cases } from "../../../test/host-cpu/cases.ts";
import { differences } from "../../../test/host-cpu/compare.ts";
import { HostCpu } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { fromTable } from "../../../test/host-cpu/table.ts";
import "../src/isa/sse/index.ts";
import { SPECS } from "../src/isa/registry.ts";
import { EvaluatorCpu } from "./support/evaluator.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

describe.skipIf(skipped)(`vector instructions${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  afterAll(() => host.close());
  const image = new Random(7).bytes(0x10000);
  host.setImage(image);
  const evaluator = new EvaluatorCpu(image, host.readOnly);

  SPECS.forEach((entry, index) => {
    const prefix = entry.prefix ?? "";
    const title = `${entry.name} ${prefix}${entry.map}:${entry.opcode.toString(16)} ${entry.operandText}`;
    it(title, (context) => {
      const spec = fromTable(entry);
      if ("unsuitable" in spec) return context.skip(spec.unsuitable);
      const lacking = spec.feature === undefined ? undefined : host.features.lacks(spec.feature);
      if (lacking) return context.skip(lacking);
      let count = 0;
      for (const mode of spec.modes ?? ([64, 32] as const))
        for (const test of cases(spec, new Random(index + mode), { mode, perForm: 4, faults: false })) {
          const expected = host.run(test.code, test.state, test.options);
          // The evaluator's memory has no page tables (16-bit addresses cannot be kept inside the window).
          if (expected.end.kind === "fault" && expected.end.vector === 14) continue;
          const found = differences(test, expected, evaluator.run(test));
          expect(found, `${test.name} ${Buffer.from(test.code).toString("hex")}`).toEqual([]);
          count++;
        }
      expect(count).toBeGreaterThan(0);
    });
  });
});
