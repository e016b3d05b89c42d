/**
 * A PCI bus: which function is where, configuration cycles to it, and where its BARs answer.
 *
 * A BAR that a guest puts over RAM, a chip or another BAR is not decoded there: what was there first answers, and of two
 * BARs the one of the lower device, function and register. On hardware both would answer, with no defined result.
 * It is decoded as soon as the other one has moved.
 */
import type { AccessSize, AddressSpace, BusClaim } from "@skep/memory";
import { type IrqLine, StateReader } from "@skep/vcpu";
import type { Bar } from "./bar.ts";
import type { PciFunction, PciFunctionStateV1 } from "./function.ts";
import { CONFIG_BYTES } from "./header.ts";

export const DEVICES_PER_BUS = 32;
export const FUNCTIONS_PER_DEVICE = 8;
/** Interrupt lines that the pins of all devices share. */
export const INTX_LINES = 4;

/** What a read gives where no function answers. */
const ABSENT = 0xffff_ffff;

export interface PciBusOptions {
  /**
   * A new source of interrupt line 0 to 3, for one function; the line is asserted while any of its sources is. Pin p
   * (INTA is 1) of device d is line (d + p - 1) mod 4. Default: interrupts go nowhere.
   */
  readonly interruptLine?: (line: number) => IrqLine;
}

export interface PciBusStateV1 {
  kind: "pci-bus";
  version: 1;
  /** By address, "1f.7". */
  functions: Record<string, PciFunctionStateV1>;
}

/** A BAR where it answers. */
interface Decoded {
  readonly bar: Bar;
  readonly base: number;
}

/** Bus 0, behind the host bridge. */
export class PciBus {
  readonly #memory: Pick<AddressSpace, "addMmio" | "overlapping" | "ports">;
  readonly #interruptLine: (line: number) => IrqLine;
  /** By device and function number. */
  readonly #functions: (PciFunction | undefined)[] = new Array(DEVICES_PER_BUS * FUNCTIONS_PER_DEVICE);
  /** The BARs that guests have switched on, in order; claimed where they do not overlap. */
  #decoded: readonly Decoded[] = [];
  readonly #claims: BusClaim[] = [];

  /** @param memory where BARs are decoded: addresses, and their ports. */
  constructor(memory: Pick<AddressSpace, "addMmio" | "overlapping" | "ports">, options: PciBusOptions = {}) {
    this.#memory = memory;
    this.#interruptLine = options.interruptLine ?? (() => ({ set() {} }));
  }

  /**
   * Puts a function on the bus, before the guest runs. Function 0 of a device comes first: guests take a device
   * without it for absent.
   *
   * @throws RangeError where the place is none or taken, or function 0 is missing.
   */
  attach(fn: PciFunction, device: number, number = 0): void {
    checkBelow("device", device, DEVICES_PER_BUS);
    checkBelow("number", number, FUNCTIONS_PER_DEVICE);
    const first = device * FUNCTIONS_PER_DEVICE;
    const place = placeName(first + number);
    if (this.#functions[first + number])
      throw new RangeError(`number: expected a free place, ${place} is taken`);
    if (number > 0 && !this.#functions[first]) {
      throw new RangeError(`number: expected function 0 of device ${device} first, got ${number}`);
    }
    this.#functions[first + number] = fn;
    if (number > 0) for (const each of [this.#functions[first]!, fn]) each.setMultiFunction();
    const { interruptPin } = fn;
    const line = (device + interruptPin - 1) % INTX_LINES;
    fn.attach({
      decodeChanged: () => this.#decode(),
      interrupt: interruptPin > 0 ? this.#interruptLine(line) : { set() {} },
    });
  }

  /**
   * A configuration read, of bus `bus`, function `place` (device × 8 + function), unsigned. Absent functions, and
   * accesses beyond a function's space, give ones.
   */
  readConfig(bus: number, place: number, offset: number, size: AccessSize): number {
    const fn = bus === 0 ? this.#functions[place] : undefined;
    const value = fn && offset + size <= CONFIG_BYTES ? fn.read(offset, size) : ABSENT;
    return size === 4 ? value : value & (2 ** (8 * size) - 1);
  }

  /** A configuration write; to what is absent it has no effect. */
  writeConfig(bus: number, place: number, offset: number, size: AccessSize, value: number): void {
    const fn = bus === 0 ? this.#functions[place] : undefined;
    if (fn && offset + size <= CONFIG_BYTES) fn.write(offset, size, value);
  }

  reset(): void {
    for (const [, fn] of this.#attached()) fn.reset();
  }

  save(): PciBusStateV1 {
    const functions: PciBusStateV1["functions"] = {};
    for (const [place, fn] of this.#attached()) functions[placeName(place)] = fn.save();
    return { kind: "pci-bus", version: 1, functions };
  }

  /**
   * Takes a saved state of a bus with the same functions. After the interrupt controllers, before the devices.
   *
   * @throws StateError where `state` is not one; nothing is changed then.
   */
  restore(state: unknown): void {
    const from = new StateReader(state, "pci-bus", 1);
    const functions = from.record("functions");
    const attached = [...this.#attached()];
    const names = new Set(attached.map(([place]) => placeName(place)));
    const stranger = Object.keys(functions).find((name) => !names.has(name));
    if (stranger !== undefined) throw from.error("functions", "none where this bus has none", stranger);
    const takers = attached.map(([place, fn]) => {
      const name = placeName(place);
      if (!Object.hasOwn(functions, name)) throw from.error(`functions.${name}`, "an object", undefined);
      return fn.parse(functions[name]);
    });
    for (const take of takers) take();
    this.#decode();
  }

  *#attached(): Generator<[place: number, fn: PciFunction]> {
    for (const [place, fn] of this.#functions.entries()) if (fn) yield [place, fn];
  }

  /** Claims anew what guests have switched on, where that changed. Rare: while a guest sets its devices up. */
  #decode(): void {
    const wanted: Decoded[] = [];
    for (const [, fn] of this.#attached()) {
      for (const bar of fn.bars) {
        const base = fn.decoded(bar);
        if (base !== undefined) wanted.push({ bar, base });
      }
    }
    const before = this.#decoded;
    const same = ({ bar, base }: Decoded, i: number): boolean =>
      before[i]?.bar === bar && before[i]?.base === base;
    if (wanted.length === before.length && wanted.every(same)) return;
    this.#decoded = wanted;
    for (const claim of this.#claims.splice(0)) claim.release();
    const { ports } = this.#memory;
    for (const { bar, base } of wanted) {
      const name = `PCI BAR ${bar.index}`;
      if (bar.space === "io") {
        if (!ports.overlapping(base, bar.bytes))
          this.#claims.push(ports.add(base, bar.bytes, bar.device, name));
      } else if (!this.#memory.overlapping(base, bar.bytes)) {
        this.#claims.push(this.#memory.addMmio(base, bar.bytes, bar.device, name));
      }
    }
  }
}

/** "device.function" in hexadecimal, as lspci has it. */
function placeName(place: number): string {
  const device = Math.floor(place / FUNCTIONS_PER_DEVICE);
  return `${device.toString(16).padStart(2, "0")}.${place % FUNCTIONS_PER_DEVICE}`;
}

function checkBelow(field: string, value: number, end: number): void {
  if (Number.isInteger(value) && value >= 0 && value < end) return;
  throw new RangeError(`${field}: expected 0 to ${end - 1}, got ${value}`);
}
