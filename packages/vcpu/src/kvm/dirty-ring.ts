/**
 * The dirty ring (api.rst sec. 8.29): each vCPU's kernel side writes down the pages that it dirties, in a ring that is
 * shared memory; reading it costs by pages written, not by pages there are.
 *
 * ```text
 *   kernel: flags = DIRTY ──> we note slot and page, flags = RESET ──> KVM_RESET_DIRTY_RINGS protects them again
 * ```
 */
import { DIRTY_RING_PAGE_OFFSET, DirtyGfn } from "./abi.ts";
import { MapFlag, type Mapping, type Native } from "./native.ts";
import { Size } from "./structs.ts";

const PAGE_BYTES = 4096;
const WORDS = Size.DIRTY_GFN / 4;

/** Told of a page of a memory slot that was written. */
export type DirtyPage = (slotNumber: number, page: number) => void;

interface Ring {
  readonly mapping: Mapping;
  readonly words: Int32Array;
  /** Next entry to look at. */
  next: number;
}

export class DirtyRings {
  readonly #native: Native;
  readonly #vmFd: number;
  readonly #entries: number;
  readonly #rings: Ring[] = [];

  /** @param entries of each ring, a power of two; the capability has been enabled with it. */
  constructor(native: Native, vmFd: number, entries: number) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#entries = entries;
  }

  /** Maps a new vCPU's ring. @throws KvmError */
  add(vcpuFd: number): void {
    const bytes = this.#entries * Size.DIRTY_GFN;
    const mapping = this.#native.map(vcpuFd, DIRTY_RING_PAGE_OFFSET * PAGE_BYTES, bytes, MapFlag.SHARED);
    const words = new Int32Array(mapping.bytes.buffer, mapping.bytes.byteOffset, bytes / 4);
    this.#rings.push({ mapping, words, next: 0 });
  }

  /** Takes what the rings hold, and makes those pages' next writes be noted again. Returns how many there were. */
  harvest(onPage: DirtyPage): number {
    let count = 0;
    for (const ring of this.#rings) {
      const { words } = ring;
      for (;;) {
        const at = (ring.next % this.#entries) * WORDS;
        // Acquire and release: the kernel writes slot and page before the flag, and takes the entry back by it.
        if (Atomics.load(words, at) !== DirtyGfn.DIRTY) break;
        onPage(words[at + 1]! & 0xffff, (words[at + 3]! >>> 0) * 2 ** 32 + (words[at + 2]! >>> 0));
        Atomics.store(words, at, DirtyGfn.RESET);
        ring.next++;
        count++;
      }
    }
    if (count > 0) this.#native.ioctl(this.#vmFd, "KVM_RESET_DIRTY_RINGS");
    return count;
  }

  close(): void {
    for (const { mapping } of this.#rings) this.#native.unmap(mapping);
    this.#rings.length = 0;
  }
}
