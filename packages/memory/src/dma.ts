import type { RamArena } from "./arena.ts";
import type { NamedRange } from "./errors.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { PageFlag } from "./page-flags.ts";
import type { RangeMap } from "./range-map.ts";

/** Guest-physical addresses with arena memory behind them. */
export interface MemoryChunk extends NamedRange {
  readonly kind: "ram" | "rom" | "device-ram";
  /** Arena offset of `start`. */
  readonly arenaOffset: number;
}

/** Told of writes to pages with `PageFlag.CODE`: arena offset and length in bytes, within one page. */
export type CodeWatcher = (arenaOffset: number, length: number) => void;

/**
 * DMA: guest memory by guest-physical address, without EPT (there is no IOMMU: as on a PC, a device may
 * read and write all RAM, and read ROM).
 *
 * A transfer may run across adjacent chunks, whose bytes need not be adjacent in the arena. It is checked
 * whole before the first byte moves.
 */
export class Dma implements GuestMemory {
  readonly #chunks: RangeMap<MemoryChunk>;
  readonly #bytes: Uint8Array;
  readonly #data: DataView;
  readonly #flags: Uint8Array;
  #codeWatcher: CodeWatcher | undefined;

  constructor(arena: RamArena, chunks: RangeMap<MemoryChunk>) {
    this.#chunks = chunks;
    this.#bytes = arena.bytes;
    this.#data = new DataView(arena.memory.buffer);
    this.#flags = arena.flags;
  }

  /** Registers who is told of writes to code, in place of whoever was. */
  setCodeWatcher(watcher: CodeWatcher | undefined): void {
    this.#codeWatcher = watcher;
  }

  read(address: number, into: Uint8Array): boolean {
    const length = into.length;
    if (!this.#covers(address, length, false)) return false;
    for (let done = 0; done < length; ) {
      const chunk = this.#chunks.find(address + done)!;
      const offset = chunk.arenaOffset + (address + done - chunk.start);
      const step = Math.min(length - done, chunk.end - address - done);
      into.set(this.#bytes.subarray(offset, offset + step), done);
      done += step;
    }
    return true;
  }

  write(address: number, from: Uint8Array): boolean {
    return this.#covers(address, from.length, true) && this.#copyIn(address, from);
  }

  /** The host's write: as `write`, and into ROM too. */
  load(address: number, from: Uint8Array): boolean {
    return this.#covers(address, from.length, false) && this.#copyIn(address, from);
  }

  fill(address: number, value: number, length: number): boolean {
    if (!this.#covers(address, length, true)) return false;
    for (let done = 0; done < length; ) {
      const chunk = this.#chunks.find(address + done)!;
      const offset = chunk.arenaOffset + (address + done - chunk.start);
      const step = Math.min(length - done, chunk.end - address - done);
      this.#bytes.fill(value, offset, offset + step);
      this.wrote(offset, step);
      done += step;
    }
    return true;
  }

  readU8(address: number): number | undefined {
    const chunk = this.#chunks.find(address);
    return chunk && this.#bytes[chunk.arenaOffset + (address - chunk.start)];
  }

  readU16(address: number): number | undefined {
    const offset = this.#scalar(address, 2, false);
    if (offset >= 0) return this.#data.getUint16(offset, true);
    const low = this.readU8(address);
    const high = this.readU8(address + 1);
    return low === undefined || high === undefined ? undefined : low | (high << 8);
  }

  readU32(address: number): number | undefined {
    const offset = this.#scalar(address, 4, false);
    if (offset >= 0) return this.#data.getUint32(offset, true);
    const low = this.readU16(address);
    const high = this.readU16(address + 2);
    return low === undefined || high === undefined ? undefined : (low | (high << 16)) >>> 0;
  }

  readU64(address: number): bigint | undefined {
    const offset = this.#scalar(address, 8, false);
    if (offset >= 0) return this.#data.getBigUint64(offset, true);
    const low = this.readU32(address);
    const high = this.readU32(address + 4);
    return low === undefined || high === undefined ? undefined : (BigInt(high) << 32n) | BigInt(low);
  }

  writeU8(address: number, value: number): boolean {
    const offset = this.#scalar(address, 1, true);
    if (offset < 0) return false;
    this.#bytes[offset] = value;
    this.wrote(offset, 1);
    return true;
  }

  writeU16(address: number, value: number): boolean {
    const offset = this.#scalar(address, 2, true);
    if (offset < 0) return this.#writeBytes(address, 2, value, 0);
    this.#data.setUint16(offset, value, true);
    this.wrote(offset, 2);
    return true;
  }

  writeU32(address: number, value: number): boolean {
    const offset = this.#scalar(address, 4, true);
    if (offset < 0) return this.#writeBytes(address, 4, value, 0);
    this.#data.setUint32(offset, value, true);
    this.wrote(offset, 4);
    return true;
  }

  writeU64(address: number, value: bigint): boolean {
    const offset = this.#scalar(address, 8, true);
    if (offset < 0) {
      const low = Number(BigInt.asUintN(32, value));
      return this.#writeBytes(address, 8, low, Number(BigInt.asUintN(32, value >> 32n)));
    }
    this.#data.setBigUint64(offset, value, true);
    this.wrote(offset, 8);
    return true;
  }

  /**
   * Notes a write that did not go through this class: `length` bytes at `offset` in the arena, already
   * written. The data comes first and the flag second, so that a dirty log collected in between sends the
   * page twice and never too early.
   */
  wrote(offset: number, length: number): void {
    const flags = this.#flags;
    const last = Math.floor((offset + length - 1) / 4096);
    for (let page = Math.floor(offset / 4096); page <= last; page++) {
      const seen = flags[page]!;
      if ((seen & (PageFlag.DIRTY | PageFlag.CODE)) === PageFlag.DIRTY) continue;
      // Atomic where it changes the byte: a vCPU in another Worker may be setting CODE.
      if ((Atomics.or(flags, page, PageFlag.DIRTY) & PageFlag.CODE) === 0) continue;
      const start = Math.max(offset, page * 4096);
      this.#codeWatcher?.(start, Math.min(offset + length, page * 4096 + 4096) - start);
    }
  }

  #copyIn(address: number, from: Uint8Array): true {
    const length = from.length;
    for (let done = 0; done < length; ) {
      const chunk = this.#chunks.find(address + done)!;
      const offset = chunk.arenaOffset + (address + done - chunk.start);
      const step = Math.min(length - done, chunk.end - address - done);
      this.#bytes.set(step === length ? from : from.subarray(done, done + step), offset);
      this.wrote(offset, step);
      done += step;
    }
    return true;
  }

  /** Arena offset of a scalar that lies in one chunk, or -1. */
  #scalar(address: number, size: number, write: boolean): number {
    const chunk = this.#chunks.find(address);
    if (chunk === undefined || address + size > chunk.end || (write && chunk.kind === "rom")) return -1;
    return chunk.arenaOffset + (address - chunk.start);
  }

  /** A scalar across two chunks, or outside RAM. */
  #writeBytes(address: number, size: number, low: number, high: number): boolean {
    const bytes = new Uint8Array(size);
    for (let i = 0; i < size; i++) bytes[i] = (i < 4 ? low : high) >>> (8 * (i % 4));
    return this.write(address, bytes);
  }

  /** Whether [address, address + length) is wholly memory; adjacent chunks count as one. */
  #covers(address: number, length: number, write: boolean): boolean {
    if (!Number.isSafeInteger(address) || !Number.isSafeInteger(length) || length < 0) return false;
    const end = address + length;
    for (let at = address; at < end; ) {
      const chunk = this.#chunks.find(at);
      if (chunk === undefined || (write && chunk.kind === "rom")) return false;
      at = chunk.end;
    }
    return true;
  }
}
