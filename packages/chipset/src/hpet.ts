/**
 * IA-PC High Precision Event Timers, revision 1.0a (Intel, October 2004): a 64-bit main counter at 100 MHz and
 * three timers, each one-shot or periodic, 32 or 64 bits, edge or level, delivered to an I/O APIC input, to a
 * legacy line (timers 0 and 1) or, where the embedder gives an `MsiTarget`, as a message ("FSB delivery").
 *
 * Nothing counts: the counter is the clock's time, and a timer remembers at which tick it will match next.
 *
 * With legacy replacement routing the chip takes lines 0 and 8 away from the 8254 and the RTC, so these two
 * lead through it: wire them to `pitInput` and `rtcInput`.
 *
 * Deviations: an edge is a fall followed by a rise that stays until the next one or until the timer is switched
 * off (an 8259 wants its input high until it is acknowledged); periods that pass while the VM's thread is held
 * up, and periods shorter than 20 µs, end in one interrupt; VAL_SET_CNF reads as 0, and reaches both halves of
 * an eight-byte comparator write, which arrives here as two.
 */
import { type AccessSize, type BusDevice, mergeBits, type RegisterFile } from "@skep/memory";
import { type Clock, type ClockTimer, type IrqLine, type MsiTarget, StateReader } from "@skep/vcpu";
import { GCAP_ID, GEN_CONF, HPET_MAP, HPET_REG, TIMER_COUNT, TN_CONF } from "./hpet-registers.ts";

/** Width of INT_ROUTE_CAP. */
const MAX_INPUTS = 32;
/** Period of the main counter: 10 ns. The specification allows at most 100 ns. */
const TICK_NS = 10;
const COUNTER_CLK_PERIOD_FS = TICK_NS * 1_000_000;
const CONF_KEPT =
  TN_CONF.INT_TYPE_CNF |
  TN_CONF.INT_ENB_CNF |
  TN_CONF.TYPE_CNF |
  TN_CONF.MODE32_CNF |
  TN_CONF.INT_ROUTE_CNF |
  TN_CONF.FSB_EN_CNF;
/** Shortest time between two deadlines of a periodic timer. */
const MIN_INTERVAL_NS = 20_000;
/** Ticks beyond which a deadline is out of the clock's reach (2^53 ns). */
const MAX_TICK = Math.floor(Number.MAX_SAFE_INTEGER / TICK_NS);
/** How long the high half stays latched after a read of the low one, in ticks (about 0.6 ms). */
const LATCH_TICKS = 0x1_0000;
const U32 = 0x1_0000_0000;

/** Where the timers' interrupts go. */
export interface HpetWiring {
  /** Lines to I/O APIC inputs, by input (0 to 31); those that are there make up INT_ROUTE_CAP. */
  readonly inputs: readonly (IrqLine | undefined)[];
  /** Interrupt line 0: the 8254's, or timer 0's under legacy replacement. */
  readonly irq0: IrqLine;
  /** Interrupt line 8: the RTC's, or timer 1's under legacy replacement. */
  readonly irq8: IrqLine;
  /** Offers FSB delivery; without it FSB_INT_DEL_CAP is 0. */
  readonly msi?: MsiTarget;
}

export interface HpetTimerStateV1 {
  config: number;
  comparator: bigint;
  /** Last value written to the comparator: the period. */
  period: bigint;
  /** Level-triggered interrupt pending (GINTR_STA). */
  status: boolean;
  /** Edge-triggered output is high. */
  edge: boolean;
  fsbData: number;
  fsbAddress: number;
}

export interface HpetStateV1 {
  kind: "hpet";
  version: 1;
  config: number;
  counter: bigint;
  timers: HpetTimerStateV1[];
}

/** One timer's registers and what follows from them. */
interface Timer extends HpetTimerStateV1 {
  readonly handle: ClockTimer;
  valueSet: boolean;
  /** Tick (of the clock, not the counter) of the next match; undefined where there is none in reach. */
  next: number | undefined;
  /** Time of the last interrupt in ns, to space periodic deadlines. */
  firedNs: number;
}

/** The chip; claim it at `Mmio.HPET`. */
export class Hpet implements BusDevice, RegisterFile<number> {
  /** Takes the 8254's OUT 0 and passes it to line 0, but not under legacy replacement. */
  readonly pitInput: IrqLine;
  /** Takes the RTC's interrupt and passes it to line 8, but not under legacy replacement. */
  readonly rtcInput: IrqLine;

  readonly #clock: Clock;
  readonly #wiring: HpetWiring;
  readonly #routeCap: number;
  readonly #timers: Timer[] = [];
  #pitLevel = false;
  #rtcLevel = false;
  #config = 0;
  /** The counter's value at clock tick `#startTick`, as two halves. */
  #startLow = 0;
  #startHigh = 0;
  #startTick = 0;
  #latchedHigh: number | undefined;
  #latchedTick = 0;
  /** Timer whose comparator's low half was just written with VAL_SET_CNF. */
  #splitWrite: Timer | undefined;

  constructor(clock: Clock, wiring: HpetWiring) {
    this.#clock = clock;
    this.#wiring = wiring;
    let routeCap = 0;
    wiring.inputs.forEach((line, input) => {
      if (line !== undefined && input < MAX_INPUTS) routeCap |= 1 << input;
    });
    this.#routeCap = routeCap >>> 0;
    for (let index = 0; index < TIMER_COUNT; index++) {
      const timer: Timer = {
        handle: clock.timer(() => this.#expire(timer)),
        config: 0,
        comparator: 0n,
        period: 0n,
        status: false,
        edge: false,
        fsbData: 0,
        fsbAddress: 0,
        valueSet: false,
        next: undefined,
        firedNs: 0,
      };
      this.#timers.push(timer);
    }
    this.pitInput = {
      set: (level) => {
        this.#pitLevel = level;
        this.#drive();
      },
    };
    this.rtcInput = {
      set: (level) => {
        this.#rtcLevel = level;
        this.#drive();
      },
    };
    this.reset();
  }

  read(offset: number, size: AccessSize): number {
    return HPET_MAP.read(offset, size, this);
  }

  write(offset: number, size: AccessSize, value: number): void {
    HPET_MAP.write(offset, size, value, this);
  }

  readRegister(offset: number): number {
    if (offset === HPET_REG.MAIN_CNT) return this.#readCounterLow();
    const latched = this.#latchedHigh;
    this.#latchedHigh = undefined;
    if (offset === HPET_REG.MAIN_CNT + 4) {
      const tick = this.#tick();
      return latched !== undefined && tick - this.#latchedTick < LATCH_TICKS
        ? latched
        : this.#counterHigh(tick);
    }
    const timer = this.#timerAt(offset);
    if (timer !== undefined) return this.#readTimer(timer, timerRegister(offset));
    switch (offset) {
      case HPET_REG.GCAP_ID:
        return (
          (GCAP_ID.VENDOR_ID |
            GCAP_ID.LEG_RT_CAP |
            GCAP_ID.COUNT_SIZE_CAP |
            ((TIMER_COUNT - 1) << GCAP_ID.NUM_TIM_CAP_SHIFT) |
            GCAP_ID.REV_ID) >>>
          0
        );
      case HPET_REG.GCAP_ID + 4:
        return COUNTER_CLK_PERIOD_FS;
      case HPET_REG.GEN_CONF:
        return this.#config;
      case HPET_REG.GINTR_STA:
        this.#settleAll();
        return this.#timers.reduce((value, { status }, index) => value | (status ? 1 << index : 0), 0);
      default:
        return 0;
    }
  }

  writeRegister(offset: number, value: number, mask: number): void {
    this.#latchedHigh = undefined;
    this.#settleAll();
    const split = this.#splitWrite;
    this.#splitWrite = undefined;
    const timer = this.#timerAt(offset);
    if (timer !== undefined) {
      this.#writeTimer(timer, timerRegister(offset), value, mask, split);
      this.#arm(timer);
    } else if (offset === HPET_REG.GEN_CONF) {
      this.#writeConfig(mergeBits(this.#config, value, mask) & (GEN_CONF.ENABLE_CNF | GEN_CONF.LEG_RT_CNF));
    } else if (offset === HPET_REG.GINTR_STA) {
      this.#timers.forEach((each, index) => {
        if ((value & (1 << index)) === 0) return;
        each.status = false;
        this.#arm(each);
      });
    } else if (offset === HPET_REG.MAIN_CNT || offset === HPET_REG.MAIN_CNT + 4) {
      this.#writeCounter(offset === HPET_REG.MAIN_CNT, value, mask);
    }
    this.#drive();
  }

  reset(): void {
    this.#config = 0;
    this.#startLow = 0;
    this.#startHigh = 0;
    this.#startTick = this.#tick();
    this.#latchedHigh = undefined;
    this.#splitWrite = undefined;
    for (const timer of this.#timers) {
      timer.handle.cancel();
      timer.config = 0;
      // The specification's reset value: all ones, so that nothing matches.
      timer.comparator = 0xffff_ffff_ffff_ffffn;
      timer.period = 0n;
      timer.status = false;
      timer.edge = false;
      timer.fsbData = 0;
      timer.fsbAddress = 0;
      timer.valueSet = false;
      timer.next = undefined;
    }
    this.#drive();
  }

  save(): HpetStateV1 {
    this.#settleAll();
    return {
      kind: "hpet",
      version: 1,
      config: this.#config,
      counter: this.#counter(this.#tick()),
      timers: this.#timers.map((timer) => ({
        config: timer.config | (timer.valueSet ? TN_CONF.VAL_SET_CNF : 0),
        comparator: timer.comparator,
        period: timer.period,
        status: timer.status,
        edge: timer.edge,
        fsbData: timer.fsbData,
        fsbAddress: timer.fsbAddress,
      })),
    };
  }

  /**
   * The lines from the 8254 and the RTC are theirs to restore.
   * @throws StateError where `state` is not a saved state of this chip; nothing is changed then.
   */
  restore(state: unknown): void {
    const fields = new StateReader(state, "hpet", 1);
    const config = fields.bits("config", GEN_CONF.ENABLE_CNF | GEN_CONF.LEG_RT_CNF);
    const counter = fields.u64("counter");
    const saved = fields.parts("timers", TIMER_COUNT).map((timer) => ({
      config: timer.bits("config", CONF_KEPT | TN_CONF.VAL_SET_CNF),
      comparator: timer.u64("comparator"),
      period: timer.u64("period"),
      status: timer.boolean("status"),
      edge: timer.boolean("edge"),
      fsbData: timer.bits("fsbData", 0xffff_ffff),
      fsbAddress: timer.bits("fsbAddress", 0xffff_ffff),
    }));
    this.#config = config;
    this.#startLow = Number(counter & 0xffff_ffffn);
    this.#startHigh = Number(counter >> 32n);
    this.#startTick = this.#tick();
    this.#latchedHigh = undefined;
    this.#splitWrite = undefined;
    this.#timers.forEach((timer, index) => {
      const { config: timerConfig, ...rest } = saved[index]!;
      Object.assign(timer, rest);
      timer.config = timerConfig & CONF_KEPT & ~(this.#wiring.msi === undefined ? TN_CONF.FSB_EN_CNF : 0);
      timer.valueSet = (timerConfig & TN_CONF.VAL_SET_CNF) !== 0;
      // A match at the very tick of the save has been dealt with before it.
      this.#schedule(timer, false);
      this.#arm(timer);
    });
    this.#drive();
  }

  // Counter

  #running(): boolean {
    return (this.#config & GEN_CONF.ENABLE_CNF) !== 0;
  }

  #tick(): number {
    return Math.floor(this.#clock.now() / TICK_NS);
  }

  /** The start's low half plus what has passed since: below 2^53, so the halves come out exact. */
  #counterSum(tick: number): number {
    return this.#startLow + (this.#running() ? tick - this.#startTick : 0);
  }

  #counterHigh(tick: number): number {
    return (this.#startHigh + Math.floor(this.#counterSum(tick) / U32)) % U32;
  }

  #counter(tick: number): bigint {
    return (BigInt(this.#counterHigh(tick)) << 32n) | BigInt(this.#counterSum(tick) % U32);
  }

  /** Latches the high half, so that the two halves of one eight-byte read belong together. */
  #readCounterLow(): number {
    const tick = this.#tick();
    this.#latchedHigh = this.#counterHigh(tick);
    this.#latchedTick = tick;
    return this.#counterSum(tick) % U32;
  }

  #writeCounter(low: boolean, value: number, mask: number): void {
    const tick = this.#tick();
    const merge = (old: number): number => mergeBits(old, value, mask);
    const high = this.#counterHigh(tick);
    const sum = this.#counterSum(tick) % U32;
    this.#startLow = low ? merge(sum) : sum;
    this.#startHigh = low ? high : merge(high);
    this.#startTick = tick;
    for (const timer of this.#timers) {
      this.#schedule(timer, true);
      this.#arm(timer);
    }
  }

  #writeConfig(config: number): void {
    const tick = this.#tick();
    const starts = !this.#running() && (config & GEN_CONF.ENABLE_CNF) !== 0;
    const stops = this.#running() && (config & GEN_CONF.ENABLE_CNF) === 0;
    if (stops) {
      const counter = this.#counter(tick);
      this.#startLow = Number(counter & 0xffff_ffffn);
      this.#startHigh = Number(counter >> 32n);
    }
    this.#config = config;
    if (!starts && !stops) return;
    this.#startTick = tick;
    for (const timer of this.#timers) {
      if (stops) timer.edge = false;
      this.#schedule(timer, true);
      this.#arm(timer);
    }
  }

  // Timers

  #timerAt(offset: number): Timer | undefined {
    if (offset < HPET_REG.TIMERS) return undefined;
    return this.#timers[Math.floor((offset - HPET_REG.TIMERS) / HPET_REG.TIMER_STRIDE)];
  }

  #readTimer(timer: Timer, register: number): number {
    switch (register) {
      case HPET_REG.CONF: {
        const fsb = this.#wiring.msi === undefined ? 0 : TN_CONF.FSB_INT_DEL_CAP;
        return timer.config | TN_CONF.PER_INT_CAP | TN_CONF.SIZE_CAP | fsb;
      }
      case HPET_REG.CONF + 4:
        return this.#routeCap;
      case HPET_REG.COMP:
        this.#settleAll();
        return Number(timer.comparator & 0xffff_ffffn);
      case HPET_REG.COMP + 4:
        this.#settleAll();
        return Number(timer.comparator >> 32n);
      case HPET_REG.FSB:
        return timer.fsbData;
      case HPET_REG.FSB + 4:
        return timer.fsbAddress;
      default:
        return 0;
    }
  }

  #writeTimer(timer: Timer, register: number, value: number, mask: number, split: Timer | undefined): void {
    const merge = (old: number): number => mergeBits(old, value, mask);
    switch (register) {
      case HPET_REG.CONF:
        this.#writeTimerConfig(timer, merge(timer.config));
        break;
      case HPET_REG.COMP: {
        const low = (old: bigint): bigint =>
          (old & ~0xffff_ffffn) | BigInt(merge(Number(old & 0xffff_ffffn)));
        timer.period = low(timer.period);
        if (!isPeriodic(timer) || timer.valueSet) timer.comparator = low(timer.comparator);
        if (timer.valueSet) this.#splitWrite = timer;
        timer.valueSet = false;
        this.#schedule(timer, true);
        break;
      }
      case HPET_REG.COMP + 4: {
        if (is32Bit(timer)) break;
        const high = (old: bigint): bigint =>
          (old & 0xffff_ffffn) | (BigInt(merge(Number(old >> 32n))) << 32n);
        timer.period = high(timer.period);
        if (!isPeriodic(timer) || timer.valueSet || split === timer)
          timer.comparator = high(timer.comparator);
        timer.valueSet = false;
        this.#schedule(timer, true);
        break;
      }
      case HPET_REG.FSB:
        timer.fsbData = merge(timer.fsbData);
        break;
      case HPET_REG.FSB + 4:
        timer.fsbAddress = merge(timer.fsbAddress);
        break;
      default:
        break;
    }
  }

  #writeTimerConfig(timer: Timer, value: number): void {
    const old = timer.config;
    timer.valueSet = (value & TN_CONF.VAL_SET_CNF) !== 0;
    let config = value & CONF_KEPT;
    if (this.#wiring.msi === undefined) config &= ~TN_CONF.FSB_EN_CNF;
    // An input that is not offered is not taken: reading back tells (sec. 2.3.8, INT_ROUTE_CNF).
    const input = (config & TN_CONF.INT_ROUTE_CNF) >> TN_CONF.INT_ROUTE_SHIFT;
    if (((this.#routeCap >>> input) & 1) === 0) {
      config = (config & ~TN_CONF.INT_ROUTE_CNF) | (old & TN_CONF.INT_ROUTE_CNF);
    }
    timer.config = config;
    const changed = old ^ config;
    if ((config & TN_CONF.INT_TYPE_CNF) === 0) timer.status = false;
    // The line falls back with what raised it: a disabled or rerouted timer leaves nothing high.
    const outputs = TN_CONF.INT_ENB_CNF | TN_CONF.INT_TYPE_CNF | TN_CONF.INT_ROUTE_CNF | TN_CONF.FSB_EN_CNF;
    if ((changed & outputs) !== 0) timer.edge = false;
    if (is32Bit(timer)) {
      timer.comparator &= 0xffff_ffffn;
      timer.period &= 0xffff_ffffn;
    }
    if ((changed & (TN_CONF.MODE32_CNF | TN_CONF.TYPE_CNF)) !== 0) this.#schedule(timer, false);
  }

  /**
   * Finds the next match of counter and comparator; `inclusive` where a match at this very tick counts (the
   * comparator or the counter was just set) and is not one that was dealt with.
   */
  #schedule(timer: Timer, inclusive: boolean): void {
    timer.next = undefined;
    if (!this.#running()) return;
    const tick = this.#tick();
    const bits = is32Bit(timer) ? 32 : 64;
    let distance = BigInt.asUintN(bits, timer.comparator - this.#counter(tick));
    if (distance === 0n && !inclusive) distance = 1n << BigInt(bits);
    if (distance <= BigInt(MAX_TICK - tick)) timer.next = tick + Number(distance);
    if (distance === 0n) this.#settle(timer);
  }

  #settleAll(): void {
    for (const timer of this.#timers) this.#settle(timer);
  }

  /** Turns matches that have come to pass into status or an interrupt, and moves on to the next. */
  #settle(timer: Timer): void {
    const tick = this.#tick();
    const match = timer.next;
    if (match === undefined || match > tick) return;
    const width = is32Bit(timer) ? U32 : undefined;
    if (isPeriodic(timer) && timer.period > 0n) {
      const bits = width === undefined ? 64 : 32;
      const matches = BigInt(tick - match) / timer.period + 1n;
      const advance = matches * timer.period;
      timer.comparator = BigInt.asUintN(bits, timer.comparator + advance);
      timer.next = advance <= BigInt(MAX_TICK - match) ? match + Number(advance) : undefined;
    } else {
      // A 32-bit comparator matches again each time the counter's low half comes round.
      timer.next = width === undefined ? undefined : match + width * (Math.floor((tick - match) / width) + 1);
    }
    this.#fire(timer);
  }

  #fire(timer: Timer): void {
    timer.firedNs = this.#clock.now();
    if ((timer.config & TN_CONF.INT_TYPE_CNF) !== 0) {
      timer.status = true;
      this.#drive();
    } else if ((timer.config & TN_CONF.INT_ENB_CNF) === 0) {
      return;
    } else if ((timer.config & TN_CONF.FSB_EN_CNF) !== 0) {
      this.#wiring.msi?.send(timer.fsbAddress, timer.fsbData);
    } else {
      timer.edge = false;
      this.#drive();
      timer.edge = true;
      this.#drive();
    }
  }

  #expire(timer: Timer): void {
    this.#settle(timer);
    this.#arm(timer);
  }

  /** Arms the clock for the next match where an interrupt would come of it. */
  #arm(timer: Timer): void {
    const enabled = (timer.config & TN_CONF.INT_ENB_CNF) !== 0;
    if (timer.next === undefined || !enabled || timer.status) {
      timer.handle.cancel();
      return;
    }
    const earliest = isPeriodic(timer) ? timer.firedNs + MIN_INTERVAL_NS : 0;
    timer.handle.arm(Math.max(timer.next * TICK_NS, earliest));
  }

  // Outputs

  /** Drives every line from the timers' state. */
  #drive(): void {
    const legacy = (this.#config & GEN_CONF.LEG_RT_CNF) !== 0;
    let inputs = 0;
    this.#timers.forEach((timer, index) => {
      if (!this.#active(timer) || (legacy && index < 2)) return;
      inputs |= 1 << ((timer.config & TN_CONF.INT_ROUTE_CNF) >> TN_CONF.INT_ROUTE_SHIFT);
    });
    const wiring = this.#wiring;
    for (let input = 0; input < Math.min(wiring.inputs.length, MAX_INPUTS); input++) {
      wiring.inputs[input]?.set(((inputs >>> input) & 1) !== 0);
    }
    wiring.irq0.set(legacy ? this.#active(this.#timers[0]!) : this.#pitLevel);
    wiring.irq8.set(legacy ? this.#active(this.#timers[1]!) : this.#rtcLevel);
  }

  #active(timer: Timer): boolean {
    const { config } = timer;
    if (!this.#running() || (config & TN_CONF.INT_ENB_CNF) === 0) return false;
    if ((config & TN_CONF.INT_TYPE_CNF) !== 0) return timer.status;
    return timer.edge;
  }
}

function timerRegister(offset: number): number {
  return (offset - HPET_REG.TIMERS) % HPET_REG.TIMER_STRIDE;
}

function isPeriodic(timer: HpetTimerStateV1): boolean {
  return (timer.config & TN_CONF.TYPE_CNF) !== 0;
}

function is32Bit(timer: HpetTimerStateV1): boolean {
  return (timer.config & TN_CONF.MODE32_CNF) !== 0;
}
