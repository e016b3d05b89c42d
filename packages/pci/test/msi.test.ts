import { Msi, PciFunction } from "@skep/pci";
import { PciGuest } from "@skep/pci/testing";
import { describe, expect, it } from "vitest";

const PLACE = { device: 1 };
const BUS_MASTER = 0x4;

function setup(vectors?: number) {
  const guest = new PciGuest();
  const fn = new PciFunction({ vendorId: 1, deviceId: 2, classCode: 0 });
  const sent: [address: number, data: number][] = [];
  const target = { send: (address: number, data: number) => void sent.push([address, data]) };
  const msi = new Msi(fn, target, vectors === undefined ? {} : { vectors });
  guest.attach(fn, PLACE.device);
  const read = (offset: number, size: 1 | 2 | 4): number => guest.read(PLACE, 0x40 + offset, size);
  const write = (offset: number, size: 1 | 2 | 4, value: number): void =>
    guest.write(PLACE, 0x40 + offset, size, value);
  return { guest, fn, msi, sent, read, write };
}

describe("MSI (PCI 3.0 sec. 6.8.1)", () => {
  it("is capability 05 with a 64-bit address", () => {
    for (const [vectors, control] of [
      [1, 0x0080],
      [8, 0x0086],
      [32, 0x008a],
    ] as const) {
      const { guest, read } = setup(vectors);
      expect(guest.capabilities(PLACE)).toEqual([{ id: 5, offset: 0x40 }]);
      expect([read(2, 2), read(4, 4), read(8, 4), read(12, 4)]).toEqual([control, 0, 0, 0]);
    }
  });

  it("keeps what can be written", () => {
    const { read, write } = setup(4);
    for (const offset of [0, 4, 8, 12]) write(offset, 4, 0xffff_ffff);
    expect([read(0, 4), read(4, 4), read(8, 4), read(12, 4)]).toEqual([
      0x00f5_0005, 0xffff_fffc, 0xffff_ffff, 0x0000_ffff,
    ]);
    for (const offset of [0, 4, 8, 12]) write(offset, 4, 0);
    expect([read(0, 4), read(4, 4), read(8, 4), read(12, 4)]).toEqual([0x0084_0005, 0, 0, 0]);
  });

  it("sends the guest's data, while enabled, by a function that masters the bus", () => {
    const { guest, msi, sent, write } = setup();
    write(4, 4, 0xfee0_1000);
    write(12, 2, 0x4031);
    msi.send();
    write(2, 2, 1);
    expect(msi.isEnabled).toBe(true);
    msi.send();
    expect(sent).toEqual([]);
    guest.write(PLACE, 0x04, 2, BUS_MASTER);
    msi.send();
    expect(sent.splice(0)).toEqual([[0xfee0_1000, 0x4031]]);
    write(8, 4, 1);
    msi.send();
    write(8, 4, 0);
    write(2, 2, 0);
    msi.send();
    expect(sent).toEqual([]);
    expect(msi.isEnabled).toBe(false);
  });

  it("puts the vector into the low bits that the guest gave, and no others", () => {
    const { guest, msi, sent, write } = setup(8);
    guest.write(PLACE, 0x04, 2, BUS_MASTER);
    write(4, 4, 0xfee0_0000);
    write(12, 2, 0x0047);
    const vectors = (enable: number): number[] => {
      write(2, 2, 1 | (enable << 4));
      for (const vector of [0, 1, 5, 7, 9]) msi.send(vector);
      return sent.splice(0).map(([, data]) => data);
    };
    expect(vectors(0)).toEqual([0x47, 0x47, 0x47, 0x47, 0x47]);
    expect(vectors(1)).toEqual([0x46, 0x47, 0x47, 0x47, 0x47]);
    expect(vectors(3)).toEqual([0x40, 0x41, 0x45, 0x47, 0x41]);
    expect(vectors(7)).toEqual([0x40, 0x41, 0x45, 0x47, 0x41]); // more than the function is capable of
  });

  it.each([0, 3, 64, -1, 1.5])("refuses %d vectors", (vectors) => {
    expect(() => setup(vectors)).toThrow(/vectors: expected a power of two/);
  });
});
