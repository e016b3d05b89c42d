import type { AccessSize, BusClaim, BusDevice } from "./bus.ts";
import type { NamedRange } from "./errors.ts";
import { RangeMap } from "./range-map.ts";

/** A range of a bus and the device that answers there. */
export interface BusRange extends NamedRange {
  readonly device: BusDevice;
}

/** An access, or the part of one, that nobody claimed; for finding what a guest misses. */
export interface UnclaimedAccess {
  readonly bus: "memory" | "port";
  readonly direction: "read" | "write";
  /** Guest-physical address or port. */
  readonly address: number;
  readonly size: AccessSize;
  /** What was written; undefined for reads. */
  readonly value: number | undefined;
}

export type UnclaimedWatcher = (access: UnclaimedAccess) => void;

/** Memory that lies between a bus's ranges: the bytes of a straddling access that no device owns. */
export interface ByteMemory {
  readU8(address: number): number | undefined;
  writeU8(address: number, value: number): boolean;
}

/**
 * One bus: who answers at which address, and what an access becomes. Memory-mapped I/O and ports share it.
 *
 * An access that lies in one range reaches its device whole, aligned or not. One that crosses the border
 * of a range is split into bytes, each for its owner, in order of address. What nobody owns reads as ones
 * and swallows writes, as a PC's pulled-up buses do.
 */
export class BusMap {
  readonly #bus: UnclaimedAccess["bus"];
  readonly #memory: ByteMemory | undefined;
  readonly #unclaimed: UnclaimedWatcher | undefined;
  readonly #ranges: RangeMap<BusRange>;

  constructor(bus: UnclaimedAccess["bus"], memory?: ByteMemory, unclaimed?: UnclaimedWatcher) {
    this.#bus = bus;
    this.#memory = memory;
    this.#unclaimed = unclaimed;
    this.#ranges = new RangeMap(bus === "port" ? "ports" : "guest-physical addresses");
  }

  /** @throws OverlapError where part of the range is taken. */
  add(range: BusRange): BusClaim {
    this.#ranges.insert(range);
    return { release: () => void this.#ranges.remove(range) };
  }

  overlapping(start: number, end: number): BusRange | undefined {
    return this.#ranges.overlapping(start, end);
  }

  list(): readonly BusRange[] {
    return this.#ranges.list();
  }

  /** Unsigned, cut to `size` bytes. */
  read(address: number, size: AccessSize): number {
    const range = this.#ranges.find(address);
    if (range === undefined || address + size > range.end) return this.#readBytes(address, size);
    return cut(range.device.read(address - range.start, size), size);
  }

  write(address: number, size: AccessSize, value: number): void {
    const range = this.#ranges.find(address);
    if (range === undefined || address + size > range.end) this.#writeBytes(address, size, value);
    else range.device.write(address - range.start, size, cut(value, size));
  }

  #readBytes(address: number, size: AccessSize): number {
    let value = 0;
    let claimed = false;
    for (let i = 0; i < size; i++) {
      const range = this.#ranges.find(address + i);
      const byte = range
        ? range.device.read(address + i - range.start, 1)
        : this.#memory?.readU8(address + i);
      if (byte !== undefined) claimed = true;
      value |= ((byte ?? 0xff) & 0xff) << (8 * i);
    }
    if (!claimed) this.#report("read", address, size, undefined);
    return value >>> 0;
  }

  #writeBytes(address: number, size: AccessSize, value: number): void {
    let claimed = false;
    for (let i = 0; i < size; i++) {
      const byte = (value >>> (8 * i)) & 0xff;
      const range = this.#ranges.find(address + i);
      if (range !== undefined) range.device.write(address + i - range.start, 1, byte);
      else if (this.#memory?.writeU8(address + i, byte) !== true) continue;
      claimed = true;
    }
    if (!claimed) this.#report("write", address, size, cut(value, size));
  }

  #report(
    direction: "read" | "write",
    address: number,
    size: AccessSize,
    value: UnclaimedAccess["value"],
  ): void {
    this.#unclaimed?.({ bus: this.#bus, direction, address, size, value });
  }
}

function cut(value: number, size: AccessSize): number {
  return size === 4 ? value >>> 0 : size === 2 ? value & 0xffff : value & 0xff;
}
