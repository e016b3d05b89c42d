import type { RamArena } from "./arena.ts";
import { PAGE_BYTES } from "./check.ts";
import type { Dma, MemoryChunk } from "./dma.ts";
import { hex, MemoryStateError } from "./errors.ts";
import type { RangeMap } from "./range-map.ts";

/** One range of RAM or ROM in a saved state. */
export interface MemoryRangeStateV1 {
  kind: "ram" | "rom";
  name: string;
  /** Guest-physical address, a multiple of 4096. */
  start: number;
  /** Length in bytes, a multiple of 4096. */
  bytes: number;
}

/**
 * The layout of an address space, in order of address. Contents are saved apart, as `MemoryPageV1`s; device RAM,
 * MMIO and ports belong to their devices, which place them again when they are restored.
 */
export interface AddressSpaceStateV1 {
  kind: "address-space";
  version: 1;
  memory: MemoryRangeStateV1[];
}

/** The contents of one page of RAM or ROM. */
export interface MemoryPageV1 {
  /** Guest-physical address, a multiple of 4096. */
  address: number;
  /** 4096 bytes. */
  bytes: Uint8Array;
}

/** Saving and restoring an address space, apart from its use. */
export class MemoryImage {
  readonly #arena: RamArena;
  readonly #chunks: RangeMap<MemoryChunk>;
  readonly #dma: Dma;

  constructor(arena: RamArena, chunks: RangeMap<MemoryChunk>, dma: Dma) {
    this.#arena = arena;
    this.#chunks = chunks;
    this.#dma = dma;
  }

  save(): AddressSpaceStateV1 {
    return { kind: "address-space", version: 1, memory: this.#saved().map(describe) };
  }

  /** @throws MemoryStateError unless `state` describes the very layout that is there. */
  check(state: unknown): void {
    const saved = record("state", state);
    if (saved.kind !== "address-space") {
      throw new MemoryStateError("state.kind", '"address-space"', saved.kind);
    }
    if (saved.version !== 1) throw new MemoryStateError("state.version", "1", saved.version);
    const memory = saved.memory;
    const here = this.#saved();
    if (!Array.isArray(memory) || memory.length !== here.length) {
      throw new MemoryStateError(
        "state.memory",
        `${here.length} ranges, as in this address space`,
        Array.isArray(memory) ? memory.length : memory,
      );
    }
    here.forEach((chunk, index) => {
      const field = `state.memory[${index}]`;
      const range = record(field, memory[index]);
      for (const [key, expected] of Object.entries(describe(chunk))) {
        if (range[key] === expected) continue;
        const wanted = typeof expected === "number" ? hex(expected) : JSON.stringify(expected);
        throw new MemoryStateError(`${field}.${key}`, wanted, range[key]);
      }
    });
  }

  /** Pages that are not all zero. `bytes` is a view of the guest's own: copy it to keep it. */
  *pages(): Generator<MemoryPageV1> {
    for (const chunk of this.#saved()) {
      for (let address = chunk.start; address < chunk.end; address += PAGE_BYTES) {
        const offset = chunk.arenaOffset + (address - chunk.start);
        if (this.#isZero(offset)) continue;
        yield { address, bytes: this.#arena.bytes.subarray(offset, offset + PAGE_BYTES) };
      }
    }
  }

  /** @throws MemoryStateError at the first page that is not one, lies outside, or comes twice. */
  restorePages(pages: Iterable<unknown>): void {
    const seen = new Uint8Array(this.#arena.flags.length);
    let index = 0;
    for (const page of pages) {
      const field = `pages[${index++}]`;
      const { address, bytes } = record(field, page);
      const chunk =
        typeof address === "number" && address % PAGE_BYTES === 0 ? this.#chunks.find(address) : undefined;
      if (typeof address !== "number" || chunk === undefined || chunk.kind === "device-ram") {
        throw new MemoryStateError(`${field}.address`, "the address of a page of RAM or ROM", address);
      }
      if (!(bytes instanceof Uint8Array) || bytes.length !== PAGE_BYTES) {
        throw new MemoryStateError(`${field}.bytes`, "a Uint8Array of 0x1000 bytes", bytes);
      }
      const number = (chunk.arenaOffset + (address - chunk.start)) / PAGE_BYTES;
      if (seen[number] !== 0) throw new MemoryStateError(`${field}.address`, "each page once", address);
      seen[number] = 1;
      this.#dma.load(address, bytes);
    }
    // What did not come is zero. Pages that already are stay untouched, so the host need not commit them.
    for (const chunk of this.#saved()) {
      for (let address = chunk.start; address < chunk.end; address += PAGE_BYTES) {
        const offset = chunk.arenaOffset + (address - chunk.start);
        if (seen[offset / PAGE_BYTES] !== 0 || this.#isZero(offset)) continue;
        this.#arena.bytes.fill(0, offset, offset + PAGE_BYTES);
        this.#dma.wrote(offset, PAGE_BYTES);
      }
    }
  }

  #saved(): (MemoryChunk & { kind: "ram" | "rom" })[] {
    return this.#chunks
      .list()
      .filter((chunk): chunk is MemoryChunk & { kind: "ram" | "rom" } => chunk.kind !== "device-ram");
  }

  #isZero(offset: number): boolean {
    const words = new BigUint64Array(this.#arena.memory.buffer, offset, PAGE_BYTES / 8);
    for (let i = 0; i < words.length; i++) if (words[i] !== 0n) return false;
    return true;
  }
}

function describe(chunk: MemoryChunk & { kind: "ram" | "rom" }): MemoryRangeStateV1 {
  return { kind: chunk.kind, name: chunk.name, start: chunk.start, bytes: chunk.end - chunk.start };
}

function record(field: string, value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw new MemoryStateError(field, "an object", value);
  return value as Record<string, unknown>;
}
