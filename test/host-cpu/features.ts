/** What the host's processor offers, from CPUID executed natively (SDM Vol. 2A, CPUID; AMD APM Vol. 3 app. E). */

export type CpuidRegister = "eax" | "ebx" | "ecx" | "edx";
export type Cpuid = (leaf: number, subleaf?: number) => Record<CpuidRegister, number>;

const AVX = "avx";
const AVX512 = "avx512";

/** Name, leaf, subleaf, register, bit, and the register state that the system must have enabled for it. */
const FEATURES = {
  fpu: [1, 0, "edx", 0],
  tsc: [1, 0, "edx", 4],
  cx8: [1, 0, "edx", 8],
  cmov: [1, 0, "edx", 15],
  clflush: [1, 0, "edx", 19],
  mmx: [1, 0, "edx", 23],
  fxsr: [1, 0, "edx", 24],
  sse: [1, 0, "edx", 25],
  sse2: [1, 0, "edx", 26],
  sse3: [1, 0, "ecx", 0],
  pclmulqdq: [1, 0, "ecx", 1],
  ssse3: [1, 0, "ecx", 9],
  fma: [1, 0, "ecx", 12, AVX],
  cx16: [1, 0, "ecx", 13],
  "sse4.1": [1, 0, "ecx", 19],
  "sse4.2": [1, 0, "ecx", 20],
  movbe: [1, 0, "ecx", 22],
  popcnt: [1, 0, "ecx", 23],
  aes: [1, 0, "ecx", 25],
  xsave: [1, 0, "ecx", 26],
  osxsave: [1, 0, "ecx", 27],
  avx: [1, 0, "ecx", 28, AVX],
  f16c: [1, 0, "ecx", 29, AVX],
  rdrand: [1, 0, "ecx", 30],
  fsgsbase: [7, 0, "ebx", 0],
  bmi1: [7, 0, "ebx", 3],
  avx2: [7, 0, "ebx", 5, AVX],
  bmi2: [7, 0, "ebx", 8],
  erms: [7, 0, "ebx", 9],
  avx512f: [7, 0, "ebx", 16, AVX512],
  rdseed: [7, 0, "ebx", 18],
  adx: [7, 0, "ebx", 19],
  smap: [7, 0, "ebx", 20],
  clflushopt: [7, 0, "ebx", 23],
  clwb: [7, 0, "ebx", 24],
  sha: [7, 0, "ebx", 29],
  umip: [7, 0, "ecx", 2],
  gfni: [7, 0, "ecx", 8],
  vaes: [7, 0, "ecx", 9, AVX],
  vpclmulqdq: [7, 0, "ecx", 10, AVX],
  rdpid: [7, 0, "ecx", 22],
  movdiri: [7, 0, "ecx", 27],
  lahf: [0x80000001, 0, "ecx", 0],
  lzcnt: [0x80000001, 0, "ecx", 5],
  sse4a: [0x80000001, 0, "ecx", 6],
  misalignsse: [0x80000001, 0, "ecx", 7],
  prefetchw: [0x80000001, 0, "ecx", 8],
  xop: [0x80000001, 0, "ecx", 11, AVX],
  tbm: [0x80000001, 0, "ecx", 21],
  syscall: [0x80000001, 0, "edx", 11],
  mmxext: [0x80000001, 0, "edx", 22],
  rdtscp: [0x80000001, 0, "edx", 27],
  "3dnow": [0x80000001, 0, "edx", 31],
} as const satisfies Record<string, readonly [number, number, CpuidRegister, number, string?]>;

export type FeatureName = keyof typeof FEATURES;

export function isFeatureName(name: string): name is FeatureName {
  return Object.hasOwn(FEATURES, name);
}

/** The host's processor as CPUID tells it. */
export class HostFeatures {
  readonly vendor: string;
  readonly brand: string;
  readonly family: number;
  readonly model: number;
  readonly stepping: number;
  readonly names: ReadonlySet<FeatureName>;

  /** @param xcr0 XGETBV of register 0, or 0 without OSXSAVE. */
  constructor(
    readonly cpuid: Cpuid,
    readonly xcr0: bigint,
  ) {
    const base = cpuid(0);
    this.vendor = text([base.ebx, base.edx, base.ecx]);
    const { eax } = cpuid(1);
    const family = (eax >>> 8) & 15;
    this.family = family === 15 ? family + ((eax >>> 20) & 255) : family;
    this.model = ((eax >>> 4) & 15) | (family === 6 || family === 15 ? (eax >>> 12) & 0xf0 : 0);
    this.stepping = eax & 15;
    const extended = cpuid(0x80000000).eax >>> 0;
    const brand =
      extended < 0x80000004 ? [] : [0x80000002, 0x80000003, 0x80000004].map((leaf) => cpuid(leaf));
    this.brand = text(brand.flatMap((r) => [r.eax, r.ebx, r.ecx, r.edx])).trim();

    const names = new Set<FeatureName>();
    for (const [name, [leaf, subleaf, register, bit, needs]] of Object.entries(FEATURES) as [
      FeatureName,
      readonly [number, number, CpuidRegister, number, string?],
    ][]) {
      const last = leaf >= 0x80000000 ? extended : base.eax;
      if (leaf > last || !((cpuid(leaf, subleaf)[register] >>> bit) & 1)) continue;
      const state = needs === AVX512 ? 0xe6n : needs === AVX ? 6n : 0n;
      if ((xcr0 & state) === state) names.add(name);
    }
    this.names = names;
  }

  get isAmd(): boolean {
    return this.vendor === "AuthenticAMD" || this.vendor === "HygonGenuine";
  }

  get isIntel(): boolean {
    return this.vendor === "GenuineIntel";
  }

  has(name: FeatureName): boolean {
    return this.names.has(name);
  }

  /** Why a form that needs these features must be skipped here, or undefined where it can run. */
  lacks(...names: FeatureName[]): string | undefined {
    const missing = names.filter((name) => !this.names.has(name));
    return missing.length ? `${this.brand || this.vendor} lacks ${missing.join(", ")}` : undefined;
  }
}

function text(words: readonly number[]): string {
  const bytes = new Uint8Array(Int32Array.from(words).buffer);
  return String.fromCharCode(...bytes).replace(/\0.*$/s, "");
}
