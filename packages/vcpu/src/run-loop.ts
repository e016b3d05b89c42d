import type { RunClock } from "./clocks.ts";
import type { EngineVcpu, VcpuRunOptions } from "./engine.ts";
import type { GuestCrashError } from "./errors.ts";
import { AfterExit, ExitDispatcher, type ExitHandlers } from "./exit-dispatch.ts";
import type { InterruptController, VcpuSignals } from "./irq.ts";
import type { Scheduler } from "./scheduler.ts";
import type { VcpuStateV1 } from "./state.ts";

export interface RunLoopOptions {
  /** Instructions a vCPU runs before the next one's turn. Default 50,000, about 0.1 ms. */
  readonly sliceInstructions?: number;
  /** Host time in ms after which the event loop gets its turn. Default 4. */
  readonly yieldMs?: number;
  /**
   * What to do when every vCPU halts with interrupts off, which nothing but an NMI or a reset ends: `end` the
   * run, or `wait` for a device that might raise one. Default `end`.
   */
  readonly haltedForever?: "end" | "wait";
}

/** Why `RunLoop.run()` came back. */
export type RunLoopEnd =
  /** `stop()` was called, or a debugger paused. */
  | { readonly kind: "stopped" }
  /** All vCPUs halt with interrupts off. */
  | { readonly kind: "halted" }
  | { readonly kind: "crash"; readonly error: GuestCrashError };

/** What a `Vm` needs of a run loop, whichever threads its vCPUs run on. */
export interface VcpuLoop extends VcpuSignals {
  /** VM exits so far, by basic exit reason. */
  readonly exitCounts: Float64Array;
  /**
   * Runs the vCPUs until `stop()` or until the guest ends. Time passes only meanwhile.
   *
   * Rejects with whatever a device or the engine threw; the vCPUs then stand between two instructions.
   */
  run(): Promise<RunLoopEnd>;
  /** Makes `run()` return before the next VM entry; where it is not under way, the next `run()` at once. */
  stop(): void;
  /** RESET of all vCPUs. Not while `run()` is under way. */
  reset(): void;
  /** State of all vCPUs, with the signals taken in that were on their way. Not while `run()` is under way. */
  save(): VcpuStateV1[];
  /**
   * Restores all vCPUs; `states` has one for each. Not while `run()` is under way.
   *
   * @throws StateError where one is not a valid state. vCPUs before it are restored already.
   */
  restore(states: readonly unknown[]): void;
}

/**
 * What an exit counts against a vCPU's slice, in instructions: about its cost, so that a guest which does
 * nothing but I/O does not keep its neighbours waiting.
 */
const EXIT_COST = 200;

/** One vCPU's place in the loop. */
class Slot {
  readonly vcpu: EngineVcpu;
  /** Stopped in HLT. */
  isHalted = false;
  /** An application processor after INIT, before SIPI. */
  isWaiting = false;
  hasInit = false;
  /** Vector of a start-up IPI that arrived, or -1. */
  startupVector = -1;
  hasNmi = false;
  /** Reused at every entry: an object a run would be garbage a run. */
  readonly options: VcpuRunOptions = {
    budget: 1,
    tsc: 0n,
    tscPerInstruction: 1,
    tscJumped: true,
    interruptWindow: false,
    singleStep: false,
  };

  constructor(vcpu: EngineVcpu) {
    this.vcpu = vcpu;
  }
}

/**
 * The VT-x run loop, for engines whose vCPUs run on the VM's thread.
 *
 * ```text
 *   fire due timers -> deliver events -> vcpu.run(budget) -> answer the exit --+
 *        ^                                                                     |
 *        +--------------- slice not spent --------------------------------- <--+
 *   next vCPU -> ... -> all halted? sleep, or let virtual time jump -> yield now and then
 * ```
 *
 * vCPUs take turns in slices. Everything here and in the devices happens on one thread, so signals from the
 * interrupt controller (wake, NMI, INIT, SIPI) only mark the slot; they take effect at its next entry.
 */
export class RunLoop implements VcpuLoop {
  readonly exitCounts = new Float64Array(64);

  readonly #slots: readonly Slot[];
  readonly #interrupts: InterruptController;
  readonly #clock: RunClock;
  readonly #scheduler: Scheduler;
  readonly #dispatcher: ExitDispatcher;
  readonly #sliceInstructions: number;
  readonly #yieldMs: number;
  readonly #endsWhenHalted: boolean;
  #stopRequested = false;
  #end: RunLoopEnd | undefined;
  #sleep: AbortController | undefined;

  /**
   * Takes vCPUs in their RESET state: application processors (all but the first) are sent to wait for SIPI.
   */
  constructor(
    vcpus: readonly EngineVcpu[],
    parts: ExitHandlers & { readonly clock: RunClock; readonly scheduler: Scheduler },
    options: RunLoopOptions = {},
  ) {
    this.#slots = vcpus.map((vcpu) => new Slot(vcpu));
    this.#interrupts = parts.interrupts;
    this.#clock = parts.clock;
    this.#scheduler = parts.scheduler;
    this.#dispatcher = new ExitDispatcher(parts, vcpus.length);
    this.#sliceInstructions = options.sliceInstructions ?? 50_000;
    this.#yieldMs = options.yieldMs ?? 4;
    this.#endsWhenHalted = (options.haltedForever ?? "end") === "end";
    this.#clock.timers.onEarlier = () => this.kick();
    this.#parkApplicationProcessors();
  }

  async run(): Promise<RunLoopEnd> {
    this.#end = undefined;
    this.#clock.resume();
    for (const { options } of this.#slots) options.tscJumped = true;
    try {
      let yieldedMs = this.#scheduler.hostMs();
      for (;;) {
        const hasRun = this.#runRound();
        const end = this.#ended(hasRun);
        if (end !== undefined) return end;
        const hasSlept = !hasRun && !this.#skipIdleTime() && (await this.#sleepUntilNeeded());
        if (!hasSlept) {
          if (this.#scheduler.hostMs() - yieldedMs < this.#yieldMs) continue;
          await this.#scheduler.yield();
        }
        yieldedMs = this.#scheduler.hostMs();
      }
    } finally {
      this.#stopRequested = false;
      this.#clock.pause();
    }
  }

  stop(): void {
    this.#stopRequested = true;
    this.kick();
  }

  /** Something changed that a sleeping loop should see. */
  kick(): void {
    this.#sleep?.abort();
  }

  wake(_index: number): void {
    this.kick();
  }

  nmi(index: number): void {
    const slot = this.#slots[index];
    if (slot === undefined) return;
    slot.hasNmi = true;
    this.kick();
  }

  init(index: number): void {
    const slot = this.#slots[index];
    if (slot === undefined) return;
    slot.hasInit = true;
    // A SIPI that came before this INIT would have started code that INIT now ends.
    slot.startupVector = -1;
    this.kick();
  }

  startup(index: number, vector: number): void {
    const slot = this.#slots[index];
    if (slot === undefined) return;
    // Of two SIPIs, as Linux and firmware send them, the first starts the processor and the second is ignored.
    if (slot.startupVector < 0) slot.startupVector = vector;
    this.kick();
  }

  reset(): void {
    for (const slot of this.#slots) {
      slot.vcpu.reset("reset");
      slot.isHalted = false;
      slot.hasInit = false;
      slot.startupVector = -1;
      slot.hasNmi = false;
    }
    this.#parkApplicationProcessors();
  }

  save(): VcpuStateV1[] {
    for (const slot of this.#slots) this.#takeSignals(slot);
    return this.#slots.map((slot) => slot.vcpu.save());
  }

  restore(states: readonly unknown[]): void {
    this.#slots.forEach((slot, i) => {
      slot.vcpu.restore(states[i]);
      const { activity, pendingNmi } = states[i] as VcpuStateV1;
      slot.isHalted = activity === "halted" && !pendingNmi;
      slot.isWaiting = activity === "wait-for-sipi";
      slot.hasInit = false;
      slot.startupVector = -1;
      slot.hasNmi = false;
    });
  }

  #parkApplicationProcessors(): void {
    this.#slots.forEach((slot, i) => {
      slot.isWaiting = i > 0;
      if (i > 0) slot.vcpu.reset("init");
    });
  }

  /** A slice for every vCPU that has something to do; false where none has. */
  #runRound(): boolean {
    let hasRun = false;
    for (const slot of this.#slots) {
      if (this.#end !== undefined) return hasRun;
      this.#fireTimers();
      if (this.#stopRequested) return hasRun;
      if (!this.#isRunnable(slot)) continue;
      hasRun = true;
      this.#runSlice(slot);
    }
    return hasRun;
  }

  #runSlice(slot: Slot): void {
    const { vcpu, options } = slot;
    const clock = this.#clock;
    const hasOwnTsc = vcpu.hasOwnTsc === true;
    let left = this.#sliceInstructions;
    if (hasOwnTsc) this.#tellTime(options, left);
    for (;;) {
      options.interruptWindow = this.#deliverInterrupt(slot);
      if (!hasOwnTsc) this.#tellTime(options, left);
      const before = vcpu.instructions;
      const exit = vcpu.run(options);
      options.tscJumped = false;
      const count = vcpu.instructions - before;
      if (count > 0) clock.retired(count);
      this.exitCounts[exit.reason]!++;

      switch (this.#dispatcher.handle(vcpu, exit)) {
        case AfterExit.CONTINUE:
          break;
        case AfterExit.YIELD:
          return;
        case AfterExit.HALT:
          slot.isHalted = true;
          return;
        case AfterExit.PAUSE:
          this.#end = { kind: "stopped" };
          return;
        case AfterExit.CRASH:
          this.#end = { kind: "crash", error: this.#dispatcher.crash! };
          return;
      }
      left -= count + EXIT_COST;
      if (left <= 0) return;
      // Asking the time is a good part of what an exit costs; nobody else wants to know it where no timer is armed.
      if (!hasOwnTsc || clock.timers.size > 0) this.#fireTimers();
      this.#takeSignals(slot);
      if (slot.isWaiting || this.#stopRequested) return;
    }
  }

  #tellTime(options: VcpuRunOptions, instructions: number): void {
    const clock = this.#clock;
    options.tsc = clock.tsc();
    options.tscPerInstruction = clock.tscPerInstruction;
    options.budget = clock.budget(instructions);
  }

  #fireTimers(): void {
    const now = this.#clock.now();
    const { timers } = this.#clock;
    if (timers.nextDeadline <= now) timers.fireDue(now);
  }

  /** Takes in signals, and says whether the vCPU can run: halted ones can if an event would wake them. */
  #isRunnable(slot: Slot): boolean {
    this.#takeSignals(slot);
    if (slot.isWaiting) return false;
    if (!slot.isHalted) return true;
    const { vcpu } = slot;
    return this.#interrupts.pending(vcpu.index) >= 0 && vcpu.canTakeInterrupt();
  }

  #takeSignals(slot: Slot): void {
    const { vcpu } = slot;
    if (slot.hasInit) {
      slot.hasInit = false;
      slot.hasNmi = false;
      slot.isHalted = false;
      // The bootstrap processor starts again at the reset vector (SDM Vol. 3A sec. 9.4.2).
      slot.isWaiting = vcpu.index > 0;
      vcpu.reset("init");
    }
    if (slot.startupVector >= 0) {
      const vector = slot.startupVector;
      slot.startupVector = -1;
      if (slot.isWaiting) {
        slot.isWaiting = false;
        vcpu.startup(vector);
      }
    }
    if (slot.hasNmi && !slot.isWaiting) {
      slot.hasNmi = false;
      slot.isHalted = false;
      vcpu.injectNmi();
    }
  }

  /** Injects the pending interrupt if the vCPU takes it now; true: one waits for an interrupt window. */
  #deliverInterrupt(slot: Slot): boolean {
    const { vcpu } = slot;
    if (this.#interrupts.pending(vcpu.index) < 0) return false;
    if (!vcpu.canTakeInterrupt()) return true;
    const vector = this.#interrupts.acknowledge(vcpu.index);
    if (vector < 0) return false;
    vcpu.injectInterrupt(vector);
    slot.isHalted = false;
    return this.#interrupts.pending(vcpu.index) >= 0;
  }

  #ended(hasRun: boolean): RunLoopEnd | undefined {
    if (this.#end !== undefined) return this.#end;
    if (this.#stopRequested) return { kind: "stopped" };
    if (!hasRun && this.#endsWhenHalted && this.#isHaltedForever()) return { kind: "halted" };
    return undefined;
  }

  #isHaltedForever(): boolean {
    for (const slot of this.#slots) {
      if (slot.hasInit || slot.hasNmi || slot.startupVector >= 0) return false;
      if (!slot.isWaiting && (!slot.isHalted || slot.vcpu.canTakeInterrupt())) return false;
    }
    return true;
  }

  /** Nothing runs: virtual time jumps to the next deadline. False where there is none, or time is real. */
  #skipIdleTime(): boolean {
    return this.#clock.skipTo(this.#clock.timers.nextDeadline);
  }

  /** False where a timer is due already. */
  async #sleepUntilNeeded(): Promise<boolean> {
    const left = this.#clock.timers.nextDeadline - this.#clock.now();
    if (left <= 0) return false;
    this.#sleep = new AbortController();
    try {
      await this.#scheduler.sleep(left, this.#sleep.signal);
    } finally {
      this.#sleep = undefined;
    }
    return true;
  }
}
