/**
 * PCI host bridge: the way from the processor to a bus's configuration space, and function 00:00.0, which says that
 * there is one.
 *
 * - Configuration mechanism #1 (PCI Local Bus 3.0, sec. 3.2.2.3.2): ports 0xCF8 and 0xCFC, the first 256 bytes of each
 *   function.
 * - The enhanced configuration access mechanism, ECAM (PCI Express 5.0 sec. 7.2.2): 4 KiB of memory a function, 1 MiB a
 *   bus.
 *
 * ```text
 * CONFIG_ADDRESS   31      30–24     23–16  15–11   10–8      7–2       1–0
 *                  enable  reserved  bus    device  function  register  zero
 * ECAM offset              27–20  19–15   14–12     11–0
 *                          bus    device  function  register
 * ```
 *
 * Deviations: where ECAM lies is the wiring's choice, no register of the bridge says or moves it; there is no
 * mechanism #2. An ECAM access that crosses the end of a function's 4 KiB is answered by nobody.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { StateReader } from "@skep/vcpu";
import type { PciBus } from "./bus.ts";
import { PciFunction } from "./function.ts";
import { COMMAND, CONFIG_BYTES } from "./header.ts";

/** RW: CONFIG_ADDRESS; the reserved bits and the low two read as zeros. */
const CONFIG_ADDRESS = { ENABLE: 0x8000_0000, BUS_SHIFT: 16, PLACE_SHIFT: 8, REGISTER: 0xfc } as const;
const ADDRESS_WRITABLE = 0x80ff_fffc;
const ECAM = { BUS_SHIFT: 20, PLACE_SHIFT: 12, REGISTER: CONFIG_BYTES - 1 } as const;

/** Class 06, subclass 00: host bridge. */
const HOST_BRIDGE_CLASS = 0x06_0000;
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

/** The chip: claim `address` at port 0xCF8 and `data` at 0xCFC, four bytes each, and `ecam` where the MCFG says. */
export class HostBridge {
  /** CONFIG_ADDRESS for dword accesses; others are not the bridge's. */
  readonly address: BusDevice;
  /** CONFIG_DATA, a window of any width on the register that CONFIG_ADDRESS selects. */
  readonly data: BusDevice;
  /** Configuration space as memory; 1 MiB a bus. */
  readonly ecam: BusDevice;
  #address = 0;

  /**
   * @param bus gets the bridge as its device 0.
   * @param beneath answers accesses to the address port that are no dwords: reset control, whose byte lies in it.
   * @throws RangeError where an identifier does not fit, or the bus has a device 0.
   */
  constructor(bus: PciBus, beneath: BusDevice, options: HostBridgeOptions = {}) {
    const { vendorId = 0x1b36, deviceId = 0x0008 } = options;
    // Memory goes through the bridge whatever a guest writes.
    const fixedCommand = COMMAND.MEMORY_SPACE | COMMAND.BUS_MASTER;
    bus.attach(new PciFunction({ vendorId, deviceId, classCode: HOST_BRIDGE_CLASS, fixedCommand }), 0);
    this.address = {
      read: (offset, size) => (size === 4 && offset === 0 ? this.#address : beneath.read(offset, size)),
      write: (offset, size, value) => {
        if (size === 4 && offset === 0) this.#address = (value & ADDRESS_WRITABLE) >>> 0;
        else beneath.write(offset, size, value);
      },
    };
    this.data = {
      read: (offset, size) =>
        this.#selects(offset, size)
          ? bus.readConfig(...this.#selected(), this.#register(offset), size)
          : ABSENT,
      write: (offset, size, value) => {
        if (!this.#selects(offset, size)) return;
        bus.writeConfig(...this.#selected(), this.#register(offset), size, value);
      },
    };
    this.ecam = {
      read: (offset, size) => bus.readConfig(...ecamFunction(offset), offset & ECAM.REGISTER, size),
      write: (offset, size, value) =>
        bus.writeConfig(...ecamFunction(offset), offset & ECAM.REGISTER, size, value),
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

  #selects(offset: number, size: AccessSize): boolean {
    return (this.#address & CONFIG_ADDRESS.ENABLE) !== 0 && offset + size <= 4;
  }

  #selected(): [bus: number, place: number] {
    const bus = (this.#address >>> CONFIG_ADDRESS.BUS_SHIFT) & 0xff;
    return [bus, (this.#address >>> CONFIG_ADDRESS.PLACE_SHIFT) & 0xff];
  }

  #register(offset: number): number {
    return (this.#address & CONFIG_ADDRESS.REGISTER) + offset;
  }
}

function ecamFunction(offset: number): [bus: number, place: number] {
  return [offset >>> ECAM.BUS_SHIFT, (offset >>> ECAM.PLACE_SHIFT) & 0xff];
}
