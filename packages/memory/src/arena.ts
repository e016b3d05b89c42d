import { checkInteger, checkPages, PAGE_BYTES, roundUp } from "./check.ts";
import { ArenaError, hex } from "./errors.ts";

/** A WebAssembly page. */
const WASM_PAGE_BYTES = 65_536;
/** The most a 32-bit WebAssembly memory holds: 65,536 pages. */
const ARENA_MAX_BYTES = 65_536 * WASM_PAGE_BYTES;
/** RAM starts on such a boundary so that EPT can map it with 2 MiB pages. */
const LARGE_PAGE_BYTES = 2 ** 21;
/** Room for ROM and video RAM where the caller names no other figure. */
const DEFAULT_EXTRA_BYTES = 32 * 2 ** 20;
/** EPT tables for RAM mapped wholly with 4 KiB pages take 8 bytes a page. */
const EPT_BYTES_PER_PAGE = 8;

export interface RamArenaOptions {
  /** Guest RAM in bytes, a multiple of 4096, at least one page. */
  readonly ramBytes: number;
  /** Bytes at the arena's start for the engine (`Engine.arenaBytes`), a multiple of 4096. Default 0. */
  readonly privateBytes?: number;
  /**
   * Bytes for EPT tables, ROM and video RAM, a multiple of 4096. Default 32 MiB and enough for EPT tables of
   * RAM in 4 KiB pages. It costs address space only: the host commits a page when it is first written.
   */
  readonly extraBytes?: number;
}

/**
 * All of a VM's memory in one shared `WebAssembly.Memory`, laid out for generated code that addresses it
 * with 32-bit offsets:
 *
 * ```text
 * 0              privateBytes    flagsOffset        allocation area      ramOffset          bytes.length
 * +--------------+---------------+------------------+--------------------+------------------+
 * | engine's own | (page 0 kept) | page flags, one  | EPT tables, ROM,   | guest RAM        |
 * |              |               | byte per 4 KiB   | video RAM          |                  |
 * +--------------+---------------+------------------+--------------------+------------------+
 * ```
 *
 * Offset 0 is never handed out, so it can mean "none". Nothing is touched when the arena is made: the host
 * commits pages as they are used. Offsets are numbers in [0, 2^32).
 */
export class RamArena {
  readonly memory: WebAssembly.Memory;
  /** The whole arena. Shared memory: some web APIs (TextDecoder, getRandomValues) want a copy. */
  readonly bytes: Uint8Array;
  /** Bytes at the start that belong to the engine. */
  readonly privateBytes: number;
  /** One byte of `PageFlag`s per 4 KiB page, indexed by `offset / 4096`. */
  readonly flags: Uint8Array;
  /** Arena offset of `flags`. */
  readonly flagsOffset: number;
  /** Arena offset of guest RAM; a multiple of 2 MiB once RAM is that large. */
  readonly ramOffset: number;
  /** Guest RAM in bytes. */
  readonly ramBytes: number;

  readonly #allocationEnd: number;
  /** Never allocated so far, hence still zero: [#fresh, #allocationEnd). */
  #fresh: number;
  /** Allocated blocks by offset, and freed ones below #fresh, sorted, none adjacent to another. */
  readonly #allocated = new Map<number, number>();
  #free: { start: number; end: number }[] = [];

  /**
   * Reserves an arena.
   *
   * @throws RangeError where a size is negative, fractional or not a multiple of 4096.
   * @throws ArenaError where the sizes together exceed 4 GiB, or the host refuses the memory.
   */
  static create(options: RamArenaOptions): RamArena {
    return new RamArena(options);
  }

  private constructor(options: RamArenaOptions) {
    const { ramBytes, privateBytes = 0 } = options;
    checkPages("ramBytes", ramBytes, PAGE_BYTES, Number.MAX_SAFE_INTEGER);
    checkPages("privateBytes", privateBytes, 0, Number.MAX_SAFE_INTEGER);
    const tables = roundUp((ramBytes / PAGE_BYTES) * EPT_BYTES_PER_PAGE, PAGE_BYTES);
    const extraBytes = options.extraBytes ?? DEFAULT_EXTRA_BYTES + tables;
    checkPages("extraBytes", extraBytes, 0, Number.MAX_SAFE_INTEGER);

    this.privateBytes = privateBytes;
    this.ramBytes = ramBytes;
    this.flagsOffset = Math.max(privateBytes, PAGE_BYTES);
    // The flags cover the arena that they are part of: grow the table until it does.
    const alignment = ramBytes >= LARGE_PAGE_BYTES ? LARGE_PAGE_BYTES : PAGE_BYTES;
    let flagBytes = 0;
    let total = 0;
    for (;;) {
      const extraStart = this.flagsOffset + roundUp(flagBytes, PAGE_BYTES);
      total = roundUp(roundUp(extraStart + extraBytes, alignment) + ramBytes, WASM_PAGE_BYTES);
      if (flagBytes >= total / PAGE_BYTES) break;
      flagBytes = total / PAGE_BYTES;
      if (total > ARENA_MAX_BYTES) break;
    }
    if (total > ARENA_MAX_BYTES) {
      throw new ArenaError(
        "ARENA_TOO_LARGE",
        `an arena holds ${hex(ARENA_MAX_BYTES)} bytes: ramBytes ${hex(ramBytes)}, privateBytes ` +
          `${hex(privateBytes)} and extraBytes ${hex(extraBytes)} need ${hex(total)}`,
      );
    }
    this.#fresh = this.flagsOffset + roundUp(flagBytes, PAGE_BYTES);
    this.ramOffset = roundUp(this.#fresh + extraBytes, alignment);
    this.#allocationEnd = this.ramOffset;

    const pages = total / WASM_PAGE_BYTES;
    try {
      this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    } catch (cause) {
      throw new ArenaError("ARENA_HOST_MEMORY", `the host refused ${hex(total)} bytes of shared memory`, {
        cause,
      });
    }
    this.bytes = new Uint8Array(this.memory.buffer);
    this.flags = this.bytes.subarray(this.flagsOffset, this.flagsOffset + total / PAGE_BYTES);
  }

  /** Bytes of the allocation area that are not allocated. */
  get freeBytes(): number {
    return this.#free.reduce(
      (sum, block) => sum + block.end - block.start,
      this.#allocationEnd - this.#fresh,
    );
  }

  /**
   * Takes `bytes` (rounded up to whole pages) from the allocation area and returns their arena offset, a
   * multiple of `align`; the memory is zero.
   *
   * @param align a power of two, at least 4096.
   * @throws RangeError where an argument is out of range.
   * @throws ArenaError with code `ARENA_FULL` where no block is large enough.
   */
  allocate(bytes: number, align = PAGE_BYTES): number {
    checkInteger("bytes", bytes, 1, ARENA_MAX_BYTES);
    checkPages("align", align, PAGE_BYTES, 2 ** 30);
    if ((align & (align - 1)) !== 0) {
      throw new RangeError(`align: expected a power of two, got ${hex(align)}`);
    }
    const size = roundUp(bytes, PAGE_BYTES);
    for (const block of this.#free) {
      const start = roundUp(block.start, align);
      if (start + size > block.end) continue;
      this.#free = this.#free.flatMap((other) =>
        other === block ? cut(block, start, start + size) : [other],
      );
      this.bytes.fill(0, start, start + size);
      this.#allocated.set(start, size);
      return start;
    }
    const start = roundUp(this.#fresh, align);
    if (start + size > this.#allocationEnd) {
      throw new ArenaError(
        "ARENA_FULL",
        `no room for ${hex(size)} bytes aligned to ${hex(align)}, ${hex(this.freeBytes)} are free: ` +
          "make the arena with more extraBytes",
      );
    }
    const gap = { start: this.#fresh, end: start };
    this.#fresh = start + size;
    this.#allocated.set(start, size);
    if (gap.end > gap.start) this.#release(gap.start, gap.end);
    return start;
  }

  /**
   * Gives back a block from `allocate`.
   *
   * @throws RangeError where `offset` is not the start of an allocated block.
   */
  free(offset: number): void {
    const size = this.#allocated.get(offset);
    if (size === undefined) {
      throw new RangeError(`offset: expected the start of an allocated block, got ${hex(offset)}`);
    }
    this.#allocated.delete(offset);
    this.#release(offset, offset + size);
  }

  #release(start: number, end: number): void {
    const merged = { start, end };
    this.#free = this.#free.filter((block) => {
      if (block.end !== merged.start && block.start !== merged.end) return true;
      merged.start = Math.min(merged.start, block.start);
      merged.end = Math.max(merged.end, block.end);
      return false;
    });
    this.#free.push(merged);
    this.#free.sort((a, b) => a.start - b.start);
  }
}

/** What is left of `block` without [start, end). */
function cut(block: { start: number; end: number }, start: number, end: number) {
  return [
    { start: block.start, end: start },
    { start: end, end: block.end },
  ].filter((rest) => rest.end > rest.start);
}
