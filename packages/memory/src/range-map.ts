import { type NamedRange, OverlapError } from "./errors.ts";

/**
 * Disjoint half-open ranges by address: a sorted array, searched by halves, and the last hit remembered,
 * because accesses come in runs (a driver polls one register, a ring lies in one chunk).
 */
export class RangeMap<R extends NamedRange> {
  readonly #space: string;
  #ranges: R[] = [];
  #last: R | undefined;

  /** @param space what the addresses are, for messages ("ports"). */
  constructor(space: string) {
    this.#space = space;
  }

  /** The range that holds `address`, if any. */
  find(address: number): R | undefined {
    const last = this.#last;
    if (last !== undefined && address >= last.start && address < last.end) return last;
    const range = this.#ranges[this.#firstEndingAfter(address)];
    if (range === undefined || !(address >= range.start)) return undefined;
    this.#last = range;
    return range;
  }

  /** The first range that shares an address with [start, end), if any. */
  overlapping(start: number, end: number): R | undefined {
    const range = this.#ranges[this.#firstEndingAfter(start)];
    return range !== undefined && range.start < end ? range : undefined;
  }

  /** @throws OverlapError where an address of `range` is taken. */
  insert(range: R): void {
    const at = this.#firstEndingAfter(range.start);
    const next = this.#ranges[at];
    if (next !== undefined && next.start < range.end) throw new OverlapError(this.#space, range, next);
    this.#ranges.splice(at, 0, range);
  }

  /** Removes this very range; one that is not there is left alone. */
  remove(range: R): boolean {
    const at = this.#ranges.indexOf(range);
    if (at < 0) return false;
    this.#ranges.splice(at, 1);
    this.#last = undefined;
    return true;
  }

  /** All ranges in order of address. Not to be changed by the caller, and not kept across changes. */
  list(): readonly R[] {
    return this.#ranges;
  }

  #firstEndingAfter(address: number): number {
    const ranges = this.#ranges;
    let low = 0;
    let high = ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (ranges[middle]!.end <= address) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
