import type { RigCase } from "./case.ts";
import { conformanceCases } from "./conformance.ts";

/** What KVM does otherwise on VT-x; the processor is the SDM's. */
const DEVIATIONS: Readonly<Record<string, string>> = {
  "RDMSR and WRMSR of registers that the engine does not keep":
    "KVM on VT-x takes writes of IA32_TSC_DEADLINE in a fast path of its own, also where the APIC is not its own",
};

export const cases: readonly RigCase[] = conformanceCases({ deviations: DEVIATIONS });
