import type { Guest } from "./guest.ts";
import { Layout, u32s, u64s } from "./layout.ts";

/** Bits of page-table entries (SDM Vol. 3A tables 4-5 to 4-20). */
export const Pte = {
  P: 1n << 0n,
  W: 1n << 1n,
  U: 1n << 2n,
  A: 1n << 5n,
  D: 1n << 6n,
  PS: 1n << 7n,
  G: 1n << 8n,
  NX: 1n << 63n,
} as const;

/** Bits of the page-fault error code (SDM Vol. 3A sec. 4.7). */
export const PF = { P: 1, W: 2, U: 4, RSVD: 8, I: 16 } as const;

export type PagingMode = "32-bit" | "PAE" | "4-level";

/** Address bits below a table's index, from the root to the last level. */
const SHIFTS: Record<PagingMode, readonly number[]> = {
  "32-bit": [22, 12],
  PAE: [30, 21, 12],
  "4-level": [39, 30, 21, 12],
};

/** Page tables that a case builds entry by entry, at `Layout.OWN_TABLES`; A and D start clear. */
export class PageTables {
  /** CR3. */
  readonly root = BigInt(Layout.OWN_TABLES);
  readonly #mode: PagingMode;
  readonly #tables: bigint[][] = [];
  readonly #entryBytes: number;

  constructor(mode: PagingMode) {
    this.#mode = mode;
    this.#entryBytes = mode === "32-bit" ? 4 : 8;
    this.#newTable();
  }

  /**
   * Maps one page of 4 KiB, or with `Pte.PS` one of the size above that at `level` (1: 4 or 2 MiB, 2: 1 GiB).
   *
   * @returns guest-physical address of the last entry.
   */
  map(
    linear: bigint,
    physical: bigint,
    flags: bigint,
    level = 0,
    tableFlags = Pte.P | Pte.W | Pte.U,
  ): number {
    const shifts = SHIFTS[this.#mode];
    let table = 0;
    for (let i = 0; i < shifts.length; i++) {
      const index = Number((linear >> BigInt(shifts[i]!)) % BigInt(4096 / this.#entryBytes));
      if (shifts.length - 1 - i === level) {
        this.#tables[table]![index] = physical | flags;
        return this.#address(table) + index * this.#entryBytes;
      }
      // PDPTEs of PAE have no W and U bits (SDM Vol. 3A table 4-8).
      const isPdpte = this.#mode === "PAE" && i === 0;
      let next = this.#tables[table]![index]!;
      if (next === 0n) {
        next = BigInt(this.#address(this.#newTable())) | (isPdpte ? Pte.P : tableFlags);
        this.#tables[table]![index] = next;
      }
      table = (Number(next & 0xf_f000n) - Layout.OWN_TABLES) / 4096;
    }
    throw new Error("unreachable: every walk ends at a level");
  }

  /** The root's first four entries, which PAE paging loads with CR3. */
  get pdptrs(): [bigint, bigint, bigint, bigint] {
    return this.#tables[0]!.slice(0, 4) as [bigint, bigint, bigint, bigint];
  }

  /** Maps [0, bytes) one to one. */
  mapLow(bytes: number, flags: bigint): void {
    for (let page = 0; page < bytes; page += 4096) this.map(BigInt(page), BigInt(page), flags);
  }

  install(guest: Guest): void {
    this.#tables.forEach((entries, i) => {
      const bytes = this.#entryBytes === 4 ? u32s(...entries.map(Number)) : u64s(...entries);
      guest.load(this.#address(i), bytes);
    });
  }

  #newTable(): number {
    return this.#tables.push(new Array<bigint>(4096 / this.#entryBytes).fill(0n)) - 1;
  }

  #address(table: number): number {
    return Layout.OWN_TABLES + 4096 * table;
  }
}
