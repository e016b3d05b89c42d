import { processorGroups } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { hasQemu, QemuGuest } from "./qemu-oracle.ts";

// Takes a minute and a QEMU: run with SKEP_ORACLE=qemu after a change to the conformance suite.
const isWanted = process.env.SKEP_ORACLE === "qemu" && hasQemu();

describe.skipIf(!isWanted)("the conformance suite's expectations hold in QEMU", () => {
  for (const { title, cases } of processorGroups) {
    describe(title, () => {
      for (const { name, run } of cases) it(name, () => run(new QemuGuest()));
    });
  }
});
