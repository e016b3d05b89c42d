import { describe, expect, it } from "vitest";
import { ArenaError, RamArena } from "../src/index.ts";

const MiB = 2 ** 20;

/** The error that `act` throws. */
function thrown(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error("expected an error, got none");
}

describe("RamArena layout", () => {
  it("lies engine, flags, allocations, RAM, in this order and apart", () => {
    const arena = RamArena.create({ ramBytes: 4 * MiB, privateBytes: 3 * MiB, extraBytes: MiB });
    expect(arena.privateBytes).toBe(3 * MiB);
    expect(arena.flagsOffset).toBe(3 * MiB);
    const first = arena.allocate(4096);
    expect(first).toBeGreaterThanOrEqual(arena.flagsOffset + arena.flags.length);
    expect(arena.ramOffset).toBeGreaterThanOrEqual(first + MiB);
    expect(arena.bytes.length).toBeGreaterThanOrEqual(arena.ramOffset + arena.ramBytes);
  });

  it("has a flag byte for each page of the whole arena, in the arena", () => {
    const arena = RamArena.create({ ramBytes: 64 * MiB });
    expect(arena.flags.length).toBe(arena.bytes.length / 4096);
    arena.flags[arena.flags.length - 1] = 0x5a;
    expect(arena.bytes[arena.flagsOffset + arena.bytes.length / 4096 - 1]).toBe(0x5a);
  });

  it("is shared, so that workers and generated code see the same bytes", () => {
    const arena = RamArena.create({ ramBytes: MiB });
    expect(arena.memory.buffer).toBeInstanceOf(SharedArrayBuffer);
    expect(() => arena.memory.grow(1)).toThrow();
  });

  it("starts RAM on 2 MiB, for large pages", () => {
    for (const privateBytes of [0, 4096, 5 * MiB]) {
      expect(RamArena.create({ ramBytes: 2 * MiB, privateBytes }).ramOffset % (2 * MiB)).toBe(0);
    }
  });

  it("never hands out offset 0", () => {
    const arena = RamArena.create({ ramBytes: 4096, extraBytes: 0 });
    expect(arena.flagsOffset).toBe(4096);
    expect(arena.ramOffset).toBeGreaterThanOrEqual(8192);
  });

  it("holds 3.5 GiB of RAM, and offsets past 2^31 are unsigned", () => {
    const arena = RamArena.create({ ramBytes: 3584 * MiB });
    const last = arena.ramOffset + arena.ramBytes - 1;
    expect(last).toBeGreaterThan(2 ** 31);
    arena.bytes[last] = 0x77;
    expect(arena.bytes[last]).toBe(0x77);
    expect(arena.flags.length).toBe(arena.bytes.length / 4096);
  });

  it("takes all of a 4 GiB memory that its own tables leave", () => {
    // 4 GiB less page 0, the flags (1 MiB) and the rounding of RAM's start to 2 MiB.
    const arena = RamArena.create({ ramBytes: 4096 * MiB - 2 * MiB, extraBytes: 0 });
    expect(arena.bytes.length).toBe(2 ** 32);
    expect(arena.ramOffset).toBe(2 * MiB);
  });
});

describe("RamArena sizes that are refused", () => {
  it.each([
    ["ramBytes", { ramBytes: 0 }],
    ["ramBytes", { ramBytes: -4096 }],
    ["ramBytes", { ramBytes: 4095 }],
    ["ramBytes", { ramBytes: Number.NaN }],
    ["privateBytes", { ramBytes: 4096, privateBytes: -4096 }],
    ["privateBytes", { ramBytes: 4096, privateBytes: 100 }],
    ["extraBytes", { ramBytes: 4096, extraBytes: 1 }],
    ["extraBytes", { ramBytes: 4096, extraBytes: Number.POSITIVE_INFINITY }],
  ])("%s of %o is the caller's mistake", (field, options) => {
    const error = thrown(() => RamArena.create(options));
    expect(error).toBeInstanceOf(RangeError);
    expect((error as Error).message).toContain(field);
  });

  it.each([
    { ramBytes: 2 ** 32 },
    { ramBytes: 2 ** 32 - 2 * MiB, extraBytes: 4096 * 1024 },
    { ramBytes: 2 ** 31, privateBytes: 2 ** 31 },
    { ramBytes: 4096, extraBytes: 2 ** 32 },
    { ramBytes: 2 ** 50 },
  ])("%o does not fit 4 GiB", (options) => {
    const error = thrown(() => RamArena.create(options));
    expect(error).toBeInstanceOf(ArenaError);
    expect((error as ArenaError).code).toBe("ARENA_TOO_LARGE");
  });
});

describe("RamArena.allocate", () => {
  it("gives distinct whole pages, aligned as asked", () => {
    const arena = RamArena.create({ ramBytes: 4096, extraBytes: 8 * MiB });
    const a = arena.allocate(1);
    const b = arena.allocate(4097, 2 * MiB);
    const c = arena.allocate(4096);
    expect(a % 4096).toBe(0);
    expect(b % (2 * MiB)).toBe(0);
    // The gap that the alignment left is used, not lost.
    expect(c).toBeLessThan(b);
    expect(new Set([a, b, b + 4096, c]).size).toBe(4);
  });

  it("gives zeros, also where a block was used before", () => {
    const arena = RamArena.create({ ramBytes: 4096, extraBytes: 16 * 4096 });
    const first = arena.allocate(8192);
    arena.bytes.fill(0xee, first, first + 8192);
    arena.free(first);
    const again = arena.allocate(8192);
    expect(again).toBe(first);
    expect(arena.bytes.subarray(again, again + 8192).every((byte) => byte === 0)).toBe(true);
  });

  it("says when it is full, keeps what it gave, and takes back and merges", () => {
    const arena = RamArena.create({ ramBytes: 4096, extraBytes: 4 * 4096 });
    const pages = arena.freeBytes / 4096;
    const blocks = Array.from({ length: pages }, () => arena.allocate(4096));
    expect(arena.freeBytes).toBe(0);
    const error = thrown(() => arena.allocate(1));
    expect(error).toBeInstanceOf(ArenaError);
    expect((error as ArenaError).code).toBe("ARENA_FULL");
    for (const block of blocks) arena.free(block);
    expect(arena.freeBytes).toBe(pages * 4096);
    expect(arena.allocate(pages * 4096)).toBe(blocks[0]);
  });

  it("never reaches into RAM", () => {
    const arena = RamArena.create({ ramBytes: 4 * MiB, extraBytes: 4096 });
    expect(thrown(() => arena.allocate(8 * MiB))).toBeInstanceOf(ArenaError);
    expect(thrown(() => arena.allocate(4096, 2 ** 30))).toBeInstanceOf(ArenaError);
  });

  it("refuses nonsense", () => {
    const arena = RamArena.create({ ramBytes: 4096 });
    for (const bytes of [0, -1, 0.5, Number.NaN, 2 ** 33]) {
      expect(thrown(() => arena.allocate(bytes))).toBeInstanceOf(RangeError);
    }
    for (const align of [0, 1, 2048, 12288, -4096]) {
      expect(thrown(() => arena.allocate(4096, align))).toBeInstanceOf(RangeError);
    }
    const block = arena.allocate(8192);
    expect(thrown(() => arena.free(block + 4096))).toBeInstanceOf(RangeError);
    arena.free(block);
    expect(thrown(() => arena.free(block))).toBeInstanceOf(RangeError);
  });
});
