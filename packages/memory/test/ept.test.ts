import { beforeEach, describe, expect, it } from "vitest";
import { ArenaError, Ept, type EptAccess, RamArena } from "../src/index.ts";

const KiB4 = 0x1000;
const MiB2 = 0x20_0000;
const GiB1 = 0x4000_0000;
const RWX = { read: true, write: true, execute: true };
const RX = { read: true, write: false, execute: true };
const NONE = { read: false, write: false, execute: false };

let arena: RamArena;
let ept: Ept;
let changes = 0;

beforeEach(() => {
  arena = RamArena.create({ ramBytes: 16 * 2 ** 20 });
  changes = 0;
  ept = new Ept(arena, { onChange: () => changes++ });
});

/** The entries on the way to `gpa`, from the PML4's, as a processor reads them. */
function entries(gpa: number): { offset: number; value: bigint }[] {
  const view = new DataView(arena.memory.buffer);
  const path: { offset: number; value: bigint }[] = [];
  let table = BigInt(ept.pointer) & ~0xfffn;
  for (const shift of [39n, 30n, 21n, 12n]) {
    const offset = Number(table + ((BigInt(gpa) >> shift) & 0x1ffn) * 8n);
    const value = view.getBigUint64(offset, true);
    path.push({ offset, value });
    if ((value & 7n) === 0n || (shift < 39n && (value & 0x80n) !== 0n)) break;
    table = value & 0xf_ffff_ffff_f000n;
  }
  return path;
}

function leaf(gpa: number): bigint {
  return entries(gpa).at(-1)!.value;
}

describe("EPT format (SDM Vol. 3C sec. 29.3.2)", () => {
  it("EPTP: write-back 6, walk length 4 as 3 << 3, A/D flags bit 6", () => {
    expect(ept.pointer & 0xfff).toBe(0x5e);
    expect(ept.pointer).toBeGreaterThan(0xfff);
  });

  it("a 4 KiB leaf: address, type 6 in bits 5:3, X W R; tables above it allow everything", () => {
    ept.map(0x12_3456_7000, arena.ramOffset + KiB4, KiB4, RWX);
    const path = entries(0x12_3456_7000);
    expect(path.map(({ value }) => value & 0xfffn)).toEqual([7n, 7n, 7n, 0x37n]);
    expect(path[3]!.value & ~0xfffn).toBe(BigInt(arena.ramOffset + KiB4));
  });

  it("a 2 MiB leaf has bit 7 in the page directory", () => {
    ept.map(MiB2, arena.ramOffset, MiB2, { ...RX, memoryType: 0 });
    expect(entries(MiB2)).toHaveLength(3);
    expect(leaf(MiB2)).toBe(BigInt(arena.ramOffset) | 0x85n);
  });

  it("pages are the largest that both addresses allow", () => {
    ept.map(MiB2 - KiB4, arena.ramOffset + MiB2 - KiB4, MiB2 + 2 * KiB4, RWX);
    expect(entries(MiB2 - KiB4)).toHaveLength(4);
    expect(entries(MiB2)).toHaveLength(3);
    expect(entries(2 * MiB2)).toHaveLength(4);
    ept.map(8 * MiB2, arena.ramOffset + KiB4, MiB2, RWX);
    expect(entries(8 * MiB2)).toHaveLength(4);
  });

  it("maps and splits 1 GiB pages", () => {
    const big = RamArena.create({ ramBytes: 3 * GiB1, extraBytes: 64 * KiB4 });
    arena = big;
    ept = new Ept(big);
    ept.map(4 * GiB1, GiB1, 2 * GiB1, RWX);
    expect(entries(4 * GiB1)).toHaveLength(2);
    expect(leaf(5 * GiB1)).toBe(BigInt(2 * GiB1) | 0xb7n);
    expect(ept.walk(5 * GiB1 + 5, "read")).toMatchObject({ arenaOffset: 2 * GiB1 + 5, pageBytes: GiB1 });
    ept.protect(5 * GiB1 + MiB2 + KiB4, KiB4, RX);
    expect(entries(5 * GiB1 + MiB2 + KiB4)).toHaveLength(4);
    expect(leaf(5 * GiB1 + MiB2 + KiB4)).toBe(BigInt(2 * GiB1 + MiB2 + KiB4) | 0x135n);
    expect(leaf(5 * GiB1 + 2 * MiB2)).toBe(BigInt(2 * GiB1 + 2 * MiB2) | 0x1b7n);
    expect(leaf(4 * GiB1)).toBe(BigInt(GiB1) | 0xb7n);
  });
});

describe("EPT walk", () => {
  it("translates with the offset in the page", () => {
    ept.map(0x10_0000_0000, arena.ramOffset, MiB2, { ...RWX, memoryType: 4 });
    expect(ept.walk(0x10_0012_3456, "read")).toEqual({
      kind: "ok",
      arenaOffset: arena.ramOffset + 0x12_3456,
      pageBytes: MiB2,
      memoryType: 4,
      permissions: RWX,
      dirty: false,
    });
  });

  // Table 28-7: bits 2:0 say what was tried, bits 5:3 what the entries together allow.
  it.each<[EptAccess, number, number]>([
    ["read", 0x01, 0x01],
    ["write", 0x02, 0x02 | 0x28],
    ["execute", 0x04, 0x04],
  ])("%s: exit qualification of a violation", (access, absent, readExecute) => {
    ept.map(0, arena.ramOffset, KiB4, RX);
    expect(ept.walk(0x5000, access)).toEqual({ kind: "violation", qualification: absent });
    const result = ept.walk(0, access);
    if (access === "write") expect(result).toEqual({ kind: "violation", qualification: readExecute });
    else expect(result.kind).toBe("ok");
  });

  it("permissions of all levels count together", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    const [pml4] = entries(0);
    arena.bytes[pml4!.offset] = 0x5; // R-X
    expect(ept.walk(0, "write")).toEqual({ kind: "violation", qualification: 0x2a });
    expect(ept.walk(0, "execute")).toMatchObject({ kind: "ok", permissions: RX });
  });

  it("addresses past 48 bits are violations, not other addresses", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    for (const gpa of [2 ** 48, 2 ** 51, 2 ** 52, -1, Number.NaN]) {
      expect(ept.walk(gpa, "read")).toEqual({ kind: "violation", qualification: 1 });
    }
    ept.map(2 ** 48 - KiB4, arena.ramOffset, KiB4, RWX);
    expect(ept.walk(2 ** 48 - 1, "read")).toMatchObject({ arenaOffset: arena.ramOffset + 0xfff });
  });
});

describe("EPT misconfigurations (SDM Vol. 3C sec. 29.3.3.1)", () => {
  /** Changes the entry for address 0 at `level` and returns what it is now. */
  function poke(level: 1 | 2 | 3 | 4, change: (entry: bigint) => bigint): bigint {
    const { offset, value } = entries(0)[4 - level]!;
    new DataView(arena.memory.buffer).setBigUint64(offset, change(value), true);
    return change(value);
  }

  it.each([
    ["write-without-read", 1, (entry: bigint) => (entry & ~7n) | 2n],
    ["write-without-read", 3, (entry: bigint) => (entry & ~7n) | 6n],
    ["execute-only", 1, (entry: bigint) => (entry & ~7n) | 4n],
    ["execute-only", 4, (entry: bigint) => (entry & ~7n) | 4n],
    ["memory-type", 1, (entry: bigint) => (entry & ~0x38n) | (2n << 3n)],
    ["memory-type", 1, (entry: bigint) => (entry & ~0x38n) | (3n << 3n)],
    ["memory-type", 1, (entry: bigint) => (entry & ~0x38n) | (7n << 3n)],
    ["reserved-bits", 4, (entry: bigint) => entry | 0x08n],
    ["reserved-bits", 4, (entry: bigint) => entry | 0x80n],
    ["reserved-bits", 3, (entry: bigint) => entry | 0x40n],
    ["reserved-bits", 2, (entry: bigint) => entry | 0x20n],
    ["reserved-bits", 1, (entry: bigint) => entry | (1n << 32n)],
    ["reserved-bits", 2, (entry: bigint) => entry | (1n << 51n)],
    ["address", 1, (entry: bigint) => entry | 0xffff_f000n],
    ["address", 2, (entry: bigint) => entry | 0xffff_f000n],
  ] as const)("%s at level %i", (problem, level, change) => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    const entry = poke(level, change);
    expect(ept.walk(0, "read")).toEqual({ kind: "misconfiguration", level, entry, problem });
  });

  it("a large page with address bits below its size", () => {
    ept.map(0, arena.ramOffset, MiB2, RWX);
    poke(2, (entry) => entry | 0x1000n);
    expect(ept.walk(0, "read")).toMatchObject({ kind: "misconfiguration", problem: "reserved-bits" });
  });

  it("ignored bits are ignored: 6, 11:10 and 63:52 of a leaf, 7 of a 4 KiB leaf", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    poke(1, (entry) => entry | 0xfff0_0000_0000_0cc0n);
    expect(ept.walk(0, "read")).toMatchObject({ kind: "ok", arenaOffset: arena.ramOffset });
  });

  it("a misconfiguration goes before the violation that the same walk would be", () => {
    ept.map(0, arena.ramOffset, KiB4, RX);
    poke(1, (entry) => entry | (7n << 3n));
    expect(ept.walk(0, "write").kind).toBe("misconfiguration");
  });

  it("entries that are not present are not looked at", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    poke(1, () => 0xffff_ffff_ffff_fff8n);
    expect(ept.walk(0, "read")).toEqual({ kind: "violation", qualification: 1 });
  });

  it("execute-only is a permission where the processor has it", () => {
    const able = new Ept(arena, { executeOnly: true });
    able.map(0, arena.ramOffset, KiB4, { read: false, write: false, execute: true });
    expect(able.walk(0, "execute").kind).toBe("ok");
    expect(able.walk(0, "read")).toEqual({ kind: "violation", qualification: 0x21 });
  });
});

describe("EPT accessed and dirty flags", () => {
  it("accessed in every entry used, dirty in the leaf, and only for writes", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    expect(ept.accessedDirty(0)).toEqual({ accessed: false, dirty: false });
    ept.walk(0, "execute");
    expect(entries(0).map(({ value }) => value & 0x300n)).toEqual([0x100n, 0x100n, 0x100n, 0x100n]);
    expect(ept.walk(0, "write")).toMatchObject({ dirty: true });
    expect(entries(0).map(({ value }) => value & 0x300n)).toEqual([0x100n, 0x100n, 0x100n, 0x300n]);
    expect(ept.accessedDirty(0)).toEqual({ accessed: true, dirty: true });
  });

  it("an access that fails sets none", () => {
    ept.map(0, arena.ramOffset, KiB4, RX);
    ept.walk(0, "write");
    expect(entries(0).every(({ value }) => (value & 0x300n) === 0n)).toBe(true);
  });

  it("are cleared by range, and of what is not mapped there are none", () => {
    ept.map(0, arena.ramOffset, 4 * KiB4, RWX);
    for (let page = 0; page < 4; page++) ept.walk(page * KiB4, "write");
    const before = changes;
    ept.clearAccessedDirty(KiB4, 2 * KiB4);
    expect(changes).toBe(before + 1);
    expect([0, 1, 2, 3].map((page) => ept.accessedDirty(page * KiB4)?.dirty)).toEqual([
      true,
      false,
      false,
      true,
    ]);
    expect(ept.accessedDirty(MiB2)).toBeUndefined();
  });

  it("go to the parts when a large page is split", () => {
    ept.map(0, arena.ramOffset, MiB2, RWX);
    ept.walk(0, "write");
    ept.protect(0, KiB4, RX);
    expect(leaf(0x1f_f000)).toBe(BigInt(arena.ramOffset + 0x1f_f000) | 0x337n);
    expect(leaf(0)).toBe(BigInt(arena.ramOffset) | 0x335n);
  });
});

describe("EPT changes", () => {
  it("protect without any permission keeps the page, to be given back", () => {
    ept.map(0, arena.ramOffset, MiB2, RWX);
    ept.protect(0, MiB2, NONE);
    expect(ept.walk(0x1234, "read")).toEqual({ kind: "violation", qualification: 1 });
    ept.protect(KiB4, KiB4, RX);
    expect(ept.walk(0x1234, "read")).toMatchObject({ arenaOffset: arena.ramOffset + 0x1234 });
    expect(ept.walk(0x2234, "read").kind).toBe("violation");
    ept.protect(0, MiB2, RWX);
    expect(ept.walk(0x2234, "write")).toMatchObject({ arenaOffset: arena.ramOffset + 0x2234 });
  });

  it("protect and unmap leave alone what was never mapped", () => {
    ept.protect(0, 2 ** 40, RWX);
    ept.unmap(0, 2 ** 48);
    expect(entries(0)).toEqual([{ offset: expect.any(Number), value: 0n }]);
  });

  it("maps in place of what was there, large over small and small over large", () => {
    ept.map(0, arena.ramOffset, 3 * KiB4, RWX);
    ept.map(0, arena.ramOffset + MiB2, MiB2, RX);
    expect(ept.walk(0x1000, "read")).toMatchObject({ pageBytes: MiB2, permissions: RX });
    ept.map(0x3000, arena.ramOffset, KiB4, RWX);
    expect(ept.walk(0x3000, "read")).toMatchObject({ pageBytes: KiB4, arenaOffset: arena.ramOffset });
    expect(ept.walk(0x4000, "read")).toMatchObject({ arenaOffset: arena.ramOffset + MiB2 + 0x4000 });
  });

  it("a mapping that is moved about does not use up the arena", () => {
    ept.map(0, arena.ramOffset, KiB4, RWX);
    ept.unmap(0, KiB4);
    const free = arena.freeBytes;
    for (let i = 1; i < 300; i++) {
      const gpa = i * 600 * GiB1 + i * MiB2;
      if (gpa >= 2 ** 48) break;
      ept.map(gpa, arena.ramOffset, KiB4, RWX);
      ept.unmap(gpa, KiB4);
    }
    expect(arena.freeBytes).toBe(free);
  });

  it("an arena that is full leaves everything as it was", () => {
    while (arena.freeBytes > 0) arena.allocate(KiB4);
    const before = changes;
    expect(() => ept.map(0, arena.ramOffset, KiB4, RWX)).toThrow(ArenaError);
    expect(changes).toBe(before);
    expect(ept.walk(0, "read").kind).toBe("violation");
  });

  it("with a full arena whole pages are still unmapped and protected, and only splits are refused", () => {
    ept.map(0, arena.ramOffset, 2 * MiB2, RWX);
    ept.map(GiB1, arena.ramOffset, 2 * KiB4, RWX);
    while (arena.freeBytes > 0) arena.allocate(KiB4);
    // Uses up the tables that the mappings above left over.
    for (let i = 1; i < 8; i++) {
      try {
        ept.map(i * 512 * GiB1, arena.ramOffset, KiB4, RWX);
      } catch (error) {
        expect(error).toBeInstanceOf(ArenaError);
      }
    }
    expect(() => ept.protect(KiB4, KiB4, RX)).toThrow(ArenaError);
    expect(ept.walk(KiB4, "write")).toMatchObject({ kind: "ok", pageBytes: MiB2 });
    ept.protect(0, MiB2, RX);
    ept.unmap(MiB2, MiB2);
    ept.unmap(GiB1 + KiB4, KiB4);
    expect(ept.walk(KiB4, "write").kind).toBe("violation");
    expect(ept.walk(MiB2, "read").kind).toBe("violation");
    expect(ept.walk(GiB1, "read").kind).toBe("ok");
    expect(ept.walk(GiB1 + KiB4, "read").kind).toBe("violation");
  });

  it.each([
    ["gpa unaligned", () => ept.map(1, arena.ramOffset, KiB4, RWX)],
    ["gpa past 48 bits", () => ept.map(2 ** 48, arena.ramOffset, KiB4, RWX)],
    ["end past 48 bits", () => ept.map(2 ** 48 - KiB4, arena.ramOffset, 2 * KiB4, RWX)],
    ["no bytes", () => ept.map(0, arena.ramOffset, 0, RWX)],
    ["offset 0", () => ept.map(0, 0, KiB4, RWX)],
    ["past the arena", () => ept.map(0, arena.bytes.length, KiB4, RWX)],
    ["write alone", () => ept.map(0, arena.ramOffset, KiB4, { read: false, write: true, execute: false })],
    ["execute alone", () => ept.protect(0, KiB4, { read: false, write: false, execute: true })],
    ["memory type 2", () => ept.map(0, arena.ramOffset, KiB4, { ...RWX, memoryType: 2 as 0 })],
    ["unmap of half a page", () => ept.unmap(0, 0x800)],
  ])("%s is refused, and nothing changes", (_name, act) => {
    expect(act).toThrow(RangeError);
    expect(changes).toBe(0);
  });
});

describe("EPT against a page-by-page model", () => {
  it("agrees after any sequence of changes", () => {
    // A linear congruential generator: the same sequence each run.
    let seed = 12345;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const pages = 4 * 512;
    const base = 4 * GiB1 - 2 * MiB2; // across a page-directory-pointer border
    const model = new Map<number, { offset: number; rights: number }>();
    const rightsOf = (rights: number) => ({
      read: (rights & 1) !== 0,
      write: (rights & 2) !== 0,
      execute: (rights & 4) !== 0,
    });
    for (let step = 0; step < 400; step++) {
      const aligned = random(3) === 0;
      const first = aligned ? 512 * random(4) : random(pages);
      const count = aligned ? 512 : 1 + random(Math.min(700, pages - first));
      const gpa = base + first * KiB4;
      const rights = [0, 1, 3, 5, 7][random(5)]!;
      const action = random(4);
      const offset = arena.ramOffset + (aligned ? 512 * random(4) : random(4096 - count)) * KiB4;
      if (action < 2) ept.map(gpa, offset, count * KiB4, rightsOf(rights));
      else if (action === 2) ept.unmap(gpa, count * KiB4);
      else ept.protect(gpa, count * KiB4, rightsOf(rights));
      for (let page = first; page < first + count; page++) {
        const old = model.get(page);
        if (action < 2) model.set(page, { offset: offset + (page - first) * KiB4, rights });
        else if (action === 2) model.delete(page);
        else if (old !== undefined) model.set(page, { ...old, rights });
      }
      if (step % 20 !== 19) continue;
      for (let page = 0; page < pages; page++) {
        const expected = model.get(page);
        const result = ept.walk(base + page * KiB4 + 0x10, "read");
        if (expected === undefined || expected.rights === 0) expect(result.kind).toBe("violation");
        else if (
          result.kind !== "ok" ||
          result.arenaOffset !== expected.offset + 0x10 ||
          result.permissions.write !== ((expected.rights & 2) !== 0) ||
          result.permissions.execute !== ((expected.rights & 4) !== 0)
        ) {
          expect({ step, page, result }).toEqual({ step, page, result: expected });
        }
      }
    }
  });
});
