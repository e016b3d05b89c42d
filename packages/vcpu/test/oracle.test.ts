import { processorGroups } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { hasQemu, QemuGuest } from "./qemu-oracle.ts";
import { TCG_DEVIATIONS } from "./tcg-deviations.ts";

// Takes two minutes and a QEMU: run with SKEP_ORACLE=qemu after a change to the conformance suite.
const isWanted = process.env.SKEP_ORACLE === "qemu" && hasQemu();

describe.skipIf(!isWanted)("the conformance suite's expectations hold in QEMU", () => {
  for (const { title, cases } of processorGroups) {
    describe(title, () => {
      for (const { name, run } of cases) {
        const deviation = TCG_DEVIATIONS[name];
        // A deviation that is gone is worth knowing: the list is then out of date.
        const define = deviation === undefined ? it : it.fails;
        define(deviation === undefined ? name : `${name} (${deviation})`, () => run(new QemuGuest()));
      }
    });
  }
});
