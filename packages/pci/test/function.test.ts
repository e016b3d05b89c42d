import { PciFunction, type PciFunctionOptions } from "@skep/pci";
import { PciGuest } from "@skep/pci/testing";
import { describe, expect, it } from "vitest";

const PLACE = { device: 5 };
const SERIAL: PciFunctionOptions = {
  vendorId: 0x1b36,
  deviceId: 0x0002,
  classCode: 0x07_0002,
  revision: 1,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x1100,
  interruptPin: 1,
};

function setup(options: Partial<PciFunctionOptions> = {}) {
  const guest = new PciGuest();
  const fn = new PciFunction({ ...SERIAL, ...options });
  guest.attach(fn, PLACE.device);
  const read = (offset: number, size: 1 | 2 | 4): number => guest.read(PLACE, offset, size);
  const write = (offset: number, size: 1 | 2 | 4, value: number): void =>
    guest.write(PLACE, offset, size, value);
  return { guest, fn, read, write };
}

const device = { read: () => 0, write() {} };

describe("the header (PCI 3.0 fig. 6-1)", () => {
  it("identifies the function", () => {
    const { read } = setup();
    const dwords = Array.from({ length: 16 }, (_, i) => read(4 * i, 4));
    expect(dwords[0]).toBe(0x0002_1b36);
    expect(dwords[1]).toBe(0);
    expect(dwords[2]).toBe(0x0700_0201); // class, subclass, interface, revision
    expect(dwords[3]).toBe(0); // type 0, one function
    expect(dwords.slice(4, 11)).toEqual([0, 0, 0, 0, 0, 0, 0]); // no BARs, no CardBus
    expect(dwords[11]).toBe(0x1100_1af4);
    expect(dwords.slice(12, 15)).toEqual([0, 0, 0]); // no ROM, no capabilities
    expect(dwords[15]).toBe(0x0000_0100); // INTA, no line yet
  });

  /** Bits that stay set where ones are written: COMMAND without spaces (no BARs), cache line size, interrupt line. */
  const WRITABLE: Readonly<Record<number, number>> = { 4: 0x0544, 12: 0xff, 60: 0xff };

  it("keeps of ones and zeros what can be written, at every offset and width", () => {
    for (const size of [1, 2, 4] as const) {
      const { read, write } = setup();
      const before = Array.from({ length: 64 }, (_, i) => read(4 * i, 4));
      for (let offset = 0; offset < 0x100; offset += size) write(offset, size, 2 ** (8 * size) - 1);
      const ones = before.map((dword, i) => (dword | (WRITABLE[4 * i] ?? 0)) >>> 0);
      expect(Array.from({ length: 64 }, (_, i) => read(4 * i, 4))).toEqual(ones);
      for (let offset = 0; offset < 0x100; offset += size) write(offset, size, 0);
      expect(Array.from({ length: 64 }, (_, i) => read(4 * i, 4))).toEqual(before);
    }
  });

  it("has only those bits of COMMAND that mean something", () => {
    const { read, write } = setup({ interruptPin: 0 });
    write(0x04, 2, 0xffff);
    expect(read(0x04, 2)).toBe(0x0144); // bus master, parity, SERR
    write(0x3c, 1, 0xff);
    expect(read(0x3c, 2)).toBe(0); // no pin, so no line
    const io = setup({ bars: [{ index: 2, space: "io", bytes: 8, device }] });
    io.write(0x04, 2, 0xffff);
    expect(io.read(0x04, 2)).toBe(0x0545);
    const memory = setup({ bars: [{ index: 0, space: "memory32", bytes: 16, device }] });
    memory.write(0x04, 2, 0xffff);
    expect(memory.read(0x04, 2)).toBe(0x0546);
    const fixed = setup({ fixedCommand: 0x0006 });
    fixed.write(0x04, 2, 0);
    expect(fixed.read(0x04, 2)).toBe(0x0006);
    expect(fixed.fn.isBusMaster).toBe(true);
  });

  it("says whether it may master the bus, until reset", () => {
    const { fn, write } = setup();
    expect(fn.isBusMaster).toBe(false);
    write(0x04, 2, 0x0004);
    expect(fn.isBusMaster).toBe(true);
    fn.reset();
    expect(fn.isBusMaster).toBe(false);
  });

  it.each<[field: string, options: Partial<PciFunctionOptions>]>([
    ["vendorId", { vendorId: 0xffff }],
    ["deviceId", { deviceId: 0x1_0000 }],
    ["classCode", { classCode: -1 }],
    ["revision", { revision: 0x100 }],
    ["subsystemVendorId", { subsystemVendorId: 0.5 }],
    ["subsystemId", { subsystemId: Number.NaN }],
    ["interruptPin", { interruptPin: 5 }],
    ["fixedCommand", { fixedCommand: 0x1_0000 }],
  ])("refuses a %s that does not fit", (field, options) => {
    expect(() => setup(options)).toThrow(new RegExp(`^${field}: expected 0 to 0x`));
  });
});

describe("the capabilities list (PCI 3.0 sec. 6.7)", () => {
  it("is empty at first, then links what was added, in order", () => {
    const { guest, fn, read } = setup();
    expect(guest.capabilities(PLACE)).toEqual([]);
    expect(fn.addCapability(0x09, 16)).toBe(0x40);
    expect(fn.addCapability(0x01, 6)).toBe(0x50);
    expect(fn.addCapability(0x10, 60)).toBe(0x58);
    expect(read(0x06, 2)).toBe(0x0010);
    expect(guest.capabilities(PLACE)).toEqual([
      { id: 0x09, offset: 0x40 },
      { id: 0x01, offset: 0x50 },
      { id: 0x10, offset: 0x58 },
    ]);
  });

  it("ends where configuration space does", () => {
    const { guest, fn } = setup();
    for (let i = 0; i < 48; i++) fn.addCapability(i, 4);
    expect(guest.capabilities(PLACE)).toHaveLength(48);
    expect(() => fn.addCapability(0x09, 4)).toThrow(/expected 2 to 0 bytes, got 4/);
    expect(() => setup().fn.addCapability(0x09, 0xc1)).toThrow(RangeError);
    expect(() => setup().fn.addCapability(0x09, 1)).toThrow(RangeError);
    expect(() => setup().fn.addCapability(0x100, 4)).toThrow(RangeError);
  });

  it("tells a capability of writes to it, with its registers as they are then", () => {
    const { fn, write, read } = setup();
    const seen: [offset: number, size: number, value: number][] = [];
    fn.addCapability(0x01, 8);
    const at = fn.addCapability(
      0x09,
      8,
      (offset, size) => void seen.push([offset, size, fn.peek(at + 4, 4)]),
    );
    fn.define(at + 4, 2, 0x1234, { writable: 0x00ff });
    fn.define(at + 6, 2, 0xf0f0, { clearable: 0xff00 });
    write(at - 4, 4, 0xffff_ffff);
    write(0x04, 4, 0xffff_ffff);
    expect(seen).toEqual([]);
    write(at + 4, 2, 0xffff);
    write(at + 7, 1, 0x30);
    expect(seen).toEqual([
      [4, 2, 0xf0f0_12ff],
      [7, 1, 0xc0f0_12ff],
    ]);
    expect(read(at + 4, 4)).toBe(0xc0f0_12ff);
    fn.poke(at + 4, 4, 0);
    expect(read(at + 4, 4)).toBe(0);
    fn.reset();
    expect(read(at + 4, 4)).toBe(0xf0f0_1234);
  });

  it("has no register in the header", () => {
    const { fn, read } = setup();
    expect(() => fn.define(0x3c, 4, 0)).toThrow(RangeError);
    expect(() => fn.define(0xffd, 4, 0)).toThrow(RangeError);
    expect(() => fn.define(0x40, 5, 0)).toThrow(RangeError);
    fn.poke(0x00, 4, 0);
    expect(read(0x00, 4)).toBe(0x0002_1b36);
  });
});

describe("the interrupt pin (PCI 3.0 sec. 2.2.6, 6.2.3)", () => {
  it("is a level, shown in STATUS, and let out unless COMMAND forbids", () => {
    const { guest, fn, read, write } = setup();
    const line = 5 % 4; // INTA of device 5
    expect(read(0x06, 2)).toBe(0);
    fn.intx.set(true);
    fn.intx.set(true);
    expect([read(0x06, 2), guest.lines[line]]).toEqual([0x0008, 1]);
    write(0x04, 2, 0x0400);
    expect([read(0x06, 2), guest.lines[line]]).toEqual([0x0008, 0]);
    write(0x04, 2, 0);
    expect(guest.lines[line]).toBe(1);
    write(0x06, 2, 0xffff); // STATUS.INTERRUPT is read-only
    expect(read(0x06, 2)).toBe(0x0008);
    fn.intx.set(false);
    expect([read(0x06, 2), guest.lines[line]]).toEqual([0, 0]);
  });

  it("is driven from the first moment on the bus, and by a reset that lets it out again", () => {
    const guest = new PciGuest();
    const fn = new PciFunction(SERIAL);
    fn.intx.set(true);
    guest.attach(fn, 5);
    expect(guest.lines).toEqual([0, 1, 0, 0]);
    guest.write(PLACE, 0x04, 2, 0x0400);
    fn.reset();
    expect(guest.lines).toEqual([0, 1, 0, 0]);
  });

  it("is missing where the function has none", () => {
    const { guest, fn, read } = setup({ interruptPin: 0 });
    fn.intx.set(true);
    expect([read(0x06, 2), ...guest.lines]).toEqual([0, 0, 0, 0, 0]);
  });
});
