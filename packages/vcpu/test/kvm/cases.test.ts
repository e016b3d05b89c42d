import { kvmCases, SkipCase } from "@skep/vcpu/kvm/testing";
import { describe, it } from "vitest";
import { kvmHere } from "./host.ts";

const { missing, context } = kvmHere;

describe.each(kvmCases)("kvm: $title", ({ cases }) => {
  for (const { name, run } of cases) {
    it(name, async (test) => {
      if (missing !== undefined) test.skip(missing);
      try {
        await run(context);
      } catch (error) {
        if (error instanceof SkipCase) test.skip(error.message);
        throw error;
      }
    });
  }
});
