/**
 * The local APIC's timer (SDM Vol. 3A sec. 11.5.4): one-shot, periodic and TSC-deadline, on a `Clock`.
 *
 * Nothing counts here: the count is computed from the clock when it is read, and one host timer is armed
 * for the next expiry that the guest could notice. A masked countdown arms none.
 *
 * Deviations: a periodic timer fires at most once in `MIN_PERIOD_NS`; the count that the guest reads keeps
 * its true period. Expiries that pass while the VM does not run are one interrupt, as they are in hardware
 * while interrupts are off.
 */
import { type Clock, type ClockTimer, type LocalApicTimerStateV1, MAX_SINCE_FIRE_NS } from "@skep/vcpu";

/** LVT timer mode, bits 18:17. */
export const TimerMode = { ONE_SHOT: 0, PERIODIC: 1, TSC_DEADLINE: 2 } as const;

/** Shortest time between two periodic interrupts: a guest may ask for one a nanosecond. */
const MIN_PERIOD_NS = MAX_SINCE_FIRE_NS;

const NS_PER_SECOND = 1_000_000_000;
/** A deadline farther off than this (11 days) is looked at again then. */
const MAX_WAIT_NS = 1e15;

/** Divide configuration: bits 3, 1 and 0 (SDM Vol. 3A fig. 11-10). */
export const DIVIDE_MASK = 0xb;

export interface LocalApicTimerOptions {
  /** Frequency of the counter before the divider, in Hz. */
  readonly hz: number;
  /** Ticks of the guest's TSC beyond the clock's (IA32_TSC_ADJUST). */
  readonly tscOffset: () => bigint;
}

export class LocalApicTimer {
  readonly #clock: Clock;
  readonly #expire: () => void;
  readonly #options: LocalApicTimerOptions;
  readonly #hostTimer: ClockTimer;
  readonly #tscHz: bigint;
  #initialCount = 0;
  #divideConfig = 0;
  #tickNs = 0;
  #mode: number = TimerMode.ONE_SHOT;
  #masked = true;
  #startCount = 0;
  #startNs = 0;
  #firedNs = Number.NEGATIVE_INFINITY;
  #deadline = 0n;

  /** @param expire called at each expiry, masked or not: the LVT entry decides. */
  constructor(clock: Clock, expire: () => void, options: LocalApicTimerOptions) {
    this.#clock = clock;
    this.#expire = expire;
    this.#options = options;
    this.#tscHz = BigInt(Math.round(clock.tscHz));
    this.#hostTimer = clock.timer(() => this.#service());
    this.reset();
  }

  get initialCount(): number {
    return this.#initialCount;
  }

  /** A write starts the countdown; zero stops it. Ignored in TSC-deadline mode. */
  set initialCount(count: number) {
    this.#catchUp();
    if (this.#mode === TimerMode.TSC_DEADLINE) return;
    this.#initialCount = count;
    this.#startCount = count;
    this.#startNs = this.#clock.now();
    this.#firedNs = Number.NEGATIVE_INFINITY;
    this.#arm();
  }

  /** The current-count register. */
  get currentCount(): number {
    if (this.#startCount === 0) return 0;
    const now = this.#clock.now();
    if (now < this.#expiryNs()) return this.#remaining(now);
    if (this.#mode !== TimerMode.PERIODIC || this.#initialCount === 0) return 0;
    const ticks = Math.floor((now - this.#startNs) / this.#tickNs) - this.#startCount;
    return this.#initialCount - (Math.max(0, ticks) % this.#initialCount);
  }

  get divideConfig(): number {
    return this.#divideConfig;
  }

  /** The count goes on from where it is, at the new rate. */
  set divideConfig(value: number) {
    const now = this.#clock.now();
    this.#catchUp();
    const remaining = this.#startCount === 0 ? 0 : Math.max(1, this.#remaining(now));
    this.#setDivide(value & DIVIDE_MASK);
    this.#startCount = remaining;
    this.#startNs = now;
    this.#arm();
  }

  /**
   * LVT timer: mode (bits 18:17) and mask. Going to or from TSC-deadline mode disarms. To be called before
   * the LVT entry changes: an expiry that is already due belongs to the old one.
   */
  configure(mode: number, masked: boolean): void {
    this.#catchUp();
    if (mode !== this.#mode && (mode >= TimerMode.TSC_DEADLINE || this.#mode >= TimerMode.TSC_DEADLINE)) {
      this.#initialCount = 0;
      this.#startCount = 0;
      this.#deadline = 0n;
    }
    this.#mode = mode;
    this.#masked = masked;
    this.#arm();
  }

  /** IA32_TSC_DEADLINE; 0 while disarmed and in the other modes. */
  get deadline(): bigint {
    return this.#deadline;
  }

  /** Arms for a TSC value, 0 disarms; one that has passed expires at once. Ignored in the other modes. */
  set deadline(tsc: bigint) {
    this.#catchUp();
    if (this.#mode !== TimerMode.TSC_DEADLINE) return;
    this.#deadline = tsc;
    this.#service();
  }

  /** The TSC's offset changed: a deadline is a TSC value, so its time changes with it. */
  tscAdjusted(): void {
    if (this.#mode === TimerMode.TSC_DEADLINE) this.#service();
  }

  reset(): void {
    this.#initialCount = 0;
    this.#setDivide(0);
    this.#mode = TimerMode.ONE_SHOT;
    this.#masked = true;
    this.#startCount = 0;
    this.#startNs = 0;
    this.#firedNs = Number.NEGATIVE_INFINITY;
    this.#deadline = 0n;
    this.#hostTimer.cancel();
  }

  save(): LocalApicTimerStateV1 {
    const now = this.#clock.now();
    return {
      kind: "lapic-timer",
      version: 1,
      initialCount: this.#initialCount,
      divideConfig: this.#divideConfig,
      startCount: this.#startCount,
      elapsedNs: this.#startCount === 0 ? 0 : Math.max(0, now - this.#startNs),
      sinceFireNs: Math.min(MIN_PERIOD_NS, now - this.#firedNs),
      deadline: this.#deadline,
    };
  }

  /** Takes a state that has been checked, after `configure`. */
  restore(state: LocalApicTimerStateV1): void {
    const now = this.#clock.now();
    const counting = this.#mode !== TimerMode.TSC_DEADLINE;
    this.#setDivide(state.divideConfig);
    this.#initialCount = counting ? state.initialCount : 0;
    this.#startCount = counting ? state.startCount : 0;
    this.#startNs = now - state.elapsedNs;
    this.#firedNs = now - state.sinceFireNs;
    this.#deadline = counting ? 0n : state.deadline;
    this.#arm();
  }

  #setDivide(config: number): void {
    this.#divideConfig = config;
    // Bits 3, 1, 0 as a number: 0 is 2, 1 is 4, … 6 is 128, 7 is 1.
    const code = ((config >>> 1) & 4) | (config & 3);
    this.#tickNs = ((code === 7 ? 1 : 2 << code) * NS_PER_SECOND) / this.#options.hz;
  }

  /** When the running countdown ends, in ns, rounded up so that the count is zero then. */
  #expiryNs(): number {
    return Math.ceil(this.#startNs + this.#startCount * this.#tickNs);
  }

  #remaining(now: number): number {
    return Math.max(0, this.#startCount - Math.floor((now - this.#startNs) / this.#tickNs));
  }

  /** Brings the countdown up to `now`; true if it ended, once or more often, since it was last settled. */
  #settle(now: number): boolean {
    if (this.#startCount === 0 || now < this.#expiryNs()) return false;
    if (this.#mode === TimerMode.PERIODIC && this.#initialCount > 0) {
      const periodNs = this.#initialCount * this.#tickNs;
      const ended = this.#startNs + this.#startCount * this.#tickNs;
      const missed = Math.max(0, Math.floor((now - ended) / periodNs));
      this.#startNs = ended + missed * periodNs;
      this.#startCount = this.#initialCount;
    } else {
      this.#startCount = 0;
    }
    return true;
  }

  /** The host timer fired, or a deadline was written. */
  #service(): void {
    this.#catchUp();
    this.#arm();
  }

  /** Expires what is due, whether or not the clock has reported it yet. */
  #catchUp(): void {
    const now = this.#clock.now();
    if (this.#mode === TimerMode.TSC_DEADLINE) {
      if (this.#deadline === 0n || this.#ticksToDeadline(now) !== 0n) return;
      this.#deadline = 0n;
    } else {
      if (!this.#settle(now)) return;
      this.#firedNs = now;
    }
    this.#expire();
  }

  #ticksToDeadline(now: number): bigint {
    const base = (BigInt(now) * this.#tscHz) / BigInt(NS_PER_SECOND);
    const tsc = BigInt.asUintN(64, base + this.#options.tscOffset());
    return tsc >= this.#deadline ? 0n : this.#deadline - tsc;
  }

  #arm(): void {
    if (this.#mode === TimerMode.TSC_DEADLINE && this.#deadline !== 0n) {
      const now = this.#clock.now();
      // Rounded up; if the rounding still wakes us early, `#service` arms again for the rest.
      const waitNs = Math.ceil((Number(this.#ticksToDeadline(now)) * NS_PER_SECOND) / this.#clock.tscHz);
      this.#hostTimer.arm(now + Math.min(waitNs, MAX_WAIT_NS));
    } else if (this.#mode <= TimerMode.PERIODIC && this.#startCount !== 0 && !this.#masked) {
      const earliest = this.#mode === TimerMode.PERIODIC ? this.#firedNs + MIN_PERIOD_NS : 0;
      this.#hostTimer.arm(Math.max(this.#expiryNs(), earliest));
    } else {
      this.#hostTimer.cancel();
    }
  }
}
