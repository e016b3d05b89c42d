import type { CpuidFeatureName } from "./cpuid-features.ts";

/** A processor as CPUID shows it: who it says it is, and the most that it offers. */
export interface CpuidModelData {
  readonly name: string;
  /** Twelve characters of leaf 0. */
  readonly vendor: "GenuineIntel" | "AuthenticAMD";
  /** Display family, model and stepping (SDM Vol. 2A, CPUID, "INPUT EAX = 01H"). */
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
  /** Up to 47 ASCII characters of leaves 0x80000002 to 0x80000004. */
  readonly brand: string;
  /** Physical address bits at most, 36 to 52; the engine may have fewer. */
  readonly physicalBits: number;
  readonly features: readonly CpuidFeatureName[];
}

/**
 * What a PC's operating system expects besides an instruction-set level: the processor's system features.
 *
 * `hypervisor` keeps Linux's microcode loader off. `tsc_adjust` with the invariant TSC lets Linux (≥ 5.16)
 * trust the TSC without a watchdog; `arat` says that the APIC timer runs in every idle state.
 * `arch_capabilities` carries the bits that say "not affected" to those who do not go by the model number.
 */
const SYSTEM_FEATURES = [
  "vme",
  "de",
  "pse",
  "tsc",
  "msr",
  "pae",
  "mce",
  "apic",
  "sep",
  "mtrr",
  "pge",
  "mca",
  "pat",
  "pse36",
  "clflush",
  "ss",
  "pcid",
  "x2apic",
  "tsc_deadline_timer",
  "hypervisor",
  "arat",
  "fsgsbase",
  "tsc_adjust",
  "smep",
  "erms",
  "invpcid",
  "rdrand",
  "rdseed",
  "smap",
  "clflushopt",
  "clwb",
  "umip",
  "rdpid",
  "fsrm",
  "arch_capabilities",
  "syscall",
  "nx",
  "pdpe1gb",
  "rdtscp",
  "lm",
  "3dnowprefetch",
  "invariant_tsc",
] as const satisfies readonly CpuidFeatureName[];

/** The x86-64 psABI's micro-architecture level 2 (psABI sec. 3.1.1, table 3.1), baseline included. */
const LEVEL_2 = [
  "fpu",
  "cx8",
  "cmov",
  "mmx",
  "fxsr",
  "sse",
  "sse2",
  "cx16",
  "lahf_lm",
  "popcnt",
  "sse3",
  "ssse3",
  "sse4_1",
  "sse4_2",
] as const satisfies readonly CpuidFeatureName[];

/** What level 2 does not name and costs nothing to have: integer extensions, cryptography, XSAVE for x87 and SSE. */
const BEYOND_LEVEL_2 = [
  "abm",
  "adx",
  "aes",
  "bmi1",
  "bmi2",
  "movbe",
  "pclmulqdq",
  "xsave",
] as const satisfies readonly CpuidFeatureName[];

/** What level 3 adds (BMI, LZCNT and MOVBE are above), with the XSAVE extensions that go with AVX. */
const LEVEL_3 = [
  "avx",
  "avx2",
  "f16c",
  "fma",
  "xsaveopt",
  "xsavec",
  "xgetbv1",
] as const satisfies readonly CpuidFeatureName[];

/**
 * An in-order Atom ("Cedarview", family 6 model 0x36).
 *
 * The number matters: Linux keeps a table of processors that do not speculate (`cpu_vuln_whitelist`, entries
 * with NO_SPECULATION, in arch/x86/kernel/cpu/common.c), and only for those does it leave out retpolines and
 * the other work against Spectre; for every other model it takes at least Spectre v1 and v2 as given, whatever
 * IA32_ARCH_CAPABILITIES says. The table holds Intel's family 5 and the in-order Atoms. A software processor
 * does not speculate, so the claim is true of it; and of those models this one has no erratum that Linux
 * works around, a 64-bit mode, and `rep` string instructions taken as fast (family 6).
 */
const NOT_SPECULATING = { vendor: "GenuineIntel", family: 6, model: 0x36, stepping: 1 } as const;

/** Models by name. `host`, what the engine has and nothing less, is made by `CpuidModel` itself. */
export const CPUID_MODELS = {
  "x86-64-v2": {
    ...NOT_SPECULATING,
    name: "x86-64-v2",
    brand: "skep virtual processor (x86-64-v2)",
    physicalBits: 46,
    features: [...SYSTEM_FEATURES, ...LEVEL_2, ...BEYOND_LEVEL_2],
  },
  "x86-64-v3": {
    ...NOT_SPECULATING,
    name: "x86-64-v3",
    brand: "skep virtual processor (x86-64-v3)",
    physicalBits: 46,
    features: [...SYSTEM_FEATURES, ...LEVEL_2, ...BEYOND_LEVEL_2, ...LEVEL_3],
  },
} as const satisfies Record<string, CpuidModelData>;

export type CpuidModelName = keyof typeof CPUID_MODELS | "host";
