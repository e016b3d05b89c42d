/** Encodings that ACPI 6.5 sec. 20.2 and 6.4 give byte for byte. */
import { describe, expect, it } from "vitest";
import { aml, resources } from "../src/index.ts";

const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

describe("AML", () => {
  it.each([
    [0, [0x00]],
    [1, [0x01]],
    [2, [0x0a, 2]],
    [0x100, [0x0b, 0x00, 0x01]],
    [0x12345, [0x0c, 0x45, 0x23, 0x01, 0x00]],
    [0x1_0000_0000n, [0x0e, 0, 0, 0, 0, 1, 0, 0, 0]],
    [0xffff_ffff_ffff_ffffn, [0xff]],
  ])("integer %s", (value, encoded) => {
    expect(aml.integer(value)).toEqual(bytes(...encoded));
  });

  it("names: padded, rooted, relative, of many segments", () => {
    const ascii = (text: string): number[] => [...text].map((char) => char.charCodeAt(0));
    expect(aml.path("A")).toEqual(bytes(...ascii("A___")));
    expect(aml.path("\\_SB")).toEqual(bytes(...ascii("\\_SB_")));
    expect(aml.path("^^AB.CD")).toEqual(bytes(...ascii("^^"), 0x2e, ...ascii("AB__CD__")));
    expect(aml.path("A.B.C")).toEqual(bytes(0x2f, 3, ...ascii("A___B___C___")));
    expect(aml.path("\\")).toEqual(bytes(0x5c, 0x00));
    for (const bad of ["a", "ABCDE", "A.", "A..B", "1A", "A B"]) {
      expect(() => aml.path(bad), bad).toThrow(RangeError);
    }
  });

  it("EISA identifiers (PNP0501 is 0x0105D041 in memory)", () => {
    expect(aml.eisaId("PNP0501")).toEqual(bytes(0x0c, 0x41, 0xd0, 0x05, 0x01));
    expect(() => aml.eisaId("pnp0501")).toThrow(RangeError);
  });

  it("package lengths of one to four bytes", () => {
    const lengthOf = (size: number): number[] => [...aml.scope("\\", new Uint8Array(size)).subarray(1, 5)];
    // Two bytes of name; the length counts itself.
    expect(lengthOf(0x3f - 3)[0]).toBe(0x3f);
    expect(lengthOf(0x40 - 3).slice(0, 2)).toEqual([0x41, 0x04]); // 0x41: 1 + 4 << 4
    expect(lengthOf(0xfff - 4).slice(0, 2)).toEqual([0x4f, 0xff]);
    expect(lengthOf(0x1000 - 4).slice(0, 3)).toEqual([0x81, 0x00, 0x01]);
    expect(lengthOf(0xfffff - 5).slice(0, 3)).toEqual([0x8f, 0xff, 0xff]);
    expect(lengthOf(0x100000 - 5)).toEqual([0xc1, 0x00, 0x00, 0x01]);
  });

  it("refuses what has no encoding", () => {
    expect(() => aml.pkg(...new Array<number>(256).fill(0))).toThrow(RangeError);
    expect(() => aml.method("M", { args: 8 })).toThrow(RangeError);
    expect(() => aml.string("\u00fc")).toThrow(RangeError);
  });
});

describe("resource descriptors", () => {
  it("IO, IRQNoFlags, Memory32Fixed and the end tag", () => {
    expect(resources.io(0x3f8, 8)).toEqual(bytes(0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8));
    expect(resources.irq(4)).toEqual(bytes(0x22, 0x10, 0));
    expect(resources.irq(12)).toEqual(bytes(0x22, 0, 0x10));
    expect(resources.memory32(0xfed00000, 0x400)).toEqual(bytes(0x86, 9, 0, 1, 0, 0, 0xd0, 0xfe, 0, 4, 0, 0));
    expect(resources.resources(resources.irq(0)).subarray(-5)).toEqual(bytes(0x22, 1, 0, 0x79, 0));
  });

  it("refuses ranges that do not fit", () => {
    expect(() => resources.io(0xffff, 2)).toThrow(RangeError);
    expect(() => resources.io(0, 256)).toThrow(RangeError);
    expect(() => resources.irq(16)).toThrow(RangeError);
    expect(() => resources.memory32(0xffffffff, 2)).toThrow(RangeError);
  });
});
