/** The cases of KVM's engine beyond the conformance suite. */
import { createKvmEngine } from "@skep/vcpu/kvm";
import { type KvmCaseContext, kvmCases, SkipCase } from "@skep/vcpu/kvm/testing";
import { CaseSkipped, type RigCase } from "./case.ts";

/** Some make a thousand VMs. */
const LIMIT_SECONDS = 180;

/** The rig has one processor: a single vCPU runs on the VM's thread there, unless it is told otherwise. */
const WAYS = [
  { prefix: "", vcpuThreads: "auto", titles: undefined },
  { prefix: "threads of their own > ", vcpuThreads: "always", titles: ["runs", "event loop", "interrupts"] },
] as const;

export const cases: readonly RigCase[] = WAYS.flatMap(({ prefix, vcpuThreads, titles }) => {
  const context: KvmCaseContext = {
    engine: (options) => createKvmEngine({ vcpuThreads, ...options }),
    isEmulating: false,
  };
  const groups = kvmCases.filter(({ title }) => titles?.some((each) => each === title) ?? true);
  return groups.flatMap(({ title, cases: group }) =>
    group.map(({ name, run }): RigCase => {
      const body = async (): Promise<void> => {
        try {
          await run(context);
        } catch (error) {
          throw error instanceof SkipCase ? new CaseSkipped(error.message) : error;
        }
      };
      return { name: `${prefix}${title} > ${name}`, limitSeconds: LIMIT_SECONDS, run: body };
    }),
  );
});
