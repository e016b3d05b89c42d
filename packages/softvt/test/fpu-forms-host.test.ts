/**
 * Floating-point instructions in every form (registers, addressing, 32- and 64-bit mode, faulting memory) as the
 * whole engine runs them and the BigInt evaluator reads them, against the host's processor. Values are the other
 * fpu tests' business.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { cases } from "../../../test/host-cpu/cases.ts";
import { differences, type EngineResult } from "../../../test/host-cpu/compare.ts";
import { HostCpu } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { fromTable } from "../../../test/host-cpu/table.ts";
import "../src/isa/x87/index.ts";
import "../src/isa/avx/fused.ts";
import "../src/isa/avx/half.ts";
import "../src/isa/sse-float/index.ts";
import { SPECS } from "../src/isa/registry.ts";
import { EvaluatorCpu } from "./support/evaluator.ts";

const FLOATING = [...SPECS];
const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

/** Results that are a vendor's own; see the tests of their values. */
const VENDORS =
  /^(F2XM1|FYL2X|FYL2XP1|FPTAN|FPATAN|FSIN|FCOS|FSINCOS|FU?COMIP?|V?R(CP|SQRT)[PS]S|FN(STENV|SAVE)|FLDENV|FRSTOR)$/;

describe.skipIf(skipped)(`floating-point forms${skipped ? ` (${skipped})` : ""}`, () => {
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

  let total = 0;
  afterAll(() =>
    console.log(`${FLOATING.length} entries, ${total} cases by the engine and by the evaluator`),
  );

  FLOATING.forEach((entry, index) => {
    const selector = entry.digit ?? entry.modrm?.toString(16) ?? "";
    const title = `${entry.name} ${entry.prefix ?? ""}${entry.map}:${entry.opcode.toString(16)} ${selector} ${entry.operandText}`;
    it(title, (context) => {
      if (VENDORS.test(entry.name))
        return context.skip("a vendor's own results: see the tests of its values");
      if (entry.operandText === "M") return context.skip("the generator knows no operands of ten bytes");
      const spec = fromTable(entry);
      if ("unsuitable" in spec) return context.skip(spec.unsuitable);
      let count = 0;
      for (const mode of spec.modes ?? ([64, 32] as const))
        for (const test of cases(spec, new Random(index + mode), { mode, perForm: 3 })) {
          const expected = host.run(test.code, test.state, test.options);
          const check = (actual: EngineResult, by: string): void => {
            const found = differences(test, expected, actual);
            expect(found, `${test.name} ${Buffer.from(test.code).toString("hex")} by the ${by}`).toEqual([]);
          };
          check(soft.run(test), "engine");
          check(evaluator.run(test), "evaluator");
          count++;
        }
      expect(count).toBeGreaterThan(0);
      total += count;
    });
  });
});
