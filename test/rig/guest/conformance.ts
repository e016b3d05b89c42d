/** The conformance suite of `@skep/vcpu/testing` on KVM's engine. */
import { cpuidFeature } from "@skep/vcpu";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { kvmConformanceSkip } from "@skep/vcpu/kvm/testing";
import { engineConformance } from "@skep/vcpu/testing";
import type { RigCase } from "./case.ts";

/** Cases by their names in the suite. */
export interface ConformanceOptions {
  /** Why a case is not run in this rig. */
  readonly skip?: Readonly<Record<string, string>>;
  /** What this rig's processor does otherwise, so that the case fails. */
  readonly deviations?: Readonly<Record<string, string>>;
}

/** @throws RangeError where an option names a case that the suite has not. */
export function conformanceCases({ skip = {}, deviations = {} }: ConformanceOptions): RigCase[] {
  const cases: RigCase[] = [];
  const titles: string[] = [];
  const known = new Set<string>();
  /** The name below its group's; the suite's own title says nothing more. */
  const fullName = (name: string): string => [...titles.slice(1), name].join(" > ");
  // One for all of them: what it asks of the host once takes longer than a case here.
  const engine = createKvmEngine();
  const { leaf, subleaf, register, bit } = cpuidFeature("avx");
  const hasAvx = ((engine.supportedCpuid.query(0, leaf, subleaf)[register] >>> bit) & 1) === 1;
  const notForKvm = kvmConformanceSkip(false, () => hasAvx);

  engineConformance(
    "kvm",
    () => engine,
    {
      describe: (title, body) => {
        titles.push(title);
        body();
        titles.pop();
      },
      it: (name, run) => {
        const deviation = deviations[name];
        cases.push({ name: fullName(name), run, ...(deviation !== undefined && { deviation }) });
      },
      skip: (name, reason) => cases.push({ name: fullName(name), skip: reason, run: () => {} }),
    },
    {
      skip: (test) => {
        known.add(test.name);
        return notForKvm(test) ?? skip[test.name];
      },
    },
  );
  const unknown = Object.keys({ ...skip, ...deviations }).find((name) => !known.has(name));
  if (unknown !== undefined) throw new RangeError(`expected a case of the suite, got "${unknown}"`);
  return cases;
}
