import type { AddressSpace } from "@skep/memory";
import { EventEmitter } from "eventemitter3";
import type { ClockStateV1, RunClock } from "./clocks.ts";
import { CpuidModel, type CpuidModelOptions } from "./cpuid.ts";
import type { CpuidStateV1 } from "./cpuid-state.ts";
import type { Engine, EngineVcpu, EngineVm } from "./engine.ts";
import { EngineUnsuitableError, type GuestCrashError, VmStateError } from "./errors.ts";
import type { ExitBuses } from "./exit-dispatch.ts";
import type { InterruptController } from "./irq.ts";
import { MsrModel, type MsrModelOptions, type MsrStateV1, type UnknownMsrAccess } from "./msr.ts";
import { RunLoop, type RunLoopEnd, type RunLoopOptions, type VcpuLoop } from "./run-loop.ts";
import { HostScheduler, type Scheduler } from "./scheduler.ts";
import type { VcpuStateV1 } from "./state.ts";
import { StateReader } from "./state-reader.ts";
import { ThreadLoop } from "./thread-loop.ts";
import { checkInteger } from "./validate.ts";

/**
 * A part of the machine whose state belongs to the VM's: a device, memory, a bus.
 *
 * Order of a suspend: vCPUs pause → `pause()` of every part, in order of registration → `save()`. Resuming
 * goes back: `restore()` → `resume()` in reverse order → vCPUs run. Nothing here runs while a vCPU runs.
 */
export interface VmPart {
  /** Plain versioned data. */
  save(): unknown;
  /** @throws StateError (or the part's own state error) where `state` is not valid; nothing is changed then. */
  restore(state: unknown): void;
  /** RESET#, the machine's reset line. */
  reset?(): void;
  /** Finishes or parks what is under way at a backend; no guest memory is written after it resolves. */
  pause?(): Promise<void> | void;
  resume?(): void;
  /** Lets go of host resources. */
  close?(): Promise<void> | void;
}

export interface VmOptions extends RunLoopOptions {
  readonly engine: Engine;
  readonly memory: AddressSpace & ExitBuses;
  readonly clock: RunClock;
  /** The interrupt controller in front of the vCPUs; one from `Engine.createIrqChip` where the engine has its own. */
  readonly interrupts: InterruptController;
  /** Number of vCPUs. Default 1. */
  readonly vcpus?: number;
  /** What CPUID offers. Default: the engine's model, else `x86-64-v2`. */
  readonly cpuid?: Omit<CpuidModelOptions, "vcpus" | "tscHz">;
  readonly msrs?: Pick<MsrModelOptions, "microcode">;
  /** Default: a `HostScheduler`. */
  readonly scheduler?: Scheduler;
}

/** How a guest's run ended. */
export type VmOutcome =
  /** The guest turned the machine off. */
  | { readonly kind: "poweroff" }
  /** The guest asked for a reset: `reset()`, load what boots, and `run()` again. */
  | { readonly kind: "reset" }
  /** Every vCPU halts with interrupts off: the guest stopped for good, on purpose or not. */
  | { readonly kind: "halted" }
  | { readonly kind: "crash"; readonly error: GuestCrashError }
  /** `stop()` or `close()` was called. */
  | { readonly kind: "stopped" };

/**
 * ```text
 *             run()            pause()
 *   created ---------> running --------> paused
 *                       |   ^  <--------   |
 *     guest ended,      |   |   resume()   |
 *     stop()            v   | run()        | stop()
 *                    stopped (reset() -> created) <-+
 *   any -- close() --> closed
 * ```
 */
export type VmState = "created" | "running" | "paused" | "stopped" | "closed";

export interface VmEvents {
  state: (state: VmState, previous: VmState) => void;
  poweroff: () => void;
  reset: () => void;
  halted: () => void;
  crash: (error: GuestCrashError) => void;
  /** The guest touched a model-specific register that nobody models; once for each. */
  unknownMsr: (access: UnknownMsrAccess) => void;
}

/** A VM's state without its RAM, which is large and has a format of its own. */
export interface VmStateV2 {
  kind: "vm";
  version: 2;
  clock: ClockStateV1;
  /** What CPUID showed the guest. */
  cpuid: CpuidStateV1;
  vcpus: VcpuStateV1[];
  msrs: MsrStateV1;
  /** What every part's `save()` gave, by the part's name. */
  parts: Record<string, unknown>;
}

/**
 * A virtual machine: vCPUs of an engine, the run loop that answers their exits, and the parts around them.
 *
 * @example
 * ```ts
 * const vm = await Vm.create({ engine, memory, clock, interrupts, vcpus: 2 });
 * vm.addPart("uart", uart);
 * const outcome = await vm.run();
 * if (outcome.kind === "crash") throw outcome.error;
 * await vm.close();
 * ```
 */
export class Vm extends EventEmitter<VmEvents> implements AsyncDisposable {
  readonly memory: AddressSpace & ExitBuses;
  readonly clock: RunClock;
  readonly interrupts: InterruptController;
  readonly cpuid: CpuidModel;
  readonly msrs: MsrModel;
  readonly vcpus: readonly EngineVcpu[];

  readonly #engineVm: EngineVm;
  readonly #loop: VcpuLoop;
  readonly #parts = new Map<string, VmPart>();
  #state: VmState = "created";
  /** What a device or the embedder asked for; taken up when the loop stops. */
  #request: VmOutcome | "pause" | undefined;
  /** The run under way or paused: resolves with its outcome. */
  #run: { settle: (outcome: VmOutcome) => void; fail: (cause: unknown) => void } | undefined;
  /** The loop's turn, resolved when the vCPUs stand still. */
  #turn: Promise<void> | undefined;

  /**
   * Makes a VM, its vCPUs in their RESET state.
   *
   * @throws RangeError where an option is out of its range.
   * @throws EngineUnsuitableError where the engine cannot be used with these options.
   * @throws EngineUnavailableError where the engine cannot run on this machine.
   */
  static async create(options: VmOptions): Promise<Vm> {
    const { engine, memory, clock } = options;
    const vcpus = checkInteger("vcpus", options.vcpus ?? 1, 1, Math.min(engine.maxVcpus, 255));
    if (!engine.countsInstructions && clock.isVirtual) {
      throw new EngineUnsuitableError(
        `clock: instruction-counted time needs an engine that counts instructions; "${engine.name}" does not. ` +
          "Use a RealClock, or the softvt engine",
      );
    }
    const { tscHz } = clock;
    const model = options.cpuid?.model ?? engine.cpuModel;
    const cpuid = new CpuidModel(engine.supportedCpuid, {
      ...options.cpuid,
      ...(model !== undefined && { model }),
      vcpus,
      tscHz,
    });
    const engineVm = await engine.createVm({ memory, vcpus, tscHz, cpuid, interrupts: options.interrupts });
    try {
      return new Vm(options, engineVm, cpuid);
    } catch (error) {
      await engineVm.close();
      throw error;
    }
  }

  private constructor(options: VmOptions, engineVm: EngineVm, cpuid: CpuidModel) {
    super();
    this.memory = options.memory;
    this.clock = options.clock;
    this.interrupts = options.interrupts;
    this.cpuid = cpuid;
    this.#engineVm = engineVm;
    const vcpus = options.vcpus ?? 1;
    this.msrs = new MsrModel(options.interrupts, {
      ...options.msrs,
      vcpus,
      physicalBits: cpuid.physicalBits,
      tscHz: options.clock.tscHz,
      vendor: cpuid.model.vendor,
      onUnknown: (access) => this.emit("unknownMsr", access),
    });
    this.vcpus = Array.from({ length: vcpus }, (_, index) => engineVm.createVcpu(index));
    const parts = {
      memory: options.memory,
      interrupts: options.interrupts,
      cpuid,
      msrs: this.msrs,
      clock: options.clock,
      scheduler: options.scheduler ?? new HostScheduler(),
    };
    const { threads } = engineVm;
    this.#loop = threads
      ? new ThreadLoop(this.vcpus, threads, parts, options)
      : new RunLoop(this.vcpus, parts, options);
    options.interrupts.connect(this.#loop);
  }

  get state(): VmState {
    return this.#state;
  }

  /** VM exits so far, by basic exit reason. */
  get exitCounts(): Readonly<Float64Array> {
    return this.#loop.exitCounts;
  }

  /**
   * Registers a part under a name that stays the same from run to run: it is the key in saved states.
   *
   * @throws RangeError where the name is taken.
   */
  addPart(name: string, part: VmPart): void {
    if (this.#parts.has(name)) throw new RangeError(`name: expected a new part's name, "${name}" is taken`);
    this.#parts.set(name, part);
  }

  /**
   * Runs the guest until it ends. Pausing does not resolve the promise; `resume()` goes on with the same run.
   *
   * Rejects with whatever a device or the engine threw; the VM is `stopped` then.
   *
   * @throws VmStateError unless the VM is `created` or `stopped`.
   */
  run(): Promise<VmOutcome> {
    this.#expect("run", "created", "stopped");
    const outcome = new Promise<VmOutcome>((settle, fail) => {
      this.#run = { settle, fail };
    });
    this.#takeTurn();
    return outcome;
  }

  /**
   * Stops the vCPUs and then every part's work under way. Resolves once nothing moves.
   *
   * @throws VmStateError unless the VM is `running`, or where the guest ended before it could be paused.
   */
  async pause(): Promise<void> {
    if (this.#state === "paused") return;
    this.#expect("pause", "running");
    this.#request ??= "pause";
    this.#loop.stop();
    await this.#turn;
    this.#expect("pause", "paused");
    for (const part of this.#parts.values()) await part.pause?.();
  }

  /** Goes on after `pause()`. @throws VmStateError unless the VM is `paused`. */
  resume(): void {
    this.#expect("resume", "paused");
    for (const part of [...this.#parts.values()].reverse()) part.resume?.();
    this.#takeTurn();
  }

  /** Ends the run from outside, as pulling the plug does; `run()` resolves with `stopped`. */
  async stop(): Promise<void> {
    await this.#finish({ kind: "stopped" });
  }

  /** For devices: the guest turned the machine off. Takes effect before the next instruction. */
  powerOff(): void {
    this.#ask({ kind: "poweroff" });
  }

  /** For devices: the guest asked for a reset. */
  requestReset(): void {
    this.#ask({ kind: "reset" });
  }

  /** For devices such as pvpanic: the guest says that it is broken. */
  crash(error: GuestCrashError): void {
    this.#ask({ kind: "crash", error });
  }

  /**
   * Resets the vCPUs, their MSRs and every part, in order of registration. RAM keeps its contents.
   *
   * @throws VmStateError while the VM is `running` or `closed`.
   */
  reset(): void {
    this.#expect("reset", "created", "paused", "stopped");
    for (const part of this.#parts.values()) part.reset?.();
    this.msrs.reset();
    this.#loop.reset();
    this.#request = undefined;
    if (this.#state === "stopped") this.#enter("created");
  }

  /**
   * The VM's state without its RAM.
   *
   * @throws VmStateError unless the VM is `created`, `paused` or `stopped`.
   */
  save(): VmStateV2 {
    this.#expect("save", "created", "paused", "stopped");
    return {
      kind: "vm",
      version: 2,
      clock: this.clock.save(),
      cpuid: this.cpuid.save(),
      vcpus: this.#loop.save(),
      msrs: this.msrs.save(),
      parts: Object.fromEntries([...this.#parts].map(([name, part]) => [name, part.save()])),
    };
  }

  /**
   * Takes over a saved state, into a VM of the same shape: same vCPUs, same CPUID, same parts, same TSC frequency. Which
   * engine it was saved on does not matter. The order is clock → MSRs
   * → parts → vCPUs, so that devices arm their timers in the restored time.
   *
   * @throws VmStateError unless the VM is `created`, `paused` or `stopped`.
   * @throws StateError where the state is not valid; the VM is then as it was before.
   */
  restore(state: unknown): void {
    this.#expect("restore", "created", "paused", "stopped");
    const reader = new StateReader(state, "vm", 2);
    reader.array("vcpus", this.vcpus.length);
    const parts = reader.record("parts");
    for (const name of this.#parts.keys()) {
      if (!Object.hasOwn(parts, name)) throw reader.error(`parts.${name}`, "a part's state", undefined);
    }
    for (const name of Object.keys(parts)) {
      if (!this.#parts.has(name)) throw reader.error(`parts.${name}`, "no such part in this VM", parts[name]);
    }
    this.cpuid.check(reader.unknown("cpuid"));
    const before = this.save();
    try {
      this.#restoreAll(state as VmStateV2);
    } catch (error) {
      this.#restoreAll(before);
      throw error;
    }
  }

  /** Ends the run and lets go of the engine and of every part, the last one first. */
  async close(): Promise<void> {
    if (this.#state === "closed") return;
    await this.stop();
    for (const part of [...this.#parts.values()].reverse()) await part.close?.();
    await this.#engineVm.close();
    this.#enter("closed");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #restoreAll(state: VmStateV2): void {
    this.clock.restore(state.clock);
    this.msrs.restore(state.msrs);
    for (const [name, part] of this.#parts) part.restore(state.parts[name]);
    this.#loop.restore(state.vcpus);
  }

  #ask(outcome: VmOutcome): void {
    if (this.#state !== "running" && this.#state !== "paused") return;
    // The first word counts: a guest that asks for a reset while it powers off has powered off.
    if (this.#request === undefined || this.#request === "pause") this.#request = outcome;
    this.#loop.stop();
  }

  async #finish(outcome: VmOutcome): Promise<void> {
    if (this.#state === "paused") {
      this.#settle(outcome);
    } else if (this.#state === "running") {
      this.#ask(outcome);
      await this.#turn;
    }
  }

  #takeTurn(): void {
    this.#enter("running");
    this.#turn = this.#runLoop();
  }

  async #runLoop(): Promise<void> {
    // The guest starts in a task of its own, so that `#turn` is there when a device asks for a pause.
    await Promise.resolve();
    let end: RunLoopEnd;
    try {
      end = await this.#loop.run();
    } catch (cause) {
      this.#request = undefined;
      this.#enter("stopped");
      this.#run?.fail(cause);
      this.#run = undefined;
      return;
    }
    const request = this.#request;
    this.#request = undefined;
    if (end.kind !== "stopped") this.#settle(end);
    else if (request === "pause" || request === undefined) this.#enter("paused");
    else this.#settle(request);
  }

  #settle(outcome: VmOutcome): void {
    const run = this.#run;
    this.#run = undefined;
    this.#enter("stopped");
    if (outcome.kind === "crash") this.emit("crash", outcome.error);
    else if (outcome.kind !== "stopped") this.emit(outcome.kind);
    run?.settle(outcome);
  }

  #enter(state: VmState): void {
    const previous = this.#state;
    if (previous === state) return;
    this.#state = state;
    this.emit("state", state, previous);
  }

  #expect(action: string, ...states: VmState[]): void {
    if (!states.includes(this.#state)) throw new VmStateError(action, states.join(" or "), this.#state);
  }
}
