import { createKvmEngine } from "@skep/vcpu/kvm";
import { kvmCases, SkipCase } from "@skep/vcpu/kvm/testing";
import { describe, it } from "vitest";
import { kvmHere } from "./host.ts";

const { missing, context } = kvmHere;
/** Both ways, whatever this host's number of processors. */
const WAYS = [
  { vcpuThreads: "always", where: "vCPUs on threads of their own" },
  { vcpuThreads: "never", where: "a vCPU on the VM's thread" },
] as const;

describe.each(WAYS)("kvm, $where", ({ vcpuThreads }) => {
  const engine: typeof context.engine = (options) => createKvmEngine({ vcpuThreads, ...options });

  describe.each(kvmCases)("$title", ({ title, cases }) => {
    for (const { name, run } of cases) {
      it(name, async (test) => {
        if (missing !== undefined) test.skip(missing);
        if (vcpuThreads === "never" && title === "several vCPUs") test.skip("one thread runs one vCPU");
        try {
          await run({ ...context, engine });
        } catch (error) {
          if (error instanceof SkipCase) test.skip(error.message);
          throw error;
        }
      });
    }
  });
});
