/**
 * The format of extended page tables (SDM Vol. 3C sec. 29.3): four levels of 512 entries of 64 bits. Where the
 * manual says host-physical address, skep's tables hold an arena offset: physical addresses are 32 bits wide.
 */

/** 4 for the PML4 down to 1 for a page table. */
export type EptLevel = 1 | 2 | 3 | 4;

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

/** Memory types (SDM Vol. 3A table 12-2); 2, 3 and 7 are reserved. */
export const EptMemoryType = {
  Uncacheable: 0,
  WriteCombining: 1,
  WriteThrough: 4,
  WriteProtected: 5,
  WriteBack: 6,
} as const;
export type EptMemoryType = (typeof EptMemoryType)[keyof typeof EptMemoryType];

/** EPTP (SDM Vol. 3C table 25-9): memory type of the tables 2:0, walk length less one 5:3, A/D flags 6. */
export const EPTP = { WRITE_BACK: 0x06, WALK_LENGTH_4: 3 << 3, ACCESSED_DIRTY: 0x40 } as const;

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

/** Bytes that one entry covers, by level. */
export const SPAN = [0, 2 ** 12, 2 ** 21, 2 ** 30, 2 ** 39] as const;
/** Reserved bits of the low half of a leaf, by level (SDM Vol. 3C tables 29-2, 29-4, 29-6). */
const LEAF_RESERVED = [0, 0, 0x001f_f000, 0x3fff_f000, 0] as const;
/** Reserved bits of the low half of an entry that names a table: 6:3, at level 4 also 7. */
const TABLE_RESERVED = [0, 0, 0x78, 0x78, 0xf8] as const;
/** Any of these set makes an entry present. */
export const RIGHTS = EptEntry.READ | EptEntry.WRITE | EptEntry.EXECUTE;
const ADDRESS_HIGH_RESERVED = 0x000f_ffff;

/** How an entry can be misconfigured (SDM Vol. 3C sec. 29.3.3.1); `address` points outside the arena. */
export type EptProblem = "write-without-read" | "execute-only" | "reserved-bits" | "memory-type" | "address";

/** What is wrong with a present entry whoever the processor is, from its low and high 32 bits. */
export function eptProblem(low: number, high: number, level: EptLevel): EptProblem | undefined {
  if ((low & (EptEntry.READ | EptEntry.WRITE)) === EptEntry.WRITE) return "write-without-read";
  const leaf = isLeaf(low, level);
  const reserved = leaf ? LEAF_RESERVED[level] : TABLE_RESERVED[level];
  if ((low & reserved) !== 0 || (high & ADDRESS_HIGH_RESERVED) !== 0) return "reserved-bits";
  return leaf && !isMemoryType(memoryTypeOf(low)) ? "memory-type" : undefined;
}

/** Index into the arena's 32-bit words of the entry for `gpa`. */
export function entryWord(table: number, level: EptLevel, gpa: number): number {
  return table / 4 + 2 * (Math.floor(gpa / SPAN[level]) % 512);
}

export function isLeaf(low: number, level: EptLevel): boolean {
  return level === 1 || (level < 4 && (low & EptEntry.LARGE) !== 0);
}

export function leafAddress(low: number, level: EptLevel): number {
  const address = (low & EptEntry.ADDRESS) >>> 0;
  return address - (address % SPAN[level]);
}

export function isMemoryType(type: number): type is EptMemoryType {
  return type === 0 || type === 1 || (type >= 4 && type <= 6);
}

/** Bits 5:3 of a leaf. */
export function memoryTypeOf(low: number): number {
  return (low & EptEntry.MEMORY_TYPE) >>> EptEntry.MEMORY_TYPE_SHIFT;
}

/** Where the table lies that an entry names. */
export function tableAddress(low: number): number {
  return (low & EptEntry.ADDRESS) >>> 0;
}
