import type {
  CpuidTable,
  Engine,
  EngineProbe,
  EngineVcpu,
  EngineVm,
  EngineVmOptions,
  VcpuRunOptions,
} from "../engine.ts";
import { StateError } from "../errors.ts";
import { ExitReason, type VmExit } from "../exit.ts";
import { resetVcpuState } from "../reset-state.ts";
import type { VcpuStateV1 } from "../state.ts";

/** One run of a scripted vCPU: what it retires, what happens meanwhile, and why it stops. */
export interface FakeStep {
  readonly exit: VmExit;
  /** Instructions retired before the exit; default 1. */
  readonly instructions?: number;
  /** Called as the run begins. */
  readonly before?: (vcpu: FakeVcpu, options: Readonly<VcpuRunOptions>) => void;
}

/** A run's options as they were at entry, and what was injected into it. */
export interface FakeEntry extends Readonly<VcpuRunOptions> {
  readonly injected: number | undefined;
  readonly nmi: boolean;
}

const PREEMPTED: VmExit = { reason: ExitReason.PreemptionTimer };

/**
 * A vCPU that plays a script: each run takes the next step; past the end it spends its whole budget, as a
 * guest in an endless loop does. For tests of run loops and of devices behind them.
 */
export class FakeVcpu implements EngineVcpu {
  readonly index: number;
  readonly script: FakeStep[] = [];
  /** Every run so far. */
  readonly entries: FakeEntry[] = [];
  /** RESET, INIT and SIPI so far, such as `init` or `startup 0x9a`. */
  readonly signals: string[] = [];
  /** RFLAGS.IF. */
  interruptFlag = true;
  instructions = 0;
  activity: VcpuStateV1["activity"] = "active";
  #injected: number | undefined;
  #nmi = false;

  constructor(index: number) {
    this.index = index;
  }

  /** Appends steps to the script. */
  play(...steps: FakeStep[]): this {
    this.script.push(...steps);
    return this;
  }

  run(options: VcpuRunOptions): VmExit {
    this.entries.push({ ...options, injected: this.#injected, nmi: this.#nmi });
    if (this.activity === "wait-for-sipi") throw new Error(`vCPU ${this.index} was run before its SIPI`);
    if (this.activity === "halted" && this.#injected === undefined && !this.#nmi) {
      throw new Error(`vCPU ${this.index} was run in HLT without an event`);
    }
    this.activity = "active";
    this.#injected = undefined;
    this.#nmi = false;
    const step = this.script.shift();
    step?.before?.(this, options);
    if (step === undefined) {
      this.instructions += options.budget;
      return options.interruptWindow && this.interruptFlag
        ? { reason: ExitReason.InterruptWindow }
        : PREEMPTED;
    }
    this.instructions += step.instructions ?? 1;
    if (step.exit.reason === ExitReason.Hlt) this.activity = "halted";
    return step.exit;
  }

  canTakeInterrupt(): boolean {
    return this.interruptFlag && this.#injected === undefined;
  }

  injectInterrupt(vector: number): void {
    if (!this.canTakeInterrupt()) throw new Error(`vCPU ${this.index} cannot take interrupt ${vector} now`);
    this.#injected = vector;
  }

  injectNmi(): void {
    this.#nmi = true;
  }

  save(): VcpuStateV1 {
    return {
      ...resetVcpuState(),
      rflags: this.interruptFlag ? 0x202n : 2n,
      activity: this.activity,
      pendingNmi: this.#nmi,
      pendingEvent:
        this.#injected === undefined
          ? undefined
          : { kind: "interrupt", vector: this.#injected, errorCode: undefined },
      instructions: BigInt(this.instructions),
    };
  }

  restore(state: unknown): void {
    const saved = state as Partial<VcpuStateV1> | null;
    if (saved?.kind !== "vcpu") throw new StateError("BAD_STATE", 'vcpu.kind: expected "vcpu"');
    this.activity = saved.activity!;
    this.interruptFlag = (saved.rflags! & 0x200n) !== 0n;
    this.#nmi = saved.pendingNmi!;
    this.#injected = saved.pendingEvent?.vector;
    this.instructions = Number(saved.instructions);
  }

  reset(kind: "reset" | "init"): void {
    this.signals.push(kind);
    this.activity = kind === "init" && this.index > 0 ? "wait-for-sipi" : "active";
    this.#injected = undefined;
    this.#nmi = false;
  }

  startup(vector: number): void {
    this.signals.push(`startup 0x${vector.toString(16)}`);
    if (this.activity === "wait-for-sipi") this.activity = "active";
  }
}

/** An engine of `FakeVcpu`s; `vcpus` holds them once `createVm` has made them. */
export class FakeEngine implements Engine {
  readonly name = "softvt";
  readonly maxVcpus: number;
  readonly hasIrqchip = false;
  readonly countsInstructions: boolean;
  readonly arenaBytes = 0;
  readonly vcpus: FakeVcpu[];
  isClosed = false;
  readonly supportedCpuid: CpuidTable;

  /** @param vcpus how many there are; they can be given scripts before a VM is made. */
  constructor(vcpus = 1, options: { countsInstructions?: boolean; supportedCpuid?: CpuidTable } = {}) {
    this.maxVcpus = vcpus;
    this.countsInstructions = options.countsInstructions ?? true;
    this.vcpus = Array.from({ length: vcpus }, (_, index) => new FakeVcpu(index));
    this.supportedCpuid = options.supportedCpuid ?? everyFeature();
  }

  async probe(): Promise<EngineProbe> {
    return { usable: true, evidence: "a script is always usable" };
  }

  async createVm(_options: EngineVmOptions): Promise<EngineVm> {
    return {
      createVcpu: (index) => this.vcpus[index]!,
      invalidateMappings: () => {},
      close: async () => {
        this.isClosed = true;
      },
    };
  }
}

/** A CPUID table that has every feature flag, 48 virtual and 46 physical address bits. */
export function everyFeature(): CpuidTable {
  const ones = { eax: 0xffff_ffff, ebx: 0xffff_ffff, ecx: 0xffff_ffff, edx: 0xffff_ffff };
  return {
    query: (_index, leaf) => (leaf === 0x8000_0008 ? { ...ones, eax: (48 << 8) | 46 } : ones),
  };
}
