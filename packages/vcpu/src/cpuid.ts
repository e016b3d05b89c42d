import { clockRatio, commonCpuid } from "./cpuid-common.ts";
import {
  AMD_REPEATED_FLAGS,
  CPUID_FEATURE_WORDS,
  type CpuidFeatureName,
  type CpuidRegister,
  cpuidFeature,
} from "./cpuid-features.ts";
import { CPUID_MODELS, type CpuidModelData, type CpuidModelName } from "./cpuid-models.ts";
import { type CpuidStateV1, checkCpuidState } from "./cpuid-state.ts";
import type { CpuidTable } from "./engine.ts";
import { checkInteger } from "./validate.ts";

export interface CpuidResult {
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

export interface CpuidModelOptions {
  /** A model's name, or a model of one's own. Default: `x86-64-v2`. */
  readonly model?: CpuidModelName | CpuidModelData;
  /** Flags to offer besides the model's, where the engine has them. */
  readonly add?: readonly CpuidFeatureName[];
  /** Flags not to offer. */
  readonly remove?: readonly CpuidFeatureName[];
  /**
   * What other engines can back (`Engine.supportedCpuid`): nothing is offered that one of them cannot, so that the VM can
   * go on there.
   */
  readonly within?: readonly CpuidTable[];
  /** Number of vCPUs: cores of one package, one thread each; 1 to 255. */
  readonly vcpus: number;
  /** TSC frequency in Hz (`Clock.tscHz`). */
  readonly tscHz: number;
  /** Rate in Hz at which the local APIC's timer counts, before its divider. Default: `APIC_TIMER_HZ`. */
  readonly apicTimerHz?: number;
}

/**
 * The core crystal clock, at which the local APIC's timer counts before its divider (SDM Vol. 3A sec.
 * 11.5.4). Leaf 0x15 tells it to the guest, which then need not measure it.
 */
export const APIC_TIMER_HZ = 1_000_000_000;

/** Highest leaves of the three ranges. */
const MAX_BASIC_LEAF = 0x16;
const MAX_HYPERVISOR_LEAF = 0x4000_0010;
const MAX_EXTENDED_LEAF = 0x8000_0008;

const HYPERVISOR_SIGNATURE = "skepskepskep";
/** Where a second hypervisor's leaves may begin: systems look every 0x100. */
const SECOND_HYPERVISOR_LEAF = 0x4000_0100;
const KVM_SIGNATURE = "KVMKVMKVM\0\0\0";
/**
 * What is offered of KVM's paravirtualization where the engine is KVM (Documentation/virt/kvm/x86/cpuid.rst): kvmclock
 * by old and new MSRs, no delays after port writes, and that the clock is the same on all vCPUs.
 */
const KVM_FEATURES = (1 << 0) | (1 << 1) | (1 << 3) | (1 << 24);

/**
 * Flags that the run loop, the MSR model and the interrupt controller fulfil, not the engine: they are offered
 * whether or not the engine lists them.
 */
const PLATFORM_FEATURES = [
  "apic",
  "x2apic",
  "tsc_deadline_timer",
  "mtrr",
  "mce",
  "mca",
  "pat",
  "hypervisor",
  "arat",
  "arch_capabilities",
  "invariant_tsc",
] as const satisfies readonly CpuidFeatureName[];

const OSXSAVE = 1 << 27;
const MAX_VIRTUAL_BITS = 48;
/** No leaf has more that say something: leaf 0xD has one for each XSAVE component. */
const MAX_SUBLEAVES = 20;

/** XSAVE components beyond x87 and SSE, by the flag that goes with them (SDM Vol. 1 sec. 13.1). */
const XSAVE_COMPONENTS: readonly {
  readonly feature: CpuidFeatureName;
  readonly numbers: readonly number[];
}[] = [
  { feature: "avx", numbers: [2] },
  { feature: "avx512f", numbers: [5, 6, 7] },
  { feature: "pku", numbers: [9] },
];
/** x87, SSE and the header. */
const XSAVE_LEGACY_BYTES = 576;
/** More than any processor's area without AMX takes. */
const MAX_XSAVE_BYTES = 0x1000;
/** AVX's upper halves, which lie at one place on every processor. */
const AVX_COMPONENT: CpuidResult = { eax: 256, ebx: 576, ecx: 0, edx: 0 };

const EMPTY: Readonly<CpuidResult> = { eax: 0, ebx: 0, ecx: 0, edx: 0 };

/**
 * CPUID as the guest sees it: a model's features as far as the engine has them, the machine's topology and
 * clocks, and the hypervisor's leaves (SDM Vol. 2A, CPUID; AMD APM Vol. 3 app. E; leaves 0x4000_00xx by custom).
 *
 * All leaves are worked out once; `query` is two look-ups. Leaves past the end answer zeros. The bits that mirror a vCPU's own
 * registers (OSXSAVE, OSPKE, APIC enabled, the XSAVE area's current size) are laid over the result by
 * whoever holds those registers.
 */
export class CpuidModel implements CpuidTable {
  readonly model: CpuidModelData;
  /** Physical address bits that the guest sees. */
  readonly physicalBits: number;
  readonly #vcpus: number;
  readonly #features = new Map<string, number>();
  /** Leaves of which ECX selects a part. */
  readonly #indexed = new Set<number>();
  readonly #leaves = new Map<number, (index: number, subleaf: number) => Readonly<CpuidResult>>();

  /**
   * @param engine what it can back (`Engine.supportedCpuid`).
   * @throws RangeError for an unknown model or flag, or a number out of range.
   */
  constructor(engine: CpuidTable, options: CpuidModelOptions) {
    const supported = commonCpuid([engine, ...(options.within ?? [])]);
    this.#vcpus = checkInteger("vcpus", options.vcpus, 1, 255);
    const tscHz = checkInteger("tscHz", options.tscHz, 1_000_000, 100_000_000_000);
    const apicHz = checkInteger("apicTimerHz", options.apicTimerHz ?? APIC_TIMER_HZ, 1, 0xffff_ffff);
    const choice = options.model ?? "x86-64-v2";
    const isHost = choice === "host";
    this.model = isHost ? hostModel(engine) : typeof choice === "string" ? namedModel(choice) : choice;
    this.#chooseFeatures(supported, isHost, options);
    const engineBits = supported.query(0, 0x8000_0008, 0).eax & 0xff;
    this.physicalBits = Math.min(this.model.physicalBits, engineBits === 0 ? 36 : engineBits);
    this.#buildBasicLeaves(supported, tscHz, apicHz);
    this.#buildHypervisorLeaves(supported, tscHz, apicHz);
    this.#buildExtendedLeaves(supported);
  }

  query(index: number, leaf: number, subleaf: number): Readonly<CpuidResult> {
    const answer = this.#leaves.get(leaf);
    return answer === undefined ? EMPTY : answer(index, subleaf);
  }

  /** Whether the guest is offered the flag called `name`. */
  has(name: CpuidFeatureName): boolean {
    const { leaf, subleaf, register, bit } = cpuidFeature(name);
    return ((this.#word(leaf, subleaf, register) >>> bit) & 1) === 1;
  }

  /** Names of all flags offered, in the table's order. */
  features(): string[] {
    return CPUID_FEATURE_WORDS.flatMap(([leaf, subleaf, register, bits]) => {
      const word = this.#word(leaf, subleaf, register);
      return Object.entries(bits).flatMap(([bit, name]) => ((word >>> Number(bit)) & 1 ? [name] : []));
    });
  }

  /** What the guest sees. */
  save(): CpuidStateV1 {
    const leaves = [...this.#leaves.keys()].sort((a, b) => a - b);
    const subleaves = (leaf: number): number => (this.#indexed.has(leaf) ? MAX_SUBLEAVES : 1);
    return {
      kind: "cpuid",
      version: 1,
      leaves: leaves.flatMap((leaf) =>
        Array.from({ length: subleaves(leaf) }, (_, subleaf) => ({
          leaf,
          subleaf,
          ...this.query(0, leaf, subleaf),
        })).filter(({ subleaf, eax, ebx, ecx, edx }) => subleaf === 0 || (eax | ebx | ecx | edx) !== 0),
      ),
    };
  }

  /**
   * Checks that a saved VM's guest sees here what it has seen: a processor does not change under a running system.
   *
   * @throws StateError naming the leaf and, as far as they are flags, what differs.
   */
  check(state: unknown): void {
    checkCpuidState(state, this.save().leaves);
  }

  #chooseFeatures(supported: CpuidTable, isHost: boolean, options: CpuidModelOptions): void {
    const wanted = new Set<string>(this.model.features);
    for (const name of options.add ?? []) wanted.add(name);
    for (const name of options.remove ?? []) wanted.delete(name);
    for (const name of [...(options.add ?? []), ...(options.remove ?? [])]) cpuidFeature(name);
    const platform = new Set<string>(PLATFORM_FEATURES);
    const removed = new Set<string>(options.remove ?? []);
    for (const [leaf, subleaf, register, bits] of CPUID_FEATURE_WORDS) {
      const engine = supported.query(0, leaf, subleaf)[register];
      let word = 0;
      for (const [key, name] of Object.entries(bits)) {
        const mask = 1 << Number(key);
        const isBacked = (engine & mask) !== 0;
        if (wanted.has(name) ? isBacked || platform.has(name) : isHost && isBacked && !removed.has(name)) {
          word |= mask;
        }
      }
      this.#features.set(featureKey(leaf, subleaf, register), word >>> 0);
    }
    // OSXSAVE is no feature but CR4's mirror: offered with XSAVE, and hidden by the engine while CR4 has it clear.
    const key = featureKey(1, 0, "ecx");
    const word = this.#features.get(key)! & ~OSXSAVE;
    this.#features.set(key, (this.has("xsave") ? word | OSXSAVE : word) >>> 0);
  }

  #word(leaf: number, subleaf: number, register: CpuidRegister): number {
    return this.#features.get(featureKey(leaf, subleaf, register)) ?? 0;
  }

  #buildBasicLeaves(supported: CpuidTable, tscHz: number, apicHz: number): void {
    const vendor = words(this.model.vendor);
    this.#constant(0x0, { eax: MAX_BASIC_LEAF, ebx: vendor[0], ecx: vendor[2], edx: vendor[1] });

    const signature = versionInformation(this.model);
    const count = this.#vcpus;
    const edx = (this.#word(1, 0, "edx") | (count > 1 ? 1 << 28 : 0)) >>> 0;
    const ecx = this.#word(1, 0, "ecx");
    // EBX: CLFLUSH line of 8 × 8 bytes, logical processors in the package, initial APIC ID.
    const perVcpu = Array.from({ length: count }, (_, id) => {
      return { eax: signature, ebx: ((id << 24) | (count << 16) | (8 << 8)) >>> 0, ecx, edx };
    });
    this.#leaves.set(0x1, (index) => perVcpu[index] ?? perVcpu[0]!);

    // Descriptor 0xFF: caches are in leaf 4. 0xFE would point to leaf 0x18 for TLBs, of which there are none to tell.
    this.#constant(0x2, { eax: 0x00ff_0001, ebx: 0, ecx: 0, edx: 0 });
    this.#subleaves(0x4, cacheLeaves(count));
    this.#constant(0x6, { ...EMPTY, eax: this.#word(6, 0, "eax"), ecx: this.#word(6, 0, "ecx") });
    const structured = {
      ebx: this.#word(7, 0, "ebx"),
      ecx: this.#word(7, 0, "ecx"),
      edx: this.#word(7, 0, "edx"),
    };
    const more = this.#word(7, 1, "eax");
    this.#subleaves(0x7, [
      { eax: more === 0 ? 0 : 1, ...structured },
      { ...EMPTY, eax: more },
    ]);
    this.#buildTopology(0xb);
    this.#buildXsave(supported);

    // TSC = crystal * EBX / EAX. Linux takes both the TSC's and the APIC timer's rate from here and calibrates neither.
    const [numerator, denominator] = clockRatio(tscHz, apicHz);
    this.#constant(0x15, { eax: denominator, ebx: numerator, ecx: numerator === 0 ? 0 : apicHz, edx: 0 });
    const mhz = Math.min(Math.round(tscHz / 1_000_000), 0xffff);
    this.#constant(0x16, { eax: mhz, ebx: mhz, ecx: 100, edx: 0 });
  }

  /** Extended topology: one thread a core, all cores in one package; x2APIC IDs are vCPU numbers. */
  #buildTopology(leaf: number): void {
    const count = this.#vcpus;
    const coreBits = Math.ceil(Math.log2(count));
    const perVcpu = Array.from({ length: count }, (_, id) => [
      { eax: 0, ebx: 1, ecx: (1 << 8) | 0, edx: id },
      { eax: coreBits, ebx: count, ecx: (2 << 8) | 1, edx: id },
    ]);
    this.#indexed.add(leaf);
    this.#leaves.set(leaf, (index, subleaf) => {
      const levels = perVcpu[index] ?? perVcpu[0]!;
      return levels[subleaf] ?? { eax: 0, ebx: 0, ecx: subleaf & 0xff, edx: index };
    });
  }

  /** Leaf 0xD is the engine's: it knows which state components it saves and where (SDM Vol. 1 ch. 13). */
  #buildXsave(supported: CpuidTable): void {
    if (!this.has("xsave")) return;
    const wanted = XSAVE_COMPONENTS.filter(({ feature }) => this.has(feature));
    const mask = wanted.reduce((bits, { numbers }) => numbers.reduce((all, n) => all | (1 << n), bits), 0x3);
    const engine = supported.query(0, 0xd, 0);
    const components = (engine.eax & mask) >>> 0 || mask;
    const leaves: CpuidResult[] = [];
    let size = XSAVE_LEGACY_BYTES;
    for (const number of wanted.flatMap(({ numbers }) => numbers)) {
      const { eax: bytes, ebx: offset, ecx } = number === 2 ? AVX_COMPONENT : supported.query(0, 0xd, number);
      if (bytes === 0 || offset + bytes > MAX_XSAVE_BYTES) continue;
      leaves[number] = { eax: bytes, ebx: offset, ecx, edx: 0 };
      size = Math.max(size, offset + bytes);
    }
    leaves[0] = { eax: components, ebx: size, ecx: size, edx: 0 };
    leaves[1] = { eax: this.#word(0xd, 1, "eax"), ebx: size, ecx: 0, edx: 0 };
    this.#subleaves(0xd, leaves);
  }

  #buildHypervisorLeaves(supported: CpuidTable, tscHz: number, apicHz: number): void {
    if (!this.has("hypervisor")) return;
    const signature = words(HYPERVISOR_SIGNATURE);
    this.#constant(0x4000_0000, {
      eax: MAX_HYPERVISOR_LEAF,
      ebx: signature[0],
      ecx: signature[1],
      edx: signature[2],
    });
    // TSC and APIC timer in kHz, as VMware defined it: FreeBSD and the EDK2 of some clouds look here first.
    const khz = (hz: number): number => Math.min(Math.round(hz / 1000), 0xffff_ffff);
    this.#constant(0x4000_0010, { ...EMPTY, eax: khz(tscHz), ebx: khz(apicHz) });
    const engine = supported.query(0, 0x4000_0000, 0);
    if (text([engine.ebx, engine.ecx, engine.edx]) !== KVM_SIGNATURE) return;
    const kvm = words(KVM_SIGNATURE);
    this.#constant(SECOND_HYPERVISOR_LEAF, {
      eax: SECOND_HYPERVISOR_LEAF + 1,
      ebx: kvm[0],
      ecx: kvm[1],
      edx: kvm[2],
    });
    this.#constant(SECOND_HYPERVISOR_LEAF + 1, {
      ...EMPTY,
      eax: (supported.query(0, 0x4000_0001, 0).eax & KVM_FEATURES) >>> 0,
    });
  }

  #buildExtendedLeaves(supported: CpuidTable): void {
    const { vendor, brand } = this.model;
    const isAmd = vendor === "AuthenticAMD";
    const name = words(vendor);
    this.#constant(
      0x8000_0000,
      isAmd
        ? { eax: MAX_EXTENDED_LEAF, ebx: name[0], ecx: name[2], edx: name[1] }
        : { ...EMPTY, eax: MAX_EXTENDED_LEAF },
    );
    const repeated = isAmd ? this.#word(1, 0, "edx") & AMD_REPEATED_FLAGS : 0;
    this.#constant(0x8000_0001, {
      eax: isAmd ? versionInformation(this.model) : 0,
      ebx: 0,
      ecx: this.#word(0x8000_0001, 0, "ecx"),
      edx: (this.#word(0x8000_0001, 0, "edx") | repeated) >>> 0,
    });
    const text = words(brand.padEnd(48, "\0").slice(0, 47).padEnd(48, "\0"));
    for (let i = 0; i < 3; i++) {
      const [eax, ebx, ecx, edx] = text.slice(4 * i, 4 * i + 4) as [number, number, number, number];
      this.#constant(0x8000_0002 + i, { eax, ebx, ecx, edx });
    }
    // L2: 1 MiB, 16 ways (code 8), lines of 64 bytes: what leaf 4 says.
    this.#constant(0x8000_0006, { ...EMPTY, ecx: (1024 << 16) | (8 << 12) | 64 });
    this.#constant(0x8000_0007, { ...EMPTY, edx: this.#word(0x8000_0007, 0, "edx") });
    const engineBits = (supported.query(0, 0x8000_0008, 0).eax >>> 8) & 0xff || MAX_VIRTUAL_BITS;
    // More take a fifth level of page tables.
    const virtualBits = this.has("la57") ? engineBits : Math.min(engineBits, MAX_VIRTUAL_BITS);
    this.#constant(0x8000_0008, {
      eax: this.physicalBits | (virtualBits << 8),
      ebx: this.#word(0x8000_0008, 0, "ebx"),
      ecx: isAmd ? this.#vcpus - 1 : 0,
      edx: 0,
    });
  }

  #constant(leaf: number, result: CpuidResult): void {
    this.#leaves.set(leaf, () => result);
  }

  #subleaves(leaf: number, results: readonly CpuidResult[]): void {
    this.#indexed.add(leaf);
    this.#leaves.set(leaf, (_, subleaf) => results[subleaf] ?? EMPTY);
  }
}

function featureKey(leaf: number, subleaf: number, register: CpuidRegister): string {
  return `${leaf}.${subleaf}.${register}`;
}

function namedModel(name: Exclude<CpuidModelName, "host">): CpuidModelData {
  const model: CpuidModelData | undefined = CPUID_MODELS[name];
  if (model === undefined) {
    const names = [...Object.keys(CPUID_MODELS), "host"].join(", ");
    throw new RangeError(`model: expected one of ${names}, got "${name}"`);
  }
  return model;
}

/** Who the engine's processor is; the features come from its table, flag by flag. */
function hostModel(supported: CpuidTable): CpuidModelData {
  const { ebx, ecx, edx } = supported.query(0, 0, 0);
  const version = supported.query(0, 1, 0).eax;
  const family = (version >>> 8) & 0xf;
  const wideModel = ((version >>> 4) & 0xf) | ((version >>> 12) & 0xf0);
  const brand = [2, 3, 4].map((n) => {
    const part = supported.query(0, 0x8000_0000 + n, 0);
    return text([part.eax, part.ebx, part.ecx, part.edx]);
  });
  return {
    name: "host",
    vendor: text([ebx, edx, ecx]) === "AuthenticAMD" ? "AuthenticAMD" : "GenuineIntel",
    family: family === 0xf ? family + ((version >>> 20) & 0xff) : family,
    model: family === 0x6 || family === 0xf ? wideModel : (version >>> 4) & 0xf,
    stepping: version & 0xf,
    brand: brand.join("").split("\0")[0]!,
    physicalBits: 52,
    features: [...PLATFORM_FEATURES],
  };
}

/** Leaf 1 EAX from the display family and model (SDM Vol. 2A, CPUID, figure 3-6). */
function versionInformation({ family, model, stepping }: CpuidModelData): number {
  checkInteger("model.family", family, 0, 0xf + 0xff);
  checkInteger("model.model", model, 0, 0xff);
  checkInteger("model.stepping", stepping, 0, 0xf);
  const base = Math.min(family, 0xf);
  return (
    (((family - base) << 20) | ((model >>> 4) << 16) | (base << 8) | ((model & 0xf) << 4) | stepping) >>> 0
  );
}

/** Leaf 4: L1 data and code of 32 KiB each and L2 of 1 MiB a core, as a small server core has. */
function cacheLeaves(vcpus: number): CpuidResult[] {
  const cores = 2 ** Math.ceil(Math.log2(vcpus)) - 1;
  const leaf = (type: number, level: number, ways: number, sets: number): CpuidResult => ({
    eax: (type | (level << 5) | (1 << 8) | (Math.min(cores, 0x3f) << 26)) >>> 0,
    ebx: ((ways - 1) << 22) | 63,
    ecx: sets - 1,
    edx: 0,
  });
  return [leaf(1, 1, 8, 64), leaf(2, 1, 8, 64), leaf(3, 2, 16, 1024)];
}

/** ASCII text as little-endian 32-bit words. */
function words(ascii: string): [number, number, number, ...number[]] {
  const result: number[] = [];
  for (let i = 0; i < ascii.length; i += 4) {
    let word = 0;
    for (let j = 3; j >= 0; j--) word = (word << 8) | (ascii.charCodeAt(i + j) & 0x7f);
    result.push(word >>> 0);
  }
  return result as [number, number, number, ...number[]];
}

function text(registers: readonly number[]): string {
  return registers
    .flatMap((word) => [word, word >>> 8, word >>> 16, word >>> 24])
    .map((byte) => String.fromCharCode(byte & 0x7f))
    .join("");
}
