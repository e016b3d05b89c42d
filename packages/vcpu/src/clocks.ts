import type { Clock, ClockTimer } from "./clock.ts";
import { StateReader } from "./state-reader.ts";
import { TimerQueue } from "./timer-queue.ts";
import { checkInteger } from "./validate.ts";

const NS_PER_MS = 1_000_000;
const NS_PER_S = 1_000_000_000;
/** 1 GHz: one tick a nanosecond, so that guests, logs and this code speak in the same numbers. */
const DEFAULT_TSC_HZ = NS_PER_S;

/** A saved clock. Timers are not here: each belongs to a device, which arms it again when it is restored. */
export interface ClockStateV1 {
  kind: "clock";
  version: 1;
  /** Nanoseconds since the VM was made. */
  nowNs: number;
  /** Part of a nanosecond in [0, 1) that instruction-counted time has run beyond `nowNs`; else 0. */
  fractionNs: number;
  /** Time-stamp counter, in ticks of `tscHz`. */
  tsc: number;
  tscHz: number;
  /** Wall-clock time at `nowNs`, in ms since 1970-01-01 UTC. */
  wallTimeMs: number;
}

/** A `Clock` as the run loop drives it. Every VM has one; it stands still until `resume()`. */
export interface RunClock extends Clock {
  readonly timers: TimerQueue;
  /** Counted in instructions, not taken from the host. */
  readonly isVirtual: boolean;
  /** Lets time pass. */
  resume(): void;
  /** Stops time; timers do not fire. */
  pause(): void;
  /** Time-stamp counter at the time that `now()` last gave, in ticks; never less than what the guest may have read. */
  tsc(): bigint;
  /** Ticks that the time-stamp counter advances an instruction, within a slice. */
  readonly tscPerInstruction: number;
  /** Instructions to run from the time that `now()` last gave until the next timer is due: from 1 to `limit`. */
  budget(limit: number): number;
  /** `count` instructions were retired since the last call of `tsc()`. */
  retired(count: number): void;
  /**
   * No vCPU has anything to do before `deadlineNs`. Virtual time goes there at once and true is returned;
   * real time is left to pass, the run loop sleeps.
   */
  skipTo(deadlineNs: number): boolean;
  save(): ClockStateV1;
  /** @throws StateError where `state` is no clock state; nothing is changed then. */
  restore(state: unknown): void;
}

/** What both clocks share: the timers, the TSC's arithmetic, the saved shape. */
abstract class TimerClock implements RunClock {
  readonly timers = new TimerQueue();
  readonly tscHz: number;
  /** The TSC that the guest may have read: a slice's interpolation may run ahead of the clock. */
  protected tscFloor = 0;

  constructor(tscHz: number) {
    // Linux refuses to use a TSC below about 1 MHz; 100 GHz keeps every product here exact to the tick.
    this.tscHz = checkInteger("tscHz", tscHz, 1_000_000, 100 * NS_PER_S);
  }

  abstract readonly isVirtual: boolean;
  abstract now(): number;
  abstract wallTimeMs(): number;
  abstract resume(): void;
  abstract pause(): void;
  abstract readonly tscPerInstruction: number;
  abstract budget(limit: number): number;
  abstract skipTo(deadlineNs: number): boolean;
  abstract restore(state: unknown): void;
  /** What `now()` last gave, and the part of a nanosecond beyond it. */
  protected abstract lastNs(): number;
  protected abstract fraction(): number;

  timer(callback: (deadlineNs: number) => void): ClockTimer {
    return this.timers.timer(callback);
  }

  tsc(): bigint {
    return BigInt(this.tscNumber());
  }

  retired(count: number): void {
    this.tscFloor += Math.floor(count * this.tscPerInstruction);
  }

  save(): ClockStateV1 {
    return {
      kind: "clock",
      version: 1,
      nowNs: this.now(),
      fractionNs: this.fraction(),
      tsc: this.tscNumber(),
      tscHz: this.tscHz,
      wallTimeMs: this.wallTimeMs(),
    };
  }

  protected tscNumber(): number {
    const ticks = this.tscAt(this.lastNs());
    if (ticks > this.tscFloor) this.tscFloor = ticks;
    return this.tscFloor;
  }

  /**
   * Ticks at `ns` by the clock, whatever the guest has read. Whole seconds and the rest are converted apart: their
   * products stay within 53 bits' relative precision.
   */
  protected tscAt(ns: number): number {
    const seconds = Math.floor(ns / NS_PER_S);
    const rest = ns - seconds * NS_PER_S + this.fraction();
    return seconds * this.tscHz + Math.floor((rest * this.tscHz) / NS_PER_S);
  }

  protected readState(state: unknown): ClockStateV1 {
    const reader = new StateReader(state, "clock", 1);
    const tscHz = reader.integer("tscHz", 0, Number.MAX_SAFE_INTEGER);
    if (tscHz !== this.tscHz) throw reader.error("tscHz", `${this.tscHz}, this clock's`, tscHz);
    const fractionNs = reader.number("fractionNs");
    if (fractionNs < 0 || fractionNs >= 1) throw reader.error("fractionNs", "a number in [0, 1)", fractionNs);
    return {
      kind: "clock",
      version: 1,
      nowNs: reader.integer("nowNs", 0, Number.MAX_SAFE_INTEGER),
      fractionNs,
      tsc: reader.integer("tsc", 0, Number.MAX_SAFE_INTEGER),
      tscHz,
      wallTimeMs: reader.number("wallTimeMs"),
    };
  }
}

export interface RealClockOptions {
  /** Monotonic host time in ms, with a fraction. Default: `performance.now`. */
  readonly hostMs?: () => number;
  /** Host's wall-clock time in ms since 1970-01-01 UTC. Default: `Date.now`. */
  readonly wallMs?: () => number;
  /** Frequency of the guest's TSC in Hz, 1 MHz to 100 GHz. Default: 1 GHz. */
  readonly tscHz?: number;
}

/** Time as the host has it, without the time that the VM was paused. */
export class RealClock extends TimerClock {
  readonly isVirtual = false;
  readonly #hostMs: () => number;
  readonly #wallMs: () => number;
  /** `now()` when time last started to pass, and the host's time then; `undefined` while paused. */
  #baseNs = 0;
  #hostBaseMs: number | undefined;
  #lastNs = 0;
  /**
   * Running average of what an instruction takes, in ns: turns a deadline into a budget. The first guess is a slow
   * one, which only makes the first slices short.
   */
  #nsPerInstruction = 10;
  /** The same for the TSC within a slice: the quickest of late, forgotten slowly. */
  #tscNsPerInstruction = 1;
  #measuredFromNs = 0;

  /** @throws RangeError where an option is out of its range. */
  constructor(options: RealClockOptions = {}) {
    super(options.tscHz ?? DEFAULT_TSC_HZ);
    this.#hostMs = options.hostMs ?? (() => performance.now());
    this.#wallMs = options.wallMs ?? (() => Date.now());
  }

  now(): number {
    if (this.#hostBaseMs === undefined) return this.#lastNs;
    const now = this.#baseNs + Math.floor((this.#hostMs() - this.#hostBaseMs) * NS_PER_MS);
    if (now > this.#lastNs) this.#lastNs = now;
    return this.#lastNs;
  }

  wallTimeMs(): number {
    return this.#wallMs();
  }

  resume(): void {
    if (this.#hostBaseMs !== undefined) return;
    this.#baseNs = this.#lastNs;
    this.#hostBaseMs = this.#hostMs();
  }

  pause(): void {
    this.now();
    this.#hostBaseMs = undefined;
  }

  override tsc(): bigint {
    const tsc = this.tscNumber();
    this.#measuredFromNs = this.#lastNs;
    return BigInt(tsc);
  }

  /**
   * Slower than the quickest pace of late, so that a slice's end seldom is behind what the guest read within it; and
   * next to nothing while the TSC is ahead of the clock, until time has caught up. A lead that could grow would have
   * loops that wait by the TSC end before the timers that they wait for ("8254 timer not connected to IO-APIC").
   */
  get tscPerInstruction(): number {
    const isAhead = this.tscFloor > this.tscAt(this.#lastNs);
    return ((isAhead ? 0.01 : 0.75) * this.#tscNsPerInstruction * this.tscHz) / NS_PER_S;
  }

  budget(limit: number): number {
    const left = this.timers.nextDeadline - this.#lastNs;
    if (left <= 0) return 1;
    const instructions = Math.ceil(left / this.#nsPerInstruction);
    return Math.min(instructions, limit);
  }

  override retired(count: number): void {
    super.retired(count);
    // Short runs are mostly the exit and its device; only long ones tell the processor's pace.
    if (count < 1024) return;
    const pace = (this.now() - this.#measuredFromNs) / count;
    const bounded = Math.min(Math.max(pace, 0.01), 1000);
    // A host that was busy elsewhere makes a run look slow, nothing makes one look quick.
    if (bounded < this.#tscNsPerInstruction) this.#tscNsPerInstruction = bounded;
    else this.#tscNsPerInstruction += (bounded - this.#tscNsPerInstruction) / 64;
    if (count < 4096) return;
    this.#nsPerInstruction += (bounded - this.#nsPerInstruction) / 8;
  }

  skipTo(): boolean {
    return false;
  }

  /** Time goes on from the saved nanosecond and TSC; wall-clock time stays the host's. */
  restore(state: unknown): void {
    const { nowNs, tsc } = this.readState(state);
    this.#lastNs = nowNs;
    this.#baseNs = nowNs;
    if (this.#hostBaseMs !== undefined) this.#hostBaseMs = this.#hostMs();
    this.tscFloor = tsc;
  }

  protected lastNs(): number {
    return this.#lastNs;
  }

  protected fraction(): number {
    return 0;
  }
}

export interface InstructionClockOptions {
  /** Guest nanoseconds that pass with an instruction, 0.001 to 1000. Default: 1. */
  readonly nsPerInstruction?: number;
  /** Wall-clock time when the VM is made, in ms since 1970-01-01 UTC. Default: 2025-01-01 00:00. */
  readonly wallTimeMs?: number;
  /** Frequency of the guest's TSC in Hz, 1 MHz to 100 GHz. Default: 1 GHz. */
  readonly tscHz?: number;
}

/**
 * Time counted in instructions: the same guest with the same input runs the same way bit for bit, on any
 * host at any speed. Several vCPUs share it as if they took turns on one processor; while all of them halt
 * it jumps to the next deadline.
 */
export class InstructionClock extends TimerClock {
  readonly isVirtual = true;
  readonly tscPerInstruction: number;
  readonly #nsPerInstruction: number;
  #wallBaseMs: number;
  #now = 0;
  /** Part of a nanosecond, in [0, 1). */
  #fraction = 0;

  /** @throws RangeError where an option is out of its range. */
  constructor(options: InstructionClockOptions = {}) {
    super(options.tscHz ?? DEFAULT_TSC_HZ);
    const pace = options.nsPerInstruction ?? 1;
    if (!(pace >= 0.001 && pace <= 1000)) {
      throw new RangeError(`nsPerInstruction: expected a number from 0.001 to 1000, got ${pace}`);
    }
    this.#nsPerInstruction = pace;
    this.tscPerInstruction = (pace * this.tscHz) / NS_PER_S;
    this.#wallBaseMs = options.wallTimeMs ?? Date.UTC(2025, 0, 1);
    if (!Number.isFinite(this.#wallBaseMs)) {
      throw new RangeError(`wallTimeMs: expected a number of milliseconds, got ${this.#wallBaseMs}`);
    }
  }

  now(): number {
    return this.#now;
  }

  wallTimeMs(): number {
    return this.#wallBaseMs + this.#now / NS_PER_MS;
  }

  /** Nothing to do: only instructions and `skipTo` move this clock. */
  resume(): void {}
  pause(): void {}

  budget(limit: number): number {
    const left = this.timers.nextDeadline - this.#now - this.#fraction;
    if (left <= 0) return 1;
    const instructions = Math.ceil(left / this.#nsPerInstruction);
    return Math.min(instructions, limit);
  }

  override retired(count: number): void {
    super.retired(count);
    const passed = this.#fraction + count * this.#nsPerInstruction;
    const whole = Math.floor(passed);
    this.#now += whole;
    this.#fraction = passed - whole;
  }

  skipTo(deadlineNs: number): boolean {
    if (!Number.isFinite(deadlineNs)) return false;
    if (deadlineNs > this.#now) {
      this.#now = Math.ceil(deadlineNs);
      this.#fraction = 0;
    }
    return true;
  }

  restore(state: unknown): void {
    const { nowNs, fractionNs, tsc, wallTimeMs } = this.readState(state);
    this.#now = nowNs;
    this.#fraction = fractionNs;
    this.tscFloor = tsc;
    this.#wallBaseMs = wallTimeMs - nowNs / NS_PER_MS;
  }

  protected lastNs(): number {
    return this.#now;
  }

  protected fraction(): number {
    return this.#fraction;
  }
}
