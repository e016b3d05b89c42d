/** A guest's view of a PCI bus, for those who write devices: configuration cycles, sizing, walks of the lists. */
import { type AccessSize, AddressSpace, RamArena } from "@skep/memory";
import type { IrqLine } from "@skep/vcpu";
import { HostBridge, PciBus, type PciFunction } from "../index.ts";

const ECAM_BASE = 0xe000_0000;
const ECAM_BYTES = 0x1000_0000;
const RAM_BYTES = 0x10_0000;

/** One function as a guest addresses it. */
export interface PciPlace {
  readonly bus?: number;
  readonly device: number;
  readonly function?: number;
}

/** A range as sizing finds it. */
export interface SizedBar {
  readonly index: number;
  readonly space: "memory32" | "memory64" | "io";
  readonly prefetchable: boolean;
  readonly bytes: number;
}

/**
 * A machine that is a PCI bus with its host bridge, 1 MiB of RAM and a guest: configuration mechanism #1 at ports 0xCF8
 * and 0xCFC, ECAM at 0xE0000000, and probes of the four interrupt lines.
 *
 * @example
 * const guest = new PciGuest();
 * guest.attach(fn, 3);
 * guest.write({ device: 3 }, 0x10, 4, 0x1000);
 */
export class PciGuest {
  readonly memory: AddressSpace;
  readonly bus: PciBus;
  readonly bridge: HostBridge;
  /** What was written to the ports below the bridge's address register, bytes and words. */
  readonly beneath: string[] = [];
  /** How many sources assert each interrupt line. */
  readonly lines = [0, 0, 0, 0];

  constructor() {
    this.memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES }));
    this.memory.addRam(0, RAM_BYTES);
    this.bus = new PciBus(this.memory, { interruptLine: (line) => this.#source(line) });
    this.bridge = new HostBridge(this.bus, {
      read: () => 0x5a5a_5a5a,
      write: (offset, size, value) => void this.beneath.push(`${offset}/${size}=${value.toString(16)}`),
    });
    this.memory.ports.add(0xcf8, 4, this.bridge.address, "PCI configuration address");
    this.memory.ports.add(0xcfc, 4, this.bridge.data, "PCI configuration data");
    this.memory.addMmio(ECAM_BASE, ECAM_BYTES, this.bridge.ecam, "ECAM");
  }

  attach(fn: PciFunction, device: number, number = 0): void {
    this.bus.attach(fn, device, number);
  }

  /** Reads by configuration mechanism #1, registers 0 to 0xFF. */
  read(place: PciPlace, offset: number, size: AccessSize): number {
    this.memory.ports.write(0xcf8, 4, configAddress(place, offset));
    return this.memory.ports.read(0xcfc + (offset & 3), size);
  }

  /** Writes by configuration mechanism #1, registers 0 to 0xFF. */
  write(place: PciPlace, offset: number, size: AccessSize, value: number): void {
    this.memory.ports.write(0xcf8, 4, configAddress(place, offset));
    this.memory.ports.write(0xcfc + (offset & 3), size, value);
  }

  /** Reads by ECAM, registers 0 to 0xFFF. */
  readEcam(place: PciPlace, offset: number, size: AccessSize): number {
    return this.memory.readMmio(ecamAddress(place, offset), size);
  }

  /** Writes by ECAM, registers 0 to 0xFFF. */
  writeEcam(place: PciPlace, offset: number, size: AccessSize, value: number): void {
    this.memory.writeMmio(ecamAddress(place, offset), size, value);
  }

  /** Sizes a function's BARs as an operating system does (PCI 3.0 sec. 6.2.5.1), with decoding off meanwhile. */
  sizeBars(place: PciPlace): SizedBar[] {
    const command = this.read(place, 0x04, 2);
    this.write(place, 0x04, 2, command & ~3);
    const sized: SizedBar[] = [];
    for (let index = 0; index < 6; index++) {
      const flags = this.read(place, 0x10 + 4 * index, 4);
      const low = this.#ones(place, index);
      if (low === 0 && (flags & 0xf) === 0) continue;
      if ((flags & 1) !== 0) {
        sized.push({ index, space: "io", prefetchable: false, bytes: (~(low & ~3) >>> 0) + 1 });
        continue;
      }
      const prefetchable = (flags & 8) !== 0;
      if ((flags & 6) !== 4) {
        sized.push({ index, space: "memory32", prefetchable, bytes: (~(low & ~0xf) >>> 0) + 1 });
        continue;
      }
      const high = BigInt(this.#ones(place, index + 1));
      const mask = (high << 32n) | BigInt((low & ~0xf) >>> 0);
      sized.push({ index, space: "memory64", prefetchable, bytes: Number(BigInt.asUintN(64, ~mask) + 1n) });
      index++;
    }
    this.write(place, 0x04, 2, command);
    return sized;
  }

  /** Walks the capabilities list: identifier and offset of each. */
  capabilities(place: PciPlace): { id: number; offset: number }[] {
    if ((this.read(place, 0x06, 2) & 0x10) === 0) return [];
    const found: { id: number; offset: number }[] = [];
    // More than the space holds would be a loop.
    for (
      let at = this.read(place, 0x34, 1);
      at !== 0 && found.length < 48;
      at = this.read(place, at + 1, 1)
    ) {
      found.push({ id: this.read(place, at, 1), offset: at });
    }
    return found;
  }

  /** What a BAR's register keeps of ones; its value is as before. */
  #ones(place: PciPlace, index: number): number {
    const offset = 0x10 + 4 * index;
    const before = this.read(place, offset, 4);
    this.write(place, offset, 4, 0xffff_ffff);
    const kept = this.read(place, offset, 4);
    this.write(place, offset, 4, before);
    return kept;
  }

  #source(line: number): IrqLine {
    let own = false;
    return {
      set: (level) => {
        if (level !== own) this.lines[line]! += level ? 1 : -1;
        own = level;
      },
    };
  }
}

function configAddress(place: PciPlace, offset: number): number {
  const { bus = 0, device, function: number = 0 } = place;
  return 0x8000_0000 + (bus << 16) + (device << 11) + (number << 8) + (offset & 0xfc);
}

function ecamAddress(place: PciPlace, offset: number): number {
  const { bus = 0, device, function: number = 0 } = place;
  return ECAM_BASE + bus * 0x10_0000 + device * 0x8000 + number * 0x1000 + offset;
}
