import type { InterruptController } from "./irq.ts";
import { ARCH_CAPABILITIES, MISC_ENABLE, Msr } from "./msr-index.ts";
import { firmwareMtrrs, isValidMtrr, MTRRCAP_VALUE, resetMtrrs } from "./mtrr.ts";
import { StateReader } from "./state-reader.ts";
import { checkInteger } from "./validate.ts";

export interface MsrModelOptions {
  /** Number of vCPUs, 1 to 255. */
  readonly vcpus: number;
  /** Guest-physical address bits (`CpuidModel.physicalBits`), 36 to 52. */
  readonly physicalBits: number;
  /** TSC frequency in Hz; MSR_PLATFORM_INFO tells it in steps of 100 MHz. */
  readonly tscHz: number;
  /** Processor vendor; AMD's own registers exist only on AMD's. Default: `GenuineIntel`. */
  readonly vendor?: "GenuineIntel" | "AuthenticAMD";
  /**
   * Microcode revision, 32 bits. Default 0x107, the last that Intel gave to the family-6 Atoms whose number
   * the models bear: tools that compare it with Intel's list find it current.
   */
  readonly microcode?: number;
  /** Told of accesses to registers that nobody knows, once for each register and direction. */
  readonly onUnknown?: (access: UnknownMsrAccess) => void;
}

/** An access that ended in #GP(0) because no such register is modelled. */
export interface UnknownMsrAccess {
  readonly vcpu: number;
  /** MSR index, 32 bits. */
  readonly index: number;
  readonly direction: "read" | "write";
  /** What was written; 0 for reads. */
  readonly value: bigint;
}

/** Saved values of one vCPU, by MSR index in lower-case hex. */
export interface MsrStateV1 {
  kind: "msrs";
  version: 1;
  vcpus: { values: Record<string, bigint> }[];
}

/** A register of the model: its value after RESET and what may be written to it. */
interface Rule {
  readonly reset: bigint;
  /** `read-only`: #GP. `ignored`: taken and dropped. `stored`: kept where `accepts` says so, else #GP. */
  readonly write: "read-only" | "ignored" | "stored";
  readonly accepts?: (value: bigint) => boolean;
}

const MCE_BANKS = 4;
/** IA32_MCG_CAP: number of banks, and IA32_MCG_CTL present (SDM Vol. 3B sec. 16.3.1.1). */
const MCG_CAP_VALUE = BigInt(MCE_BANKS) | (1n << 8n);

/** PAT after RESET: WB, WT, UC-, UC, twice (SDM Vol. 3A table 12-12). */
const PAT_RESET = 0x0007_0406_0007_0406n;

/** A guest may try all 2^32 indices; what is remembered of that is bounded. */
const UNKNOWN_REMEMBERED_MAX = 256;

/** Unaffected by everything that has a bit of its own. IBRS_ALL would make Linux believe in enhanced IBRS. */
const ARCH_CAPABILITIES_VALUE =
  ARCH_CAPABILITIES.RDCL_NO |
  ARCH_CAPABILITIES.SKIP_L1DFL_VMENTRY |
  ARCH_CAPABILITIES.SSB_NO |
  ARCH_CAPABILITIES.MDS_NO |
  ARCH_CAPABILITIES.IF_PSCHANGE_MC_NO |
  ARCH_CAPABILITIES.TAA_NO |
  ARCH_CAPABILITIES.SBDR_SSDP_NO |
  ARCH_CAPABILITIES.FBSDP_NO |
  ARCH_CAPABILITIES.PSDP_NO |
  ARCH_CAPABILITIES.BHI_NO |
  ARCH_CAPABILITIES.PBRSB_NO |
  ARCH_CAPABILITIES.GDS_NO |
  ARCH_CAPABILITIES.RFDS_NO |
  ARCH_CAPABILITIES.ITS_NO;

const MISC_ENABLE_RESET =
  MISC_ENABLE.FAST_STRINGS | MISC_ENABLE.BTS_UNAVAILABLE | MISC_ENABLE.PEBS_UNAVAILABLE;
const MISC_ENABLE_WRITABLE =
  MISC_ENABLE.FAST_STRINGS |
  MISC_ENABLE.AUTOMATIC_THERMAL_CONTROL |
  MISC_ENABLE.ENHANCED_SPEEDSTEP |
  MISC_ENABLE.MONITOR_FSM |
  MISC_ENABLE.LIMIT_CPUID |
  MISC_ENABLE.XTPR_DISABLE |
  MISC_ENABLE.XD_DISABLE;

/**
 * Registers that guests probe on every boot, prepared for the #GP that says "absent": no reason to warn. What
 * is here was seen in Linux (`rdmsrl_safe`), SeaBIOS and EDK2.
 */
const PROBED_AND_ABSENT: ReadonlySet<number> = new Set([
  Msr.MSR_TEST_CTRL,
  Msr.IA32_SPEC_CTRL,
  Msr.IA32_PRED_CMD,
  Msr.MSR_PPIN_CTL,
  Msr.MSR_PPIN,
  Msr.IA32_CORE_CAPABILITIES,
  Msr.IA32_FLUSH_CMD,
  Msr.IA32_TSX_CTRL,
  Msr.MSR_MISC_FEATURES_ENABLES,
  Msr.MSR_TEMPERATURE_TARGET,
  Msr.MSR_TURBO_RATIO_LIMIT,
  Msr.MSR_RAPL_POWER_UNIT,
  Msr.MSR_PKG_ENERGY_STATUS,
  Msr.MSR_PPERF,
  Msr.MSR_AMD64_TSC_RATIO,
  Msr.MSR_K8_SYSCFG,
  Msr.MSR_K7_HWCR,
  Msr.MSR_AMD64_DE_CFG,
]);

/**
 * The model-specific registers that engines leave to the VMM: who answers, with what, and what is refused.
 *
 * Local APIC registers go to the interrupt controller; MTRRs, machine check and identification are values kept
 * here, per vCPU. Everything else is #GP(0), which guests probe for; it is counted and, the first time,
 * reported.
 */
export class MsrModel {
  /** How many accesses found no register, those that guests probe for left out. */
  unknownAccesses = 0;

  readonly #options: MsrModelOptions;
  readonly #interrupts: Pick<InterruptController, "localApic"> | undefined;
  readonly #rules: ReadonlyMap<number, Rule>;
  readonly #values: Map<number, bigint>[];
  readonly #reported = new Set<string>();

  /**
   * @param interrupts answers APIC registers; without it (an engine with its own irqchip) they fault.
   * @throws RangeError where an option is out of its range.
   */
  constructor(interrupts: Pick<InterruptController, "localApic"> | undefined, options: MsrModelOptions) {
    checkInteger("vcpus", options.vcpus, 1, 255);
    checkInteger("physicalBits", options.physicalBits, 32, 52);
    checkInteger("tscHz", options.tscHz, 1_000_000, 100_000_000_000);
    checkInteger("microcode", options.microcode ?? 0, 0, 0xffff_ffff);
    this.#options = options;
    this.#interrupts = interrupts;
    this.#rules = rules(options);
    this.#values = Array.from({ length: options.vcpus }, () => new Map<number, bigint>());
    this.reset();
  }

  /** RDMSR on vCPU `vcpu`; `undefined`: the guest gets #GP(0). */
  read(vcpu: number, index: number): bigint | undefined {
    if (isApicRegister(index)) return this.#interrupts?.localApic(vcpu).readMsr(index);
    const value = this.#values[vcpu]?.get(index);
    if (value === undefined) this.#report(vcpu, index, "read", 0n);
    return value;
  }

  /** WRMSR on vCPU `vcpu`; false: the guest gets #GP(0). */
  write(vcpu: number, index: number, value: bigint): boolean {
    if (isApicRegister(index)) return this.#interrupts?.localApic(vcpu).writeMsr(index, value) ?? false;
    const rule = this.#rules.get(index);
    const values = this.#values[vcpu];
    if (rule === undefined || values === undefined) {
      this.#report(vcpu, index, "write", value);
      return false;
    }
    if (rule.write === "ignored") return true;
    if (rule.write === "read-only" || rule.accepts?.(value) === false) return false;
    values.set(index, value);
    return true;
  }

  /** RESET of all vCPUs. INIT leaves these registers as they are (SDM Vol. 3A table 10-1). */
  reset(): void {
    for (const values of this.#values) {
      values.clear();
      for (const [index, rule] of this.#rules) values.set(index, rule.reset);
    }
  }

  /**
   * Sets the MTRRs of all vCPUs as firmware would, for guests started without one.
   *
   * @param holeStart guest-physical address above low RAM from which on memory is uncached up to 4 GiB.
   * @throws RangeError where the eight variable ranges cannot cover the hole.
   */
  presetMtrrs(holeStart: number): void {
    checkInteger("holeStart", holeStart, 0x10_0000, 2 ** 32);
    const preset = firmwareMtrrs(holeStart, this.#options.physicalBits);
    for (const values of this.#values) {
      for (const [index, value] of preset) values.set(index, value);
    }
  }

  save(): MsrStateV1 {
    return {
      kind: "msrs",
      version: 1,
      vcpus: this.#values.map((values) => ({
        values: Object.fromEntries(
          [...values]
            .filter(([index]) => this.#rules.get(index)?.write === "stored")
            .map(([index, value]) => [index.toString(16), value]),
        ),
      })),
    };
  }

  /**
   * Registers that the state does not name keep their reset values: it may come from a version with fewer.
   *
   * @throws StateError where `state` is none of these, or holds a value that a guest could not have written;
   *   nothing is changed then.
   */
  restore(state: unknown): void {
    const reader = new StateReader(state, "msrs", 1);
    const restored = reader.array("vcpus", this.#options.vcpus).map((vcpu, i) => {
      const values = (vcpu as { values?: unknown } | null)?.values;
      if (typeof values !== "object" || values === null) {
        throw reader.error(`vcpus[${i}].values`, "an object", values);
      }
      return Object.entries(values).map(([key, value]): [number, bigint] => {
        const index = Number.parseInt(key, 16);
        const rule = this.#rules.get(index);
        const field = `vcpus[${i}].values.${key}`;
        if (rule?.write !== "stored") throw reader.error(field, "an MSR of this model", key);
        const isFit = typeof value === "bigint" && value >= 0n && value < 1n << 64n;
        if (!isFit || (value !== rule.reset && rule.accepts?.(value) === false)) {
          throw reader.error(field, "a value that the register can hold", value);
        }
        return [index, value];
      });
    });
    this.reset();
    restored.forEach((entries, i) => {
      for (const [index, value] of entries) this.#values[i]!.set(index, value);
    });
  }

  #report(vcpu: number, index: number, direction: "read" | "write", value: bigint): void {
    const isForeignHypervisor =
      (index >= Msr.HV_X64_MSR_FIRST && index <= Msr.HV_X64_MSR_LAST) ||
      (index >= Msr.KVM_WALL_CLOCK_NEW && index <= Msr.KVM_LAST);
    if (PROBED_AND_ABSENT.has(index) || isForeignHypervisor) return;
    this.unknownAccesses++;
    const key = `${direction} ${index}`;
    if (this.#reported.size >= UNKNOWN_REMEMBERED_MAX || this.#reported.has(key)) return;
    this.#reported.add(key);
    this.#options.onUnknown?.({ vcpu, index, direction, value });
  }
}

/** Name of the MSR with this index, or its index in hex. */
export function msrName(index: number): string {
  const found = Object.entries(Msr).find(([, value]) => value === index);
  return found ? found[0] : `0x${index.toString(16)}`;
}

function isApicRegister(index: number): boolean {
  return (
    index === Msr.IA32_TSC_DEADLINE ||
    (index >= Msr.IA32_X2APIC_FIRST && index <= Msr.IA32_X2APIC_LAST) ||
    index === Msr.IA32_APIC_BASE
  );
}

function rules(options: MsrModelOptions): Map<number, Rule> {
  const constant = (reset: bigint): Rule => ({ reset, write: "read-only" });
  const inert = (reset = 0n): Rule => ({ reset, write: "ignored" });
  const stored = (reset: bigint, accepts?: (value: bigint) => boolean): Rule =>
    accepts ? { reset, write: "stored", accepts } : { reset, write: "stored" };
  const zeroOnly = stored(0n, (value) => value === 0n);
  const ratio = BigInt(Math.min(Math.max(Math.round(options.tscHz / 100_000_000), 1), 0xff));

  const table = new Map<number, Rule>([
    [Msr.IA32_P5_MC_ADDR, inert()],
    [Msr.IA32_P5_MC_TYPE, inert()],
    [Msr.IA32_PLATFORM_ID, constant(0n)],
    [Msr.MSR_EBL_CR_POWERON, inert()],
    [Msr.MSR_SMI_COUNT, constant(0n)],
    // Locked, with VMX and SGX off: what firmware leaves where there is neither. Linux warns if it is unlocked.
    [Msr.IA32_FEATURE_CONTROL, constant(1n)],
    [Msr.IA32_BIOS_UPDT_TRIG, inert()],
    // Linux writes 0, executes CPUID, and reads the revision from the high half.
    [Msr.IA32_BIOS_SIGN_ID, inert(BigInt(options.microcode ?? 0x107) << 32n)],
    [Msr.IA32_PMC0, inert()],
    [Msr.IA32_PMC1, inert()],
    [Msr.IA32_PERFEVTSEL0, inert()],
    [Msr.IA32_PERFEVTSEL1, inert()],
    // Scalable bus speed 100 MHz (code 5), as MSR_PLATFORM_INFO and IA32_PERF_STATUS count in.
    [Msr.MSR_FSB_FREQ, constant(5n)],
    [Msr.MSR_PLATFORM_INFO, constant(ratio << 8n)],
    [Msr.IA32_MTRRCAP, constant(MTRRCAP_VALUE)],
    [Msr.IA32_ARCH_CAPABILITIES, constant(ARCH_CAPABILITIES_VALUE)],
    [Msr.MSR_BBL_CR_CTL3, inert()],
    [Msr.IA32_MCG_CAP, constant(MCG_CAP_VALUE)],
    [Msr.IA32_MCG_STATUS, stored(0n, (value) => value < 8n)],
    [Msr.IA32_MCG_CTL, stored(0n)],
    [Msr.IA32_PERF_STATUS, constant(ratio << 8n)],
    [Msr.IA32_PERF_CTL, stored(ratio << 8n)],
    [Msr.IA32_CLOCK_MODULATION, stored(0n, (value) => value < 0x20n)],
    [Msr.IA32_THERM_INTERRUPT, stored(0n, (value) => value < 1n << 25n)],
    [Msr.IA32_THERM_STATUS, inert()],
    [
      Msr.IA32_MISC_ENABLE,
      stored(MISC_ENABLE_RESET, (value) => ((value ^ MISC_ENABLE_RESET) & ~MISC_ENABLE_WRITABLE) === 0n),
    ],
    [Msr.MSR_LASTBRANCH_TOS, inert()],
    // Last-branch records and single-step on branches are not implemented; the bits are kept as written.
    [Msr.IA32_DEBUGCTL, stored(0n, (value) => value < 0x1_0000n)],
    [Msr.MSR_LASTBRANCHFROMIP, inert()],
    [Msr.MSR_LASTBRANCHTOIP, inert()],
    [Msr.MSR_LASTINTFROMIP, inert()],
    [Msr.MSR_LASTINTTOIP, inert()],
    [Msr.IA32_PAT, stored(PAT_RESET, isValidPat)],
  ]);
  for (const [index, reset] of resetMtrrs()) {
    table.set(
      index,
      stored(reset, (value) => isValidMtrr(index, value, options.physicalBits)),
    );
  }
  for (let bank = 0; bank < MCE_BANKS; bank++) {
    const ctl = Msr.IA32_MC0_CTL + 4 * bank;
    table.set(ctl, stored(0n));
    // STATUS, ADDR and MISC can only be cleared (SDM Vol. 3B sec. 16.3.2.2).
    for (let i = 1; i < 4; i++) table.set(ctl + i, zeroOnly);
  }
  if (options.vendor === "AuthenticAMD") addAmdRules(table);
  return table;
}

/** AMD's registers that operating systems read and write without asking first. */
function addAmdRules(table: Map<number, Rule>): void {
  const kept = [
    Msr.MSR_K8_SYSCFG,
    Msr.MSR_K7_HWCR,
    Msr.MSR_K8_TOP_MEM1,
    Msr.MSR_K8_TOP_MEM2,
    Msr.MSR_AMD64_NB_CFG,
    Msr.MSR_K8_INT_PENDING_MSG,
    Msr.MSR_AMD64_LS_CFG,
    Msr.MSR_AMD64_DC_CFG,
    Msr.MSR_AMD64_BU_CFG,
    Msr.MSR_AMD64_BU_CFG2,
  ];
  for (const index of kept) table.set(index, { reset: 0n, write: "stored" });
  // LFENCE is serializing (bit 1), and Linux finds it set where it cannot set it.
  table.set(Msr.MSR_AMD64_DE_CFG, { reset: 2n, write: "ignored" });
  table.set(Msr.MSR_AMD64_OSVW_ID_LENGTH, { reset: 0n, write: "read-only" });
  table.set(Msr.MSR_AMD64_OSVW_STATUS, { reset: 0n, write: "read-only" });
  for (let index: number = Msr.MSR_K7_EVNTSEL0; index <= Msr.MSR_K7_PERFCTR3; index++) {
    table.set(index, { reset: 0n, write: "ignored" });
  }
}

/** Eight memory types, 2 and 3 reserved, 7 is UC- (SDM Vol. 3A sec. 12.12.2). */
function isValidPat(value: bigint): boolean {
  for (let entry = 0n; entry < 8n; entry++) {
    const type = Number((value >> (8n * entry)) & 0xffn);
    if (type > 7 || type === 2 || type === 3) return false;
  }
  return true;
}
