import { beforeEach, describe, expect, it } from "vitest";
import { AddressSpace, MemoryStateError, RamArena } from "../src/index.ts";
import { ProbeDevice } from "../src/testing/index.ts";

function makeSpace(): AddressSpace {
  const space = new AddressSpace(RamArena.create({ ramBytes: 0x2_0000, extraBytes: 0x4_0000 }));
  space.addRam(0, 0x1_0000, "low RAM");
  space.addRom(0xf_0000, Uint8Array.of(0xeb, 0xfe), "BIOS");
  space.addRam(0x1_0000_0000, 0x1_0000, "high RAM");
  space.addMmio(0xfed0_0000, 0x400, new ProbeDevice(), "HPET");
  space.addDeviceRam(0xe000_0000, space.arena.allocate(0x1000), 0x1000, "video");
  return space;
}

let space: AddressSpace;
beforeEach(() => {
  space = makeSpace();
});

/** What travels: plain data, copied out of the guest's memory. */
function pagesOf(from: AddressSpace) {
  return Array.from(from.pages(), ({ address, bytes }) => ({ address, bytes: bytes.slice() }));
}

describe("the layout", () => {
  it("is plain data with kind and version", () => {
    expect(space.save()).toEqual({
      kind: "address-space",
      version: 1,
      memory: [
        { kind: "ram", name: "low RAM", start: 0, bytes: 0x1_0000 },
        { kind: "rom", name: "BIOS", start: 0xf_0000, bytes: 0x1000 },
        { kind: "ram", name: "high RAM", start: 0x1_0000_0000, bytes: 0x1_0000 },
      ],
    });
  });

  it("goes through JSON and back", () => {
    expect(() => makeSpace().restore(JSON.parse(JSON.stringify(space.save())))).not.toThrow();
  });

  it.each<[string, (state: Record<string, unknown>) => unknown, RegExp]>([
    ["null", () => null, /state: expected an object/],
    ["a string", () => "address-space", /state: expected an object/],
    ["another kind", (state) => ({ ...state, kind: "vcpu" }), /state\.kind/],
    ["another version", (state) => ({ ...state, version: 2 }), /state\.version: expected 1, got 0x2/],
    ["no memory", ({ kind, version }) => ({ kind, version }), /state\.memory/],
    ["memory that is no array", (state) => ({ ...state, memory: { length: 3 } }), /state\.memory/],
    ["a range less", (state) => ({ ...state, memory: (state.memory as []).slice(1) }), /3 ranges/],
    ["a range that is null", (state) => ({ ...state, memory: [null, null, null] }), /memory\[0\]/],
    ...(["kind", "name", "start", "bytes"] as const).map(
      (field): [string, (state: Record<string, unknown>) => unknown, RegExp] => [
        `another ${field}`,
        (state) => ({
          ...state,
          memory: (state.memory as object[]).map((range, i) => (i === 1 ? { ...range, [field]: 5 } : range)),
        }),
        new RegExp(`memory\\[1\\]\\.${field}`),
      ],
    ),
  ])("%s is refused, naming the field", (_name, broken, message) => {
    const state = broken({ ...space.save() });
    expect(() => space.restore(state)).toThrow(MemoryStateError);
    expect(() => space.restore(state)).toThrow(message);
  });
});

describe("the contents", () => {
  it("are the pages that are not zero, in order of address", () => {
    space.dma.writeU8(0x3fff, 1);
    space.dma.writeU8(0x1_0000_0000, 2);
    space.dma.writeU8(0xe000_0000, 3); // device RAM: its device saves it
    expect(pagesOf(space).map(({ address }) => address)).toEqual([0x3000, 0xf_0000, 0x1_0000_0000]);
  });

  it("come back, and what was there before does not stay", () => {
    space.dma.writeU32(0x3ffc, 0x1234_5678);
    space.dma.writeU64(0x1_0000_8000, 0xffff_ffff_ffff_fff0n);
    const saved = pagesOf(space);
    const other = makeSpace();
    other.dma.fill(0, 0xee, 0x1_0000);
    other.load(0xf_0000, Uint8Array.of(1, 2, 3));
    other.restore(space.save());
    other.restorePages(saved);
    expect(pagesOf(other)).toEqual(saved);
    expect(other.dma.readU32(0x3ffc)).toBe(0x1234_5678);
    expect(other.dma.readU8(0x5000)).toBe(0);
  });

  it("count as written where they changed, and code is told of", () => {
    const other = makeSpace();
    other.dma.writeU8(0x5000, 1);
    other.dirty.collect(0, 0x1_0000);
    other.arena.flags[other.arenaOffset(0x5000)! / 4096] = 2; // CODE
    const told: number[] = [];
    other.setCodeWatcher((offset) => told.push(offset));
    space.dma.writeU8(0x3000, 1);
    other.restorePages(pagesOf(space));
    // 0x3000 came, 0x5000 was cleared.
    expect([...other.dirty.collect(0, 0x1_0000)]).toEqual([0x28, 0]);
    expect(told).toEqual([other.arenaOffset(0x5000)]);
  });

  const page = new Uint8Array(0x1000);
  it.each<[string, unknown, RegExp]>([
    ["nothing", undefined, /pages\[1\]/],
    ["no address", { bytes: page }, /pages\[1\]\.address/],
    ["an address that is text", { address: "0x1000", bytes: page }, /pages\[1\]\.address/],
    ["an address within a page", { address: 0x1800, bytes: page }, /pages\[1\]\.address/],
    ["a negative address", { address: -0x1000, bytes: page }, /pages\[1\]\.address/],
    ["an address that is no number", { address: Number.NaN, bytes: page }, /pages\[1\]\.address/],
    ["an address in a gap", { address: 0x2_0000, bytes: page }, /pages\[1\]\.address/],
    ["an address in a device", { address: 0xfed0_0000, bytes: page }, /pages\[1\]\.address/],
    ["an address in device RAM", { address: 0xe000_0000, bytes: page }, /pages\[1\]\.address/],
    ["the same page again", { address: 0, bytes: page }, /each page once/],
    ["half a page", { address: 0x1000, bytes: new Uint8Array(0x800) }, /pages\[1\]\.bytes/],
    ["two pages", { address: 0x1000, bytes: new Uint8Array(0x2000) }, /pages\[1\]\.bytes/],
    ["an array", { address: 0x1000, bytes: Array(0x1000).fill(0) }, /pages\[1\]\.bytes/],
    ["other elements", { address: 0x1000, bytes: new Uint16Array(0x1000) }, /pages\[1\]\.bytes/],
  ])("%s is refused, naming the field", (_name, broken, message) => {
    expect(() => space.restorePages([{ address: 0, bytes: page }, broken])).toThrow(MemoryStateError);
    expect(() => space.restorePages([{ address: 0, bytes: page }, broken])).toThrow(message);
  });
});
