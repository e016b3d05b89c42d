/**
 * CPUID's feature flags by name: leaf, subleaf, register, bit.
 *
 * Names are those of the SDM (Vol. 2A, CPUID, tables 3-8 ff.) and AMD's APM (Vol. 3 app. E) in lower case,
 * spelled as Linux spells them in /proc/cpuinfo where it has a name, since that is where people look.
 */
export type CpuidRegister = "eax" | "ebx" | "ecx" | "edx";

export interface CpuidFeature {
  readonly leaf: number;
  readonly subleaf: number;
  readonly register: CpuidRegister;
  /** Bit number, 0 to 31. */
  readonly bit: number;
}

/** One word of flags: bit number to name. */
type FeatureWord = readonly [
  leaf: number,
  subleaf: number,
  register: CpuidRegister,
  bits: Readonly<Record<number, string>>,
];

// biome-ignore format: a table
const WORDS = [
  [0x1, 0, "edx", {
    0: "fpu", 1: "vme", 2: "de", 3: "pse", 4: "tsc", 5: "msr", 6: "pae", 7: "mce", 8: "cx8", 9: "apic",
    11: "sep", 12: "mtrr", 13: "pge", 14: "mca", 15: "cmov", 16: "pat", 17: "pse36", 18: "pn", 19: "clflush",
    21: "dts", 22: "acpi", 23: "mmx", 24: "fxsr", 25: "sse", 26: "sse2", 27: "ss", 28: "ht", 29: "tm", 31: "pbe",
  }],
  [0x1, 0, "ecx", {
    0: "sse3", 1: "pclmulqdq", 2: "dtes64", 3: "monitor", 4: "ds_cpl", 5: "vmx", 6: "smx", 7: "est", 8: "tm2",
    9: "ssse3", 10: "cid", 11: "sdbg", 12: "fma", 13: "cx16", 14: "xtpr", 15: "pdcm", 17: "pcid", 18: "dca",
    19: "sse4_1", 20: "sse4_2", 21: "x2apic", 22: "movbe", 23: "popcnt", 24: "tsc_deadline_timer", 25: "aes",
    26: "xsave", 27: "osxsave", 28: "avx", 29: "f16c", 30: "rdrand", 31: "hypervisor",
  }],
  [0x6, 0, "eax", { 0: "dtherm", 1: "ida", 2: "arat", 4: "pln", 6: "pts", 7: "hwp" }],
  [0x6, 0, "ecx", { 0: "aperfmperf", 3: "epb" }],
  [0x7, 0, "ebx", {
    0: "fsgsbase", 1: "tsc_adjust", 2: "sgx", 3: "bmi1", 4: "hle", 5: "avx2", 6: "fdp_excptn_only", 7: "smep",
    8: "bmi2", 9: "erms", 10: "invpcid", 11: "rtm", 12: "cqm", 13: "zero_fcs_fds", 14: "mpx", 15: "rdt_a",
    16: "avx512f", 17: "avx512dq", 18: "rdseed", 19: "adx", 20: "smap", 21: "avx512ifma", 23: "clflushopt",
    24: "clwb", 25: "intel_pt", 26: "avx512pf", 27: "avx512er", 28: "avx512cd", 29: "sha_ni", 30: "avx512bw",
    31: "avx512vl",
  }],
  [0x7, 0, "ecx", {
    0: "prefetchwt1", 1: "avx512vbmi", 2: "umip", 3: "pku", 4: "ospke", 5: "waitpkg", 6: "avx512_vbmi2",
    7: "shstk", 8: "gfni", 9: "vaes", 10: "vpclmulqdq", 11: "avx512_vnni", 12: "avx512_bitalg", 13: "tme",
    14: "avx512_vpopcntdq", 16: "la57", 22: "rdpid", 23: "key_locker", 24: "bus_lock_detect", 25: "cldemote",
    27: "movdiri", 28: "movdir64b", 29: "enqcmd", 30: "sgx_lc", 31: "pks",
  }],
  [0x7, 0, "edx", {
    2: "avx512_4vnniw", 3: "avx512_4fmaps", 4: "fsrm", 8: "avx512_vp2intersect", 10: "md_clear",
    11: "rtm_always_abort", 14: "serialize", 15: "hybrid", 16: "tsxldtrk", 18: "pconfig", 19: "arch_lbr",
    20: "ibt", 22: "amx_bf16", 23: "avx512_fp16", 24: "amx_tile", 25: "amx_int8", 26: "spec_ctrl",
    27: "intel_stibp", 28: "flush_l1d", 29: "arch_capabilities", 30: "core_capabilities", 31: "ssbd",
  }],
  [0x7, 1, "eax", {
    4: "avx_vnni", 5: "avx512_bf16", 7: "cmpccxadd", 10: "fzrm", 11: "fsrs", 12: "fsrc", 17: "fred",
    18: "lkgs", 19: "wrmsrns", 21: "amx_fp16", 22: "hreset", 23: "avx_ifma", 26: "lam",
  }],
  [0xd, 1, "eax", { 0: "xsaveopt", 1: "xsavec", 2: "xgetbv1", 3: "xsaves", 4: "xfd" }],
  [0x8000_0001, 0, "edx", {
    11: "syscall", 19: "mp", 20: "nx", 22: "mmxext", 25: "fxsr_opt", 26: "pdpe1gb", 27: "rdtscp", 29: "lm",
    30: "3dnowext", 31: "3dnow",
  }],
  [0x8000_0001, 0, "ecx", {
    0: "lahf_lm", 1: "cmp_legacy", 2: "svm", 3: "extapic", 4: "cr8_legacy", 5: "abm", 6: "sse4a",
    7: "misalignsse", 8: "3dnowprefetch", 9: "osvw", 10: "ibs", 11: "xop", 12: "skinit", 13: "wdt", 15: "lwp",
    16: "fma4", 17: "tce", 21: "tbm", 22: "topoext", 23: "perfctr_core", 24: "perfctr_nb", 26: "bpext",
    27: "ptsc", 28: "perfctr_llc", 29: "mwaitx",
  }],
  [0x8000_0007, 0, "edx", { 8: "invariant_tsc" }],
  [0x8000_0008, 0, "ebx", {
    0: "clzero", 1: "irperf", 2: "xsaveerptr", 4: "rdpru", 9: "wbnoinvd", 12: "amd_ibpb", 14: "amd_ibrs",
    15: "amd_stibp", 17: "amd_stibp_always_on", 24: "amd_ssbd", 25: "virt_ssbd", 26: "amd_ssb_no", 29: "btc_no",
  }],
] as const satisfies readonly FeatureWord[];

/** The words of flags, in order of leaf; what a model offers is worked out word by word. */
export const CPUID_FEATURE_WORDS: readonly FeatureWord[] = WORDS;

/** Name of a feature flag of the table. */
export type CpuidFeatureName = NamesIn<(typeof WORDS)[number][3]>;
type NamesIn<Bits> = Bits extends unknown ? Bits[keyof Bits] : never;

/**
 * Bits of leaf 0x80000001 EDX that AMD's processors repeat from leaf 1 EDX (APM Vol. 3 app. E.4.2). Intel's
 * have them zero.
 */
export const AMD_REPEATED_FLAGS = 0x0183_f3ff;

const FEATURES: ReadonlyMap<string, CpuidFeature> = new Map(
  CPUID_FEATURE_WORDS.flatMap(([leaf, subleaf, register, bits]) =>
    Object.entries(bits).map(([bit, name]) => [name, { leaf, subleaf, register, bit: Number(bit) }] as const),
  ),
);

/**
 * Where the flag called `name` is.
 *
 * @throws RangeError where there is no such flag.
 */
export function cpuidFeature(name: string): CpuidFeature {
  const feature = FEATURES.get(name);
  if (feature === undefined) {
    throw new RangeError(`feature: expected the name of a CPUID flag such as "sse4_2", got "${name}"`);
  }
  return feature;
}

/** Names of all flags in the table. */
export function cpuidFeatureNames(): readonly string[] {
  return [...FEATURES.keys()];
}
