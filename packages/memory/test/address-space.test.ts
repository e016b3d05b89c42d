import { beforeEach, describe, expect, it } from "vitest";
import {
  AddressSpace,
  ArenaError,
  GuestAddressError,
  OverlapError,
  RamArena,
  type UnclaimedAccess,
} from "../src/index.ts";
import { ProbeDevice } from "../src/testing/index.ts";

const RAM_BYTES = 0x40_0000;
let space: AddressSpace;
let unclaimed: UnclaimedAccess[];

beforeEach(() => {
  unclaimed = [];
  const arena = RamArena.create({ ramBytes: RAM_BYTES, extraBytes: 0x10_0000 });
  space = new AddressSpace(arena, { onUnclaimed: (access) => unclaimed.push(access) });
});

function thrown(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error("expected an error, got none");
}

describe("RAM and ROM", () => {
  it("RAM comes out of the arena in the order of the calls", () => {
    space.addRam(0, 0x30_0000);
    space.addRam(0x1_0000_0000, 0x10_0000);
    const { ramOffset } = space.arena;
    expect(space.arenaOffset(0x1234)).toBe(ramOffset + 0x1234);
    expect(space.arenaOffset(0x1_0000_0001)).toBe(ramOffset + 0x30_0001);
    expect(space.arenaOffset(0x30_0000)).toBeUndefined();
    expect(space.arenaOffset(0xffff_ffff)).toBeUndefined();
  });

  it("what is skipped keeps large pages behind a hole", () => {
    space.addRam(0, 0xa_0000);
    space.skipRam(0x2_0000);
    space.addRam(0xc_0000, 0x34_0000);
    const { ramOffset } = space.arena;
    expect(space.arenaOffset(0xc_0000)).toBe(ramOffset + 0xc_0000);
    expect(space.ept.walk(0x9_f000, "read")).toMatchObject({ kind: "ok", pageBytes: 0x1000 });
    expect(space.ept.walk(0x2f_f000, "read")).toMatchObject({
      kind: "ok",
      pageBytes: 0x20_0000,
      arenaOffset: ramOffset + 0x2f_f000,
    });
    expect(thrown(() => space.skipRam(0x1000))).toMatchObject({ code: "ARENA_FULL" });
    expect(() => space.skipRam(1)).toThrow(RangeError);
  });

  it("is in the EPT as it is in the list", () => {
    space.addRam(0, 0x20_0000);
    space.addRom(0xffff_f000, new Uint8Array(0x1000), "BIOS");
    expect(space.ept.walk(0x1_2345, "write")).toMatchObject({
      kind: "ok",
      arenaOffset: space.arenaOffset(0x1_2345),
      memoryType: 6,
    });
    expect(space.ept.walk(0xffff_fff0, "execute")).toMatchObject({
      arenaOffset: space.arenaOffset(0xffff_fff0),
      permissions: { read: true, write: false, execute: true },
    });
    expect(space.ept.walk(0xffff_fff0, "write")).toEqual({ kind: "violation", qualification: 0x2a });
    expect(space.ept.walk(0x20_0000, "read")).toEqual({ kind: "violation", qualification: 1 });
  });

  it("more RAM than the arena has is refused, and the rest is still there", () => {
    space.addRam(0, 0x30_0000);
    const error = thrown(() => space.addRam(0x100_0000, 0x20_0000));
    expect(error).toBeInstanceOf(ArenaError);
    expect((error as ArenaError).code).toBe("ARENA_FULL");
    expect(space.arenaOffset(0x100_0000)).toBeUndefined();
    space.addRam(0x100_0000, 0x10_0000);
  });

  it("RAM that overlaps takes nothing from the arena", () => {
    space.addRam(0, 0x1000);
    expect(thrown(() => space.addRam(0, 0x30_0000))).toBeInstanceOf(OverlapError);
    space.addRam(0x1000, RAM_BYTES - 0x1000);
    expect(space.arenaOffset(0x1000)).toBe(space.arena.ramOffset + 0x1000);
  });

  it("ROM is a copy, and past its contents reads as ones", () => {
    const contents = Uint8Array.of(0xeb, 0xfe);
    space.addRom(0xf_0000, contents, "BIOS");
    contents[0] = 0;
    expect([...space.dump(0xf_0000, 4)]).toEqual([0xeb, 0xfe, 0xff, 0xff]);
    expect(space.dma.readU8(0xf_0fff)).toBe(0xff);
  });

  it("the guest's writes to ROM vanish, the host's do not", () => {
    space.addRom(0xf_0000, Uint8Array.of(0xeb, 0xfe), "BIOS");
    space.writeMmio(0xf_0000, 4, 0x1234_5678);
    space.writeMmio(0xf_0000, 8, 0x1234_5678, 0x1234_5678);
    expect(space.dma.writeU8(0xf_0000, 1)).toBe(false);
    expect(space.dma.readU16(0xf_0000)).toBe(0xfeeb);
    space.load(0xf_0000, Uint8Array.of(0x90));
    expect(space.dma.readU16(0xf_0000)).toBe(0xfe90);
  });

  it("ROM that is released is gone, and its room is free again", () => {
    const free = space.arena.freeBytes;
    const claim = space.addRom(0xf_0000, new Uint8Array(0x1_0000), "BIOS");
    const withRom = space.arena.freeBytes;
    expect(withRom).toBeLessThan(free);
    const generation = space.mappingGeneration;
    claim.release();
    claim.release();
    expect(space.mappingGeneration).toBe(generation + 1);
    expect(space.ept.walk(0xf_0000, "read").kind).toBe("violation");
    expect(space.dma.readU8(0xf_0000)).toBeUndefined();
    expect(space.arena.freeBytes).toBe(withRom + 0x1_0000);
    space.addRom(0xf_0000, new Uint8Array(0x1_0000), "again");
  });

  it("device RAM moves with its contents", () => {
    const video = space.arena.allocate(0x8000);
    const claim = space.addDeviceRam(0xe000_0000, video, 0x8000, "video");
    expect(space.dma.writeU32(0xe000_0010, 0xcafe_f00d)).toBe(true);
    expect(space.ept.walk(0xe000_0000, "write").kind).toBe("ok");
    claim.release();
    expect(space.dma.readU32(0xe000_0010)).toBeUndefined();
    space.addDeviceRam(0xd000_0000, video, 0x8000, "video");
    expect(space.dma.readU32(0xd000_0010)).toBe(0xcafe_f00d);
    expect(space.ranges().map(({ kind }) => kind)).toEqual(["device-ram"]);
  });

  it("a guest that moves device RAM about for ever uses up nothing", () => {
    const video = space.arena.allocate(0x2000);
    space.addDeviceRam(0x1000, video, 0x2000, "video").release();
    const free = space.arena.freeBytes;
    for (let i = 0; i < 200; i++) space.addDeviceRam(i * 2 ** 40, video, 0x2000, "video").release();
    expect(space.arena.freeBytes).toBe(free);
  });

  it.each([
    ["unaligned RAM", () => space.addRam(0x800, 0x1000)],
    ["half a page of RAM", () => space.addRam(0, 0x800)],
    ["no RAM", () => space.addRam(0, 0)],
    ["negative RAM", () => space.addRam(0, -0x1000)],
    ["RAM past 48 bits", () => space.addRam(2 ** 48, 0x1000)],
    ["unaligned ROM", () => space.addRom(0xf_0010, new Uint8Array(16), "x")],
    ["empty ROM", () => space.addRom(0xf_0000, new Uint8Array(0), "x")],
    ["device RAM outside the arena", () => space.addDeviceRam(0, space.arena.bytes.length, 0x1000, "x")],
    ["device RAM at arena offset 0", () => space.addDeviceRam(0, 0, 0x1000, "x")],
    ["no MMIO", () => space.addMmio(0, 0, new ProbeDevice(), "x")],
    ["MMIO past 52 bits", () => space.addMmio(2 ** 52 - 4, 8, new ProbeDevice(), "x")],
    ["MMIO at a fraction", () => space.addMmio(0.5, 8, new ProbeDevice(), "x")],
  ])("%s is refused", (_name, act) => {
    const free = space.arena.freeBytes;
    expect(thrown(act)).toBeInstanceOf(RangeError);
    expect(space.ranges()).toEqual([]);
    expect(space.arena.freeBytes).toBe(free);
  });
});

describe("overlaps name both", () => {
  beforeEach(() => {
    space.addRam(0, 0x1_0000, "low RAM");
    space.addMmio(0xfed0_0000, 0x400, new ProbeDevice(), "HPET");
  });

  it.each([
    ["RAM over RAM", () => space.addRam(0xf000, 0x2000, "new"), "low RAM"],
    ["RAM over MMIO", () => space.addRam(0xfed0_0000, 0x1000, "new"), "HPET"],
    ["ROM over MMIO", () => space.addRom(0xfecf_f000, new Uint8Array(0x1001), "new"), "HPET"],
    ["MMIO over RAM", () => space.addMmio(0xffff, 1, new ProbeDevice(), "new"), "low RAM"],
    ["MMIO over MMIO", () => space.addMmio(0xfed0_03ff, 8, new ProbeDevice(), "new"), "HPET"],
    ["MMIO around MMIO", () => space.addMmio(0xfec0_0000, 0x100_0000, new ProbeDevice(), "new"), "HPET"],
  ])("%s", (_name, act, existing) => {
    const before = space.ranges();
    const free = space.arena.freeBytes;
    const error = thrown(act) as OverlapError;
    expect(error).toBeInstanceOf(OverlapError);
    expect(error.code).toBe("RANGE_OVERLAP");
    expect([error.refused, error.existing]).toEqual(["new", existing]);
    expect(error.message).toContain("new at 0x");
    expect(error.message).toContain(`${existing} at 0x`);
    expect(space.ranges()).toEqual(before);
    expect(space.arena.freeBytes).toBe(free);
  });

  it("neighbours do not overlap", () => {
    space.addMmio(0xfed0_0400, 4, new ProbeDevice(), "after");
    space.addMmio(0xfecf_ffff, 1, new ProbeDevice(), "before");
    space.addRam(0x1_0000, 0x1000);
  });

  it("can be asked for beforehand", () => {
    expect(space.overlapping(0xfed0_03ff, 1)).toMatchObject({ name: "HPET" });
    expect(space.overlapping(0, 2 ** 40)).toMatchObject({ name: "low RAM" });
    expect(space.overlapping(0x1_0000, 0xfed0_0000 - 0x1_0000)).toBeUndefined();
  });
});

describe("MMIO", () => {
  let device: ProbeDevice;

  beforeEach(() => {
    device = new ProbeDevice();
    space.addMmio(0xfed0_0000, 0x40, device, "probe");
  });

  it("reaches the device with offset and size, aligned or not", () => {
    expect(space.readMmio(0xfed0_0010, 1)).toBe(0x10);
    expect(space.readMmio(0xfed0_0011, 2)).toBe(0x1211);
    expect(space.readMmio(0xfed0_0013, 4)).toBe(0x1615_1413);
    space.writeMmio(0xfed0_003c, 4, 0xffff_ffff);
    expect(device.take()).toEqual([
      { kind: "read", offset: 0x10, size: 1 },
      { kind: "read", offset: 0x11, size: 2 },
      { kind: "read", offset: 0x13, size: 4 },
      { kind: "write", offset: 0x3c, size: 4, value: 0xffff_ffff },
    ]);
  });

  it("eight bytes are two fours, low half first", () => {
    expect(space.readMmio(0xfed0_0008, 8)).toBe(0x0b0a_0908);
    expect(space.lastHigh).toBe(0x0f0e_0d0c);
    space.writeMmio(0xfed0_0010, 8, 0x1111_1111, 0x2222_2222);
    expect(device.take()).toEqual([
      { kind: "read", offset: 8, size: 4 },
      { kind: "read", offset: 12, size: 4 },
      { kind: "write", offset: 0x10, size: 4, value: 0x1111_1111 },
      { kind: "write", offset: 0x14, size: 4, value: 0x2222_2222 },
    ]);
    space.readMmio(0xfed0_0008, 4);
    expect(space.lastHigh).toBe(0);
  });

  it("what a device answers is cut to the size, unsigned", () => {
    device.answer = () => -1;
    expect(space.readMmio(0xfed0_0000, 1)).toBe(0xff);
    expect(space.readMmio(0xfed0_0000, 2)).toBe(0xffff);
    expect(space.readMmio(0xfed0_0000, 4)).toBe(0xffff_ffff);
    device.answer = () => 0x1_2345_6789;
    expect(space.readMmio(0xfed0_0000, 2)).toBe(0x6789);
    space.writeMmio(0xfed0_0000, 1, 0x1ff);
    expect(device.log.at(-1)).toMatchObject({ value: 0xff });
  });

  it("nobody: ones on reads, writes vanish, the watcher hears of both", () => {
    expect(space.readMmio(0xfee0_0000, 1)).toBe(0xff);
    expect(space.readMmio(0xfee0_0000, 2)).toBe(0xffff);
    expect(space.readMmio(0xfee0_0000, 8)).toBe(0xffff_ffff);
    expect(space.lastHigh).toBe(0xffff_ffff);
    space.writeMmio(2 ** 52 - 1, 2, 0x1_abcd);
    expect(unclaimed).toEqual([
      { bus: "memory", direction: "read", address: 0xfee0_0000, size: 1, value: undefined },
      { bus: "memory", direction: "read", address: 0xfee0_0000, size: 2, value: undefined },
      { bus: "memory", direction: "read", address: 0xfee0_0000, size: 4, value: undefined },
      { bus: "memory", direction: "read", address: 0xfee0_0004, size: 4, value: undefined },
      { bus: "memory", direction: "write", address: 2 ** 52 - 1, size: 2, value: 0xabcd },
    ]);
    expect(device.log).toEqual([]);
  });

  it("an access across the end of a range is split into bytes", () => {
    const next = new ProbeDevice(() => 0x77);
    space.addMmio(0xfed0_0040, 1, next, "next");
    // Two bytes of the probe, one of its neighbour, one of nobody.
    expect(space.readMmio(0xfed0_003e, 4)).toBe(0xff77_3f3e);
    space.writeMmio(0xfed0_003e, 4, 0x4433_2211);
    expect(device.take().filter(({ kind }) => kind === "write")).toEqual([
      { kind: "write", offset: 0x3e, size: 1, value: 0x11 },
      { kind: "write", offset: 0x3f, size: 1, value: 0x22 },
    ]);
    expect(next.take()).toEqual([
      { kind: "read", offset: 0, size: 1 },
      { kind: "write", offset: 0, size: 1, value: 0x33 },
    ]);
    expect(unclaimed).toEqual([]);
  });

  it("an access across the border of RAM reaches RAM too", () => {
    space.addRam(0xfecf_f000, 0x1000);
    space.load(0xfecf_fffe, Uint8Array.of(0xaa, 0xbb));
    expect(space.readMmio(0xfecf_fffe, 4)).toBe(0x0100_bbaa);
    space.writeMmio(0xfecf_fffe, 4, 0x4433_2211);
    expect([...space.dump(0xfecf_fffe, 2)]).toEqual([0x11, 0x22]);
    expect(device.take().slice(-2)).toEqual([
      { kind: "write", offset: 0, size: 1, value: 0x33 },
      { kind: "write", offset: 1, size: 1, value: 0x44 },
    ]);
  });

  it("a released range is nobody's", () => {
    const claim = space.addMmio(0xfed1_0000, 0x1000, new ProbeDevice(() => 0), "x");
    expect(space.readMmio(0xfed1_0000, 4)).toBe(0);
    claim.release();
    claim.release();
    expect(space.readMmio(0xfed1_0000, 4)).toBe(0xffff_ffff);
    const other = space.addMmio(0xfed1_0800, 0x1000, new ProbeDevice(), "y");
    claim.release();
    expect(space.overlapping(0xfed1_0800, 1)).toMatchObject({ name: "y" });
    other.release();
  });

  it("finds its way among many ranges, whatever the order", () => {
    const bases = Array.from({ length: 64 }, (_, i) => 0xc000_0000 + ((i * 37) % 64) * 0x100);
    for (const base of bases) space.addMmio(base, 0x80, new ProbeDevice(() => base >>> 8), `at ${base}`);
    for (const base of bases) {
      expect(space.readMmio(base + 0x7c, 4)).toBe(base >>> 8);
      expect(space.readMmio(base + 0x80, 1)).toBe(0xff);
    }
  });
});

describe("the host's side", () => {
  it("loads and dumps across ranges that touch", () => {
    space.addRam(0x1000, 0x1000);
    space.addRom(0x2000, new Uint8Array(0x1000), "ROM");
    const bytes = Uint8Array.from({ length: 0x800 }, (_, i) => i);
    space.load(0x1c00, bytes);
    expect(space.dump(0x1c00, 0x800)).toEqual(bytes);
  });

  it("says where there is no memory, and does nothing then", () => {
    space.addRam(0x1000, 0x1000);
    for (const act of [() => space.load(0x1fff, Uint8Array.of(1, 2)), () => space.dump(0x1fff, 2)]) {
      const error = thrown(act) as GuestAddressError;
      expect(error).toBeInstanceOf(GuestAddressError);
      expect(error).toMatchObject({ code: "ADDRESS_NOT_MAPPED", address: 0x1fff, length: 2 });
      expect(error.message).toContain("0x1fff");
    }
    expect(space.dma.readU8(0x1fff)).toBe(0);
    expect(thrown(() => space.load(-1, Uint8Array.of(1)))).toBeInstanceOf(GuestAddressError);
    expect(thrown(() => space.load(2 ** 60, Uint8Array.of(1)))).toBeInstanceOf(GuestAddressError);
    expect(thrown(() => space.dump(0x1000, -1))).toBeInstanceOf(RangeError);
    expect(thrown(() => space.dump(0x1000, 2 ** 40))).toBeInstanceOf(RangeError);
  });

  it("a view is the guest's own memory, in one piece or not at all", () => {
    space.addRam(0x1000, 0x1000);
    space.addRam(0x2000, 0x1000);
    space.addRom(0x8000, new Uint8Array(0x1000), "ROM");
    const view = space.view(0x1ff0, 0x10)!;
    space.dma.writeU32(0x1ff4, 0xdead_beef);
    expect([...view.subarray(4, 8)]).toEqual([0xef, 0xbe, 0xad, 0xde]);
    view[0] = 0x42;
    expect(space.dma.readU8(0x1ff0)).toBe(0x42);
    expect(space.view(0x1ff0, 0x11)).toBeUndefined();
    expect(space.view(0x8000, 1)).toBeUndefined();
    expect(space.view(0x3000, 1)).toBeUndefined();
    for (const length of [-1, Number.NaN, 2 ** 40]) expect(space.view(0x1000, length)).toBeUndefined();
  });

  it("lists what is where, by address", () => {
    space.addMmio(0xa_0000, 0x2_0000, new ProbeDevice(), "VGA");
    space.addRom(0xc_0000, new Uint8Array(0x8000), "option ROM");
    space.addRam(0, 0xa_0000, "low");
    const { ramOffset } = space.arena;
    expect(space.ranges()).toEqual([
      { kind: "ram", name: "low", start: 0, end: 0xa_0000, arenaOffset: ramOffset },
      { kind: "mmio", name: "VGA", start: 0xa_0000, end: 0xc_0000, arenaOffset: undefined },
      { kind: "rom", name: "option ROM", start: 0xc_0000, end: 0xc_8000, arenaOffset: expect.any(Number) },
    ]);
  });

  it("tells of every change to the mappings, whoever makes it", () => {
    let calls = 0;
    space.setMappingsWatcher(() => calls++);
    const start = space.mappingGeneration;
    space.addRam(0, 0x1000);
    space.ept.protect(0, 0x1000, { read: true, write: false, execute: false });
    space.addRom(0xf_0000, new Uint8Array(1), "ROM").release();
    expect([calls, space.mappingGeneration - start]).toEqual([4, 4]);
    space.addMmio(0xfed0_0000, 4, new ProbeDevice(), "x").release();
    expect(calls).toBe(4);
    space.setMappingsWatcher(undefined);
    space.addRam(0x1000, 0x1000);
    expect(calls).toBe(4);
  });
});
