import type { RunClock } from "./clocks.ts";
import type { EngineVcpu, VcpuThreads } from "./engine.ts";
import { ExitReason, type VmExit } from "./exit.ts";
import { AfterExit, ExitDispatcher, type ExitHandlers } from "./exit-dispatch.ts";
import type { RunLoopEnd, RunLoopOptions, VcpuLoop } from "./run-loop.ts";
import type { Scheduler } from "./scheduler.ts";
import type { VcpuStateV1 } from "./state.ts";

const NS_PER_MS = 1_000_000;
/** Longest wait for an exit, in ms. */
const WAIT_MAX_MS = 1000;
/** After this long without an exit the vCPUs are asked whether any of them can ever go on. */
const STUCK_CHECK_MS = 200;

/** One vCPU's place in the loop. */
interface Slot {
  readonly vcpu: EngineVcpu;
  isRunning: boolean;
  /** Its last exit is answered, and the instruction behind it completed: its state is that between two. */
  isClean: boolean;
}

/**
 * The run loop for engines whose vCPUs run on threads of their own, and whose interrupt controller interrupts them
 * without being asked.
 *
 * ```text
 *   fire due timers -> any vCPU stopped? -- yes --> answer its exit, enter it again --+
 *        ^                  | no                                                      |
 *        |                  v                                                         |
 *        +---- spin, then wait for a stop, a timer or the event loop's turn <---------+
 * ```
 *
 * Exits are answered here, on the VM's thread, one after the other, so devices need no locks.
 */
export class ThreadLoop implements VcpuLoop {
  readonly exitCounts = new Float64Array(64);

  readonly #slots: readonly Slot[];
  readonly #threads: VcpuThreads;
  readonly #clock: RunClock;
  readonly #scheduler: Scheduler;
  readonly #dispatcher: ExitDispatcher;
  readonly #yieldMs: number;
  readonly #endsWhenHalted: boolean;
  #stopRequested = false;
  #end: RunLoopEnd | undefined;
  /** What a device or the engine threw first. */
  #failure: { readonly error: unknown } | undefined;

  constructor(
    vcpus: readonly EngineVcpu[],
    threads: VcpuThreads,
    parts: ExitHandlers & { readonly clock: RunClock; readonly scheduler: Scheduler },
    options: RunLoopOptions = {},
  ) {
    this.#slots = vcpus.map((vcpu) => ({ vcpu, isRunning: false, isClean: true }));
    this.#threads = threads;
    this.#clock = parts.clock;
    this.#scheduler = parts.scheduler;
    this.#dispatcher = new ExitDispatcher(parts, vcpus.length);
    this.#yieldMs = options.yieldMs ?? 4;
    this.#endsWhenHalted = (options.haltedForever ?? "end") === "end";
    this.#clock.timers.onEarlier = () => this.kick();
    this.#parkApplicationProcessors();
  }

  async run(): Promise<RunLoopEnd> {
    this.#end = undefined;
    this.#clock.resume();
    try {
      // The clock says what time it is once it was asked.
      const now = this.#clock.now();
      this.#threads.start(now, this.#clock.tsc());
      this.#failure = undefined;
      try {
        if (!this.#stopRequested) for (const slot of this.#slots) this.#enter(slot);
        await this.#serve();
      } catch (error) {
        this.#failed(error);
      }
      await this.#stopAll();
      this.#threads.stop();
      this.#throwFailure();
      return this.#end ?? { kind: "stopped" };
    } finally {
      this.#stopRequested = false;
      this.#clock.pause();
    }
  }

  stop(): void {
    this.#stopRequested = true;
    this.kick();
  }

  /** Something changed that a waiting loop should see. */
  kick(): void {
    this.#threads.ring();
  }

  // The engine's interrupt controller deals with these between its vCPUs; nobody sends them here.

  wake(_index: number): void {}
  nmi(_index: number): void {}
  init(_index: number): void {}
  startup(_index: number, _vector: number): void {}

  reset(): void {
    for (const slot of this.#slots) {
      slot.vcpu.reset("reset");
      slot.isClean = true;
    }
    this.#parkApplicationProcessors();
  }

  save(): VcpuStateV1[] {
    return this.#slots.map(({ vcpu }) => vcpu.save());
  }

  restore(states: readonly unknown[]): void {
    this.#slots.forEach((slot, i) => {
      slot.vcpu.restore(states[i]);
      slot.isClean = true;
    });
  }

  #parkApplicationProcessors(): void {
    this.#slots.forEach(({ vcpu }, i) => {
      if (i > 0) vcpu.reset("init");
    });
  }

  async #serve(): Promise<void> {
    const sharesThread = this.#threads.sharesThread === true;
    let yieldedMs = this.#scheduler.hostMs();
    let quietSinceMs = yieldedMs;
    /** Devices ran since the event loop's turn: what they began with promises and streams is to go on. */
    let owesTurn = true;
    while (this.#end === undefined && !this.#stopRequested) {
      if (this.#fireTimers()) owesTurn = true;
      const nowMs = this.#scheduler.hostMs();
      const turnMs = owesTurn ? this.#yieldMs - (nowMs - yieldedMs) : Number.POSITIVE_INFINITY;
      if (this.#answerAll()) {
        quietSinceMs = nowMs;
        // The last spin ends when the turn is due: until then there is no need to ask what time it is, for each exit.
        if (owesTurn) while (this.#threads.again?.() && this.#answerAll());
        owesTurn = true;
        if (sharesThread || nowMs - yieldedMs < this.#yieldMs) continue;
        // A wait that was over at once has not let the event loop run: only this counts as its turn.
        await this.#scheduler.yield();
        yieldedMs = this.#scheduler.hostMs();
      } else if (this.#threads.spin(this.#untilTimerMs(), turnMs)) {
        // Something stopped or rang meanwhile.
      } else if (this.#endsWhenHalted && nowMs - quietSinceMs >= STUCK_CHECK_MS) {
        await this.#endIfStuck();
        quietSinceMs = this.#scheduler.hostMs();
      } else if (sharesThread) {
        await this.#threads.wait(0);
        yieldedMs = this.#scheduler.hostMs();
        owesTurn = false;
      } else {
        await this.#wait();
      }
    }
  }

  /** Answers the exits that are there; false where there was none. */
  #answerAll(): boolean {
    let hasAnswered = false;
    for (const slot of this.#slots) {
      if (this.#end !== undefined || this.#stopRequested) return true;
      const exit = this.#takeExit(slot);
      if (exit === undefined) continue;
      hasAnswered = true;
      // What the answering device asked for comes before the guest's next instruction.
      if (this.#answer(slot, exit) && !this.#stopRequested) this.#enter(slot);
    }
    return hasAnswered;
  }

  #takeExit(slot: Slot): VmExit | undefined {
    if (!slot.isRunning) return undefined;
    let exit: VmExit | undefined;
    try {
      exit = this.#threads.exit(slot.vcpu.index);
    } catch (error) {
      // It has stopped for good: nothing is left to wait for, or to complete.
      slot.isRunning = false;
      slot.isClean = true;
      throw error;
    }
    if (exit === undefined) return undefined;
    slot.isRunning = false;
    slot.isClean = exit.reason === ExitReason.ExternalInterrupt;
    this.exitCounts[exit.reason]!++;
    return exit;
  }

  /** Whether the vCPU goes on. */
  #answer({ vcpu }: Slot, exit: VmExit): boolean {
    switch (this.#dispatcher.handle(vcpu, exit)) {
      case AfterExit.PAUSE:
        this.#end ??= { kind: "stopped" };
        return false;
      case AfterExit.CRASH:
        this.#end ??= { kind: "crash", error: this.#dispatcher.crash! };
        return false;
      default:
        return true;
    }
  }

  #enter(slot: Slot): void {
    slot.isRunning = true;
    this.#threads.enter(slot.vcpu.index);
  }

  /**
   * Brings every vCPU to a stop between two instructions. One whose exit was just answered goes in once more, to come
   * out at once: only there does the answer reach its registers.
   */
  async #stopAll(): Promise<void> {
    for (const slot of this.#slots) this.#enterForStop(slot);
    while (this.#slots.some((slot) => slot.isRunning)) {
      let hasStopped = false;
      for (const slot of this.#slots) {
        try {
          const exit = this.#takeExit(slot);
          if (exit === undefined) continue;
          if (this.#answer(slot, exit)) this.#enterForStop(slot);
          else slot.isClean = true;
        } catch (error) {
          // The others are stopped all the same; what a device threw leaves its guest's instruction as it is.
          slot.isClean = true;
          this.#failed(error);
        }
        hasStopped = true;
      }
      if (!hasStopped && !this.#threads.spin(WAIT_MAX_MS)) await this.#threads.wait(WAIT_MAX_MS);
    }
  }

  #failed(error: unknown): void {
    this.#failure ??= { error };
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
  }

  #enterForStop(slot: Slot): void {
    const { index } = slot.vcpu;
    if (slot.isRunning) {
      this.#threads.kick(index);
    } else if (!slot.isClean) {
      this.#threads.kick(index);
      this.#enter(slot);
    }
  }

  /** Ends the run where every vCPU halts with interrupts off or waits for another one to start it. */
  async #endIfStuck(): Promise<void> {
    for (const { vcpu, isRunning } of this.#slots) if (isRunning) this.#threads.kick(vcpu.index);
    for (const slot of this.#slots) {
      while (slot.isRunning) {
        const exit = this.#takeExit(slot);
        if (exit === undefined) {
          if (!this.#threads.spin(WAIT_MAX_MS)) await this.#threads.wait(WAIT_MAX_MS);
        } else if (!slot.isClean && this.#answer(slot, exit)) {
          // What the answering device asked for comes before the guest's next instruction.
          if (this.#stopRequested) return;
          this.#enter(slot);
          // It is not stuck: it just did something.
          return this.#goOn();
        }
      }
    }
    if (this.#end !== undefined || this.#stopRequested) return;
    if (this.#slots.every(({ vcpu }) => this.#threads.isStuck(vcpu.index))) this.#end = { kind: "halted" };
    else this.#goOn();
  }

  #goOn(): void {
    for (const slot of this.#slots) if (!slot.isRunning && slot.isClean) this.#enter(slot);
  }

  /** Whether one was due. */
  #fireTimers(): boolean {
    const now = this.#clock.now();
    const { timers } = this.#clock;
    if (timers.nextDeadline > now) return false;
    timers.fireDue(now);
    return true;
  }

  /** Not more than 0 where a timer is due. */
  #untilTimerMs(): number {
    return (this.#clock.timers.nextDeadline - this.#clock.now()) / NS_PER_MS;
  }

  /** `setTimeout`'s grain is too coarse for what is left below a millisecond: that is spent yielding. */
  async #wait(): Promise<void> {
    const leftMs = this.#untilTimerMs();
    if (leftMs <= 0) return;
    if (leftMs < 1) await this.#scheduler.yield();
    else
      await this.#threads.wait(
        Math.min(Math.floor(leftMs), this.#endsWhenHalted ? STUCK_CHECK_MS : WAIT_MAX_MS),
      );
  }
}
