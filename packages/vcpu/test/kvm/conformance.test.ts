import { cpuidFeature } from "@skep/vcpu";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { emulationLimit, kvmConformanceSkip } from "@skep/vcpu/kvm/testing";
import { engineConformance } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { kvmHere } from "./host.ts";

const { missing, context } = kvmHere;
const skip = kvmConformanceSkip(context.isEmulating, () => {
  const { leaf, subleaf, register, bit } = cpuidFeature("avx");
  return ((createKvmEngine().supportedCpuid.query(0, leaf, subleaf)[register] >>> bit) & 1) === 1;
});

engineConformance(
  "kvm",
  () => createKvmEngine(),
  {
    describe,
    it: (name, body) =>
      it(name, async (test) => {
        try {
          await body();
        } catch (error) {
          const limit = context.isEmulating ? emulationLimit(error) : undefined;
          if (limit === undefined) throw error;
          test.skip(limit);
        }
      }),
    skip: (name, reason) => it(name, (test) => test.skip(reason)),
  },
  { skip: (test) => missing ?? skip(test) },
);
