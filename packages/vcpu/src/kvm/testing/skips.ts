import type { ConformanceOptions } from "../../testing/conformance/suite.ts";

type Skip = NonNullable<ConformanceOptions["skip"]>;

/** What KVM does by itself, so that no exit tells of it, or does not do at all. */
const BY_NEED: Readonly<Record<string, string>> = {
  "instruction counts": "KVM does not count instructions",
};
const BY_NAME: Readonly<Record<string, string>> = {
  "CPUID, which clears the upper halves": "KVM answers CPUID itself, from the table that it was given",
  "VMCALL, its result in RAX": "KVM answers hypercalls itself",
  "what was restored is what is saved":
    "a segment that is unusable loses its other attributes in KVM; a case of KVM's own compares the rest",
};

/** What a KVM that emulates has not got, beside the instructions that it does not know. */
const EMULATING_BY_GROUP_AND_NEED: readonly (readonly [group: string, need: string, why: string])[] = [
  ["paging", "protected mode", "this KVM emulates, and has no 32-bit paging"],
];
const EMULATING_BY_NAME: Readonly<Record<string, string>> = Object.fromEntries(
  [
    "a single step stops after each instruction (monitor trap flag)",
    "CPUID's OSXSAVE follows CR4",
    "the interrupt window opens when the guest sets IF, one instruction later",
    "the interrupt window opens at POPF and at IRET without a shadow",
    "an interrupt window that is open already exits before any instruction",
    "MOV SS keeps interrupts off for one instruction",
    "a fault while an interrupt is delivered says so in its error code (EXT)",
    "an NMI comes through vector 2 whatever IF is, and blocks the next until IRET",
    "4-level: allows ring 3 on a user page",
    "4-level: allows execution, NX clear",
    "4-level: allows ring 3 reading a user page under SMAP",
    "4-level: maps 1 GiB pages",
    "writes nothing of a store whose second page faults",
    "goes to ring 3 and comes back with a null SS",
    "takes an interrupt from 32-bit ring 3 in 64-bit code",
    "enters with SYSCALL and leaves with SYSRET",
    "enters with SYSENTER and leaves with SYSEXIT",
    "refuses a reserved bit in the upper half of CR0",
    "refuses a reserved bit of CR4",
    "hides descriptor tables from ring 3 under UMIP",
    "takes an exception through a task gate, its error code on the new stack",
    "traps after a write to watched memory, not after a read or a miss",
    "traps after a read where reads are watched too",
    "does not break in a delay after MOV SS",
  ].map((name) => [name, "this KVM emulates, and does it otherwise than a processor"]),
);

/**
 * Which conformance cases are not for KVM, or not for a KVM that emulates, and why. `hasAvx`: whether the engine can back
 * it on this host.
 */
export function kvmConformanceSkip(isEmulating: boolean, hasAvx: () => boolean): Skip {
  return ({ group, name, needs }) => {
    if (needs.includes("AVX") && !hasAvx()) return "this host's KVM has no AVX";
    const need = needs.find((each) => BY_NEED[each] !== undefined);
    const always = BY_NAME[name] ?? (need && BY_NEED[need]);
    if (always !== undefined || !isEmulating) return always;
    const rule = EMULATING_BY_GROUP_AND_NEED.find(
      ([forGroup, forNeed]) => forGroup === group && needs.some((each) => each === forNeed),
    );
    return EMULATING_BY_NAME[name] ?? rule?.[2];
  };
}

/** Why an error of a case is a KVM's that emulates, and not the engine's; `undefined`: it is the engine's. */
export function emulationLimit(error: unknown): string | undefined {
  if (!(error instanceof Error) || error.name !== "KvmExitError") return undefined;
  const bytes = /instruction bytes: (.*)$/.exec(error.message)?.[1] ?? "";
  return error.message.includes("suberror 1,")
    ? `this KVM emulates, and does not know the instruction at ${bytes.split(" ").slice(0, 8).join(" ")}`
    : undefined;
}
