import type { CpuidFeatureName } from "@skep/vcpu";

/** CPUID flags of what this engine implements; a processor model takes its pick. */
// biome-ignore format: a table
export const FEATURES: readonly CpuidFeatureName[] = [
  "fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov", "pat", "pse36", "clflush",
  "mmx", "fxsr", "sse", "sse2", "sse3", "pclmulqdq", "ssse3", "cx16", "pcid", "sse4_1", "sse4_2", "x2apic", "movbe",
  "popcnt", "tsc_deadline_timer", "aes", "xsave", "xsaveopt", "avx", "fma", "f16c", "rdrand",
  "fsgsbase", "tsc_adjust", "bmi1", "avx2", "fdp_excptn_only", "smep", "bmi2", "erms", "invpcid", "zero_fcs_fds", "rdseed", "adx", "smap", "umip",
  "syscall", "nx", "pdpe1gb", "rdtscp", "lm", "lahf_lm", "abm", "3dnowprefetch",
  "invariant_tsc", "arat",
];
