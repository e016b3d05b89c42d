import { beforeEach, describe, expect, it } from "vitest";
import { AddressSpace, type GuestMemory, PageFlag, RamArena } from "../src/index.ts";
import { FakeGuestMemory, GUEST_MEMORY_LAYOUT, guestMemoryCases } from "../src/testing/index.ts";

const ROM_BYTES = new Uint8Array(0x1000).fill(0xa5);

const implementations: Record<string, () => GuestMemory> = {
  "an address space's DMA": () => {
    const space = new AddressSpace(RamArena.create({ ramBytes: 0x4000, extraBytes: 0x20000 }));
    // In this order, so that ranges that touch for the guest do not touch in the arena.
    for (const { start, bytes } of [...GUEST_MEMORY_LAYOUT].reverse()) {
      if (start !== 0x8000) space.addRam(start, bytes);
    }
    space.addRom(0x8000, ROM_BYTES, "ROM");
    return space.dma;
  },
  FakeGuestMemory: () => {
    const memory = new FakeGuestMemory(GUEST_MEMORY_LAYOUT);
    memory.load(0x8000, ROM_BYTES);
    return memory;
  },
};

describe.each(Object.entries(implementations))("GuestMemory: %s", (_name, make) => {
  it.each(guestMemoryCases.map((rule) => [rule.name, rule] as const))("%s", (_rule, { run }) => {
    expect(() => run(make())).not.toThrow();
  });
});

describe("the GuestMemory cases", () => {
  it("fail for a memory that breaks them", () => {
    const broken: GuestMemory = new FakeGuestMemory([{ start: 0, bytes: 0x10_0000 }]);
    const failing = guestMemoryCases.filter(({ run }) => {
      try {
        run(broken);
        return false;
      } catch {
        return true;
      }
    });
    expect(failing.map(({ name }) => name)).toContain("an access in a gap is refused");
    expect(failing.map(({ name }) => name)).toContain("ROM is read and not written");
  });
});

describe("what DMA leaves behind", () => {
  let space: AddressSpace;
  let reports: [arenaOffset: number, length: number][];

  beforeEach(() => {
    space = new AddressSpace(RamArena.create({ ramBytes: 0x8000, extraBytes: 0x20000 }));
    space.addRam(0, 0x4000, "low");
    space.addRam(0x4000, 0x4000, "next");
    reports = [];
    space.setCodeWatcher((offset, length) => reports.push([offset, length]));
  });

  function flagOf(gpa: number): number {
    return space.arena.flags[Math.floor(space.arenaOffset(gpa)! / 4096)]!;
  }

  function markCode(gpa: number): void {
    space.arena.flags[Math.floor(space.arenaOffset(gpa)! / 4096)]! |= PageFlag.CODE;
  }

  it.each([
    ["writeU8", () => space.dma.writeU8(0x1fff, 1), [1]],
    ["writeU16", () => space.dma.writeU16(0x1fff, 1), [1, 2]],
    ["writeU32", () => space.dma.writeU32(0x1ffd, 1), [1, 2]],
    ["writeU64", () => space.dma.writeU64(0x3ffc, 1n), [3, 4]],
    ["write", () => space.dma.write(0x1800, new Uint8Array(0x2000)), [1, 2, 3]],
    ["fill", () => space.dma.fill(0x2000, 9, 0x1000), [2]],
    ["load", () => space.load(0x5000, Uint8Array.of(1)), [5]],
    ["noteWritten", () => space.noteWritten(0x6ffe, 4), [6, 7]],
  ] as const)("%s marks exactly the pages that it wrote", (_name, act, pages) => {
    act();
    for (let page = 0; page < 8; page++) {
      expect([page, flagOf(page * 0x1000)]).toEqual([
        page,
        (pages as readonly number[]).includes(page) ? 1 : 0,
      ]);
    }
  });

  it("reading marks nothing, nor does a write that is refused or empty", () => {
    space.dma.read(0, new Uint8Array(0x8000));
    space.dma.readU64(0);
    space.dma.write(0x7ffc, new Uint8Array(8));
    space.dma.write(0, new Uint8Array(0));
    space.dma.fill(0, 1, 0);
    space.dma.fill(0, 1, 0x8001);
    space.noteWritten(0x7fff, 2);
    space.noteWritten(0x9000, 1);
    space.noteWritten(0, 0);
    for (let page = 0; page < 8; page++) expect(flagOf(page * 0x1000)).toBe(0);
  });

  it("tells the code watcher of the written part of each page with code, after the write", () => {
    markCode(0x1000);
    markCode(0x3000);
    let seen: number | undefined;
    space.setCodeWatcher((offset, length) => {
      reports.push([offset, length]);
      seen = space.arena.bytes[offset];
    });
    space.dma.write(0x1f00, new Uint8Array(0x1200).fill(0xcc));
    expect(reports).toEqual([
      [space.arenaOffset(0x1f00), 0x100],
      [space.arenaOffset(0x3000), 0x100],
    ]);
    expect(seen).toBe(0xcc);
    expect(flagOf(0x1000)).toBe(PageFlag.CODE | PageFlag.DIRTY);
  });

  it("tells it every time, until the engine clears the flag", () => {
    markCode(0x1000);
    space.dma.writeU32(0x1000, 1);
    space.dma.writeU8(0x1001, 1);
    expect(reports).toHaveLength(2);
    space.arena.flags[space.arenaOffset(0x1000)! / 4096]! &= ~PageFlag.CODE;
    space.dma.writeU32(0x1000, 2);
    expect(reports).toHaveLength(2);
  });

  it("does without a watcher", () => {
    markCode(0);
    space.setCodeWatcher(undefined);
    expect(space.dma.writeU32(0, 5)).toBe(true);
    expect(reports).toEqual([]);
  });

  it("ROM that comes over code that was run tells the watcher", () => {
    const claim = space.addRom(0x10000, new Uint8Array(0x1000), "first");
    markCode(0x10000);
    claim.release();
    space.addRom(0x20000, Uint8Array.of(0xf4), "second");
    expect(reports).toEqual([[space.arenaOffset(0x20000), 0x1000]]);
  });
});

describe("the dirty log", () => {
  it("gives each written page once, and tells who cached a permission to write", () => {
    const space = new AddressSpace(RamArena.create({ ramBytes: 0x2_0000, extraBytes: 0x20000 }));
    space.addRam(0, 0x1_0000);
    space.addRam(0x2_0000, 0x1_0000);
    const cleared: [number, number][] = [];
    space.dirty.setClearedWatcher((offset, length) => cleared.push([offset, length]));

    space.dma.writeU8(0x3000, 1);
    space.dma.writeU8(0x9fff, 1);
    space.dma.writeU8(0x2_f000, 1);
    const bitmap = space.dirty.collect(0x1000, 0x2_f000);
    // Page 0 of the bitmap is 0x1000: 0x3000 is bit 2, 0x9000 bit 8, 0x2F000 bit 46; the gap is clean.
    expect([...bitmap]).toEqual([0x04, 0x01, 0, 0, 0, 0x40]);
    expect(cleared).toEqual([
      [space.arenaOffset(0x1000), 0xf000],
      [space.arenaOffset(0x2_0000), 0x1_0000],
    ]);
    cleared.length = 0;
    expect(space.dirty.collect(0, 0x3_0000).every((byte) => byte === 0)).toBe(true);
    expect(cleared).toEqual([]);
  });

  it("asks its source first, which may know of writes that set no flag", () => {
    const space = new AddressSpace(RamArena.create({ ramBytes: 0x4000, extraBytes: 0x20000 }));
    space.addRam(0, 0x4000);
    const asked: [number, number][] = [];
    space.dirty.setSource((gpa, bytes) => {
      asked.push([gpa, bytes]);
      space.arena.flags[space.arenaOffset(0x2000)! / 4096]! |= PageFlag.DIRTY;
    });
    expect([...space.dirty.collect(0x1000, 0x3000)]).toEqual([2]);
    expect(asked).toEqual([[0x1000, 0x3000]]);
    space.dirty.setSource(undefined);
    expect([...space.dirty.collect(0, 0x4000)]).toEqual([0]);
    expect(asked).toHaveLength(1);
  });

  it("clears nothing outside the range, and no other flag", () => {
    const space = new AddressSpace(RamArena.create({ ramBytes: 0x4000, extraBytes: 0x20000 }));
    space.addRam(0, 0x4000);
    space.load(0, new Uint8Array(0x4000));
    const first = space.arenaOffset(0)! / 4096;
    space.arena.flags[first + 1]! |= PageFlag.CODE;
    expect([...space.dirty.collect(0x1000, 0x2000)]).toEqual([3]);
    expect([...space.arena.flags.subarray(first, first + 4)]).toEqual([1, PageFlag.CODE, 0, 1]);
  });

  it("takes whole pages only", () => {
    const space = new AddressSpace(RamArena.create({ ramBytes: 0x1000, extraBytes: 0x20000 }));
    expect(() => space.dirty.collect(0x800, 0x1000)).toThrow(RangeError);
    expect(() => space.dirty.collect(0, 0x800)).toThrow(RangeError);
    expect(() => space.dirty.collect(0, 2 ** 51)).toThrow(RangeError);
    expect(space.dirty.collect(0, 0)).toHaveLength(0);
  });
});
