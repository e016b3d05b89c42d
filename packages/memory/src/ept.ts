import type { RamArena } from "./arena.ts";
import { checkPages, EPT_ADDRESS_END, PAGE_BYTES } from "./check.ts";
import {
  EPTP,
  EptEntry,
  type EptLevel,
  EptMemoryType,
  type EptProblem,
  EptViolation,
  entryWord,
  eptProblem,
  isLeaf,
  isMemoryType,
  leafAddress,
  memoryTypeOf,
  RIGHTS,
  SPAN,
  tableAddress,
} from "./ept-format.ts";

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
      readonly level: EptLevel;
      readonly entry: bigint;
      readonly problem: EptProblem;
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

/** What the parts of a large page inherit from it: everything but its address and size. */
const KEPT_BY_SPLIT =
  RIGHTS | EptEntry.MEMORY_TYPE | EptEntry.IGNORE_PAT | EptEntry.ACCESSED | EptEntry.DIRTY;

const ACCESS_BIT = {
  read: EptViolation.DATA_READ,
  write: EptViolation.DATA_WRITE,
  execute: EptViolation.FETCH,
} as const satisfies Record<EptAccess, number>;

/**
 * One set of EPT tables in the arena: what guest-physical addresses mean and what may be done there.
 *
 * Software walks them (here and in an engine's generated code) as the processor would. Mode-based execute
 * control, supervisor shadow stacks, #VE, page-modification logging and five-level walks are not implemented.
 */
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
    this.#reserve(this.#splitsAt(gpa) + this.#splitsAt(gpa + bytes));
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
    this.#reserve(this.#splitsAt(gpa) + this.#splitsAt(gpa + bytes));
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
    for (let level: EptLevel = 4; ; level = (level - 1) as EptLevel) {
      const word = entryWord(table, level, gpa);
      const low = words[word]!;
      if ((low & RIGHTS) === 0) return { kind: "violation", qualification: access };
      path.push(word);
      const leaf = isLeaf(low, level);
      const problem = this.#problem(low, words[word + 1]!, level);
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
        table = tableAddress(low);
        continue;
      }
      if ((rights & access) !== access) return { kind: "violation", qualification: access | (rights << 3) };
      const span = SPAN[level];
      return {
        kind: "ok",
        arenaOffset: leafAddress(low, level) + (gpa % span),
        pageBytes: span,
        memoryType: memoryTypeOf(low) as EptMemoryType,
        permissions: {
          read: (rights & EptEntry.READ) !== 0,
          write: (rights & EptEntry.WRITE) !== 0,
          execute: (rights & EptEntry.EXECUTE) !== 0,
        },
        dirty: (low & EptEntry.DIRTY) !== 0,
      };
    }
  }

  #problem(low: number, high: number, level: EptLevel): EptProblem | undefined {
    if ((low & RIGHTS) === EptEntry.EXECUTE && !this.#executeOnly) return "execute-only";
    const problem = eptProblem(low, high, level);
    if (problem !== undefined) return problem;
    const end = isLeaf(low, level) ? leafAddress(low, level) + SPAN[level] : tableAddress(low) + PAGE_BYTES;
    return end <= this.#arena.bytes.length ? undefined : "address";
  }

  #map(table: number, level: EptLevel, start: number, end: number, delta: number, leaf: number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      if (level < 4 && next - gpa === span && (gpa + delta) % span === 0) {
        this.#releaseTable(word, level);
        this.#set(word, gpa + delta + (level > 1 ? leaf | EptEntry.LARGE : leaf));
      } else {
        this.#map(this.#descend(word, level), (level - 1) as EptLevel, gpa, next, delta, leaf);
      }
      gpa = next;
    }
  }

  /** Puts every leaf in [start, end) through `edit`, splitting those at the edges; 0 removes it. */
  #change(table: number, level: EptLevel, start: number, end: number, edit: (entry: number) => number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      const low = this.#words[word]!;
      if (low !== 0) {
        if (isLeaf(low, level) && next - gpa === span) this.#set(word, edit(low));
        else {
          const below = this.#descend(word, level);
          this.#change(below, (level - 1) as EptLevel, gpa, next, edit);
          // An emptied table goes, or a guest that moves a BAR about would use up the arena.
          if (this.#isEmpty(below)) this.#releaseTable(word, level);
        }
      }
      gpa = next;
    }
  }

  #clear(table: number, level: EptLevel, start: number, end: number): void {
    const span = SPAN[level];
    for (let gpa = start; gpa < end; ) {
      const next = Math.min(end, (Math.floor(gpa / span) + 1) * span);
      const word = entryWord(table, level, gpa);
      const low = this.#words[word]!;
      if (low !== 0) {
        if (isLeaf(low, level)) Atomics.and(this.#words, word, ~(EptEntry.ACCESSED | EptEntry.DIRTY));
        else this.#clear(tableAddress(low), (level - 1) as EptLevel, gpa, next);
      }
      gpa = next;
    }
  }

  /** The table below an entry: the one that is there, a split large page, or a new one. */
  #descend(word: number, level: EptLevel): number {
    const low = this.#words[word]!;
    if (low !== 0 && !isLeaf(low, level)) return tableAddress(low);
    const table = this.#spare.pop()!;
    if (low !== 0) {
      const below = (level - 1) as EptLevel;
      const flags = (low & KEPT_BY_SPLIT) | (below > 1 ? EptEntry.LARGE : 0);
      const address = leafAddress(low, level);
      for (let i = 0; i < 512; i++) this.#words[table / 4 + 2 * i] = address + i * SPAN[below] + flags;
    }
    this.#set(word, table + RIGHTS);
    return table;
  }

  /** Takes the table below an entry, if it has one, and all below that out of use. */
  #releaseTable(word: number, level: EptLevel): void {
    const low = this.#words[word]!;
    if (low === 0 || isLeaf(low, level)) return;
    const table = tableAddress(low);
    for (let i = 0; i < 512; i++) this.#releaseTable(table / 4 + 2 * i, (level - 1) as EptLevel);
    this.#words.fill(0, table / 4, table / 4 + 1024);
    this.#spare.push(table);
    this.#set(word, 0);
  }

  /** How many tables it takes to make `gpa` the border of a page. */
  #splitsAt(gpa: number): number {
    let table = this.#root;
    for (let level: EptLevel = 4; gpa < EPT_ADDRESS_END; level = (level - 1) as EptLevel) {
      const low = this.#words[entryWord(table, level, gpa)]!;
      if (low === 0 || gpa % SPAN[level] === 0) return 0;
      if (isLeaf(low, level)) return level === 3 && gpa % SPAN[2] !== 0 ? 2 : 1;
      table = tableAddress(low);
    }
    return 0;
  }

  #isEmpty(table: number): boolean {
    return this.#words.subarray(table / 4, table / 4 + 1024).every((word) => word === 0);
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
