/**
 * I/O APIC with 24 inputs: Intel 82093AA (datasheet 290566) as integrated in the ICH, version 0x20 with its
 * EOI register (Intel I/O Controller Hub datasheets, "I/O APIC").
 *
 * Deviations: an input is asserted or not, so the polarity bit is kept and has no effect (boards and guests
 * agree on it; devices here drive `true` for asserted). Delivery modes other than fixed and lowest priority
 * are edges whatever the trigger bit says. Delivery is immediate: delivery status always reads idle. Remote
 * IRR is set only if a local APIC took the message, so that a line asserted too early is not lost.
 * Missing: SMI delivery (dropped).
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { IOAPIC_INPUTS, type IoApicStateV1, parseIoApicState } from "@skep/vcpu";
import { type ApicMessage, DeliveryMode } from "./apic-message.ts";

/** Inputs, and so redirection entries. */
export const IOAPIC_PINS = IOAPIC_INPUTS;

/** Memory-mapped registers, 32 bits each. */
const REG = {
  IOREGSEL: 0x00, // RW  index of the register behind IOWIN
  IOWIN: 0x10, // RW
  EOI: 0x40, // WO  vector whose level-triggered interrupts end
} as const;

/** Indexed registers, behind IOWIN. */
const INDEX = {
  ID: 0x00, // RW  bits 27:24
  VERSION: 0x01, // RO
  ARBITRATION: 0x02, // RO  bits 27:24, the ID
  REDIRECTION: 0x10, // RW  two registers an input: low, high
} as const;

const ID_MASK = 0x0f00_0000;
const ID_SHIFT = 24;
const VERSION = 0x20 | ((IOAPIC_PINS - 1) << 16);

/** Low half of a redirection entry; the high half holds the destination in bits 31:24. */
const RTE = {
  VECTOR: 0xff,
  MODE_SHIFT: 8,
  LOGICAL: 0x800,
  DELIVERY_STATUS: 0x1000, // RO, always idle
  POLARITY_LOW: 0x2000,
  REMOTE_IRR: 0x4000, // RO
  TRIGGER_LEVEL: 0x8000,
  MASKED: 0x1_0000,
} as const;
const RTE_LOW_WRITABLE = 0x1_afff;
const RTE_HIGH_WRITABLE = 0xff00_0000;
const RTE_DESTINATION_SHIFT = 24;

export interface IoApicOptions {
  /** I/O APIC ID at RESET, 0 to 15; default 0. The MADT has to agree. */
  readonly id?: number;
}

export class IoApic implements BusDevice {
  readonly #deliver: (message: ApicMessage) => boolean;
  readonly #resetId: number;
  #id = 0;
  #select = 0;
  readonly #low = new Uint32Array(IOAPIC_PINS);
  readonly #high = new Uint32Array(IOAPIC_PINS);
  #levels = 0;

  /**
   * @param deliver sends a message to the local APICs; false where none took it.
   * @throws RangeError where an option is out of its range.
   */
  constructor(deliver: (message: ApicMessage) => boolean, options: IoApicOptions = {}) {
    const { id = 0 } = options;
    if (!Number.isInteger(id) || id < 0 || id > 15)
      throw new RangeError(`IoApicOptions.id: expected an integer in [0, 15], got ${id}`);
    this.#deliver = deliver;
    this.#resetId = id;
    this.reset();
  }

  /** Registers are read whole or in part from their first byte; everything else reads zero. */
  read(offset: number, size: AccessSize): number {
    const byte = offset & 0xf;
    if (byte > 3) return 0;
    const register = offset - byte;
    const value = register === REG.IOREGSEL ? this.#select : register === REG.IOWIN ? this.#readIndexed() : 0;
    const shifted = value >>> (byte * 8);
    return size === 4 ? shifted : shifted & ((1 << (size * 8)) - 1);
  }

  /** Aligned 4-byte writes only, but that IOREGSEL and EOI, which hold 8 bits, also take narrower ones. */
  write(offset: number, size: AccessSize, value: number): void {
    if (offset === REG.IOREGSEL) this.#select = value & 0xff;
    else if (offset === REG.IOWIN && size === 4) this.#writeIndexed(value >>> 0);
    else if (offset === REG.EOI) this.endOfInterrupt(value & 0xff);
  }

  // The machine's side.

  /** Drives input `pin` (0 to 23). */
  setPin(pin: number, level: boolean): void {
    const bit = 1 << pin;
    if (((this.#levels & bit) !== 0) === level) return;
    this.#levels ^= bit;
    if (!level) return;
    const entry = this.#low[pin]!;
    // An edge at a masked input is lost, by the datasheet (sec. 3.2.4, interrupt mask).
    if (isLevelTriggered(entry)) this.#serviceLevel(pin);
    else if ((entry & RTE.MASKED) === 0) this.#send(pin, false);
  }

  /** The EOI message of a local APIC, or the EOI register: ends `vector`, and again delivers what is still asserted. */
  endOfInterrupt(vector: number): void {
    for (let pin = 0; pin < IOAPIC_PINS; pin++) {
      const entry = this.#low[pin]!;
      if ((entry & RTE.VECTOR) !== vector || (entry & RTE.REMOTE_IRR) === 0) continue;
      this.#low[pin] = entry & ~RTE.REMOTE_IRR;
      this.#serviceLevel(pin);
    }
  }

  /** Hardware reset: every input masked. The inputs keep the level that their drivers give them. */
  reset(): void {
    this.#id = this.#resetId;
    this.#select = 0;
    this.#low.fill(RTE.MASKED);
    this.#high.fill(0);
  }

  // Registers.

  #readIndexed(): number {
    switch (this.#select) {
      case INDEX.ID:
      case INDEX.ARBITRATION:
        return this.#id << ID_SHIFT;
      case INDEX.VERSION:
        return VERSION;
    }
    const pin = (this.#select - INDEX.REDIRECTION) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return 0;
    return (this.#select & 1) === 0 ? this.#low[pin]! : this.#high[pin]!;
  }

  #writeIndexed(value: number): void {
    if (this.#select === INDEX.ID) this.#id = (value & ID_MASK) >>> ID_SHIFT;
    const pin = (this.#select - INDEX.REDIRECTION) >> 1;
    if (pin < 0 || pin >= IOAPIC_PINS) return;
    if ((this.#select & 1) === 0) this.#writeLow(pin, value);
    else this.#high[pin] = (value & RTE_HIGH_WRITABLE) >>> 0;
    this.#serviceLevel(pin);
  }

  #writeLow(pin: number, value: number): void {
    // Edge triggering clears remote IRR: so Linux ends a stuck interrupt on chips without an EOI register.
    const remote = (value & RTE.TRIGGER_LEVEL) !== 0 ? this.#low[pin]! & RTE.REMOTE_IRR : 0;
    this.#low[pin] = (value & RTE_LOW_WRITABLE) | remote;
  }

  // Interrupts.

  /** Delivers a level-triggered input that is asserted, unmasked and not already being served. */
  #serviceLevel(pin: number): void {
    const entry = this.#low[pin]!;
    if (!isLevelTriggered(entry) || (entry & (RTE.MASKED | RTE.REMOTE_IRR)) !== 0) return;
    if ((this.#levels & (1 << pin)) === 0) return;
    if (this.#send(pin, true)) this.#low[pin] = entry | RTE.REMOTE_IRR;
  }

  #send(pin: number, level: boolean): boolean {
    const entry = this.#low[pin]!;
    return this.#deliver({
      destination: this.#high[pin]! >>> RTE_DESTINATION_SHIFT,
      logical: (entry & RTE.LOGICAL) !== 0,
      wide: false,
      mode: modeOf(entry),
      vector: entry & RTE.VECTOR,
      level,
    });
  }

  // State.

  save(): IoApicStateV1 {
    return {
      kind: "ioapic",
      version: 1,
      id: this.#id,
      select: this.#select,
      low: [...this.#low],
      high: [...this.#high],
      levels: this.#levels,
    };
  }

  /** Checks a saved state without taking it. @throws StateError */
  static parse(state: unknown): IoApicStateV1 {
    const saved = parseIoApicState(state);
    return {
      ...saved,
      low: saved.low.map((low) => low & (RTE_LOW_WRITABLE | RTE.REMOTE_IRR)),
      high: saved.high.map((high) => (high & RTE_HIGH_WRITABLE) >>> 0),
    };
  }

  /** Interrupts nobody: what was pending is in the local APICs' states. @throws StateError, with nothing changed. */
  restore(state: unknown): void {
    const saved = IoApic.parse(state);
    this.#id = saved.id;
    this.#select = saved.select;
    this.#low.set(saved.low);
    this.#high.set(saved.high);
    this.#levels = saved.levels;
  }
}

function modeOf(entry: number): number {
  return (entry >>> RTE.MODE_SHIFT) & 7;
}

function isLevelTriggered(entry: number): boolean {
  return (entry & RTE.TRIGGER_LEVEL) !== 0 && modeOf(entry) <= DeliveryMode.LOWEST_PRIORITY;
}
