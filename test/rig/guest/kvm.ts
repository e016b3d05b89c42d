/** The cases of KVM's engine beyond the conformance suite. */
import { createKvmEngine } from "@skep/vcpu/kvm";
import { type KvmCaseContext, kvmCases, SkipCase } from "@skep/vcpu/kvm/testing";
import { CaseSkipped, type RigCase } from "./case.ts";

/** Some make a thousand VMs. */
const LIMIT_SECONDS = 180;

const context: KvmCaseContext = { engine: (options) => createKvmEngine(options), isEmulating: false };

export const cases: readonly RigCase[] = kvmCases.flatMap(({ title, cases: group }) =>
  group.map(({ name, run }): RigCase => {
    const body = async (): Promise<void> => {
      try {
        await run(context);
      } catch (error) {
        throw error instanceof SkipCase ? new CaseSkipped(error.message) : error;
      }
    };
    return { name: `${title} > ${name}`, limitSeconds: LIMIT_SECONDS, run: body };
  }),
);
