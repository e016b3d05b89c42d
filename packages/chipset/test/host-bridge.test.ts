import { HostBridge, ResetControl } from "@skep/chipset";
import { PortSpace } from "@skep/memory";
import { StateError } from "@skep/vcpu";
import { describe, expect, it } from "vitest";

function machine() {
  const resets: string[] = [];
  const bridge = new HostBridge(new ResetControl((kind) => resets.push(kind)));
  const ports = new PortSpace();
  ports.add(0xcf8, 4, bridge.address, "PCI configuration address");
  ports.add(0xcfc, 4, bridge.data, "PCI configuration data");
  const select = (bus: number, device: number, fn: number, register: number): void =>
    ports.write(0xcf8, 4, 0x8000_0000 + (bus << 16) + (device << 11) + (fn << 8) + register);
  return { bridge, ports, resets, select };
}

describe("configuration mechanism #1 (PCI 3.0 sec. 3.2.2.3.2)", () => {
  it("is found by Linux's probe (pci_check_type1)", () => {
    const { ports, resets } = machine();
    ports.write(0xcfb, 1, 0x01);
    ports.write(0xcf8, 4, 0x8000_0000);
    expect(ports.read(0xcf8, 4)).toBe(0x8000_0000);
    expect(ports.read(0xcfc, 4)).toBe(0x0008_1b36);
    ports.write(0xcf8, 4, 0x8000_0008);
    expect(ports.read(0xcfe, 2)).toBe(0x0600); // class: host bridge
    expect(resets).toEqual([]);
  });

  it("reads the header at every width (fig. 6-1)", () => {
    const { ports, select } = machine();
    select(0, 0, 0, 0x00);
    expect([0, 1, 2, 3].map((i) => ports.read(0xcfc + i, 1))).toEqual([0x36, 0x1b, 0x08, 0x00]);
    expect([ports.read(0xcfc, 2), ports.read(0xcfe, 2)]).toEqual([0x1b36, 0x0008]);
    expect(ports.read(0xcfd, 2)).toBe(0x081b);
    select(0, 0, 0, 0x04);
    expect(ports.read(0xcfc, 4)).toBe(0x0000_0006); // memory space, bus master; no status
    for (let register = 0x0c; register < 0x100; register += 4) {
      select(0, 0, 0, register);
      expect(ports.read(0xcfc, 4), `register 0x${register.toString(16)}`).toBe(0);
    }
  });

  it("has no other function", () => {
    const { ports, select } = machine();
    for (const [bus, device, fn] of [
      [0, 0, 1],
      [0, 1, 0],
      [0, 31, 7],
      [1, 0, 0],
      [255, 31, 7],
    ] as const) {
      select(bus, device, fn, 0);
      expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
      expect(ports.read(0xcfc, 2)).toBe(0xffff);
      expect(ports.read(0xcff, 1)).toBe(0xff);
    }
  });

  it("is closed after reset and without the enable bit; reserved bits read as zeros", () => {
    const { bridge, ports } = machine();
    expect(ports.read(0xcf8, 4)).toBe(0);
    expect(ports.read(0xcfc, 4)).toBe(0xffff_ffff);
    ports.write(0xcf8, 4, 0x7fff_ffff);
    expect(ports.read(0xcf8, 4)).toBe(0x00ff_fffc);
    ports.write(0xcf8, 4, 0xffff_ffff);
    expect(ports.read(0xcf8, 4)).toBe(0x80ff_fffc);
    bridge.reset();
    expect(ports.read(0xcf8, 4)).toBe(0);
  });

  it("ignores writes to the bridge's registers", () => {
    const { ports, select } = machine();
    for (let register = 0; register < 0x100; register += 4) {
      select(0, 0, 0, register);
      const before = ports.read(0xcfc, 4);
      for (const value of [0xffff_ffff, 0]) {
        ports.write(0xcfc, 4, value);
        ports.write(0xcfe, 2, value & 0xffff);
        expect(ports.read(0xcfc, 4)).toBe(before);
      }
    }
  });

  it("leaves bytes of the address port to reset control", () => {
    const { ports, resets } = machine();
    ports.write(0xcf8, 4, 0x8000_0600); // 6 in the byte of reset control, but a dword
    expect(resets).toEqual([]);
    ports.write(0xcf9, 2, 0x0006);
    ports.write(0xcf8, 1, 0x06);
    expect(resets).toEqual([]);
    ports.write(0xcf9, 1, 0x06);
    expect(resets).toEqual(["system"]);
    expect(ports.read(0xcf9, 1)).toBe(0x06);
    expect(ports.read(0xcf8, 4)).toBe(0x8000_0600);
  });

  it("answers accesses across its ends", () => {
    const { bridge } = machine();
    for (const device of [bridge.address, bridge.data]) {
      for (let offset = 0; offset < 4; offset++) {
        for (const size of [1, 2, 4] as const) {
          device.write(offset, size, 2 ** (8 * size) - 1);
          if (offset + size > 4) expect(device.read(offset, size)).toBe(0xffff_ffff);
        }
      }
    }
  });
});

describe("identity and state", () => {
  it("bears the identity that it is given, and refuses one that does not fit", () => {
    const beneath = new ResetControl(() => {});
    const bridge = new HostBridge(beneath, { vendorId: 0x8086, deviceId: 0x1237 });
    bridge.address.write(0, 4, 0x8000_0000);
    expect(bridge.data.read(0, 4)).toBe(0x1237_8086);
    expect(() => new HostBridge(beneath, { vendorId: 0xffff })).toThrow(/vendorId/);
    expect(() => new HostBridge(beneath, { deviceId: 1.5 })).toThrow(/deviceId/);
  });

  it("goes on where it was saved, and refuses a broken state", () => {
    const { bridge, ports } = machine();
    ports.write(0xcf8, 4, 0x8000_0008);
    const state = bridge.save();
    bridge.reset();
    bridge.restore(structuredClone(state));
    expect(ports.read(0xcfc, 4)).toBe(0x0600_0000);
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
