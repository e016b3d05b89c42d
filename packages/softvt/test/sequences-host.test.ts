/**
 * Random sequences on the host's processor, interpreted, compiled before they run, and by the BigInt evaluator. What
 * leads from one instruction to the next shows in no single one: flags that nobody reads are not kept, a compare with the
 * branch behind it is one handler, compiled code keeps registers in locals, and code goes on in the next page.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { type EngineResult, stateDifferences } from "../../../test/host-cpu/compare.ts";
import { HostCpu } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { EvaluatorCpu } from "./support/evaluator.ts";
import { ALL_FLAGS, type Sequence, Sequences } from "./support/sequences.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

/** In each mode. */
const COUNT = Number(process.env.SKEP_SEQUENCES ?? 10_000);
/** Of these sequences one in so many is compiled, too, which takes some ms each; and one evaluated. */
const COMPILED_EVERY = Number(process.env.SKEP_COMPILED_EVERY ?? 10);
const EVALUATED_EVERY = Number(process.env.SKEP_EVALUATED_EVERY ?? 10);
const SEED = Number(process.env.SKEP_DIFF_SEED ?? 1);
/** Measured: 1 to 2 ms a sequence. */
const TIMEOUT_MS = 60_000 + 20 * COUNT;

describe.skipIf(skipped)(`sequences as the host has them${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  const image = new Random(7).bytes(0x10000);
  let soft: SoftCpu;
  let compiled: SoftCpu;
  let evaluator: EvaluatorCpu;
  beforeAll(async () => {
    host.setImage(image);
    soft = await SoftCpu.open(host.readOnly, Number.POSITIVE_INFINITY);
    soft.setImage(image);
    compiled = await SoftCpu.open(host.readOnly, 0);
    compiled.setImage(image);
    evaluator = new EvaluatorCpu(image, host.readOnly);
  });
  afterAll(async () => {
    host.close();
    await soft.close();
    await compiled.close();
  });

  it.each([64, 32] as const)(
    "in %i-bit mode",
    (mode) => {
      const sequences = new Sequences(mode, SEED, host.features);
      for (const [kind, pool] of Object.entries(sequences.pools))
        expect(pool.length, kind).toBeGreaterThan(20);
      const counts = { landed: 0, faults: 0, compiled: 0, evaluated: 0 };
      for (let n = 0; n < COUNT; n++) {
        const sequence = sequences.next();
        const expected = host.run(sequence.code, sequence.state, sequence.options);
        const actual = soft.run(sequence);
        agree(sequence, ["host", expected], ["interpreter", actual], sequence.flags);
        if (n % COMPILED_EVERY === 0) {
          const result = told(sequence, () => compiled.run(sequence));
          agree(sequence, ["interpreter", actual], ["compiled", result], ALL_FLAGS);
          counts.compiled++;
        }
        if (n % EVALUATED_EVERY === 0) {
          const read = told(sequence, () => evaluator.runSequence(sequence));
          agree(sequence, ["interpreter", actual], ["evaluator", read], ALL_FLAGS);
          counts.evaluated++;
        }
        counts[expected.end.kind === "landed" ? "landed" : "faults"]++;
      }
      const forms = Object.entries(sequences.pools).map(([kind, pool]) => `${pool.length} ${kind}`);
      console.log(
        `${COUNT} sequences of ${forms.join(", ")} forms in ${mode}-bit mode, seed ${SEED}: ${counts.faults} fault, ` +
          `${counts.compiled} compiled as well, ${counts.evaluated} evaluated`,
      );
      expect(counts.landed).toBeGreaterThan(COUNT / 2);
    },
    TIMEOUT_MS,
  );

  const show = ({ code, names, options }: Sequence): string =>
    `${names.join(" | ")}\nat ${options.address?.toString(16)}: ${Buffer.from(code).toString("hex")}`;

  /** An error of the engine's own says which code it was. */
  function told(sequence: Sequence, run: () => EngineResult): EngineResult {
    try {
      return run();
    } catch (cause) {
      throw new Error(`${show(sequence)}\n${cause instanceof Error ? cause.message : cause}`, { cause });
    }
  }

  function agree(
    sequence: Sequence,
    [one, first]: [string, EngineResult],
    [other, second]: [string, EngineResult],
    flags: number,
  ): void {
    const found = stateDifferences(first, second, {
      mode: sequence.options.mode,
      flags,
      names: [one, other],
    });
    if (found.length === 0) return;
    throw new Error(`${show(sequence)}\n${found.join("\n")}`);
  }
});
