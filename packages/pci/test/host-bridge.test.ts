import { HostBridge, PciBus, PciFunction } from "@skep/pci";
import { PciGuest } from "@skep/pci/testing";
import { StateError } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

const BRIDGE = { device: 0 };

describe("configuration mechanism #1 (PCI 3.0 sec. 3.2.2.3.2)", () => {
  it("is found by Linux's probe (pci_check_type1)", () => {
    const { memory, beneath } = new PciGuest();
    const { ports } = memory;
    ports.write(0xcfb, 1, 0x01);
    ports.write(0xcf8, 4, 0x8000_0000);
    expect(ports.read(0xcf8, 4)).toBe(0x8000_0000);
    expect(ports.read(0xcfc, 4)).toBe(0x0008_1b36);
    ports.write(0xcf8, 4, 0x8000_0008);
    expect(ports.read(0xcfe, 2)).toBe(0x0600); // class: host bridge
    expect(beneath).toEqual(["3/1=1"]);
  });

  it("reads the header at every width (fig. 6-1)", () => {
    const guest = new PciGuest();
    const { ports } = guest.memory;
    ports.write(0xcf8, 4, 0x8000_0000);
    expect([0, 1, 2, 3].map((i) => ports.read(0xcfc + i, 1))).toEqual([0x36, 0x1b, 0x08, 0x00]);
    expect([ports.read(0xcfc, 2), ports.read(0xcfe, 2)]).toEqual([0x1b36, 0x0008]);
    expect(ports.read(0xcfd, 2)).toBe(0x081b);
    expect(guest.read(BRIDGE, 0x04, 4)).toBe(0x0000_0006); // memory space, bus master; no status
    for (let register = 0x0c; register < 0x100; register += 4) {
      expect(guest.read(BRIDGE, register, 4), `register 0x${register.toString(16)}`).toBe(0);
    }
  });

  it("has no other function", () => {
    const guest = new PciGuest();
    for (const place of [
      { device: 0, function: 1 },
      { device: 1 },
      { device: 31, function: 7 },
      { bus: 1, device: 0 },
      { bus: 255, device: 31, function: 7 },
    ]) {
      expect(guest.read(place, 0, 4)).toBe(0xffff_ffff);
      expect(guest.read(place, 0, 2)).toBe(0xffff);
      expect(guest.read(place, 3, 1)).toBe(0xff);
      guest.write(place, 4, 4, 0xffff_ffff);
    }
    expect(guest.read(BRIDGE, 4, 4)).toBe(6);
  });

  it("is closed after reset and without the enable bit; reserved bits read as zeros", () => {
    const { memory, bridge } = new PciGuest();
    const { ports } = memory;
    expect(ports.read(0xcf8, 4)).toBe(0);
    expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
    ports.write(0xcf8, 4, 0x7fff_ffff);
    expect(ports.read(0xcf8, 4)).toBe(0x00ff_fffc);
    ports.write(0xcf8, 4, 0x0000_000c);
    ports.write(0xcfc, 4, 0xff);
    expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
    ports.write(0xcf8, 4, 0x8000_000c);
    expect(ports.read(0xcfc, 4)).toBe(0); // the write was nobody's
    ports.write(0xcf8, 4, 0xffff_ffff);
    expect(ports.read(0xcf8, 4)).toBe(0x80ff_fffc);
    bridge.reset();
    expect(ports.read(0xcf8, 4)).toBe(0);
  });

  it("leaves bytes and words of the address port to what is beneath", () => {
    const { memory, beneath } = new PciGuest();
    const { ports } = memory;
    ports.write(0xcf8, 4, 0x8000_0600); // 6 in the byte of reset control, but a dword
    expect(beneath).toEqual([]);
    ports.write(0xcf9, 2, 0x0006);
    ports.write(0xcf9, 1, 0x06);
    expect(beneath).toEqual(["1/2=6", "1/1=6"]);
    expect(ports.read(0xcf9, 1)).toBe(0x5a);
    expect(ports.read(0xcf8, 4)).toBe(0x8000_0600);
  });

  it("answers accesses across its ends", () => {
    const { bridge } = new PciGuest();
    bridge.address.write(0, 4, 0x8000_0000);
    for (let offset = 0; offset < 4; offset++) {
      for (const size of [1, 2, 4] as const) {
        bridge.data.write(offset, size, 2 ** (8 * size) - 1);
        if (offset + size > 4) expect(bridge.data.read(offset, size)).toBe(0xffff_ffff);
      }
    }
  });
});

describe("ECAM (PCI Express 5.0 sec. 7.2.2)", () => {
  it("shows what mechanism #1 shows, and the extended space behind it", () => {
    const guest = new PciGuest();
    guest.attach(new PciFunction({ vendorId: 0x1234, deviceId: 0x5678, classCode: 0xff_0000 }), 31);
    for (const device of [0, 31, 30]) {
      for (let register = 0; register < 0x100; register += 4) {
        expect(guest.readEcam({ device }, register, 4)).toBe(guest.read({ device }, register, 4));
      }
    }
    expect(guest.memory.readMmio(0xe000_0000 + 0xf8002, 2)).toBe(0x5678); // bus 0, device 31, register 2
    expect(guest.readEcam({ device: 31 }, 0x100, 4)).toBe(0); // no extended capability (sec. 7.6.3)
    expect(guest.readEcam({ device: 31 }, 0xfff, 1)).toBe(0);
    expect(guest.readEcam({ bus: 1, device: 31 }, 0, 4)).toBe(0xffff_ffff);
    expect(guest.readEcam({ bus: 255, device: 31, function: 7 }, 0xffc, 4)).toBe(0xffff_ffff);
  });

  it("writes at every width, eight bytes as two fours", () => {
    const guest = new PciGuest();
    const fn = new PciFunction({ vendorId: 1, deviceId: 2, classCode: 0 });
    fn.define(0x800, 4, 0, { writable: 0xffff_ffff });
    fn.define(0x804, 4, 0, { writable: 0x00ff_ffff });
    guest.attach(fn, 1);
    guest.writeEcam({ device: 1 }, 0x801, 1, 0xab);
    guest.writeEcam({ device: 1 }, 0x802, 2, 0xcdef);
    expect(guest.readEcam({ device: 1 }, 0x800, 4)).toBe(0xcdef_ab00);
    guest.memory.writeMmio(0xe000_0000 + 0x8800, 8, 0x1111_1111, 0x2222_2222);
    expect(guest.readEcam({ device: 1 }, 0x800, 4)).toBe(0x1111_1111);
    expect(guest.readEcam({ device: 1 }, 0x804, 4)).toBe(0x0022_2222);
    guest.writeEcam({ device: 1 }, 0x803, 4, 0x8899_aabb); // across two registers
    expect(guest.readEcam({ device: 1 }, 0x800, 4)).toBe(0xbb11_1111);
    expect(guest.readEcam({ device: 1 }, 0x804, 4)).toBe(0x0088_99aa);
  });

  it("has nobody answer across a function's end", () => {
    const guest = new PciGuest();
    guest.writeEcam(BRIDGE, 0xffe, 4, 0);
    expect(guest.readEcam(BRIDGE, 0xffe, 4)).toBe(0xffff_ffff);
    expect(guest.readEcam(BRIDGE, 0xffe, 2)).toBe(0);
  });
});

describe("identity and state", () => {
  it("bears the identity that it is given, and refuses one that does not fit", () => {
    const nothing = { read: () => 0, write() {} };
    const { memory } = new PciGuest();
    const bus = new PciBus(memory);
    const bridge = new HostBridge(bus, nothing, { vendorId: 0x8086, deviceId: 0x1237 });
    bridge.address.write(0, 4, 0x8000_0000);
    expect(bridge.data.read(0, 4)).toBe(0x1237_8086);
    expect(() => new HostBridge(bus, nothing)).toThrow(/taken/);
    expect(() => new HostBridge(new PciBus(memory), nothing, { vendorId: 0xffff })).toThrow(/vendorId/);
    expect(() => new HostBridge(new PciBus(memory), nothing, { deviceId: 1.5 })).toThrow(/deviceId/);
  });

  it("goes on where it was saved, and refuses a broken state", () => {
    const { bridge, memory } = new PciGuest();
    memory.ports.write(0xcf8, 4, 0x8000_0008);
    const state = bridge.save();
    bridge.reset();
    bridge.restore(structuredClone(state));
    expect(memory.ports.read(0xcfc, 4)).toBe(0x0600_0000);
    for (const broken of [
      undefined,
      { ...state, kind: "hpet" },
      { ...state, version: 2 },
      { ...state, address: 3 },
    ]) {
      expect(() => bridge.restore(broken)).toThrow(StateError);
    }
    expect(bridge.save()).toEqual(state);
  });
});
