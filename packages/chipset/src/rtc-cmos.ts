/**
 * Motorola MC146818A real-time clock with 128 bytes of battery-backed memory (MC146818A data sheet, ADI-1021),
 * behind the PC's index and data ports 0x70 and 0x71. Bit 7 of the index port is the board's NMI disable.
 *
 * Time is the clock's: the registers are computed from it, and latched only while updates are inhibited (SET, or
 * the divider held in reset). The phase of a second is kept, so update, alarm and periodic interrupts do not drift;
 * after a pause, in which the VM's time stands still, reading the time catches up with the wall clock.
 *
 * Deviations: an update takes no time, so UIP is set only for the 244 µs that announce it; a write to a time
 * register while updates run takes effect at once; daylight saving (DSE), the square-wave output (SQWE) and time
 * bases other than 32.768 kHz are bits without effect; the index port reads as 0xFF.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { type Clock, type ClockTimer, type IrqLine, StateReader } from "@skep/vcpu";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import { civilSeconds, civilTime } from "./calendar.ts";
import { nsOfTick, ticksAt } from "./ticks.ts";

/** Ports, by offset from 0x70. */
export const RTC_PORT = {
  /** WO: register index in bits 6:0, NMI disable in bit 7. */
  INDEX: 0,
  /** RW: the register. */
  DATA: 1,
} as const;

/** Registers, by index. 0x0E to 0x7F are memory, but for the century. */
export const RTC_REG = {
  SECONDS: 0x00,
  SECONDS_ALARM: 0x01,
  MINUTES: 0x02,
  MINUTES_ALARM: 0x03,
  HOURS: 0x04,
  HOURS_ALARM: 0x05,
  /** 1 is Sunday. */
  WEEKDAY: 0x06,
  DAY: 0x07,
  MONTH: 0x08,
  /** Year within the century. */
  YEAR: 0x09,
  /** RW: divider and periodic rate; UIP is RO. */
  A: 0x0a,
  /** RW: interrupt enables and formats. */
  B: 0x0b,
  /** RO: interrupt flags; reading clears them. */
  C: 0x0c,
  /** RO: valid RAM and time. */
  D: 0x0d,
} as const;

export const REG_A = { RS: 0x0f, DV: 0x70, DV_NORMAL: 0x20, UIP: 0x80 } as const;
export const REG_B = {
  DSE: 0x01,
  HOUR_24: 0x02,
  /** Data mode: 1 binary, 0 BCD. */
  DM: 0x04,
  SQWE: 0x08,
  UIE: 0x10,
  AIE: 0x20,
  PIE: 0x40,
  SET: 0x80,
} as const;
/** Flags; they stand where register B has their enables. */
export const REG_C = { UF: 0x10, AF: 0x20, PF: 0x40, IRQF: 0x80 } as const;
export const REG_D = { VRT: 0x80 } as const;

const NMI_DISABLE = 0x80;
const CMOS_BYTES = 128;
const FLAGS = REG_C.UF | REG_C.AF | REG_C.PF;
/** Divider running from 32.768 kHz, periodic rate 1,024 Hz: what PC firmware leaves behind. */
const RESET_A = REG_A.DV_NORMAL | 0x06;
const RESET_B = REG_B.HOUR_24;
const PM = 0x80;
/** Alarm bytes from here on match everything (MC146818A, "Alarm"). */
const ALARM_ANY = 0xc0;
const TIME_REGISTERS = [
  RTC_REG.SECONDS,
  RTC_REG.MINUTES,
  RTC_REG.HOURS,
  RTC_REG.WEEKDAY,
  RTC_REG.DAY,
  RTC_REG.MONTH,
  RTC_REG.YEAR,
] as const;

const SECOND_NS = 1_000_000_000;
const DAY_SECONDS = 86_400;
/** UIP precedes the update by this much (t_BUC). */
const UIP_NS = 244_000;
/** First update after the divider's reset is released. */
const RELEASE_NS = 500_000_000;
/** Difference from the wall clock that is let be: the second under way, and what a host's clock is slewed by. */
const MAX_LAG_MS = 2000;
const OSCILLATOR_HZ = 32_768;
/** Where the calendar must stay for the arithmetic to be exact: about ± 140,000 years. */
const MAX_SECONDS = 2 ** 42;

export interface RtcCmosOptions {
  /** Index of the century's register, as the FADT tells; `false` for none. Default 0x32. */
  readonly century?: number | false;
  /** Where the time of day at the start differs from UTC, in seconds east; default 0. */
  readonly utcOffsetSeconds?: number;
}

export interface RtcCmosStateV1 {
  kind: "rtc-cmos";
  version: 1;
  index: number;
  nmiDisabled: boolean;
  /** All 128 bytes; time registers hold their latched values while updates are inhibited. */
  cmos: number[];
  flags: number;
  /** Seconds since 1970 in the guest's calendar. */
  seconds: number;
  /** Nanoseconds into that second. */
  phaseNs: number;
  /** What the guest's calendar is ahead of the wall clock, in ms. */
  wallOffsetMs: number;
  /** What the guest's weekday is ahead of the calendar's, 0 to 6. */
  weekdayOffset: number;
}

/** The chip; claim it at `Port.RTC`. */
export class RtcCmos implements BusDevice, ByteRegisters {
  readonly #clock: Clock;
  readonly #irq: IrqLine;
  readonly #timer: ClockTimer;
  readonly #century: number;
  readonly #cmos = new Uint8Array(CMOS_BYTES);
  #index = 0;
  #nmiDisabled = false;
  #flags = 0;
  /** Time in ns at which second `#anchorSeconds` began; the divider's phase. */
  #anchorNs: number;
  #anchorSeconds: number;
  #wallOffsetMs: number;
  #weekdayOffset = 0;
  /** Up to where updates, alarms and periodic ticks have been turned into flags. */
  #seenSeconds: number;
  #seenPeriods = 0;

  /**
   * @param irq the interrupt output, active while IRQF is set: line 8.
   * @throws RangeError where `century` is not an index from 0x0E to 0x7F.
   */
  constructor(clock: Clock, irq: IrqLine, options: RtcCmosOptions = {}) {
    const century = options.century ?? 0x32;
    if (century !== false && (!Number.isInteger(century) || century < 0x0e || century >= CMOS_BYTES)) {
      throw new RangeError(`century: expected an index from 0x0e to 0x7f or false, got ${century}`);
    }
    this.#clock = clock;
    this.#irq = irq;
    this.#timer = clock.timer(() => this.#update());
    this.#century = century === false ? -1 : century;
    this.#cmos[RTC_REG.A] = RESET_A;
    this.#cmos[RTC_REG.B] = RESET_B;
    this.#wallOffsetMs = (options.utcOffsetSeconds ?? 0) * 1000;
    this.#anchorNs = 0;
    this.#anchorSeconds = 0;
    this.#seenSeconds = 0;
    this.syncToWall();
  }

  /** Bit 7 of the index port: the board masks NMIs while it is set. */
  get nmiDisabled(): boolean {
    return this.#nmiDisabled;
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this, offset, size, value);
  }

  readByte(offset: number): number {
    return offset === RTC_PORT.DATA ? this.#readRegister(this.#index) : 0xff;
  }

  writeByte(offset: number, value: number): void {
    if (offset === RTC_PORT.INDEX) {
      this.#index = value & 0x7f;
      this.#nmiDisabled = (value & NMI_DISABLE) !== 0;
    } else if (offset === RTC_PORT.DATA) {
      this.#writeRegister(this.#index, value);
    }
  }

  /**
   * Sets a byte of the memory, 0x0E to 0x7F, as firmware would.
   * @throws RangeError for another index or a value that is no byte.
   */
  setByte(index: number, value: number): void {
    if (!Number.isInteger(index) || index <= RTC_REG.D || index >= CMOS_BYTES) {
      throw new RangeError(`index: expected 0x0e to 0x7f, got ${index}`);
    }
    if (!Number.isInteger(value) || value < 0 || value > 0xff) {
      throw new RangeError(`value: expected a byte, got ${value}`);
    }
    this.#writeRegister(index, value);
  }

  /**
   * Tells the guest's firmware its memory, in bytes: base memory (640 KiB), extended memory below 64 MiB,
   * memory from 16 MiB to 4 GiB in 64 KiB units, and what lies above 4 GiB, in the places that SeaBIOS, OVMF
   * and older systems read.
   */
  setMemorySize(belowFourGiB: number, aboveFourGiB = 0): void {
    const word = (low: number, high: number, value: number): void => {
      this.setByte(low, value & 0xff);
      this.setByte(high, (value >> 8) & 0xff);
    };
    const clamp = (value: number): number => Math.max(0, Math.min(0xffff, Math.floor(value)));
    const extendedKiB = clamp((belowFourGiB - 0x10_0000) / 1024);
    word(0x15, 0x16, 640);
    word(0x17, 0x18, extendedKiB);
    word(0x30, 0x31, extendedKiB);
    word(0x34, 0x35, clamp((belowFourGiB - 0x100_0000) / 0x1_0000));
    const high = Math.min(0xff_ffff, Math.floor(aboveFourGiB / 0x1_0000));
    word(0x5b, 0x5c, high & 0xffff);
    this.setByte(0x5d, high >>> 16);
  }

  /**
   * Sets the time to the wall clock's, plus what the guest has set it ahead. A guest that reads the time has this
   * done for it when the two are more than two seconds apart: after a pause, or a night in a snapshot.
   */
  syncToWall(): void {
    const now = this.#clock.now();
    const ms = Math.floor(this.#clock.wallTimeMs() + this.#wallOffsetMs);
    const seconds = Math.floor(ms / 1000);
    this.#setAnchor(seconds, now - (ms - seconds * 1000) * 1_000_000);
    this.#update();
  }

  /** The RESET pin: interrupt enables and flags go, time and memory stay. */
  reset(): void {
    this.#settle();
    this.#index = 0;
    this.#nmiDisabled = false;
    this.#flags = 0;
    this.#cmos[RTC_REG.B]! &= ~(REG_B.PIE | REG_B.AIE | REG_B.UIE | REG_B.SQWE);
    this.#update();
  }

  save(): RtcCmosStateV1 {
    this.#settle();
    const now = this.#clock.now();
    return {
      kind: "rtc-cmos",
      version: 1,
      index: this.#index,
      nmiDisabled: this.#nmiDisabled,
      cmos: [...this.#cmos],
      flags: this.#flags,
      seconds: this.#secondsAt(now),
      phaseNs: this.#phaseAt(now),
      wallOffsetMs: this.#wallOffsetMs,
      weekdayOffset: this.#weekdayOffset,
    };
  }

  /**
   * Restores the time as it was saved; see `syncToWall()` for how it comes to the present.
   * @throws StateError where `state` is not a saved state of this chip; nothing is changed then.
   */
  restore(state: unknown): void {
    const fields = new StateReader(state, "rtc-cmos", 1);
    const index = fields.bits("index", 0x7f);
    const nmiDisabled = fields.boolean("nmiDisabled");
    const cmos = fields.uints("cmos", CMOS_BYTES, 0xff);
    const flags = fields.bits("flags", FLAGS);
    const seconds = fields.integer("seconds", -MAX_SECONDS, MAX_SECONDS);
    const phaseNs = fields.integer("phaseNs", 0, SECOND_NS - 1);
    const wallOffsetMs = fields.integer("wallOffsetMs", -MAX_SECONDS * 1000, MAX_SECONDS * 1000);
    const weekdayOffset = fields.integer("weekdayOffset", 0, 6);

    this.#index = index;
    this.#nmiDisabled = nmiDisabled;
    this.#cmos.set(cmos);
    this.#cmos[RTC_REG.A]! &= ~REG_A.UIP;
    this.#flags = flags;
    this.#wallOffsetMs = wallOffsetMs;
    this.#weekdayOffset = weekdayOffset;
    this.#setAnchor(seconds, this.#clock.now() - phaseNs);
    this.#update();
  }

  #readRegister(index: number): number {
    switch (index) {
      case RTC_REG.A: {
        const announced = !this.#inhibited() && this.#phaseAt(this.#clock.now()) >= SECOND_NS - UIP_NS;
        return this.#cmos[index]! | (announced ? REG_A.UIP : 0);
      }
      case RTC_REG.C: {
        this.#settle();
        const flags = this.#flags;
        this.#flags = 0;
        this.#update();
        return flags | ((flags & this.#cmos[RTC_REG.B]! & FLAGS) !== 0 ? REG_C.IRQF : 0);
      }
      case RTC_REG.D:
        return REG_D.VRT;
      default:
        if (this.#isTime(index) && !this.#inhibited()) {
          this.#followWall();
          this.#latchTime();
        }
        return this.#cmos[index]!;
    }
  }

  /** The chip runs on while the VM does not: a wall clock that has moved on alone is caught up with. */
  #followWall(): void {
    const wallMs = this.#clock.wallTimeMs() + this.#wallOffsetMs;
    const timeMs = this.#secondsAt(this.#clock.now()) * 1000;
    if (Math.abs(wallMs - timeMs) > MAX_LAG_MS) this.syncToWall();
  }

  #writeRegister(index: number, value: number): void {
    this.#settle();
    switch (index) {
      case RTC_REG.A:
        this.#writeControl(value & ~REG_A.UIP, this.#cmos[RTC_REG.B]!);
        break;
      case RTC_REG.B:
        this.#writeControl(this.#cmos[RTC_REG.A]!, value);
        break;
      case RTC_REG.C:
      case RTC_REG.D:
        break;
      default:
        if (this.#isTime(index) && !this.#inhibited()) {
          this.#latchTime();
          this.#cmos[index] = value;
          this.#takeTime();
        } else {
          this.#cmos[index] = value;
        }
    }
    this.#update();
  }

  /** Registers A and B together decide whether the clock runs; leaving the halt takes over what was written. */
  #writeControl(a: number, b: number): void {
    const wasInhibited = this.#inhibited();
    const wasDividing = this.#dividing();
    const now = this.#clock.now();
    if (!wasInhibited) this.#latchTime();
    // SET going high clears UIE (register B, "SET").
    const setRises = (b & REG_B.SET) !== 0 && (this.#cmos[RTC_REG.B]! & REG_B.SET) === 0;
    this.#cmos[RTC_REG.A] = a;
    this.#cmos[RTC_REG.B] = setRises ? b & ~REG_B.UIE : b;
    if (!wasDividing && this.#dividing()) this.#setAnchor(this.#secondsAt(now), now - RELEASE_NS);
    if (wasInhibited && !this.#inhibited()) this.#takeTime();
    this.#seenPeriods = this.#periodsAt(now);
  }

  /** Whether the time registers stand still. */
  #inhibited(): boolean {
    return (this.#cmos[RTC_REG.B]! & REG_B.SET) !== 0 || !this.#dividing();
  }

  #dividing(): boolean {
    return (this.#cmos[RTC_REG.A]! & REG_A.DV) === REG_A.DV_NORMAL;
  }

  #isTime(index: number): boolean {
    return index === this.#century || (TIME_REGISTERS as readonly number[]).includes(index);
  }

  #secondsAt(now: number): number {
    return this.#anchorSeconds + Math.floor((now - this.#anchorNs) / SECOND_NS);
  }

  #phaseAt(now: number): number {
    const since = now - this.#anchorNs;
    return since - Math.floor(since / SECOND_NS) * SECOND_NS;
  }

  #setAnchor(seconds: number, ns: number): void {
    this.#anchorSeconds = seconds;
    this.#anchorNs = ns;
    const now = this.#clock.now();
    this.#seenSeconds = this.#secondsAt(now);
    this.#seenPeriods = this.#periodsAt(now);
  }

  /** Writes the current time into the registers, in the formats of register B. */
  #latchTime(): void {
    const time = civilTime(this.#secondsAt(this.#clock.now()));
    const cmos = this.#cmos;
    cmos[RTC_REG.SECONDS] = this.#encode(time.second);
    cmos[RTC_REG.MINUTES] = this.#encode(time.minute);
    cmos[RTC_REG.HOURS] = this.#encodeHour(time.hour);
    cmos[RTC_REG.WEEKDAY] = this.#encode(((time.weekday + this.#weekdayOffset) % 7) + 1);
    cmos[RTC_REG.DAY] = this.#encode(time.day);
    cmos[RTC_REG.MONTH] = this.#encode(time.month);
    cmos[RTC_REG.YEAR] = this.#encode(((time.year % 100) + 100) % 100);
    if (this.#century >= 0) cmos[this.#century] = this.#encode(Math.floor(time.year / 100) & 0xff);
  }

  /** Makes what stands in the registers the current time; the phase of the second stays. */
  #takeTime(): void {
    const cmos = this.#cmos;
    const year = this.#decode(cmos[RTC_REG.YEAR]!);
    const century = this.#century >= 0 ? this.#decode(cmos[this.#century]!) : year < 70 ? 20 : 19;
    const seconds = civilSeconds({
      year: century * 100 + year,
      month: this.#decode(cmos[RTC_REG.MONTH]!),
      day: this.#decode(cmos[RTC_REG.DAY]!),
      hour: this.#decodeHour(cmos[RTC_REG.HOURS]!),
      minute: this.#decode(cmos[RTC_REG.MINUTES]!),
      second: this.#decode(cmos[RTC_REG.SECONDS]!),
    });
    const weekday = this.#decode(cmos[RTC_REG.WEEKDAY]!) - 1;
    this.#weekdayOffset = (((weekday - civilTime(seconds).weekday) % 7) + 7) % 7;
    const now = this.#clock.now();
    this.#setAnchor(seconds, now - this.#phaseAt(now));
    this.#wallOffsetMs = seconds * 1000 + Math.floor(this.#phaseAt(now) / 1_000_000);
    this.#wallOffsetMs -= Math.floor(this.#clock.wallTimeMs());
  }

  #encode(value: number): number {
    if ((this.#cmos[RTC_REG.B]! & REG_B.DM) !== 0) return value;
    return ((Math.floor(value / 10) << 4) | (value % 10)) & 0xff;
  }

  #decode(value: number): number {
    return (this.#cmos[RTC_REG.B]! & REG_B.DM) !== 0 ? value : (value >> 4) * 10 + (value & 15);
  }

  #encodeHour(hour: number): number {
    if ((this.#cmos[RTC_REG.B]! & REG_B.HOUR_24) !== 0) return this.#encode(hour);
    return this.#encode(hour % 12 === 0 ? 12 : hour % 12) | (hour >= 12 ? PM : 0);
  }

  #decodeHour(value: number): number {
    if ((this.#cmos[RTC_REG.B]! & REG_B.HOUR_24) !== 0) return this.#decode(value);
    return (this.#decode(value & ~PM) % 12) + ((value & PM) !== 0 ? 12 : 0);
  }

  /** First second from `from` on, within a day, at which the alarm matches. */
  #nextAlarm(from: number): number | undefined {
    const wanted = (register: number, decoded: (value: number) => number): number => {
      const value = this.#cmos[register]!;
      return value >= ALARM_ANY ? -1 : decoded(value);
    };
    const hour = wanted(RTC_REG.HOURS_ALARM, (value) => this.#decodeHour(value));
    const minute = wanted(RTC_REG.MINUTES_ALARM, (value) => this.#decode(value));
    const second = wanted(RTC_REG.SECONDS_ALARM, (value) => this.#decode(value));
    // Whole hours and minutes that do not match are skipped: at most 24 + 60 + 60 steps.
    for (let at = from; at < from + DAY_SECONDS; ) {
      const inDay = ((at % DAY_SECONDS) + DAY_SECONDS) % DAY_SECONDS;
      if (hour >= 0 && Math.floor(inDay / 3600) !== hour) at += 3600 - (inDay % 3600);
      else if (minute >= 0 && Math.floor(inDay / 60) % 60 !== minute) at += 60 - (inDay % 60);
      else if (second >= 0 && inDay % 60 !== second) at++;
      else return at;
    }
    return undefined;
  }

  /** Ticks of 32.768 kHz between periodic interrupts (MC146818A, table 5), or 0 for none. */
  #periodTicks(): number {
    const rate = this.#cmos[RTC_REG.A]! & REG_A.RS;
    if (rate === 0 || !this.#dividing()) return 0;
    return 2 ** (rate <= 2 ? rate + 6 : rate - 1);
  }

  #periodsAt(now: number): number {
    const ticks = this.#periodTicks();
    return ticks === 0 ? 0 : Math.floor(ticksAt(now - this.#anchorNs, OSCILLATOR_HZ) / ticks);
  }

  /** Turns the time that has passed into flags, which are set whether or not they are enabled. */
  #settle(): void {
    const now = this.#clock.now();
    if (!this.#inhibited()) {
      const seconds = this.#secondsAt(now);
      if (seconds > this.#seenSeconds) {
        this.#flags |= REG_C.UF;
        const alarm = this.#nextAlarm(this.#seenSeconds + 1);
        if (alarm !== undefined && alarm <= seconds) this.#flags |= REG_C.AF;
        this.#seenSeconds = seconds;
      }
    }
    const periods = this.#periodsAt(now);
    if (periods > this.#seenPeriods) this.#flags |= REG_C.PF;
    this.#seenPeriods = periods;
  }

  /** Recomputes the interrupt output and when it could next change. */
  #update(): void {
    this.#settle();
    const enables = this.#cmos[RTC_REG.B]! & FLAGS;
    const active = (this.#flags & enables) !== 0;
    this.#irq.set(active);
    // While the output is active nothing more can happen to it before register C is read.
    const next = active ? undefined : this.#nextEvent(enables);
    if (next === undefined) this.#timer.cancel();
    else this.#timer.arm(next);
  }

  #nextEvent(enables: number): number | undefined {
    let next = Number.POSITIVE_INFINITY;
    const atSecond = (second: number): number => this.#anchorNs + (second - this.#anchorSeconds) * SECOND_NS;
    if (!this.#inhibited()) {
      if ((enables & REG_B.UIE) !== 0) next = atSecond(this.#seenSeconds + 1);
      const alarm = (enables & REG_B.AIE) !== 0 ? this.#nextAlarm(this.#seenSeconds + 1) : undefined;
      if (alarm !== undefined) next = Math.min(next, atSecond(alarm));
    }
    const ticks = this.#periodTicks();
    if ((enables & REG_B.PIE) !== 0 && ticks !== 0) {
      next = Math.min(next, this.#anchorNs + nsOfTick((this.#seenPeriods + 1) * ticks, OSCILLATOR_HZ));
    }
    return next === Number.POSITIVE_INFINITY ? undefined : next;
  }
}
