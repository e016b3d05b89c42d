import { processorGroups } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { hasQemu, QemuGuest } from "./qemu-oracle.ts";
import { TCG_DEVIATIONS } from "./tcg-deviations.ts";

/** Why not, or undefined: it takes two minutes and a QEMU, and is worth it after a change to the conformance suite. */
const skipped =
  process.env.SKEP_ORACLE !== "qemu"
    ? "asked for by SKEP_ORACLE=qemu, after a change to the conformance suite"
    : hasQemu()
      ? undefined
      : "qemu-system-x86_64 is not installed";

describe("the conformance suite's expectations hold in QEMU", () => {
  for (const { title, cases } of processorGroups) {
    describe(title, () => {
      for (const { name, run } of cases) {
        if (skipped !== undefined) {
          it(name, (context) => context.skip(skipped));
          continue;
        }
        const deviation = TCG_DEVIATIONS[name];
        // A deviation that is gone is worth knowing: the list is then out of date.
        const define = deviation === undefined ? it : it.fails;
        define(deviation === undefined ? name : `${name} (${deviation})`, () => run(new QemuGuest()));
      }
    });
  }
});
