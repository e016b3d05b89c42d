import type { RamArena } from "./arena.ts";
import { checkPages, PAGE_BYTES, PHYSICAL_ADDRESS_END } from "./check.ts";
import type { MemoryChunk } from "./dma.ts";
import { PageFlag } from "./page-flags.ts";
import type { RangeMap } from "./range-map.ts";

/**
 * Told that DIRTY was cleared in [arenaOffset, arenaOffset + length): an engine forgets its cached
 * permission to write there, so that the next write is noted again. Must act before it returns.
 */
export type DirtyClearedWatcher = (arenaOffset: number, length: number) => void;

/**
 * Asked for pages of [gpa, gpa + bytes) that were written where no flag was set, such as by a guest whose writes the
 * host's kernel keeps the log of: sets their DIRTY flags. Must act before it returns.
 */
export type DirtySource = (gpa: number, bytes: number) => void;

/** Which pages were written since they were last asked for: by the guest, by DMA, by the host. */
export class DirtyLog {
  readonly #arena: RamArena;
  readonly #chunks: RangeMap<MemoryChunk>;
  #cleared: DirtyClearedWatcher | undefined;
  #source: DirtySource | undefined;

  constructor(arena: RamArena, chunks: RangeMap<MemoryChunk>) {
    this.#arena = arena;
    this.#chunks = chunks;
  }

  /** Registers who is told of cleared flags, in place of whoever was. */
  setClearedWatcher(watcher: DirtyClearedWatcher | undefined): void {
    this.#cleared = watcher;
  }

  /** Registers who is asked before flags are collected, in place of whoever was. */
  setSource(source: DirtySource | undefined): void {
    this.#source = source;
  }

  /**
   * Returns which pages of [gpa, gpa + bytes) were written, and clears their flags. Copy the pages after this
   * returns: what is written meanwhile is then either in the copy or in the next collection.
   *
   * @returns bit `i & 7` of byte `i >> 3` stands for the page at `gpa + 4096 * i`; gaps are 0.
   * @throws RangeError where the range is not whole pages.
   */
  collect(gpa: number, bytes: number): Uint8Array {
    checkPages("gpa", gpa, 0, PHYSICAL_ADDRESS_END - PAGE_BYTES);
    checkPages("bytes", bytes, 0, Math.min(PHYSICAL_ADDRESS_END - gpa, MAX_COLLECT_BYTES));
    this.#source?.(gpa, bytes);
    const bitmap = new Uint8Array(Math.ceil(bytes / PAGE_BYTES / 8));
    const flags = this.#arena.flags;
    for (const chunk of this.#chunks.list()) {
      const start = Math.max(gpa, chunk.start);
      const end = Math.min(gpa + bytes, chunk.end);
      if (start >= end) continue;
      const first = (chunk.arenaOffset + start - chunk.start) / PAGE_BYTES;
      const bit = (start - gpa) / PAGE_BYTES;
      const count = (end - start) / PAGE_BYTES;
      let found = false;
      for (let i = 0; i < count; i++) {
        if ((flags[first + i]! & PageFlag.DIRTY) === 0) continue;
        // Atomic: a vCPU in another Worker may be setting CODE in the same byte.
        Atomics.and(flags, first + i, ~PageFlag.DIRTY);
        bitmap[(bit + i) >>> 3]! |= 1 << ((bit + i) & 7);
        found = true;
      }
      if (found) this.#cleared?.(first * PAGE_BYTES, end - start);
    }
    return bitmap;
  }
}

/** Bounds the bitmap to 32 MiB: a range is a memory slot, not the address space. */
const MAX_COLLECT_BYTES = 2 ** 40;
