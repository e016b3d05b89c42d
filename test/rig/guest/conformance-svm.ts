import { TCG_DEVIATIONS } from "../../../packages/vcpu/test/tcg-deviations.ts";
import type { RigCase } from "./case.ts";
import { conformanceCases } from "./conformance.ts";

/** QEMU's word for it is "invalid tss type". */
const BUSY_TSS =
  "QEMU aborts: it lets 32-bit code change rings by an available TSS only, and VMCBs have busy ones";
/** It takes DR7 from a VMCB without setting its breakpoints up; the next change takes away what was never there. */
const DR7 =
  "QEMU crashes, in this case or a later one: it mixes up code and data breakpoints of a guest's guest";
/** What KVM intercepts, and therefore decides itself. */
const ANSWERED_BY_KVM = [
  "refuses CR0.PG without CR0.PE",
  "refuses CR0.NW without CR0.CD",
  "refuses to clear CR4.PAE in long mode",
  "refuses a reserved bit of EFER",
  "refuses to clear EFER.LME while paging is on",
  "pushes RF set for faults, and clear for traps",
];
const SKIP: Readonly<Record<string, string>> = {
  "nulls data segments that ring 3 may not have when it returns there": BUSY_TSS,
  "runs conforming code at the caller's privilege": BUSY_TSS,
  "goes to ring 3 and comes back on the stack of the TSS": BUSY_TSS,
  "refuses a gate to ring 3 that its privilege does not allow, naming the vector": BUSY_TSS,
  "refuses privileged instructions in ring 3": BUSY_TSS,
  "lets ring 3 change IF with IOPL 3 only, and never IOPL": BUSY_TSS,
  "calls a more privileged routine through a call gate, with parameters, and returns": BUSY_TSS,
  "raises #AC in ring 3 for what is not aligned, if asked": BUSY_TSS,
  "32-bit: faults at ring 3 and a page that is not there": BUSY_TSS,
  "32-bit: faults at ring 3 on a supervisor page": BUSY_TSS,
  "32-bit: faults at ring 3 under a supervisor table": BUSY_TSS,
  "32-bit: faults at ring 3 writing to a read-only page": BUSY_TSS,
  "32-bit: faults at ring 3 writing under a read-only table": BUSY_TSS,
  "32-bit: allows ring 3 on a user page": BUSY_TSS,
  "32-bit: allows execution, NX clear": BUSY_TSS,
  "32-bit: allows ring 3 reading a user page under SMAP": BUSY_TSS,
  "PAE: faults at ring 3 and a page that is not there": BUSY_TSS,
  "PAE: faults at ring 3 on a supervisor page": BUSY_TSS,
  "PAE: faults at ring 3 writing to a read-only page": BUSY_TSS,
  "PAE: allows ring 3 on a user page": BUSY_TSS,
  "PAE: allows execution, NX clear": BUSY_TSS,
  "PAE: faults at ring 3 executing a page with NX": BUSY_TSS,
  "PAE: allows ring 3 reading a user page under SMAP": BUSY_TSS,
  "uses supervisor access for descriptor tables in ring 3": BUSY_TSS,
  "runs 8086 code, and comes back to ring 0 with null data segments": BUSY_TSS,
  "raises #GP for CLI, STI, PUSHF, POPF, INT n and IRET with IOPL below 3": BUSY_TSS,
  "allows them with IOPL 3, HLT never": BUSY_TSS,
  "raises #UD for what only protected mode has": BUSY_TSS,
  "ports in ring 3: by the I/O permission bitmap, or by IOPL": BUSY_TSS,
  "an interrupt in ring 3 switches stacks": BUSY_TSS,
  "faults before an instruction with a breakpoint, not under RF": DR7,
  "traps after a write to watched memory, not after a read or a miss": DR7,
  "traps after a read where reads are watched too": DR7,
  "does not break in a delay after MOV SS": DR7,
};

/** KVM learns nothing of it, and sets its own XCR0 at each entry. */
const XCR0 = "TCG does not intercept XSETBV";

/** What the processor, or KVM on it, does otherwise. */
const DEVIATIONS = Object.fromEntries([
  ...Object.entries(TCG_DEVIATIONS).filter(([name]) => !ANSWERED_BY_KVM.includes(name)),
  [
    "a fault while an interrupt is delivered says so in its error code (EXT)",
    "TCG leaves EXT clear where the interrupt came from VMRUN",
  ],
  ["MSRs that the engine keeps do not exit", "TCG keeps 16 bits of IA32_SYSENTER_CS"],
  [
    "enters with SYSENTER and leaves with SYSEXIT",
    "AMD's processors have no SYSENTER in long mode, and KVM does not emulate it there",
  ],
  ["XSETBV takes XCR0 0x7", XCR0],
  ["XSETBV takes XCR0 0x3", XCR0],
  ["refuses VEX.L of VMOVD", "TCG does not look at it"],
  ["refuses VEX.W in VBROADCASTSS", "TCG does not look at it"],
]);

export const cases: readonly RigCase[] = conformanceCases({ skip: SKIP, deviations: DEVIATIONS });
