/**
 * Intel 8254 programmable interval timer (Intel 82C54 data sheet, order no. 231244), as wired in a PC: three
 * counters at 1.193182 MHz, OUT 0 on interrupt line 0, gates 0 and 1 tied high, gate and OUT of counter 2 at
 * port 0x61 (see port61.ts).
 *
 * Every mode, BCD, counter latch and read-back are there. Time is exact: the tick is computed from the clock,
 * never accumulated.
 *
 * Deviations: the one-tick low pulse of modes 2, 4 and 5 reaches the interrupt line as a fall and a rise at
 * its end (an edge-triggered input sees the same; half the timer events); a count of 1 in mode 2, illegal by
 * the data sheet, keeps OUT high; a line that would rise more often than about 50,000 times a second rises
 * that often, so that a guest cannot hold the VM's thread in timer callbacks. Before the first control word,
 * which the data sheet leaves undefined, a counter stands still in mode 0 with OUT low.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import {
  type Clock,
  type ClockTimer,
  type IrqLine,
  type Pit8254StateV1,
  parsePit8254State,
} from "@skep/vcpu";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import { CW, PitCounter } from "./pit-counter.ts";
import { nsOfTick, ticksAt } from "./ticks.ts";

/** Registers, by offset from port 0x40. */
export const PIT_REG = {
  /** RW: counters 0 to 2, as the counter's control word orders the bytes. */
  COUNTER0: 0,
  COUNTER1: 1,
  COUNTER2: 2,
  /** WO: control word, counter latch and read-back commands; reads as 0xFF. */
  CONTROL: 3,
} as const;

/** Control word: counter select. */
const SC_SHIFT = 6;
const SC_READ_BACK = 3;
/** Read-back command (82C54, figure 10). */
const READ_BACK = { NOT_COUNT: 0x20, NOT_STATUS: 0x10, COUNTER0: 0x02 } as const;

/** Input frequency in Hz: 14.31818 MHz / 12. */
export const PIT_HZ = 1_193_182;
/** Shortest time between two rises of the line that is delivered, in ticks (about 20 µs). */
const MIN_EDGE_TICKS = 24;
/** How far edges may lag behind the clock before those missed are dropped, in ticks (0.1 s). */
const MAX_LAG_TICKS = 119_318;

/** The chip; claim it at `Port.PIT`. */
export class Pit8254 implements BusDevice, ByteRegisters {
  readonly #clock: Clock;
  readonly #irq: IrqLine;
  readonly #timer: ClockTimer;
  #counters: PitCounter[];
  /** Tick of the next edge of OUT 0 that the timer is armed for. */
  #edge: number | undefined;

  /** @param irq OUT of counter 0: interrupt line 0. */
  constructor(clock: Clock, irq: IrqLine) {
    this.#clock = clock;
    this.#irq = irq;
    this.#timer = clock.timer(() => this.#deliver());
    this.#counters = resetCounters();
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this, offset, size, value);
  }

  readByte(offset: number): number {
    return this.#counters[offset]?.readByte(this.#tick()) ?? 0xff;
  }

  writeByte(offset: number, value: number): void {
    const tick = this.#tick();
    if (offset === PIT_REG.CONTROL) this.#control(value, tick);
    else this.#counters[offset]?.writeByte(value, tick);
    this.#update(tick);
  }

  /** Level of OUT of counter `index` (0 to 2) now. */
  out(index: number): boolean {
    return this.#counter(index).out(this.#tick());
  }

  /** Level of the gate input of counter `index` (0 to 2). */
  gate(index: number): boolean {
    return this.#counter(index).gate;
  }

  /** Drives the gate input of counter `index`; in a PC only counter 2's is wired. */
  setGate(index: number, level: boolean): void {
    const tick = this.#tick();
    this.#counter(index).setGate(level, tick);
    this.#update(tick);
  }

  /** Counters as after power-on; gate 2 low. */
  reset(): void {
    this.#counters = resetCounters();
    this.#edge = undefined;
    this.#update(this.#tick());
  }

  save(): Pit8254StateV1 {
    const tick = this.#tick();
    return { kind: "pit8254", version: 1, counters: this.#counters.map((counter) => counter.save(tick)) };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    const tick = this.#tick();
    this.#counters = parsePit8254State(state).counters.map((counter) => PitCounter.restore(counter, tick));
    this.#edge = undefined;
    this.#update(tick);
  }

  #control(value: number, tick: number): void {
    const select = value >> SC_SHIFT;
    if (select === SC_READ_BACK) {
      this.#counters.forEach((counter, index) => {
        if ((value & (READ_BACK.COUNTER0 << index)) === 0) return;
        if ((value & READ_BACK.NOT_COUNT) === 0) counter.latchCount(tick);
        if ((value & READ_BACK.NOT_STATUS) === 0) counter.latchStatus(tick);
      });
      return;
    }
    const counter = this.#counter(select);
    if ((value & CW.RW) === 0) counter.latchCount(tick);
    else counter.program(value);
  }

  #counter(index: number): PitCounter {
    const counter = this.#counters[index];
    if (counter === undefined) throw new RangeError(`index: expected 0 to 2, got ${index}`);
    return counter;
  }

  #tick(): number {
    return ticksAt(this.#clock.now(), PIT_HZ);
  }

  /** Brings the line and the timer in step with counter 0 after an access. */
  #update(tick: number): void {
    // An edge that is due but has not been delivered would be lost by arming anew.
    if (this.#edge !== undefined && this.#edge <= tick) this.#rise(this.#edge);
    const counter = this.#counters[0]!;
    this.#irq.set(counter.out(tick));
    this.#arm(counter.nextEdge(tick));
  }

  /** The timer: one edge, then on to the next. */
  #deliver(): void {
    const counter = this.#counters[0]!;
    const edge = this.#edge;
    if (edge === undefined) return;
    this.#rise(edge);
    const now = this.#tick();
    const from = now - edge > MAX_LAG_TICKS ? now : edge;
    let next = counter.nextEdge(from);
    if (next !== undefined && next - edge < MIN_EDGE_TICKS) {
      next = counter.nextEdge(Math.max(edge, now) + MIN_EDGE_TICKS);
    }
    this.#arm(next);
  }

  /** Shows an edge at `tick`; a rise is made visible as one even where its fall was not delivered. */
  #rise(tick: number): void {
    const level = this.#counters[0]!.out(tick);
    if (level) this.#irq.set(false);
    this.#irq.set(level);
  }

  #arm(edge: number | undefined): void {
    this.#edge = edge;
    if (edge === undefined) this.#timer.cancel();
    else this.#timer.arm(nsOfTick(edge, PIT_HZ));
  }
}

function resetCounters(): PitCounter[] {
  return [new PitCounter(true), new PitCounter(true), new PitCounter(false)];
}
