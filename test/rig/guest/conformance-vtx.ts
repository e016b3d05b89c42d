import type { RigCase } from "./case.ts";
import { conformanceCases } from "./conformance.ts";

/** What KVM on VT-x, or Bochs, does otherwise. */
const DEVIATIONS: Readonly<Record<string, string>> = {
  "RDMSR and WRMSR of registers that the engine does not keep":
    "KVM on VT-x takes writes of IA32_TSC_DEADLINE in a fast path of its own, also where the APIC is not its own",
  "a single step stops after each instruction (monitor trap flag)":
    "Bochs keeps a single step pending over the EPT violation of the very instruction that it should step over",
};

export const cases: readonly RigCase[] = conformanceCases({ deviations: DEVIATIONS });
