import { ProbeDevice } from "@skep/memory/testing";
import { type BarOptions, PciFunction, type PciFunctionOptions } from "@skep/pci";
import { PciGuest } from "@skep/pci/testing";
import { StateError } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

const IDENTITY = { vendorId: 0x1234, deviceId: 0x5678, classCode: 0xff_0000 };
const [IO, MEMORY] = [0x1, 0x2];

function make(...bars: Omit<BarOptions, "device">[]) {
  const probes = bars.map(() => new ProbeDevice());
  const fn = new PciFunction({ ...IDENTITY, bars: bars.map((bar, i) => ({ ...bar, device: probes[i]! })) });
  return { fn, probes };
}

describe("BARs (PCI 3.0 sec. 6.2.5.1)", () => {
  it("are found by sizing", () => {
    const guest = new PciGuest();
    const { fn } = make(
      { index: 0, space: "memory32", bytes: 0x1000 },
      { index: 1, space: "io", bytes: 0x20 },
      { index: 2, space: "memory64", bytes: 0x4000, prefetchable: true },
      { index: 4, space: "memory64", bytes: 2 ** 33 },
    );
    guest.attach(fn, 2);
    expect(guest.sizeBars({ device: 2 })).toEqual([
      { index: 0, space: "memory32", prefetchable: false, bytes: 0x1000 },
      { index: 1, space: "io", prefetchable: false, bytes: 0x20 },
      { index: 2, space: "memory64", prefetchable: true, bytes: 0x4000 },
      { index: 4, space: "memory64", prefetchable: false, bytes: 2 ** 33 },
    ]);
    expect(Array.from({ length: 6 }, (_, i) => guest.read({ device: 2 }, 0x10 + 4 * i, 4))).toEqual([
      0x0, 0x1, 0xc, 0x0, 0x4, 0x0,
    ]);
  });

  it.each<[space: BarOptions["space"], bytes: number]>([
    ["memory32", 16],
    ["memory32", 2 ** 31],
    ["memory64", 16],
    ["memory64", 2 ** 31],
    ["memory64", 2 ** 32],
    ["memory64", 2 ** 40],
    ["io", 4],
    ["io", 256],
  ])("may be %s of %d bytes", (space, bytes) => {
    const guest = new PciGuest();
    guest.attach(make({ index: 4, space, bytes }).fn, 2);
    expect(guest.sizeBars({ device: 2 })).toEqual([{ index: 4, space, prefetchable: false, bytes }]);
  });

  it.each<[what: string, ...bars: Omit<BarOptions, "device">[]]>([
    ["8 bytes of memory", { index: 0, space: "memory32", bytes: 8 }],
    ["4 GiB in 32 bits", { index: 0, space: "memory32", bytes: 2 ** 32 }],
    ["2 TiB", { index: 0, space: "memory64", bytes: 2 ** 41 }],
    ["2 ports", { index: 0, space: "io", bytes: 2 }],
    ["512 ports", { index: 0, space: "io", bytes: 512 }],
    ["no power of two", { index: 0, space: "memory32", bytes: 48 }],
    ["no size", { index: 0, space: "memory32", bytes: Number.NaN }],
    ["register 6", { index: 6, space: "io", bytes: 4 }],
    ["64 bits in the last register", { index: 5, space: "memory64", bytes: 16 }],
    ["two in one register", { index: 1, space: "io", bytes: 4 }, { index: 0, space: "memory64", bytes: 16 }],
  ])("may not be %s", (_, ...bars) => {
    expect(() => make(...bars)).toThrow(RangeError);
  });

  it("answer where the guest put them, while it has the space switched on", () => {
    const guest = new PciGuest();
    const place = { device: 2 };
    const { fn, probes } = make(
      { index: 0, space: "memory32", bytes: 0x1000 },
      { index: 1, space: "io", bytes: 8 },
      { index: 2, space: "memory64", bytes: 0x1000 },
    );
    guest.attach(fn, 2);
    const { memory } = guest;
    guest.write(place, 0x10, 4, 0xc000_0abc); // the low bits are not the guest's
    guest.write(place, 0x14, 4, 0xffff_1008); // ports beyond 16 bits
    guest.write(place, 0x18, 4, 0x2000);
    guest.write(place, 0x1c, 4, 0x12);
    expect([memory.readMmio(0xc000_0000, 4), memory.ports.read(0x1008, 1)]).toEqual([0xffff_ffff, 0xff]);
    guest.write(place, 0x04, 2, MEMORY);
    expect(memory.readMmio(0xc000_0ffe, 2)).toBe(0xfffe);
    memory.writeMmio(0x12_0000_2010, 8, 1, 2);
    expect(probes[2]!.take()).toEqual([
      { kind: "write", offset: 0x10, size: 4, value: 1 },
      { kind: "write", offset: 0x14, size: 4, value: 2 },
    ]);
    expect(memory.ports.read(0x1008, 1)).toBe(0xff);
    guest.write(place, 0x04, 2, IO);
    expect(memory.ports.read(0x1008, 1)).toBe(0xff); // 0xFFFF1008 is no port
    guest.write(place, 0x14, 4, 0x1008);
    expect([memory.ports.read(0x100b, 1), memory.ports.read(0x1010, 1)]).toEqual([3, 0xff]);
    expect(memory.readMmio(0xc000_0000, 4)).toBe(0xffff_ffff);
    guest.write(place, 0x14, 4, 0x2000);
    expect([memory.ports.read(0x1008, 1), memory.ports.read(0x2001, 1)]).toEqual([0xff, 1]);
    guest.bus.reset();
    expect(memory.ports.read(0x2001, 1)).toBe(0xff);
  });

  it("are decoded nowhere beyond 52 bits, and up to there", () => {
    const guest = new PciGuest();
    guest.attach(make({ index: 0, space: "memory64", bytes: 0x1000 }).fn, 2);
    guest.write({ device: 2 }, 0x04, 2, MEMORY);
    guest.write({ device: 2 }, 0x10, 4, 0xffff_f000);
    const ranges = (): string[] =>
      guest.memory.ranges().map(({ start, name }) => `${name} ${start.toString(16)}`);
    for (const high of [0x10_0000, 0x8000_0000, 0xffff_ffff]) {
      guest.write({ device: 2 }, 0x14, 4, high);
      expect(ranges().join()).not.toContain("BAR");
    }
    guest.write({ device: 2 }, 0x14, 4, 0x000f_ffff);
    expect(ranges()).toContain("PCI BAR 0 ffffffffff000");
  });

  it("give way to RAM, to chips and to lower devices, and come back when those have moved", () => {
    const guest = new PciGuest();
    const low = make({ index: 0, space: "memory32", bytes: 0x1000 });
    const high = make({ index: 0, space: "memory32", bytes: 0x2000 }, { index: 1, space: "io", bytes: 8 });
    guest.attach(high.fn, 9);
    guest.attach(low.fn, 3);
    const { memory } = guest;
    const owner = (address: number): string => {
      for (const each of [low, high]) each.probes[0]!.take();
      memory.readMmio(address, 1);
      return low.probes[0]!.take().length > 0 ? "low" : high.probes[0]!.take().length > 0 ? "high" : "none";
    };
    guest.write({ device: 9 }, 0x04, 2, IO | MEMORY); // at address 0, where RAM is
    expect(owner(0x10)).toBe("none");
    guest.write({ device: 9 }, 0x10, 4, 0xe000_0000); // ECAM
    expect(guest.readEcam({ device: 0 }, 0, 4)).toBe(0x0008_1b36);
    guest.write({ device: 9 }, 0x14, 4, 0xcf8); // the bridge's own ports: configuration goes on
    expect(guest.read({ device: 9 }, 0x14, 4)).toBe(0xcf9);

    guest.write({ device: 9 }, 0x10, 4, 0xc000_0000);
    expect(owner(0xc000_1000)).toBe("high");
    guest.write({ device: 3 }, 0x04, 2, MEMORY);
    guest.write({ device: 3 }, 0x10, 4, 0xc000_1000);
    expect([owner(0xc000_0000), owner(0xc000_1000)]).toEqual(["none", "low"]);
    guest.write({ device: 3 }, 0x10, 4, 0xd000_0000);
    expect([owner(0xc000_1000), owner(0xd000_0000)]).toEqual(["high", "low"]);
    guest.write({ device: 3 }, 0x10, 4, 0xc000_0000);
    guest.write({ device: 3 }, 0x04, 2, 0);
    expect(owner(0xc000_0000)).toBe("high");
  });
});

describe("places", () => {
  it("are 32 devices of eight functions; function 0 says that there are more", () => {
    const guest = new PciGuest();
    const fn = (): PciFunction => new PciFunction(IDENTITY);
    expect(() => guest.attach(fn(), 4, 1)).toThrow(/function 0 of device 4 first/);
    guest.attach(fn(), 4);
    expect(guest.read({ device: 4 }, 0x0e, 1)).toBe(0x00);
    guest.attach(fn(), 4, 7);
    expect(guest.read({ device: 4 }, 0x0e, 1)).toBe(0x80);
    expect(guest.read({ device: 4, function: 7 }, 0x0c, 4)).toBe(0x0080_0000);
    expect(guest.read({ device: 4, function: 6 }, 0x0c, 4)).toBe(0xffff_ffff);
    guest.attach(fn(), 31);
    for (const [device, number] of [
      [4, 0],
      [0, 0],
      [32, 0],
      [-1, 0],
      [5, 8],
      [5, 0.5],
    ] as const) {
      expect(() => guest.attach(fn(), device, number)).toThrow(RangeError);
    }
  });
});

describe("interrupt lines", () => {
  it("are shared by pins in turn: (device + pin) mod 4", () => {
    for (let device = 1; device < 9; device++) {
      for (let pin = 1; pin <= 4; pin++) {
        const guest = new PciGuest();
        const fn = new PciFunction({ ...IDENTITY, interruptPin: pin });
        guest.attach(fn, device);
        fn.intx.set(true);
        expect(guest.lines.indexOf(1)).toBe((device + pin - 1) % 4);
      }
    }
  });

  it("stay asserted while one of several functions asserts", () => {
    const guest = new PciGuest();
    const [first, second] = [1, 5].map((device) => {
      const fn = new PciFunction({ ...IDENTITY, interruptPin: 2 });
      guest.attach(fn, device);
      return fn;
    });
    first!.intx.set(true);
    second!.intx.set(true);
    expect(guest.lines).toEqual([0, 0, 2, 0]);
    first!.intx.set(false);
    expect(guest.lines).toEqual([0, 0, 1, 0]);
  });
});

describe("state", () => {
  const build = () => {
    const guest = new PciGuest();
    const { fn, probes } = make(
      { index: 0, space: "memory64", bytes: 0x1000 },
      { index: 2, space: "io", bytes: 8 },
    );
    const options: PciFunctionOptions = { ...IDENTITY, interruptPin: 1 };
    const other = new PciFunction(options);
    guest.attach(fn, 2);
    guest.attach(other, 3);
    return { guest, probes, other };
  };

  it("goes on where it was saved: registers, places, interrupt lines", () => {
    const { guest, other } = build();
    guest.write({ device: 2 }, 0x10, 4, 0xc000_0000);
    guest.write({ device: 2 }, 0x18, 4, 0x1000);
    guest.write({ device: 2 }, 0x04, 2, IO | MEMORY);
    guest.write({ device: 3 }, 0x3c, 1, 17);
    other.intx.set(true);
    const state = structuredClone(guest.bus.save());
    const twin = build();
    twin.guest.write({ device: 2 }, 0x04, 2, MEMORY);
    twin.guest.write({ device: 2 }, 0x10, 4, 0xd000_0000);
    twin.guest.bus.restore(state);
    expect(twin.guest.bus.save()).toEqual(state);
    expect(twin.guest.memory.readMmio(0xc000_0004, 1)).toBe(4);
    expect(twin.guest.memory.readMmio(0xd000_0004, 1)).toBe(0xff);
    expect(twin.guest.memory.ports.read(0x1003, 1)).toBe(3);
    expect(twin.guest.read({ device: 3 }, 0x3c, 2)).toBe(0x0111);
    expect(twin.guest.read({ device: 3 }, 0x06, 2)).toBe(0x0008);
    expect(twin.guest.lines).toEqual([0, 0, 0, 1]);
  });

  type State = ReturnType<PciGuest["bus"]["save"]>;
  const at = (state: State, change: object): object => ({
    ...state,
    functions: { ...state.functions, "02.0": { ...state.functions["02.0"]!, ...change } },
  });
  it.each<[what: string, broken: (state: State) => unknown]>([
    ["none", () => undefined],
    ["another kind", (state) => ({ ...state, kind: "bus" })],
    ["another version", (state) => ({ ...state, version: 2 })],
    ["no functions", (state) => ({ ...state, functions: [] })],
    ["a function too few", (state) => ({ ...state, functions: { "00.0": state.functions["00.0"] } })],
    ["a function too many", (state) => ({ ...state, functions: { ...state.functions, "04.0": {} } })],
    ["another function", (state) => at(state, { kind: "function" })],
    ["too few registers", (state) => at(state, { config: [] })],
    [
      "bits that are fixed",
      (state) => at(state, { config: state.functions["02.0"]!.config.map(() => 0xffff_ffff) }),
    ],
    [
      "registers that are none",
      (state) => at(state, { config: state.functions["02.0"]!.config.map(() => -1) }),
    ],
    ["no interrupt level", (state) => at(state, { intx: 1 })],
  ])("is refused whole: %s", (_, broken) => {
    const { guest } = build();
    guest.write({ device: 2 }, 0x10, 4, 0xc000_0000);
    const state = guest.bus.save();
    const other = build().guest.bus.save();
    expect(() => guest.bus.restore(broken(structuredClone(other)))).toThrow(StateError);
    expect(guest.bus.save()).toEqual(state);
  });
});

describe("a hostile guest", () => {
  it.each([1, 2, 3])("gets an answer to everything (seed %d)", (seed) => {
    let state = seed;
    const random = (below: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((state / 2 ** 32) * below);
    };
    const guest = new PciGuest();
    for (const device of [1, 2, 3]) {
      const { fn } = make(
        { index: 0, space: "memory64", bytes: 0x1000, prefetchable: true },
        { index: 2, space: "io", bytes: 0x20 },
        { index: 3, space: "memory32", bytes: 0x10_0000 },
      );
      fn.addCapability(0x09, 8);
      guest.attach(fn, device);
    }
    // Few addresses, so that ranges meet.
    const values = [0, 0xffff_ffff, 0xc000_0000, 0xc010_0000, 0xe000_0000, 0xcf8, 0xcfc, 0x1000, 7];
    for (let step = 0; step < 20_000; step++) {
      const place = {
        bus: random(20) === 0 ? random(256) : 0,
        device: random(4),
        function: random(10) === 0 ? 1 : 0,
      };
      const offset = random(4) === 0 ? random(0x1000) : random(0x40);
      const size = ([1, 2, 4] as const)[random(3)]!;
      const value = random(3) === 0 ? random(2 ** 32) : values[random(values.length)]!;
      if (random(2) === 0) guest.writeEcam(place, offset, size, value % 2 ** (8 * size));
      else guest.write(place, offset & 0xff, size, value % 2 ** (8 * size));
      const read =
        random(2) === 0 ? guest.readEcam(place, offset, size) : guest.memory.readMmio(0xc000_0000, 4);
      expect(Number.isInteger(read) && read >= 0 && read < 2 ** 32).toBe(true);
    }
    // Whatever it did, both ways in are still there.
    expect(guest.read({ device: 0 }, 0, 4)).toBe(0x0008_1b36);
    expect(guest.readEcam({ device: 3 }, 0, 4)).toBe(0x5678_1234);
    const saved = guest.bus.save();
    guest.bus.restore(structuredClone(saved));
    expect(guest.bus.save()).toEqual(saved);
  });
});
