import type { RamArena } from "./arena.ts";
import { checkPages, EPT_ADDRESS_END, PAGE_BYTES } from "./check.ts";

/**
 * Extended page tables (SDM Vol. 3C sec. 29.3): four levels of 512 entries of 64 bits, in the arena.
 * Where the manual says host-physical address these tables hold an arena offset, so physical addresses
 * are 32 bits wide and bits 51:32 of every entry are reserved.
 *
 * Software walks them (here and in an engine's generated code) as the processor would. Mode-based execute
 * control, supervisor shadow stacks, #VE, page-modification logging and five-level walks are not implemented.
 */

/**
 * Low half of an entry; the high half is zero (bits 63:52 are ignored, 51:32 reserved). An entry that was never
 * mapped is all zero; one without permissions keeps its other bits.
 */
export const EptEntry = {
  READ: 0x001,
  WRITE: 0x002,
  EXECUTE: 0x004,
  /** Bits 5:3 of a leaf. */
  MEMORY_TYPE: 0x038,
  MEMORY_TYPE_SHIFT: 3,
  IGNORE_PAT: 0x040,
  /** A 1 GiB page in level 3, a 2 MiB page in level 2. */
  LARGE: 0x080,
  ACCESSED: 0x100,
  DIRTY: 0x200,
  /** Bits 31:12: the next table, or a 4 KiB page; larger pages use fewer. */
  ADDRESS: 0xffff_f000,
} as const;

/** Memory types (SDM Vol. 3A table 13-2); 2, 3 and 7 are reserved. */
export const EptMemoryType = {
  Uncacheable: 0,
  WriteCombining: 1,
  WriteThrough: 4,
  WriteProtected: 5,
  WriteBack: 6,
} as const;
export type EptMemoryType = (typeof EptMemoryType)[keyof typeof EptMemoryType];

/** EPTP (SDM Vol. 3C table 25-9): memory type of the tables 2:0, walk length less one 5:3, A/D flags 6. */
const EPTP = { WRITE_BACK: 0x06, WALK_LENGTH_4: 3 << 3, ACCESSED_DIRTY: 0x40 } as const;

/** Exit qualification of an EPT violation (SDM Vol. 3C table 28-7); the engine adds bits 7 and 8. */
export const EptViolation = {
  DATA_READ: 0x01,
  DATA_WRITE: 0x02,
  FETCH: 0x04,
  /** Bits 5:3: what all the entries together allow. */
  READABLE: 0x08,
  WRITABLE: 0x10,
  EXECUTABLE: 0x20,
} as const;

export interface EptPermissions {
  readonly read: boolean;
  readonly write: boolean;
  readonly execute: boolean;
}

export interface EptMapping extends EptPermissions {
  /** Default write-back. */
  readonly memoryType?: EptMemoryType;
}

export type EptAccess = "read" | "write" | "execute";

/** What a walk comes to; `kind` tells which. */
export type EptWalk =
  | {
      readonly kind: "ok";
      /** Arena offset of the byte asked for. */
      readonly arenaOffset: number;
      /** Size of the page that maps it: 4 KiB, 2 MiB or 1 GiB. */
      readonly pageBytes: number;
      readonly memoryType: EptMemoryType;
      /** What the entries together allow. */
      readonly permissions: EptPermissions;
      /** The leaf's dirty flag, after this access. */
      readonly dirty: boolean;
    }
  | {
      readonly kind: "violation";
      /** Bits 5:0 of the exit qualification. */
      readonly qualification: number;
    }
  | {
      readonly kind: "misconfiguration";
      /** 4 for the PML4 to 1 for the page table. */
      readonly level: number;
      readonly entry: bigint;
      readonly problem: "write-without-read" | "execute-only" | "reserved-bits" | "memory-type" | "address";
    };

/** Leaf flags by guest-physical address. */
export interface EptAccessedDirty {
  readonly accessed: boolean;
  readonly dirty: boolean;
}

export interface EptOptions {
  /** Whether entries may allow execution alone (bit 0 of IA32_VMX_EPT_VPID_CAP). Default false. */
  readonly executeOnly?: boolean;
  /** Called after every change that makes cached translations stale. */
  readonly onChange?: () => void;
}

/** Bytes that one entry covers, by level. */
const SPAN = [0, 2 ** 12, 2 ** 21, 2 ** 30, 2 ** 39] as const;
/** Reserved bits of the low half of a leaf, by level (SDM Vol. 3C tables 29-2, 29-4, 29-6). */
const LEAF_RESERVED = [0, 0, 0x001f_f000, 0x3fff_f000, 0xf8] as const;
/** Reserved bits of the low half of an entry that names a table: 6:3, at level 4 also 7. */
const TABLE_RESERVED = [0, 0, 0x78, 0x78, 0xf8] as const;
const RIGHTS = EptEntry.READ | EptEntry.WRITE | EptEntry.EXECUTE;
const ADDRESS_HIGH_RESERVED = 0x000f_ffff;
/** What the parts of a large page inherit from it: everything but its address and size. */
const KEPT_BY_SPLIT =
  RIGHTS | EptEntry.MEMORY_TYPE | EptEntry.IGNORE_PAT | EptEntry.ACCESSED | EptEntry.DIRTY;
/** Cutting a range out of large pages takes a table a level at each of its two ends. */
const SPLIT_TABLES = 4;

const ACCESS_BIT = {
  read: EptViolation.DATA_READ,
  write: EptViolation.DATA_WRITE,
  execute: EptViolation.FETCH,
} as const satisfies Record<EptAccess, number>;

type Level = 1 | 2 | 3 | 4;

/** One set of EPT tables, which says what guest-physical addresses mean and what may be done there. */
export class Ept {
  readonly #arena: RamArena;
  readonly #words: Uint32Array;
  readonly #root: number;
  readonly #executeOnly: boolean;
  readonly #onChange: (() => void) | undefined;
  /** Zeroed tables at hand, so that no change has to stop halfway for want of one. */
  readonly #spare: number[] = [];
  /** The words of the last walk's entries, deepest last. */
  readonly #path: number[] = [];

  /** @throws ArenaError where the arena has no page left for the root. */
  constructor(arena: RamArena, options: EptOptions = {}) {
    this.#arena = arena;
    // The arena's own little-endian words: WebAssembly is little-endian, and so is every host that runs this.
    this.#words = new Uint32Array(arena.memory.buffer);
    this.#root = arena.allocate(PAGE_BYTES);
    this.#executeOnly = options.executeOnly ?? false;
    this.#onChange = options.onChange;
  }

  /** The extended-page-table pointer: arena offset of the PML4 table | A/D flags on | four levels | write-back. */
  get pointer(): number {
    return this.#root + (EPTP.ACCESSED_DIRTY | EPTP.WALK_LENGTH_4 | EPTP.WRITE_BACK);
  }

  /**
   * Maps [gpa, gpa + bytes) to the arena from `arenaOffset`, by the largest pages that both alignments allow,
   * in place of whatever was mapped there.
   *
   * @throws RangeError where an argument is not whole pages or out of range, or the permissions are a
   *   combination that is a misconfiguration.
   * @throws ArenaError where the tables do not fit the arena; nothing is changed then.
   */
  map(gpa: number, arenaOffset: number, bytes: number, mapping: EptMapping): void {
    this.#checkRange(gpa, bytes);
    checkPages("arenaOffset", arenaOffset, PAGE_BYTES, this.#arena.bytes.length - bytes);
    const type = mapping.memoryType ?? EptMemoryType.WriteBack;
    if (!isMemoryType(type)) throw new RangeError(`memoryType: expected 0, 1, 4, 5 or 6, got ${type}`);
    const leaf = this.#rights(mapping) | (type << EptEntry.MEMORY_TYPE_SHIFT);
    const delta = arenaOffset - gpa;
    this.#reserve(
      tableBound(gpa, bytes, SPAN[2], delta) +
        tableBound(gpa, bytes, SPAN[3], delta) +
        tableBound(gpa, bytes, SPAN[4], 1),
    );
    this.#map(this.#root, 4, gpa, gpa + bytes, delta, leaf);
    this.#onChange?.();
  }

  /**
   * Makes [gpa, gpa + bytes) not present; what was not present stays so.
   *
   * @throws RangeError where the range is not whole pages below 2^48.
   * @throws ArenaError where splitting a large page finds no room; nothing is changed then.
   */
  unmap(gpa: number, bytes: number): void {
    this.#checkRange(gpa, bytes);
    this.#reserve(SPLIT_TABLES);
    this.#change(this.#root, 4, gpa, gpa + bytes, () => 0);
    this.#onChange?.();
  }

  /**
   * Changes what may be done in [gpa, gpa + bytes); addresses, memory types and A/D flags stay, even with all
   * three permissions false: such an entry is not present, the processor ignores its other bits, and a later
   * `protect` brings the page back. What was never mapped stays so.
   *
   * @throws RangeError as `map`.
   * @throws ArenaError where splitting a large page finds no room; nothing is changed then.
   */
  protect(gpa: number, bytes: number, permissions: EptPermissions): void {
    this.#checkRange(gpa, bytes);
    const rights = this.#rights(permissions);
    this.#reserve(SPLIT_TABLES);
    this.#change(this.#root, 4, gpa, gpa + bytes, (entry) => ((entry & ~RIGHTS) | rights) >>> 0);
    this.#onChange?.();
  }

  /**
   * Translates one guest-physical address as the processor does, and sets the accessed and dirty flags where
   * the access is allowed. Accesses of the processor to guest paging structures are writes here, because A/D
   * flags are on (SDM Vol. 3C sec. 29.3.3.2).
   */
  walk(gpa: number, access: EptAccess): EptWalk {
    const result = this.#walk(gpa, ACCESS_BIT[access]);
    if (result.kind !== "ok") return result;
    const words = this.#words;
    const path = this.#path;
    for (let i = 0; i < path.length; i++) {
      const leaf = i === path.length - 1;
      const flags = EptEntry.ACCESSED | (leaf && access === "write" ? EptEntry.DIRTY : 0);
      if ((words[path[i]!]! & flags) !== flags) Atomics.or(words, path[i]!, flags);
    }
    return access === "write" && !result.dirty ? { ...result, dirty: true } : result;
  }

  /** A/D flags of the page at `gpa`, or undefined where none is mapped. Sets nothing. */
  accessedDirty(gpa: number): EptAccessedDirty | undefined {
    if (this.#walk(gpa, 0).kind !== "ok") return undefined;
    const entry = this.#words[this.#path[this.#path.length - 1]!]!;
    return { accessed: (entry & EptEntry.ACCESSED) !== 0, dirty: (entry & EptEntry.DIRTY) !== 0 };
  }

  /**
   * Clears the A/D flags of all pages that lie in [gpa, gpa + bytes), and of large pages that reach into it.
   *
   * @throws RangeError where the range is not whole pages below 2^48.
   */
  clearAccessedDirty(gpa: number, bytes: number): void {
    this.#checkRange(gpa, bytes);
    this.#clear(this.#root, 4, gpa, gpa + bytes);
    this.#onChange?.();
  }

  #walk(gpa: number, access: number): EptWalk {
    const words = this.#words;
    const path = this.#path;
    path.length = 0;
    if (!(gpa >= 0 && gpa < EPT_ADDRESS_END)) return { kind: "violation", qualification: access };
    let rights: number = RIGHTS;
    let table = this.#root;
    for (let level: Level = 4; ; level = (level - 1) as Level) {
      const word = entryWord(table, level, gpa);
      const low = words[word]!;
      if ((low & RIGHTS) === 0) return { kind: "violation", qualification: access };
      path.push(word);
      const leaf = isLeaf(low, level);
      const problem = this.#misconfigured(low, words[word + 1]!, level, leaf);
      if (problem !== undefined) {
        return {
          kind: "misconfiguration",
          level,
          entry: (BigInt(words[word + 1]!) << 32n) | BigInt(low),
          problem,
        };
      }
      rights &= low;
      if (!leaf) {
        table = (low & EptEntry.ADDRESS) >>> 0;
        continue;
      }
      if ((rights & access) !== access) return { kind: "violation", qualification: access | (rights << 3) };
      const span = SPAN[level];
      return {
        kind: "ok",
        arenaOffset: leafAddress(low, level) + (gpa % span),
        pageBytes: span,
        memoryType: ((low & EptEntry.MEMORY_TYPE) >>> EptEntry.MEMORY_TYPE_SHIFT) as EptMemoryType,
        permissions: {
          read: (rights & EptEntry.READ) !== 0,
          write: (rights & EptEntry.WRITE) !== 0,
          execute: (rights & EptEntry.EXECUTE) !== 0,
        },
        dirty: (low & EptEntry.DIRTY) !== 0,
      };
    }
  }

  /** SDM Vol. 3C sec. 29.3.3.1, for an entry that is present. */
  #misconfigured(low: number, high: number, level: Level, leaf: boolean) {
    if ((low & (EptEntry.READ | EptEntry.WRITE)) === EptEntry.WRITE) return "write-without-read" as const;
    if ((low & RIGHTS) === EptEntry.EXECUTE && !this.#executeOnly) return "execute-only" as const;
    const reserved = leaf ? LEAF_RESERVED[level] : TABLE_RESERVED[level];
    if ((low & reserved) !== 0 || (high & ADDRESS_HIGH_RESERVED) !== 0) return "reserved-bits" as const;
    if (!leaf) {
      return (low & EptEntry.ADDRESS) >>> 0 < this.#arena.bytes.length ? undefined : ("address" as const);
    }
    const type = (low & EptEntry.MEMORY_TYPE) >>> EptEntry.MEMORY_TYPE_SHIFT;
    if (!isMemoryType(type)) return "memory-type" as const;
    const end = leafAddress(low, level) + SPAN[level];
    return end <= this.#arena.bytes.length ? undefined : ("address" as const);
  }

  #map(table: number, level: Level, start: number, end: number, delta: number, leaf: number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      if (level < 4 && next - gpa === span && (gpa + delta) % span === 0) {
        this.#releaseTable(word, level);
        this.#set(word, gpa + delta + (level > 1 ? leaf | EptEntry.LARGE : leaf));
      } else {
        this.#map(this.#descend(word, level), (level - 1) as Level, gpa, next, delta, leaf);
      }
      gpa = next;
    }
  }

  /** Puts every leaf in [start, end) through `edit`, splitting those at the edges; 0 removes it. */
  #change(table: number, level: Level, start: number, end: number, edit: (entry: number) => number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      const low = this.#words[word]!;
      if (low !== 0) {
        if (isLeaf(low, level) && next - gpa === span) this.#set(word, edit(low));
        else this.#change(this.#descend(word, level), (level - 1) as Level, gpa, next, edit);
      }
      gpa = next;
    }
  }

  #clear(table: number, level: Level, start: number, end: number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      const low = this.#words[word]!;
      if (low !== 0) {
        if (isLeaf(low, level)) Atomics.and(this.#words, word, ~(EptEntry.ACCESSED | EptEntry.DIRTY));
        else this.#clear((low & EptEntry.ADDRESS) >>> 0, (level - 1) as Level, gpa, next);
      }
      gpa = next;
    }
  }

  /** The table below an entry: the one that is there, a split large page, or a new one. */
  #descend(word: number, level: Level): number {
    const low = this.#words[word]!;
    if (low !== 0 && !isLeaf(low, level)) return (low & EptEntry.ADDRESS) >>> 0;
    const table = this.#spare.pop()!;
    if (low !== 0) {
      const below = (level - 1) as Level;
      const flags = (low & KEPT_BY_SPLIT) | (below > 1 ? EptEntry.LARGE : 0);
      const address = leafAddress(low, level);
      for (let i = 0; i < 512; i++) this.#words[table / 4 + 2 * i] = address + i * SPAN[below] + flags;
    }
    this.#set(word, table + RIGHTS);
    return table;
  }

  /** Takes the table below an entry, if it has one, and all below that out of use. */
  #releaseTable(word: number, level: Level): void {
    const low = this.#words[word]!;
    if (low === 0 || isLeaf(low, level)) return;
    const table = (low & EptEntry.ADDRESS) >>> 0;
    for (let i = 0; i < 512; i++) this.#releaseTable(table / 4 + 2 * i, (level - 1) as Level);
    this.#words.fill(0, table / 4, table / 4 + 1024);
    this.#spare.push(table);
  }

  #set(word: number, low: number): void {
    this.#words[word + 1] = 0;
    this.#words[word] = low;
  }

  #reserve(tables: number): void {
    while (this.#spare.length < tables) this.#spare.push(this.#arena.allocate(PAGE_BYTES));
  }

  #rights(permissions: EptPermissions): number {
    const rights =
      (permissions.read ? EptEntry.READ : 0) |
      (permissions.write ? EptEntry.WRITE : 0) |
      (permissions.execute ? EptEntry.EXECUTE : 0);
    if (permissions.write && !permissions.read) {
      throw new RangeError(
        "permissions: expected read with write, got write alone (SDM Vol. 3C sec. 29.3.3.1)",
      );
    }
    if (rights === EptEntry.EXECUTE && !this.#executeOnly) {
      throw new RangeError(
        "permissions: expected read with execute, got execute alone without `executeOnly`",
      );
    }
    return rights;
  }

  #checkRange(gpa: number, bytes: number): void {
    checkPages("gpa", gpa, 0, EPT_ADDRESS_END - PAGE_BYTES);
    checkPages("bytes", bytes, PAGE_BYTES, EPT_ADDRESS_END - gpa);
  }
}

/** At most this many tables whose entries together span `span`: where large pages fit, only at the ends. */
function tableBound(gpa: number, bytes: number, span: number, delta: number): number {
  const touched = Math.floor((gpa + bytes - 1) / span) - Math.floor(gpa / span) + 1;
  return delta % span === 0 ? Math.min(2, touched) : touched;
}

/** Index into the arena's 32-bit words of the entry for `gpa`. */
function entryWord(table: number, level: Level, gpa: number): number {
  return table / 4 + 2 * (Math.floor(gpa / SPAN[level]) % 512);
}

function isLeaf(low: number, level: Level): boolean {
  return level === 1 || (level < 4 && (low & EptEntry.LARGE) !== 0);
}

function leafAddress(low: number, level: Level): number {
  const address = (low & EptEntry.ADDRESS) >>> 0;
  return address - (address % SPAN[level]);
}

function isMemoryType(type: number): type is EptMemoryType {
  return type === 0 || type === 1 || (type >= 4 && type <= 6);
}
