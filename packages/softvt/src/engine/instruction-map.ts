import { UOP_BYTES, UOPS } from "../cpu/layout.ts";

const FIRST_CAPACITY = 1 << 14;
const MODE_BITS = 5;
const MODE_MASK = (1 << MODE_BITS) - 1;

/**
 * (arena address, mode) of decoded instructions → address of their micro-op, by open addressing with linear
 * probing: 8 bytes a place. A `Map` of numbers took some 70 bytes an instruction, half of the engine's memory
 * after a boot.
 *
 * ```text
 * place:  arena address (0: free; none is decoded there)  |  number of the micro-op << 5 | mode
 * ```
 */
export class InstructionMap {
  #places = new Int32Array(2 * FIRST_CAPACITY);
  #mask = FIRST_CAPACITY - 1;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The micro-op's address, or 0. `host`: a positive arena address; `mode`: 0 to 31. */
  get(host: number, mode: number): number {
    const value = this.#places[2 * this.#find(host, mode) + 1]!;
    return value === 0 ? 0 : UOPS + (value >>> MODE_BITS) * UOP_BYTES;
  }

  /** `uop`: a micro-op's address behind the arena's first. */
  set(host: number, mode: number, uop: number): void {
    if (4 * (this.#size + 1) > 3 * this.#mask) this.#grow();
    const at = 2 * this.#find(host, mode);
    if (this.#places[at] === 0) this.#size++;
    this.#places[at] = host;
    this.#places[at + 1] = (((uop - UOPS) / UOP_BYTES) << MODE_BITS) | mode;
  }

  delete(host: number, mode: number): void {
    let free = this.#find(host, mode);
    if (this.#places[2 * free] === 0) return;
    this.#size--;
    // Whoever was pushed past the place that becomes free moves up, so that searches need no tombstones.
    for (let i = (free + 1) & this.#mask; this.#places[2 * i] !== 0; i = (i + 1) & this.#mask) {
      const home = this.#home(this.#places[2 * i]!, this.#places[2 * i + 1]! & MODE_MASK);
      if (((i - home) & this.#mask) < ((i - free) & this.#mask)) continue;
      this.#places.copyWithin(2 * free, 2 * i, 2 * i + 2);
      free = i;
    }
    this.#places.fill(0, 2 * free, 2 * free + 2);
  }

  clear(): void {
    this.#places = new Int32Array(2 * FIRST_CAPACITY);
    this.#mask = FIRST_CAPACITY - 1;
    this.#size = 0;
  }

  #home(host: number, mode: number): number {
    const hash = Math.imul(host ^ (mode << 27), 0x9e3779b1);
    return (hash ^ (hash >>> 15)) & this.#mask;
  }

  /** The place of (host, mode), or the free one where it belongs. */
  #find(host: number, mode: number): number {
    const key = host | 0;
    let i = this.#home(key, mode);
    for (;;) {
      const found = this.#places[2 * i]!;
      if (found === 0 || (found === key && (this.#places[2 * i + 1]! & MODE_MASK) === mode)) return i;
      i = (i + 1) & this.#mask;
    }
  }

  #grow(): void {
    const old = this.#places;
    this.#places = new Int32Array(2 * old.length);
    this.#mask = old.length - 1;
    for (let at = 0; at < old.length; at += 2) {
      if (old[at] === 0) continue;
      const to = 2 * this.#find(old[at]!, old[at + 1]! & MODE_MASK);
      this.#places[to] = old[at]!;
      this.#places[to + 1] = old[at + 1]!;
    }
  }
}
