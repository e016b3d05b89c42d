/**
 * One PCI function with a type 0 header: its configuration space, BARs, capabilities list and interrupt pin. Devices
 * hold one and are its registers; they do not extend it.
 *
 * Specification: PCI Local Bus 3.0 ch. 6; PCI Express 5.0 sec. 7.5.1 for the extended space, which has no
 * capabilities yet. Deviations: no BIST, no expansion ROM, no error is ever reported in STATUS.
 */
import type { AccessSize } from "@skep/memory";
import { type IrqLine, StateReader } from "@skep/vcpu";
import { Bar, type BarOptions } from "./bar.ts";
import { ConfigSpace, type RegisterMasks } from "./config-space.ts";
import {
  BAR_COUNT,
  COMMAND,
  CONVENTIONAL_BYTES,
  HEADER,
  HEADER_BYTES,
  HEADER_TYPE,
  STATUS,
} from "./header.ts";

/** Of a capability: identifier, offset of the next one. */
const CAPABILITY = { ID: 0, NEXT: 1, BODY: 2 } as const;

export interface PciFunctionOptions {
  /** 0 to 0xFFFE; 0xFFFF says that nobody is there. */
  readonly vendorId: number;
  /** 0 to 0xFFFF. */
  readonly deviceId: number;
  /** Class, subclass and interface, 24 bits: 0x060000 is a host bridge. */
  readonly classCode: number;
  /** 0 to 0xFF. Default 0. */
  readonly revision?: number;
  /** 0 to 0xFFFF. Default 0. */
  readonly subsystemVendorId?: number;
  /** 0 to 0xFFFF. Default 0. */
  readonly subsystemId?: number;
  /** 1 to 4: INTA to INTD. Default 0: no interrupt pin. */
  readonly interruptPin?: number;
  readonly bars?: readonly BarOptions[];
  /** COMMAND bits that are always set, for what a guest cannot turn off. Default none. */
  readonly fixedCommand?: number;
}

export interface PciFunctionStateV1 {
  kind: "pci-function";
  version: 1;
  /** The dwords of configuration space that a guest can change. */
  config: number[];
  /** Whether the device asserts its interrupt pin. */
  intx: boolean;
}

/** Told of a guest's write to a capability, after it: offset from the capability's start, which the write may precede. */
export type CapabilityWatcher = (offset: number, size: AccessSize) => void;

interface Capability {
  readonly start: number;
  readonly end: number;
  readonly onWrite: CapabilityWatcher | undefined;
}

/** What a bus does for a function that hangs on it. */
export interface PciFunctionHost {
  /** COMMAND or a BAR changed. */
  decodeChanged(): void;
  /** Where the interrupt pin goes. */
  readonly interrupt: IrqLine;
}

const UNATTACHED: PciFunctionHost = { decodeChanged() {}, interrupt: { set() {} } };

/**
 * @example
 * const fn = new PciFunction({
 *   vendorId: 0x1b36, deviceId: 0x0002, classCode: 0x070002, interruptPin: 1,
 *   bars: [{ index: 0, space: "io", bytes: 8, device: uart }],
 * });
 * bus.attach(fn, 3);
 */
export class PciFunction {
  readonly bars: readonly Bar[];
  /** INTA to INTD as 1 to 4, or 0. */
  readonly interruptPin: number;
  /** The device's side of the interrupt pin: a level. */
  readonly intx: IrqLine = { set: (level) => this.#setIntx(level) };
  readonly #config = new ConfigSpace();
  readonly #capabilities: Capability[] = [];
  #host = UNATTACHED;
  #isAsserted = false;

  /** @throws RangeError where an option does not fit its register, or two BARs take the same one. */
  constructor(options: PciFunctionOptions) {
    const config = this.#config;
    const identify = (field: keyof PciFunctionOptions, offset: number, bytes: number, max: number): void =>
      config.define(offset, bytes, check(field, options[field] ?? 0, max));
    identify("vendorId", HEADER.VENDOR_ID, 2, 0xfffe);
    identify("deviceId", HEADER.DEVICE_ID, 2, 0xffff);
    identify("revision", HEADER.REVISION_ID, 1, 0xff);
    identify("classCode", HEADER.CLASS_CODE, 3, 0xff_ffff);
    identify("subsystemVendorId", HEADER.SUBSYSTEM_VENDOR_ID, 2, 0xffff);
    identify("subsystemId", HEADER.SUBSYSTEM_ID, 2, 0xffff);
    identify("interruptPin", HEADER.INTERRUPT_PIN, 1, 4);
    this.interruptPin = options.interruptPin ?? 0;
    this.bars = (options.bars ?? []).map((bar) => new Bar(config, bar));
    for (let index = 0; index < BAR_COUNT; index++) {
      const claims = this.bars.filter((bar) => bar.covers(index)).length;
      if (claims > 1) throw new RangeError(`bars: expected one at register ${index}, got ${claims}`);
    }

    const fixed = check("fixedCommand", options.fixedCommand ?? 0, 0xffff);
    const usable =
      (this.bars.some(({ space }) => space === "io") ? COMMAND.IO_SPACE : 0) |
      (this.bars.some(({ space }) => space !== "io") ? COMMAND.MEMORY_SPACE : 0) |
      (COMMAND.BUS_MASTER | COMMAND.PARITY_ERROR | COMMAND.SERR) |
      (this.interruptPin > 0 ? COMMAND.INTX_DISABLE : 0);
    config.define(HEADER.COMMAND, 2, fixed, { writable: usable & ~fixed });
    config.define(HEADER.STATUS, 2, 0, { clearable: STATUS.ERRORS });
    config.define(HEADER.CACHE_LINE_SIZE, 1, 0, { writable: 0xff });
    if (this.interruptPin > 0) config.define(HEADER.INTERRUPT_LINE, 1, 0, { writable: 0xff });
  }

  /** Whether the guest allows the function to access memory and to send messages: a device asks before it does. */
  get isBusMaster(): boolean {
    return (this.#command & COMMAND.BUS_MASTER) !== 0;
  }

  /** Where `bar` answers now: its address or port, or undefined while the guest has it switched off. */
  decoded(bar: Bar): number | undefined {
    const enable = bar.space === "io" ? COMMAND.IO_SPACE : COMMAND.MEMORY_SPACE;
    return (this.#command & enable) !== 0 ? bar.base : undefined;
  }

  /**
   * Appends a capability of `bytes` to the list (sec. 6.7), identifier and link included, and gives its offset; its
   * registers are then laid out by `define`. Before the guest runs.
   *
   * @throws RangeError where there is no room left.
   */
  addCapability(id: number, bytes: number, onWrite?: CapabilityWatcher): number {
    check("capability id", id, 0xff);
    const last = this.#capabilities.at(-1);
    const start = last?.end ?? HEADER_BYTES;
    const end = start + Math.ceil(bytes / 4) * 4;
    if (!Number.isInteger(bytes) || bytes < CAPABILITY.BODY || end > CONVENTIONAL_BYTES) {
      const left = CONVENTIONAL_BYTES - start;
      throw new RangeError(`capability 0x${id.toString(16)}: expected 2 to ${left} bytes, got ${bytes}`);
    }
    this.#config.define(last ? last.start + CAPABILITY.NEXT : HEADER.CAPABILITIES, 1, start);
    this.#config.define(start + CAPABILITY.ID, 1, id);
    this.#config.define(start + CAPABILITY.NEXT, 1, 0);
    this.#config.define(HEADER.STATUS, 2, STATUS.CAPABILITIES, { clearable: STATUS.ERRORS });
    this.#capabilities.push({ start, end, onWrite });
    return start;
  }

  /**
   * Lays out a register of a capability: `bytes` (1 to 4) at `offset`, its value after reset, what a guest may change.
   *
   * @throws RangeError where it lies in the header.
   */
  define(offset: number, bytes: number, value: number, masks?: RegisterMasks): void {
    if (!(offset >= HEADER_BYTES)) throw new RangeError(`offset: expected 0x40 or more, got ${offset}`);
    this.#config.define(offset, bytes, value, masks);
  }

  /** The device's own look at a register. */
  peek(offset: number, bytes: number): number {
    return this.#config.read(offset, bytes);
  }

  /** The device's own change of a register behind the header, whatever a guest may do to it. */
  poke(offset: number, bytes: number, value: number): void {
    if (offset >= HEADER_BYTES) this.#config.set(offset, bytes, value);
  }

  // The bus's side.

  /** @internal */
  attach(host: PciFunctionHost): void {
    this.#host = host;
    this.#driveInterrupt();
  }

  /** @internal One of several functions of its device: guests look for the others then. */
  setMultiFunction(): void {
    this.#config.define(HEADER.HEADER_TYPE, 1, HEADER_TYPE.MULTI_FUNCTION);
  }

  /** A guest's read of configuration space, `offset` 0 to 0xFFF. */
  read(offset: number, size: AccessSize): number {
    return this.#config.read(offset, size);
  }

  /** A guest's write of configuration space, `offset` 0 to 0xFFF. */
  write(offset: number, size: AccessSize, value: number): void {
    this.#config.write(offset, size, value);
    if (offset < HEADER.STATUS && offset + size > HEADER.COMMAND) {
      this.#driveInterrupt();
      this.#host.decodeChanged();
    } else if (offset < HEADER.BAR + 4 * BAR_COUNT && offset + size > HEADER.BAR) this.#host.decodeChanged();
    for (const { start, end, onWrite } of this.#capabilities) {
      if (offset < end && offset + size > start) onWrite?.(offset - start, size);
    }
  }

  /** RESET: everything as defined; the interrupt pin is the device's business. */
  reset(): void {
    this.#config.reset();
    this.#driveInterrupt();
    this.#host.decodeChanged();
  }

  save(): PciFunctionStateV1 {
    return { kind: "pci-function", version: 1, config: this.#config.save(), intx: this.#isAsserted };
  }

  /** Checks a saved state without taking it; what it gives takes it. @throws StateError */
  parse(state: unknown): () => void {
    const from = new StateReader(state, "pci-function", 1);
    const config = this.#config.parse(from, "config");
    const intx = from.boolean("intx");
    return () => {
      this.#config.restore(config);
      this.#isAsserted = intx;
      this.#driveInterrupt();
    };
  }

  get #command(): number {
    return this.#config.read(HEADER.COMMAND, 2);
  }

  #setIntx(level: boolean): void {
    if (this.interruptPin === 0 || level === this.#isAsserted) return;
    this.#isAsserted = level;
    this.#driveInterrupt();
  }

  #driveInterrupt(): void {
    const status = this.#config.read(HEADER.STATUS, 2) & ~STATUS.INTERRUPT;
    this.#config.set(HEADER.STATUS, 2, status | (this.#isAsserted ? STATUS.INTERRUPT : 0));
    this.#host.interrupt.set(this.#isAsserted && (this.#command & COMMAND.INTX_DISABLE) === 0);
  }
}

function check(field: string, value: unknown, max: number): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw new RangeError(`${field}: expected 0 to 0x${max.toString(16)}, got ${String(value)}`);
}
