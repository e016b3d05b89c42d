/**
 * PCI host bridge with nothing behind it: configuration mechanism #1 (PCI Local Bus 3.0, sec. 3.2.2.3.2) and function
 * 00:00.0, the bridge itself. Every other function is absent: its registers read as ones and writes vanish.
 *
 * Operating systems that find no way to configuration space call that an error ("PCI: Fatal: No config space access
 * function found" in Linux); an empty bus is none. A real bus, with functions behind it, takes this chip's place.
 *
 * ```text
 * CONFIG_ADDRESS   31      30–24     23–16  15–11   10–8      7–2       1–0
 *                  enable  reserved  bus    device  function  register  zero
 * ```
 *
 * Deviations: the bridge's own registers are read-only; there is no mechanism #2 and no ECAM.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { StateReader } from "@skep/vcpu";

/** RW: CONFIG_ADDRESS; the reserved bits and the low two read as zeros. */
const CONFIG_ADDRESS = { ENABLE: 0x8000_0000, FUNCTION: 0x00ff_ff00, REGISTER: 0xfc } as const;
const ADDRESS_WRITABLE = (CONFIG_ADDRESS.ENABLE | CONFIG_ADDRESS.FUNCTION | CONFIG_ADDRESS.REGISTER) >>> 0;

/** Dwords of the header that are not zero (PCI Local Bus 3.0, fig. 6-1): offset and value. */
const IDENTIFICATION = 0x00;
/** RO: COMMAND in the low half. */
const COMMAND = { OFFSET: 0x04, MEMORY_SPACE: 0x2, BUS_MASTER: 0x4 } as const;
/** RO: class 06, subclass 00: host bridge; interface and revision 0. */
const CLASS = { OFFSET: 0x08, HOST_BRIDGE: 0x0600_0000 } as const;

const ABSENT = 0xffff_ffff;

export interface HostBridgeOptions {
  /** Vendor identifier, 0 to 0xFFFE. Default 0x1B36: a bridge that no driver has quirks for. */
  readonly vendorId?: number;
  /** Device identifier, 0 to 0xFFFF. Default 0x0008, that vendor's host bridge. */
  readonly deviceId?: number;
}

export interface HostBridgeStateV1 {
  kind: "host-bridge";
  version: 1;
  address: number;
}

/** The chip; claim `address` at `Port.PCI_CONFIG_ADDRESS` and `data` at `Port.PCI_CONFIG_DATA`. */
export class HostBridge {
  /** Port 0xCF8: CONFIG_ADDRESS for dword accesses; others are not the bridge's. */
  readonly address: BusDevice;
  /** Port 0xCFC: CONFIG_DATA, a window of any width on the register that CONFIG_ADDRESS selects. */
  readonly data: BusDevice;
  readonly #identification: number;
  #address = 0;

  /**
   * @param beneath answers accesses to the address port that are no dwords: reset control, whose byte lies in it.
   * @throws RangeError where an identifier does not fit.
   */
  constructor(beneath: BusDevice, options: HostBridgeOptions = {}) {
    const vendorId = identifier("vendorId", options.vendorId ?? 0x1b36, 0xfffe);
    const deviceId = identifier("deviceId", options.deviceId ?? 0x0008, 0xffff);
    this.#identification = ((deviceId << 16) | vendorId) >>> 0;
    this.address = {
      read: (offset, size) => (size === 4 && offset === 0 ? this.#address : beneath.read(offset, size)),
      write: (offset, size, value) => {
        if (size === 4 && offset === 0) this.#address = (value & ADDRESS_WRITABLE) >>> 0;
        else beneath.write(offset, size, value);
      },
    };
    this.data = {
      read: (offset, size) => this.#readData(offset, size),
      write: () => {},
    };
  }

  reset(): void {
    this.#address = 0;
  }

  save(): HostBridgeStateV1 {
    return { kind: "host-bridge", version: 1, address: this.#address };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    this.#address = new StateReader(state, "host-bridge", 1).bits("address", ADDRESS_WRITABLE);
  }

  #readData(offset: number, size: AccessSize): number {
    const isBridge =
      (this.#address & CONFIG_ADDRESS.ENABLE) !== 0 && (this.#address & CONFIG_ADDRESS.FUNCTION) === 0;
    if (!isBridge || offset + size > 4) return ABSENT;
    const value = this.#register(this.#address & CONFIG_ADDRESS.REGISTER) >>> (8 * offset);
    return size === 4 ? value : value & (2 ** (8 * size) - 1);
  }

  #register(offset: number): number {
    switch (offset) {
      case IDENTIFICATION:
        return this.#identification;
      case COMMAND.OFFSET:
        return COMMAND.MEMORY_SPACE | COMMAND.BUS_MASTER;
      case CLASS.OFFSET:
        return CLASS.HOST_BRIDGE;
      default:
        return 0;
    }
  }
}

function identifier(field: string, value: number, max: number): number {
  if (Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw new RangeError(`${field}: expected 0 to 0x${max.toString(16)}, got ${value}`);
}
