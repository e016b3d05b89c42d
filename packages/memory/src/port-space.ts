import type { AccessSize, BusClaim, BusDevice } from "./bus.ts";
import { BusMap, type UnclaimedWatcher } from "./bus-map.ts";
import { checkInteger } from "./check.ts";
import type { NamedRange } from "./errors.ts";

/** The processor's I/O address space: ports 0 to 0xFFFF (SDM Vol. 1 ch. 20). */
const PORT_COUNT = 0x1_0000;

/**
 * Who answers at which I/O port.
 *
 * An access wider than a device's range, or across two, is split into bytes, each for its owner. Ports that
 * nobody claimed read as ones and swallow writes; so do those past 0xFFFF, which an access at the end
 * of the space would reach.
 */
export class PortSpace {
  readonly #bus: BusMap;

  /** @param onUnclaimed told of accesses that no device answered, for finding out what a guest misses. */
  constructor(onUnclaimed?: UnclaimedWatcher) {
    this.#bus = new BusMap("port", undefined, onUnclaimed);
  }

  /**
   * Claims `count` ports from `base` for `device`, which sees offsets from `base`.
   *
   * @param name who it is, for messages.
   * @throws RangeError where the ports are not within 0 to 0xFFFF.
   * @throws OverlapError where one of them is taken.
   */
  add(base: number, count: number, device: BusDevice, name: string): BusClaim {
    checkInteger("base", base, 0, PORT_COUNT - 1);
    checkInteger("count", count, 1, PORT_COUNT - base);
    return this.#bus.add({ name, start: base, end: base + count, device });
  }

  /** The first claim that has a port in [base, base + count), if any: for a guest that moves its BARs. */
  overlapping(base: number, count: number): NamedRange | undefined {
    return this.#bus.overlapping(base, base + count);
  }

  /** All claims in order of port. */
  ranges(): readonly NamedRange[] {
    return this.#bus.list().map(({ name, start, end }) => ({ name, start, end }));
  }

  /** IN: unsigned, `size` bytes. */
  read(port: number, size: AccessSize): number {
    return this.#bus.read(port, size);
  }

  /** OUT: the low `size` bytes of `value`. */
  write(port: number, size: AccessSize, value: number): void {
    this.#bus.write(port, size, value);
  }
}
