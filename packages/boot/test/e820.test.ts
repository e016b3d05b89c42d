import { describe, expect, it } from "vitest";
import { isRam, pcMemoryMap, placeHigh, placeLow, ramRanges } from "../src/index.ts";

const MIB = 0x10_0000;
const GIB = 0x4000_0000;

/** [start, end, type] as Linux prints a map. */
const lines = (ramBytes: number, options = {}): [number, number, number][] =>
  pcMemoryMap(ramBytes, options).entries.map((e) => [e.base, e.base + e.bytes, e.type]);

describe("a PC's memory map", () => {
  it("has RAM around the legacy hole and ACPI tables at its end", () => {
    expect(lines(128 * MIB)).toEqual([
      [0, 0x9fc00, 1],
      [0x9fc00, 0xa0000, 2],
      [0xe0000, 0x100000, 2],
      [0x100000, 0x7fe0000, 1],
      [0x7fe0000, 0x7fff000, 3],
      [0x7fff000, 0x8000000, 4],
      [0xfec00000, 0x1_0000_0000, 2],
    ]);
  });

  it("goes on at 4 GiB with what does not fit under 3 GiB", () => {
    const map = lines(5 * GIB);
    expect(map.at(-1)).toEqual([4 * GIB, 6 * GIB, 1]);
    expect(map[5]).toEqual([0xbffff000, 0xc0000000, 4]);
    expect(lines(3 * GIB).at(-1)?.[2]).toBe(2);
  });

  it("counts every byte given once, less the hole", () => {
    for (const size of [4 * MIB, 512 * MIB, 3 * GIB, 3 * GIB + 4096, 16 * GIB]) {
      const covered = lines(size).reduce((sum, [a, b, type]) => sum + (type === 2 ? 0 : b - a), 0);
      expect(covered).toBe(size - (0x100000 - 0x9fc00));
    }
  });

  it("takes further reserved ranges and refuses overlapping ones", () => {
    expect(lines(64 * MIB, { reserved: [{ base: 0xe0000000, bytes: 0x10000000 }] })).toContainEqual([
      0xe0000000, 0xf0000000, 2,
    ]);
    expect(() => pcMemoryMap(64 * MIB, { reserved: [{ base: 0x200000, bytes: 1 }] })).toThrow(RangeError);
  });

  it.each([0, -4096, 1 * MIB, 64 * MIB + 1, 2 ** 52, Number.NaN])("refuses %d bytes of RAM", (size) => {
    expect(() => pcMemoryMap(size)).toThrow(RangeError);
  });
});

describe("places in RAM", () => {
  const map = pcMemoryMap(64 * MIB).entries;
  const anywhere = { alignment: 0x1000, floor: 0, ceiling: 2 ** 52 };

  it("knows what is RAM", () => {
    expect(isRam(map, { base: 0, bytes: 0x9fc00 })).toBe(true);
    expect(isRam(map, { base: 0, bytes: 0x9fc01 })).toBe(false);
    expect(isRam(map, { base: 0xa0000, bytes: 1 })).toBe(false);
    expect(isRam(map, { base: 63 * MIB, bytes: 2 * MIB })).toBe(false);
  });

  it("joins adjoining entries", () => {
    const joined = ramRanges([
      { base: 0, bytes: 10, type: 1 },
      { base: 10, bytes: 5, type: 1 },
      { base: 15, bytes: 5, type: 2 },
      { base: 20, bytes: 5, type: 1 },
    ]);
    expect(joined).toEqual([
      { base: 0, bytes: 15 },
      { base: 20, bytes: 5 },
    ]);
  });

  it("finds the highest and the lowest", () => {
    const top = 64 * MIB - 0x20000;
    expect(placeHigh(map, { ...anywhere, bytes: 0x1001 })).toBe(top - 0x2000);
    expect(placeLow(map, { ...anywhere, bytes: 0x1001, floor: 0x9f000 })).toBe(0x100000);
  });

  it("keeps clear of what it shall avoid, under the ceiling and above the floor", () => {
    const avoid = [{ base: 2 * MIB, bytes: MIB }];
    const options = { bytes: MIB, alignment: 0x1000, floor: MIB, ceiling: 3 * MIB + 0x800, avoid };
    expect(placeHigh(map, options)).toBe(MIB);
    expect(placeHigh(map, { ...options, floor: MIB + 1 })).toBeUndefined();
    expect(placeLow(map, { ...options, floor: MIB + 1 })).toBeUndefined();
    expect(placeLow(map, { ...options, floor: MIB + 1, ceiling: 64 * MIB })).toBe(3 * MIB);
  });
});
