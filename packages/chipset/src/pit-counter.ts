/**
 * One counter of the 8254: its six modes as functions of time.
 *
 * Nothing here counts. A counter remembers at which tick its counting element was loaded (`origin`) and with
 * what (`n`); count, OUT and the next edge are computed from the tick they are asked for. The owner converts
 * time to ticks of the 1.193182 MHz input.
 */
import type { PitCounterStateV1 } from "@skep/vcpu";

/** Bits of a control word (Intel 82C54 data sheet, figure 7), without the counter select. */
export const CW = {
  BCD: 0x01,
  /** M2 to M0; 6 and 7 are 2 and 3. */
  MODE: 0x0e,
  MODE_SHIFT: 1,
  /** RW1 and RW0: 0 latch command, 1 low byte, 2 high byte, 3 low then high. */
  RW: 0x30,
  RW_SHIFT: 4,
} as const;

/** Bits of the status byte that read-back latches (figure 11); the low six are the control word's. */
export const STATUS = { OUT: 0x80, NULL_COUNT: 0x40 } as const;

const RW_LOW = 1;
const RW_HIGH = 2;

export class PitCounter {
  #control = 0x30;
  #gate: boolean;
  #counted = false;
  #running = false;
  #countRegister = 0x1_0000;
  #n = 0x1_0000;
  #origin = 0;
  #before = false;
  #held = -1;
  #pendingAt: number | undefined;
  #nullUntil = Number.POSITIVE_INFINITY;
  #writeLow = -1;
  #readHigh = false;
  #latchedCount = -1;
  #latchedStatus = -1;

  constructor(gate: boolean) {
    this.#gate = gate;
  }

  get mode(): number {
    const mode = (this.#control & CW.MODE) >> CW.MODE_SHIFT;
    return mode > 5 ? mode - 4 : mode;
  }

  /** Whether OUT's low phase is one tick long, so that only its end matters to an edge. */
  get strobes(): boolean {
    const mode = this.mode;
    return mode === 2 || mode > 3;
  }

  /** A control word that selects this counter; `control` without the select bits and not a latch command. */
  program(control: number): void {
    this.#control = control & 0x3f;
    this.#counted = false;
    this.#running = false;
    this.#held = -1;
    this.#pendingAt = undefined;
    this.#nullUntil = Number.POSITIVE_INFINITY;
    this.#writeLow = -1;
    this.#readHigh = false;
    this.#latchedCount = -1;
    this.#latchedStatus = -1;
  }

  /** Counter latch command; ignored while a latched count waits to be read. */
  latchCount(tick: number): void {
    if (this.#latchedCount < 0) this.#latchedCount = this.#encode(this.count(tick));
  }

  latchStatus(tick: number): void {
    if (this.#latchedStatus >= 0) return;
    const out = this.out(tick) ? STATUS.OUT : 0;
    const nullCount = tick < this.#nullUntil ? STATUS.NULL_COUNT : 0;
    this.#latchedStatus = out | nullCount | this.#control;
  }

  readByte(tick: number): number {
    if (this.#latchedStatus >= 0) {
      const status = this.#latchedStatus;
      this.#latchedStatus = -1;
      return status;
    }
    const value = this.#latchedCount >= 0 ? this.#latchedCount : this.#encode(this.count(tick));
    const rw = this.#rw();
    const high = rw === RW_HIGH || (rw !== RW_LOW && this.#readHigh);
    const first = rw === 3 && !this.#readHigh;
    if (rw === 3) this.#readHigh = !this.#readHigh;
    if (!first) this.#latchedCount = -1;
    return high ? value >> 8 : value & 0xff;
  }

  writeByte(value: number, tick: number): void {
    const rw = this.#rw();
    if (rw === RW_LOW) this.#load(value, tick);
    else if (rw === RW_HIGH) this.#load(value << 8, tick);
    else if (this.#writeLow < 0) {
      this.#writeLow = value;
      // Mode 0: the first byte stops the counter and takes OUT low at once (82C54, "Mode 0").
      if (this.mode === 0) {
        this.#running = false;
        this.#held = -1;
      }
    } else {
      const low = this.#writeLow;
      this.#writeLow = -1;
      this.#load((value << 8) | low, tick);
    }
  }

  get gate(): boolean {
    return this.#gate;
  }

  setGate(level: boolean, tick: number): void {
    if (level === this.#gate) return;
    this.settle(tick);
    const mode = this.mode;
    if (mode === 1 || mode === 5) {
      if (level && this.#counted) this.#start(tick);
    } else if (!level && this.#running) {
      this.#held = this.#elapsed(tick);
      if (this.#pendingAt !== undefined) this.#nullUntil = Number.POSITIVE_INFINITY;
    } else if (level && this.#held >= 0) {
      if (mode === 2 || mode === 3) this.#start(tick);
      else this.#origin = tick - this.#held;
      this.#held = -1;
    }
    this.#gate = level;
  }

  /** Takes over a pending count whose time has come. To be called with rising ticks, before anything is asked. */
  settle(tick: number): void {
    if (this.#pendingAt === undefined || tick < this.#pendingAt || this.#held >= 0) return;
    const inHighHalf = this.mode === 3 && this.#outAt(this.#pendingAt - 1);
    this.#n = this.#countRegister;
    // Mode 3 takes a new count at the end of either half; after the high one the low half comes next.
    this.#origin = this.#pendingAt - (inHighHalf ? Math.ceil(this.#n / 2) : 0);
    this.#pendingAt = undefined;
  }

  /** Level of OUT. */
  out(tick: number): boolean {
    this.settle(tick);
    return this.#outAt(tick);
  }

  /** The counting element at `tick`, 0 to 65,535 (BCD: 0 to 9,999). */
  count(tick: number): number {
    this.settle(tick);
    const n = this.#n;
    const elapsed = this.#elapsed(tick);
    let value = n - elapsed;
    if (this.mode === 2) value = n - (elapsed % n);
    if (this.mode === 3) {
      const high = Math.ceil(n / 2);
      const phase = elapsed % n;
      // Counts by two, from the even number below an odd n (82C54, "Mode 3").
      value = n - (n & 1) - 2 * (phase < high ? phase : phase - high);
    }
    const modulus = this.#modulus();
    return ((value % modulus) + modulus) % modulus;
  }

  /** First tick after `tick` at which OUT changes; in the strobing modes, at which it returns high. */
  nextEdge(tick: number): number | undefined {
    this.settle(tick);
    if (!this.#running || this.#held >= 0) return undefined;
    const n = this.#n;
    const origin = this.#origin;
    const elapsed = this.#elapsed(tick);
    switch (this.mode) {
      case 0:
      case 1:
        return elapsed < n ? origin + n : undefined;
      case 2:
        return n > 1 ? origin + n * (Math.floor(elapsed / n) + 1) : undefined;
      case 3: {
        if (n === 1) return undefined;
        const cycle = origin + n * Math.floor(elapsed / n);
        const middle = cycle + Math.ceil(n / 2);
        return Math.max(tick, origin) < middle ? middle : cycle + n;
      }
      default:
        return elapsed <= n ? origin + n + 1 : undefined;
    }
  }

  save(tick: number): PitCounterStateV1 {
    this.settle(tick);
    const state: PitCounterStateV1 = {
      control: this.#control,
      gate: this.#gate,
      counted: this.#counted,
      running: this.#running,
      countRegister: this.#countRegister,
      n: this.#n,
      origin: this.#origin - tick,
      before: this.#before,
      held: this.#held,
      writeLow: this.#writeLow,
      readHigh: this.#readHigh,
      latchedCount: this.#latchedCount,
      latchedStatus: this.#latchedStatus,
    };
    if (this.#pendingAt !== undefined) state.pendingAt = this.#pendingAt - tick;
    if (this.#nullUntil !== Number.POSITIVE_INFINITY) state.nullUntil = this.#nullUntil - tick;
    return state;
  }

  /** A counter with a saved state that has been checked. */
  static restore(saved: PitCounterStateV1, tick: number): PitCounter {
    const counter = new PitCounter(saved.gate);
    counter.#control = saved.control;
    counter.#counted = saved.counted;
    counter.#running = saved.running;
    counter.#countRegister = saved.countRegister;
    counter.#n = saved.n;
    counter.#origin = saved.origin + tick;
    counter.#before = saved.before;
    counter.#held = saved.held;
    if (saved.pendingAt !== undefined) counter.#pendingAt = saved.pendingAt + tick;
    if (saved.nullUntil !== undefined) counter.#nullUntil = saved.nullUntil + tick;
    counter.#writeLow = saved.writeLow;
    counter.#readHigh = saved.readHigh;
    counter.#latchedCount = saved.latchedCount;
    counter.#latchedStatus = saved.latchedStatus;
    return counter;
  }

  #rw(): number {
    return (this.#control & CW.RW) >> CW.RW_SHIFT;
  }

  #modulus(): number {
    return (this.#control & CW.BCD) !== 0 ? 10_000 : 0x1_0000;
  }

  #elapsed(tick: number): number {
    if (this.#held >= 0) return this.#held;
    return this.#running ? Math.max(0, tick - this.#origin) : 0;
  }

  #outAt(tick: number): boolean {
    const mode = this.mode;
    if (!this.#running) return mode !== 0;
    if (tick < this.#origin && this.#held < 0) return this.#before;
    const n = this.#n;
    const elapsed = this.#elapsed(tick);
    switch (mode) {
      case 0:
      case 1:
        return elapsed >= n;
      case 2:
        // n = 1 is illegal in mode 2; OUT then stays high.
        return !this.#gate || n === 1 || elapsed % n !== n - 1;
      case 3:
        return !this.#gate || elapsed % n < Math.ceil(n / 2);
      default:
        return elapsed !== n;
    }
  }

  /** The count register was written in full. */
  #load(value: number, tick: number): void {
    this.settle(tick);
    this.#countRegister = this.#decode(value);
    this.#counted = true;
    this.#nullUntil = Number.POSITIVE_INFINITY;
    const mode = this.mode;
    if (mode === 1 || mode === 5) return;
    if (this.#running && (mode === 2 || mode === 3)) {
      const boundary = this.#held >= 0 ? undefined : this.nextEdge(tick);
      if (boundary !== undefined) {
        this.#pendingAt = boundary;
        this.#nullUntil = boundary;
        return;
      }
    }
    this.#start(tick);
    if (!this.#gate) this.#held = 0;
  }

  /** The counting element takes the count register at the next tick and counts from there. */
  #start(tick: number): void {
    this.#before = this.mode !== 0 && this.#outAt(tick);
    this.#n = this.#countRegister;
    this.#origin = tick + 1;
    this.#running = true;
    this.#held = -1;
    this.#pendingAt = undefined;
    this.#nullUntil = tick + 1;
  }

  /** What a written count stands for, in ticks: 0 is the modulus; digits above 9 count as they weigh. */
  #decode(value: number): number {
    if ((this.#control & CW.BCD) === 0) return value === 0 ? 0x1_0000 : value;
    const ticks = (value >> 12) * 1000 + ((value >> 8) & 15) * 100 + ((value >> 4) & 15) * 10 + (value & 15);
    return ticks === 0 ? 10_000 : ticks;
  }

  #encode(count: number): number {
    if ((this.#control & CW.BCD) === 0) return count;
    const digit = (weight: number): number => Math.floor(count / weight) % 10;
    return (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1);
  }
}
