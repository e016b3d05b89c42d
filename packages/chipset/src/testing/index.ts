/**
 * Fakes for those who write or wire devices: a clock that moves only when told to, and a line that remembers.
 */
import type { Clock, ClockTimer, IrqLine } from "@skep/vcpu";

export interface FakeClockOptions {
  /** Time at the start in ns; default 0. */
  readonly startNs?: number;
  /** Time-stamp counter frequency in Hz; default 1 GHz, so that a tick is a nanosecond. */
  readonly tscHz?: number;
  /** Wall-clock time at `now() === 0`, in ms since 1970-01-01 UTC; default 2024-02-29 23:59:50. */
  readonly wallStartMs?: number;
}

/** How often one `advance` fires before it is taken for a timer that re-arms for ever. */
const MAX_FIRINGS = 1_000_000;

/** A `Clock` that stands still until `advance()` moves it, firing what is due in order of deadline. */
export class FakeClock implements Clock {
  readonly tscHz: number;
  #now: number;
  readonly #wallStartMs: number;
  readonly #timers: FakeTimer[] = [];

  constructor(options: FakeClockOptions = {}) {
    this.#now = options.startNs ?? 0;
    this.tscHz = options.tscHz ?? 1_000_000_000;
    this.#wallStartMs = options.wallStartMs ?? Date.UTC(2024, 1, 29, 23, 59, 50);
  }

  now(): number {
    return this.#now;
  }

  wallTimeMs(): number {
    return this.#wallStartMs + Math.floor(this.#now / 1_000_000);
  }

  timer(callback: (deadlineNs: number) => void): ClockTimer {
    const timer = new FakeTimer(callback);
    this.#timers.push(timer);
    return timer;
  }

  /** The earliest deadline that is armed, in ns, or `undefined`. */
  get nextDeadline(): number | undefined {
    return this.#next()?.deadline;
  }

  /**
   * Moves time on by `ns`, firing every timer that comes due on the way, each with `now()` at its deadline.
   * @throws RangeError where `ns` is negative or no integer, or where timers re-arm without end.
   */
  advance(ns: number): void {
    if (!Number.isSafeInteger(ns) || ns < 0) throw new RangeError(`ns: expected an integer >= 0, got ${ns}`);
    this.advanceTo(this.#now + ns);
  }

  /** As `advance`, to an absolute time in ns. */
  advanceTo(targetNs: number): void {
    for (let firings = 0; ; firings++) {
      const timer = this.#next();
      const deadline = timer?.deadline;
      if (timer === undefined || deadline === undefined || deadline > targetNs) break;
      if (firings === MAX_FIRINGS) throw new RangeError(`timers fired ${MAX_FIRINGS} times in one advance`);
      this.#now = Math.max(this.#now, deadline);
      timer.fire();
    }
    this.#now = Math.max(this.#now, targetNs);
  }

  /** Moves time on by `ns` in one step, then fires each timer that is due once: a VM that was held up. */
  stall(ns: number): void {
    this.#now += ns;
    const due = this.#timers.filter((timer) => (timer.deadline ?? Number.POSITIVE_INFINITY) <= this.#now);
    due.sort((a, b) => (a.deadline ?? 0) - (b.deadline ?? 0));
    for (const timer of due) if (timer.deadline !== undefined) timer.fire();
  }

  #next(): FakeTimer | undefined {
    let first: FakeTimer | undefined;
    for (const timer of this.#timers) {
      if (timer.deadline === undefined) continue;
      if (first?.deadline === undefined || timer.deadline < first.deadline) first = timer;
    }
    return first;
  }
}

class FakeTimer implements ClockTimer {
  deadline: number | undefined;
  readonly #callback: (deadlineNs: number) => void;

  constructor(callback: (deadlineNs: number) => void) {
    this.#callback = callback;
  }

  arm(deadlineNs: number): void {
    this.deadline = deadlineNs;
  }

  cancel(): void {
    this.deadline = undefined;
  }

  fire(): void {
    const deadline = this.deadline;
    if (deadline === undefined) return;
    this.deadline = undefined;
    this.#callback(deadline);
  }
}

/** One change of a line. */
export interface LineTransition {
  /** Time in ns where the probe was given a clock, else 0. */
  readonly ns: number;
  readonly level: boolean;
}

/** An `IrqLine` that records each change of its level (setting the level it has is none). */
export class LineProbe implements IrqLine {
  /** Every change since the probe was made or `clear()` was called, oldest first. */
  readonly transitions: LineTransition[] = [];
  #level = false;
  readonly #clock: Clock | undefined;

  constructor(clock?: Clock) {
    this.#clock = clock;
  }

  get level(): boolean {
    return this.#level;
  }

  /** Rising edges since the probe was made or cleared. */
  get edges(): number {
    return this.transitions.filter((transition) => transition.level).length;
  }

  set(level: boolean): void {
    if (level === this.#level) return;
    this.#level = level;
    this.transitions.push({ ns: this.#clock?.now() ?? 0, level });
  }

  /** Forgets the changes; the level stays. */
  clear(): void {
    this.transitions.length = 0;
  }
}
