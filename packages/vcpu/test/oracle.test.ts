import { processorGroups } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { hasQemu, QemuGuest } from "./qemu-oracle.ts";

/** Why not, or undefined: it takes two minutes and a QEMU, and is worth it after a change to the conformance suite. */
const skipped =
  process.env.SKEP_ORACLE !== "qemu"
    ? "asked for by SKEP_ORACLE=qemu, after a change to the conformance suite"
    : hasQemu()
      ? undefined
      : "qemu-system-x86_64 is not installed";

const LIMITS = "TCG checks no segment limits, types or null selectors on access";
const RESERVED = "TCG leaves P clear in the error code of a reserved bit; SDM Vol. 3A sec. 4.7 has it set";
const UNCHECKED = "TCG does not check it";

/** What QEMU's TCG does in another way than the SDM says; seen with 7.2. */
const DEVIATIONS: Readonly<Record<string, string>> = {
  "raises #GP beyond a segment's 64 KiB": LIMITS,
  "raises #SS at a word that crosses the stack segment's end": LIMITS,
  "loads null into data segments, and faults when they are used": LIMITS,
  "checks limits, also of segments that expand down": LIMITS,
  "refuses writes to code and to read-only data": LIMITS,
  "refuses LOCK before instructions that cannot have it": UNCHECKED,
  "raises #AC in ring 3 for what is not aligned, if asked": UNCHECKED,
  "PAE: faults at NX while NXE is clear, a reserved bit": RESERVED,
  "4-level: faults at NX while NXE is clear, a reserved bit": RESERVED,
  "PAE: faults at a reserved address bit": RESERVED,
  "4-level: faults at a reserved address bit": RESERVED,
  "PAE: maps 2 MiB pages": RESERVED,
  "4-level: maps 2 MiB pages": RESERVED,
  "4-level: raises #SS for an address through RBP that is not canonical": "TCG raises #GP",
  "PAE: loads PDPTEs with CR3, not from memory at each walk": "TCG walks PDPTEs in memory",
  "PAE: raises #GP where CR3 leads to a PDPTE with reserved bits": UNCHECKED,
  "enters with SYSCALL and leaves with SYSRET": "TCG clears the status flags at SYSCALL",
  "raises #GP for a base that is not canonical": UNCHECKED,
  "raises #GP for a branch to an address that is not canonical": "TCG faults at the target, as AMD does",
  "refuses CR0.PG without CR0.PE": UNCHECKED,
  "refuses CR0.NW without CR0.CD": UNCHECKED,
  "refuses a reserved bit in the upper half of CR0": UNCHECKED,
  "refuses a reserved bit of CR4": UNCHECKED,
  "refuses to clear CR4.PAE in long mode": UNCHECKED,
  "refuses CR3 beyond the physical address width": UNCHECKED,
  "refuses a reserved bit of EFER": UNCHECKED,
  "refuses to clear EFER.LME while paging is on": UNCHECKED,
  "takes ICEBP and INT3, the one as a trap without DR6": "TCG raises #UD for 0xF1",
  "pushes RF set for faults, and clear for traps": "TCG pushes RF as it is",
  "guards the debug registers with GD": UNCHECKED,
  "raises #MF at the next x87 instruction after an unmasked exception": "TCG raises #MF at WAIT only",
  "raises #XM for an unmasked SSE exception, #UD without OSXMMEXCPT": "TCG raises no SSE exceptions",
  "refuses reserved bits of MXCSR": UNCHECKED,
};

describe("the conformance suite's expectations hold in QEMU", () => {
  for (const { title, cases } of processorGroups) {
    describe(title, () => {
      for (const { name, run } of cases) {
        if (skipped !== undefined) {
          it(name, (context) => context.skip(skipped));
          continue;
        }
        const deviation = DEVIATIONS[name];
        // A deviation that is gone is worth knowing: the list is then out of date.
        const define = deviation === undefined ? it : it.fails;
        define(deviation === undefined ? name : `${name} (${deviation})`, () => run(new QemuGuest()));
      }
    });
  }
});
