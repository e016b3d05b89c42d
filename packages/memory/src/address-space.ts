import type { RamArena } from "./arena.ts";
import type { AccessSize, BusClaim, BusDevice } from "./bus.ts";
import { BusMap, type UnclaimedWatcher } from "./bus-map.ts";
import { checkInteger, checkPages, EPT_ADDRESS_END, PAGE_BYTES, PHYSICAL_ADDRESS_END } from "./check.ts";
import { DirtyLog } from "./dirty.ts";
import { type CodeWatcher, Dma, type MemoryChunk } from "./dma.ts";
import { Ept } from "./ept.ts";
import { ArenaError, GuestAddressError, hex, type NamedRange, OverlapError } from "./errors.ts";
import type { GuestMemory } from "./guest-memory.ts";
import { PortSpace } from "./port-space.ts";
import { RangeMap } from "./range-map.ts";
import { type AddressSpaceStateV1, MemoryImage, type MemoryPageV1 } from "./state.ts";

/** What lies at a range of guest-physical addresses; half-open, [start, end). */
export interface MemoryRange extends NamedRange {
  readonly kind: "ram" | "rom" | "device-ram" | "mmio";
  /** Arena offset of `start`; undefined for MMIO. */
  readonly arenaOffset: number | undefined;
}

export interface AddressSpaceOptions {
  /** Whether EPT entries may allow execution alone. Default false. */
  readonly executeOnly?: boolean;
  /** Told of accesses that no device and no memory answered, for finding out what a guest misses. */
  readonly onUnclaimed?: UnclaimedWatcher;
}

const RAM_PERMISSIONS = { read: true, write: true, execute: true } as const;
const ROM_PERMISSIONS = { read: true, write: false, execute: true } as const;

/**
 * A guest's physical address space: what is RAM, ROM or a device where, and the EPT that says so to an engine.
 *
 * RAM and ROM are mapped in the EPT, so the guest reaches them without an exit; everything else, and a
 * write to ROM, ends in `readMmio` and `writeMmio`.
 */
export class AddressSpace {
  readonly arena: RamArena;
  readonly ept: Ept;
  /** Guest memory for devices. */
  readonly dma: GuestMemory;
  readonly ports: PortSpace;
  readonly dirty: DirtyLog;

  readonly #chunks = new RangeMap<MemoryChunk>("guest-physical addresses");
  readonly #dma: Dma;
  readonly #mmio: BusMap;
  readonly #image: MemoryImage;
  #ramUsed = 0;
  #generation = 0;
  #mappingsWatcher: (() => void) | undefined;
  #lastHigh = 0;

  /** @throws ArenaError where the arena has no room for EPT tables. */
  constructor(arena: RamArena, options: AddressSpaceOptions = {}) {
    this.arena = arena;
    this.ept = new Ept(arena, {
      executeOnly: options.executeOnly ?? false,
      onChange: () => {
        this.#generation++;
        this.#mappingsWatcher?.();
      },
    });
    this.#dma = new Dma(arena, this.#chunks);
    this.dma = this.#dma;
    this.dirty = new DirtyLog(arena, this.#chunks);
    this.#image = new MemoryImage(arena, this.#chunks, this.#dma);
    this.ports = new PortSpace(options.onUnclaimed);
    this.#mmio = new BusMap("memory", this.#dma, options.onUnclaimed);
  }

  /** Counts changes of the EPT: an engine that remembers the last value knows when to forget translations. */
  get mappingGeneration(): number {
    return this.#generation;
  }

  /** Registers who is told of every change of the EPT, in place of whoever was. */
  setMappingsWatcher(watcher: (() => void) | undefined): void {
    this.#mappingsWatcher = watcher;
  }

  /** Registers who is told of writes, by devices and by the host, to pages with `PageFlag.CODE`. */
  setCodeWatcher(watcher: CodeWatcher | undefined): void {
    this.#dma.setCodeWatcher(watcher);
  }

  /**
   * Makes [gpa, gpa + bytes) RAM, with the next `bytes` of the arena's RAM behind it. A PC's split around
   * the hole below 4 GiB is two calls.
   *
   * @throws RangeError where the range is not whole pages below 2^48.
   * @throws OverlapError where part of it is taken.
   * @throws ArenaError with code `ARENA_FULL` where the arena's RAM or its room for EPT tables is used up.
   */
  addRam(gpa: number, bytes: number, name = "RAM"): void {
    this.#checkRamLeft(name, bytes);
    this.#addChunk("ram", gpa, bytes, this.arena.ramOffset + this.#ramUsed, name);
    this.#ramUsed += bytes;
  }

  /**
   * Leaves the next `bytes` of the arena's RAM out. Where the guest's RAM has a hole (a PC's VGA window), leaving as much
   * out keeps both sides aligned alike: EPT then maps what follows by large pages, not by 4 KiB.
   *
   * @throws RangeError where `bytes` is not whole pages.
   * @throws ArenaError with code `ARENA_FULL` where the arena has less RAM left.
   */
  skipRam(bytes: number): void {
    checkPages("bytes", bytes, PAGE_BYTES, PHYSICAL_ADDRESS_END);
    this.#checkRamLeft("skipped", bytes);
    this.#ramUsed += bytes;
  }

  /**
   * Makes a copy of `contents` readable and executable at `gpa`; guest writes there vanish. The range is whole
   * pages: past the contents it reads as 0xFF, as flash that was not programmed does.
   *
   * @throws RangeError, OverlapError, ArenaError as `addRam`.
   */
  addRom(gpa: number, contents: Uint8Array, name: string): BusClaim {
    checkInteger("contents.length", contents.length, 1, 2 ** 32);
    const bytes = Math.ceil(contents.length / PAGE_BYTES) * PAGE_BYTES;
    const arenaOffset = this.arena.allocate(bytes);
    try {
      const chunk = this.#addChunk("rom", gpa, bytes, arenaOffset, name);
      this.arena.bytes.set(contents, arenaOffset);
      this.arena.bytes.fill(0xff, arenaOffset + contents.length, arenaOffset + bytes);
      this.#dma.wrote(arenaOffset, bytes);
      return this.#claim(chunk, () => this.arena.free(arenaOffset));
    } catch (error) {
      this.arena.free(arenaOffset);
      throw error;
    }
  }

  /**
   * Maps memory that the caller took from the arena (`arena.allocate`), such as a display's: the guest uses it as
   * RAM, boot code does not report it as such, and its owner saves it. Release and add again to move it.
   *
   * @throws RangeError, OverlapError, ArenaError as `addRam`.
   */
  addDeviceRam(gpa: number, arenaOffset: number, bytes: number, name: string): BusClaim {
    checkPages("arenaOffset", arenaOffset, PAGE_BYTES, this.arena.bytes.length - PAGE_BYTES);
    checkPages("bytes", bytes, PAGE_BYTES, this.arena.bytes.length - arenaOffset);
    const claim = this.#claim(this.#addChunk("device-ram", gpa, bytes, arenaOffset, name), () => {});
    this.#dma.wrote(arenaOffset, bytes);
    return claim;
  }

  /**
   * Gives [gpa, gpa + bytes) to `device`, which sees offsets from `gpa`. Any byte range will do.
   *
   * @param name who it is, for messages.
   * @throws RangeError where the range does not lie below 2^52.
   * @throws OverlapError where part of it is taken.
   */
  addMmio(gpa: number, bytes: number, device: BusDevice, name: string): BusClaim {
    checkInteger("gpa", gpa, 0, PHYSICAL_ADDRESS_END - 1);
    checkInteger("bytes", bytes, 1, PHYSICAL_ADDRESS_END - gpa);
    const range = { name, start: gpa, end: gpa + bytes, device };
    const chunk = this.#chunks.overlapping(range.start, range.end);
    if (chunk !== undefined) throw new OverlapError("guest-physical addresses", range, chunk);
    return this.#mmio.add(range);
  }

  /** The first range that shares an address with [gpa, gpa + bytes), if any: for a guest that moves its BARs. */
  overlapping(gpa: number, bytes: number): NamedRange | undefined {
    const chunk = this.#chunks.overlapping(gpa, gpa + bytes);
    const device = this.#mmio.overlapping(gpa, gpa + bytes);
    if (chunk === undefined || device === undefined) return chunk ?? device;
    return chunk.start < device.start ? chunk : device;
  }

  /** All ranges in order of address. */
  ranges(): readonly MemoryRange[] {
    const chunks = this.#chunks
      .list()
      .map(
        ({ kind, name, start, end, arenaOffset }): MemoryRange => ({ kind, name, start, end, arenaOffset }),
      );
    const devices = this.#mmio
      .list()
      .map(
        ({ name, start, end }): MemoryRange => ({ kind: "mmio", name, start, end, arenaOffset: undefined }),
      );
    return [...chunks, ...devices].sort((a, b) => a.start - b.start);
  }

  /** Arena offset of the byte at `gpa`, or undefined where there is no RAM or ROM. */
  arenaOffset(gpa: number): number | undefined {
    const chunk = this.#chunks.find(gpa);
    return chunk && chunk.arenaOffset + (gpa - chunk.start);
  }

  /**
   * Completes a guest read that the EPT did not allow: the low four bytes, unsigned; `lastHigh` has the others.
   * Eight bytes are read as two fours, low half first. Bytes of a straddling access that lie in RAM come from there.
   */
  readMmio(gpa: number, size: AccessSize | 8): number {
    if (size !== 8) {
      this.#lastHigh = 0;
      return this.#mmio.read(gpa, size);
    }
    const low = this.#mmio.read(gpa, 4);
    this.#lastHigh = this.#mmio.read(gpa + 4, 4);
    return low;
  }

  /** Bytes 4 to 7 of the last `readMmio` of eight bytes, unsigned; 0 after a smaller one. */
  get lastHigh(): number {
    return this.#lastHigh;
  }

  /** Completes a guest write that the EPT did not allow; `high` holds bytes 4 to 7 of eight. Writes to ROM vanish. */
  writeMmio(gpa: number, size: AccessSize | 8, value: number, high = 0): void {
    if (size !== 8) {
      this.#mmio.write(gpa, size, value);
      return;
    }
    this.#mmio.write(gpa, 4, value);
    this.#mmio.write(gpa + 4, 4, high);
  }

  /**
   * The host writes `bytes` at `gpa`, into ROM too: for loaders and debuggers.
   *
   * @throws GuestAddressError where a byte lies outside RAM and ROM; nothing is written then.
   */
  load(gpa: number, bytes: Uint8Array): void {
    if (!this.#dma.load(gpa, bytes)) throw new GuestAddressError("load", gpa, bytes.length);
  }

  /**
   * A copy of `length` bytes at `gpa`.
   *
   * @throws GuestAddressError where a byte lies outside RAM and ROM.
   */
  dump(gpa: number, length: number): Uint8Array {
    checkInteger("length", length, 0, this.arena.bytes.length);
    const bytes = new Uint8Array(length);
    if (!this.#dma.read(gpa, bytes)) throw new GuestAddressError("dump", gpa, length);
    return bytes;
  }

  /**
   * The guest's own bytes at `gpa`, without a copy, where they are RAM and lie in one piece; else undefined. They
   * change under the reader's eyes. Whoever writes through a view calls `noteWritten` afterwards.
   */
  view(gpa: number, length: number): Uint8Array | undefined {
    const chunk = this.#chunks.find(gpa);
    if (chunk === undefined || chunk.kind === "rom" || !(length >= 0 && length <= chunk.end - gpa)) {
      return undefined;
    }
    const offset = chunk.arenaOffset + (gpa - chunk.start);
    return this.arena.bytes.subarray(offset, offset + length);
  }

  /** Enters a write through a `view` into the dirty log and tells the code watcher; not memory: no effect. */
  noteWritten(gpa: number, length: number): void {
    const view = length > 0 ? this.view(gpa, length) : undefined;
    if (view !== undefined) this.#dma.wrote(view.byteOffset, length);
  }

  /** The layout of RAM and ROM; contents are `pages()`, EPT permissions changed since are their changer's. */
  save(): AddressSpaceStateV1 {
    return this.#image.save();
  }

  /**
   * Checks that `state` describes the RAM and ROM that this address space has; `restorePages` then takes
   * the contents.
   *
   * @throws MemoryStateError where it does not.
   */
  restore(state: unknown): void {
    this.#image.check(state);
  }

  /** Contents of RAM and ROM, page by page, without pages of zeros. `bytes` is the guest's own: copy it to keep it. */
  pages(): Iterable<MemoryPageV1> {
    return this.#image.pages();
  }

  /**
   * Makes RAM and ROM what `pages` say, and zero where they say nothing. All of it counts as written.
   *
   * @throws MemoryStateError at the first page that is no `MemoryPageV1`, lies outside RAM and ROM or comes twice.
   *   Those before it have been taken: the guest must not run then.
   */
  restorePages(pages: Iterable<unknown>): void {
    this.#image.restorePages(pages);
  }

  #checkRamLeft(name: string, bytes: number): void {
    const left = this.arena.ramBytes - this.#ramUsed;
    if (bytes <= left) return;
    throw new ArenaError("ARENA_FULL", `${name}: ${hex(bytes)} bytes of RAM wanted, ${hex(left)} left`);
  }

  #addChunk(kind: MemoryChunk["kind"], gpa: number, bytes: number, arenaOffset: number, name: string) {
    checkPages("gpa", gpa, 0, EPT_ADDRESS_END - PAGE_BYTES);
    checkPages("bytes", bytes, PAGE_BYTES, EPT_ADDRESS_END - gpa);
    const chunk: MemoryChunk = { kind, name, start: gpa, end: gpa + bytes, arenaOffset };
    const device = this.#mmio.overlapping(chunk.start, chunk.end);
    if (device !== undefined) throw new OverlapError("guest-physical addresses", chunk, device);
    this.#chunks.insert(chunk);
    try {
      this.ept.map(gpa, arenaOffset, bytes, kind === "rom" ? ROM_PERMISSIONS : RAM_PERMISSIONS);
    } catch (error) {
      this.#chunks.remove(chunk);
      throw error;
    }
    return chunk;
  }

  #claim(chunk: MemoryChunk, released: () => void): BusClaim {
    return {
      release: () => {
        if (!this.#chunks.remove(chunk)) return;
        this.ept.unmap(chunk.start, chunk.end - chunk.start);
        released();
      },
    };
  }
}
