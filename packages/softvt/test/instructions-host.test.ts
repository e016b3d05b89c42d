/**
 * Every instruction of the engine's table, in every form that the generator makes, against the host's own processor:
 * the engine as WebAssembly runs it, and the descriptions as the BigInt evaluator reads them. Vector instructions have
 * vector-host.test.ts.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import "../src/isa/sse/index.ts";
import { knownDifference, testedElsewhere } from "../../../test/differential/known-differences.ts";
import type { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { type Case, cases } from "../../../test/host-cpu/cases.ts";
import { differences } from "../../../test/host-cpu/compare.ts";
import { HostCpu } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { fromTable } from "../../../test/host-cpu/table.ts";
import { type InsnSpec, SPECS } from "../src/isa/registry.ts";
import type { EvaluatorCpu } from "./support/evaluator.ts";

// What is declared so far is the vector instructions': the rest comes with the engine.
const vector = new Set(SPECS);
const { SoftCpu: Soft } = await import("../../../test/differential/soft-cpu.ts");
const { EvaluatorCpu: Evaluator } = await import("./support/evaluator.ts");

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

/** States a form; more find more, at a second or so each. */
const PER_FORM = Number(process.env.SKEP_DIFF_CASES ?? 2);
const SEED = Number(process.env.SKEP_DIFF_SEED ?? 1);

/** Registers of the opcode (`+r`) make eight entries of one instruction. */
function byInstruction(): Map<string, InsnSpec[]> {
  const groups = new Map<string, InsnSpec[]>();
  for (const entry of SPECS.filter((entry) => !vector.has(entry))) {
    const key = `${entry.name} ${entry.operandText}`.trim();
    groups.set(key, [...(groups.get(key) ?? []), entry]);
  }
  return groups;
}

describe.skipIf(skipped)(`instructions as the host has them${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  const image = new Random(7).bytes(0x10000);
  let soft: SoftCpu;
  let evaluator: EvaluatorCpu;
  const count = { entries: 0, forms: 0, cases: 0, evaluated: 0 };
  const notes = new Map<string, Set<string>>();
  const note = (reason: string, name: string): void => {
    const names = notes.get(reason) ?? new Set();
    notes.set(reason, names.add(name));
  };

  beforeAll(async () => {
    host.setImage(image);
    soft = await Soft.open(host.readOnly);
    soft.setImage(image);
    evaluator = new Evaluator(image, host.readOnly);
  });
  afterAll(async () => {
    const { entries, forms, cases, evaluated } = count;
    const lines = [...notes].map(([reason, names]) => `  ${[...names].join(" ")}: ${reason}`);
    console.log(
      [
        `${entries} entries, ${forms} forms, ${cases} cases; ${evaluated} of them by the evaluator as well.`,
        "Not compared:",
        ...lines,
      ].join("\n"),
    );
    host.close();
    await soft.close();
  });

  function compare(entry: InsnSpec, test: Case): void {
    const expected = host.run(test.code, test.state, test.options);
    const actual = soft.run(test);
    count.cases++;
    const label = `${test.name} ${Buffer.from(test.code).toString("hex")}`;
    const found = differences(test, expected, actual);
    if (found.length > 0) {
      const reason = knownDifference(test, expected, actual);
      if (reason === undefined) throw new Error(`${label}\n${found.join("\n")}`);
      note(reason, entry.name);
      return;
    }
    const read = evaluator.run(test);
    const wrong = differences(test, expected, read);
    if (wrong.length > 0) throw new Error(`${label} by the evaluator\n${wrong.join("\n")}`);
    count.evaluated++;
  }

  for (const [title, entries] of byInstruction())
    it(title, (context) => {
      const reasons = new Set<string>();
      for (const entry of entries) {
        const spec = fromTable(entry);
        const reason =
          testedElsewhere(entry.name) ??
          ("unsuitable" in spec ? spec.unsuitable : spec.feature && host.features.lacks(spec.feature));
        if (reason !== undefined || "unsuitable" in spec) {
          reasons.add(reason!);
          note(reason!, entry.name);
          continue;
        }
        count.entries++;
        const forms = new Set<string>();
        for (const mode of spec.modes ?? ([64, 32] as const))
          for (const test of cases(spec, new Random(SEED), { mode, perForm: PER_FORM })) {
            forms.add(test.name);
            compare(entry, test);
          }
        expect(forms.size).toBeGreaterThan(0);
        count.forms += forms.size;
      }
      if (reasons.size > 0) context.skip([...reasons].join("; "));
    });
});
