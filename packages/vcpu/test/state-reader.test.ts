import { StateError, StateReader } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

const FIELDS = {
  fraction: 1.5,
  text: "x".repeat(1000),
  big: -1n,
  six: 6,
  pair: [1, 2],
  parts: [{}, 7],
  flag: true,
  infinite: Number.POSITIVE_INFINITY,
};

describe("StateReader", () => {
  const reader = new StateReader(FIELDS, "chip");

  it("takes objects of the kind and version, or nameless parts", () => {
    expect(() => new StateReader({ kind: "chip", version: 1 }, "chip", 1)).not.toThrow();
    expect(() => new StateReader({ kind: "chop", version: 1 }, "chip", 1)).toThrow(
      'chip.kind: expected "chip", got "chop"',
    );
    expect(() => new StateReader({ kind: "chip", version: 2 }, "chip", 1)).toThrow(
      /version: expected 1, got 2/,
    );
    for (const broken of [undefined, null, 5, "chip", []]) {
      expect(() => new StateReader(broken, "chip")).toThrow(StateError);
    }
    expect(() => new StateReader([], "chip")).toThrow("chip: expected an object, got an array of 0");
  });

  it("reads what fits", () => {
    expect(reader.uint("six", 6)).toBe(6);
    expect(reader.integer("six", 6, 6)).toBe(6);
    expect(reader.bits("six", 7)).toBe(6);
    expect(reader.number("fraction", 2)).toBe(1.5);
    expect(reader.number("fraction")).toBe(1.5);
    expect(reader.boolean("flag")).toBe(true);
    expect(reader.uints("pair", 2, 2)).toEqual([1, 2]);
    expect(reader.queue("pair", 3, 2)).toEqual([1, 2]);
    expect(new StateReader({ all: 2n ** 64n - 1n }, "chip").u64("all")).toBe(0xffff_ffff_ffff_ffffn);
    expect(new StateReader({ d: { a: 1 } }, "chip").record("d")).toEqual({ a: 1 });
    expect([reader.has("six"), reader.has("missing"), reader.has("toString")]).toEqual([true, false, false]);
  });

  it.each<[what: string, read: (from: StateReader) => unknown, message: string]>([
    [
      "a fraction",
      (from) => from.uint("fraction", 9),
      "chip.fraction: expected an integer from 0 to 0x9, got 1.5",
    ],
    ["too much", (from) => from.uint("six", 5), "chip.six: expected an integer from 0 to 0x5, got 6"],
    ["too little", (from) => from.integer("six", 7, 9), "chip.six: expected an integer from 7 to 9, got 6"],
    ["a bit outside", (from) => from.bits("six", 5), "chip.six: expected no bits outside 0x5, got 6"],
    ["infinity", (from) => from.number("infinite"), "chip.infinite: expected a finite number, got Infinity"],
    ["a number that is too large", (from) => from.number("six", 5), "expected a number from 0 to 5, got 6"],
    ["a negative bigint", (from) => from.u64("big"), "expected a bigint below 2^64, got 0xffffffffffffffff"],
    ["a number for a bigint", (from) => from.u64("six"), "expected a bigint below 2^64, got 6"],
    ["long text", (from) => from.boolean("text"), `chip.text: expected a boolean, got "${"x".repeat(40)}"`],
    [
      "a short array",
      (from) => from.array("pair", 3),
      "chip.pair: expected an array of 3, got an array of 2",
    ],
    [
      "items too large",
      (from) => from.uints("pair", 2, 1),
      "expected integers from 0 to 0x1, got an array of 2",
    ],
    ["a long queue", (from) => from.queue("pair", 1, 9), "expected an array of at most 1, got an array of 2"],
    ["no queue", (from) => from.queue("missing", 2, 1), "got undefined"],
    ["a part that is none", (from) => from.parts("parts", 2), "chip.parts[1]: expected an object, got 7"],
    ["no dictionary", (from) => from.record("pair"), "chip.pair: expected an object, got an array of 2"],
    ["what is inherited", (from) => from.record("constructor"), "expected an object, got undefined"],
    ["a broken rule", (from) => from.check("six", false, "less"), "chip.six: expected less, got 6"],
  ])("refuses %s", (_, read, message) => {
    expect(() => read(reader)).toThrow(StateError);
    expect(() => read(reader)).toThrow(message);
  });
});
