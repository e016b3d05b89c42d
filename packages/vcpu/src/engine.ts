import type { AddressSpace } from "@skep/memory";
import type { CpuidModelName } from "./cpuid-models.ts";
import type { VmExit } from "./exit.ts";
import type { EngineIrqChip, InterruptController } from "./irq.ts";
import type { VcpuStateV1 } from "./state.ts";

/** What an engine can do on this machine, for `skep doctor` and `engine: "auto"`. */
export interface EngineProbe {
  readonly usable: boolean;
  /** One line for a person: the evidence, and what to do where it is not usable. */
  readonly evidence: string;
  /** There is nothing of the kind on this machine: no reason to mention it to somebody who did not ask. */
  readonly isAbsent?: boolean;
}

export interface EngineProbeOptions {
  /**
   * Takes the processor's word for it, where it gives one, that guests run at speed: none is run to measure it. Default
   * false.
   */
  readonly quick?: boolean;
}

export interface EngineVmOptions {
  /** Guest-physical memory; its EPT and arena are what the guest may touch. */
  readonly memory: AddressSpace;
  /** Number of vCPUs that will be made, 1 to `Engine.maxVcpus`. */
  readonly vcpus: number;
  /** Time-stamp counter frequency in Hz. */
  readonly tscHz: number;
  /** Feature bits that CPUID offers the guest: the engine raises #UD for what is not offered. */
  readonly cpuid: CpuidTable;
  /**
   * The interrupt controller in front of the vCPUs. One of the engine's own (`Engine.createIrqChip`) is attached to
   * the VM, which then has `threads`; the run loop drives any other.
   */
  readonly interrupts?: InterruptController;
}

/** CPUID results the engine needs to know what the guest may use. */
export interface CpuidTable {
  /** Results for vCPU `index`; unsigned 32-bit each. */
  query(index: number, leaf: number, subleaf: number): { eax: number; ebx: number; ecx: number; edx: number };
}

export interface Engine {
  readonly name: "softvt" | "kvm";
  readonly maxVcpus: number;
  /** True where the engine brings its own interrupt controller (KVM's irqchip). */
  readonly hasIrqchip: boolean;
  /** True where `VcpuRunOptions.budget` and `instructions` are exact, so that runs can be repeated. */
  readonly countsInstructions: boolean;
  /** Bytes at the start of the arena that the engine keeps its own structures in; 0 where it needs none. */
  readonly arenaBytes: number;
  /** CPUID as this engine can back it: the most that a model may offer. */
  readonly supportedCpuid: CpuidTable;
  /**
   * The CPUID model unless the embedder chooses one; absent: the general default. A processor that speculates must not
   * be shown as one that does not.
   */
  readonly cpuModel?: CpuidModelName;
  /** Frequency in Hz at which a guest's TSC runs here, where it cannot be chosen. Absent: any frequency will do. */
  readonly tscHz?: number;
  /** Makes an interrupt controller for one VM, not attached yet. There where `hasIrqchip`. */
  createIrqChip?(options: { readonly vcpus: number }): EngineIrqChip;
  probe(options?: EngineProbeOptions): Promise<EngineProbe>;
  /** @throws EngineUnavailableError where this machine cannot run it. */
  createVm(options: EngineVmOptions): Promise<EngineVm>;
}

export interface EngineVm {
  /** Makes vCPU `index`, in the state that the SDM gives for RESET (Vol. 3A table 10-1). */
  createVcpu(index: number): EngineVcpu;
  /** The address space's mappings changed: forget cached translations before any vCPU runs again. */
  invalidateMappings(): void;
  /** There where the vCPUs run on threads of their own; `EngineVcpu.run()` is not called then. */
  readonly threads?: VcpuThreads;
  close(): Promise<void>;
}

/**
 * vCPUs on threads of their own, as the VM's thread sees them. Everything here is called on the VM's thread.
 *
 * ```text
 *            enter(i)                 the guest exits, or kick(i)
 *   stopped ----------> running ---------------------------------> stopped, exit(i) says why
 * ```
 *
 * State is read and written, and `EngineVcpu`'s other methods are called, only while a vCPU is stopped.
 */
export interface VcpuThreads {
  /**
   * The guest runs on the VM's thread itself, within `spin()`: that is false where the event loop wants its turn, and
   * `wait()` gives it and comes back. Default false.
   */
  readonly sharesThread?: boolean;
  /** A run begins and time goes on: `nowNs` and `tsc` are the clock's. Called while every vCPU is stopped. */
  start(nowNs: number, tsc: bigint): void;
  /** The run is over: every vCPU is stopped, and nothing here keeps the process from ending. */
  stop(): void;
  /** Runs vCPU `index`, with the answer that was written into its last exit. */
  enter(index: number): void;
  /**
   * Why vCPU `index` stopped; `undefined` while it runs. The same record until it is entered again.
   *
   * @throws what is no exit: the host's or the engine's failure.
   */
  exit(index: number): VmExit | undefined;
  /**
   * Brings vCPU `index` out of the guest; its exit is `ExternalInterrupt`, or what happened first. On a stopped one
   * it ends the next run at its beginning, with the instruction of the last exit completed.
   */
  kick(index: number): void;
  /** Whether the stopped vCPU `index` halts with interrupts off, or waits to be started by another. */
  isStuck(index: number): boolean;
  /**
   * Waits a little, `limitMs` at most if that is long, without leaving this thread; true where a vCPU stopped
   * meanwhile, or `ring()` was called.
   *
   * @param turnMs in how many ms the event loop's turn is due, for what was done since its last; absent: it is not. Only
   * asked for where `sharesThread`.
   */
  spin(limitMs: number, turnMs?: number): boolean;
  /**
   * Where `sharesThread`: goes on with the `spin()` that ended with an exit, until the same time; true where there is
   * another exit.
   */
  again?(): boolean;
  /** Resolves once a vCPU has stopped since `spin()` or `wait()` last said so, `ring()` was called, or `ms` are over. */
  wait(ms: number): Promise<void>;
  /** Ends a `wait()`. */
  ring(): void;
}

export interface VcpuRunOptions {
  /** Instructions to execute at most, about; the exit is `PreemptionTimer`. Where not countable, ignored. */
  budget: number;
  /** Time-stamp counter at the start of this slice, before the vCPU's offset. Advances 1 a TSC tick. */
  tsc: bigint;
  /** Ticks of the TSC an instruction advances it within a slice. */
  tscPerInstruction: number;
  /** False: the clock has not stood still since this vCPU's last run, a TSC of its own is right. Absent: it may have. */
  tscJumped?: boolean;
  /** Exit with `InterruptWindow` as soon as the guest can take an interrupt. */
  interruptWindow: boolean;
  /** Exit with `MonitorTrapFlag` after one instruction. */
  singleStep: boolean;
}

export interface EngineVcpu {
  readonly index: number;
  /**
   * Its TSC runs with the host's time: within a slice `budget`, `tsc` and `tscPerInstruction` may stay what they were at
   * its beginning. Default false.
   */
  readonly hasOwnTsc?: boolean;
  /** Runs the guest until it exits. The exit is valid until the next run; answers are written into it. */
  run(options: VcpuRunOptions): VmExit;
  /** Whether an external interrupt injected now would be taken at the next entry (RFLAGS.IF, no shadow, no event). */
  canTakeInterrupt(): boolean;
  /** Delivers external interrupt `vector` (0 to 255) at the next entry. Only while `canTakeInterrupt()`. */
  injectInterrupt(vector: number): void;
  /** Makes an NMI pending. */
  injectNmi(): void;
  /** Instructions retired since the vCPU was made; a count within 2^53. */
  readonly instructions: number;
  save(): VcpuStateV1;
  /** @throws StateError where `state` is not a valid vCPU state; nothing is changed then. */
  restore(state: unknown): void;
  /** INIT: as RESET but keeping what SDM Vol. 3A table 10-1 keeps; application processors then wait for SIPI. */
  reset(kind: "reset" | "init"): void;
  /** Start-up IPI: real mode at CS = vector << 8. Ignored unless waiting for it. */
  startup(vector: number): void;
}
