import { beforeEach, describe, expect, it } from "vitest";
import { OverlapError, PortSpace, type UnclaimedAccess } from "../src/index.ts";
import { ProbeDevice } from "../src/testing/index.ts";

let ports: PortSpace;
let unclaimed: UnclaimedAccess[];

beforeEach(() => {
  unclaimed = [];
  ports = new PortSpace((access) => unclaimed.push(access));
});

describe("PortSpace", () => {
  it("gives each device its own offsets", () => {
    const uart = new ProbeDevice();
    ports.add(0x3f8, 8, uart, "COM1");
    expect(ports.read(0x3fd, 1)).toBe(5);
    ports.write(0x3f8, 1, 0x141);
    expect(uart.take()).toEqual([
      { kind: "read", offset: 5, size: 1 },
      { kind: "write", offset: 0, size: 1, value: 0x41 },
    ]);
  });

  it("splits an access that is wider than a range, byte by byte, in order", () => {
    const order: string[] = [];
    const device = (name: string, answer: number) => ({
      read: () => {
        order.push(name);
        return answer;
      },
      write: (offset: number, size: number, value: number) =>
        void order.push(`${name}+${offset}/${size}=${value.toString(16)}`),
    });
    ports.add(0x60, 1, device("keyboard", 0x11), "keyboard");
    ports.add(0x61, 1, device("speaker", 0x22), "speaker");
    // 0x62 is nobody's.
    ports.add(0x63, 1, device("other", 0x44), "other");
    expect(ports.read(0x60, 4)).toBe(0x44ff_2211);
    expect(order.splice(0)).toEqual(["keyboard", "speaker", "other"]);
    ports.write(0x60, 4, 0xd4c3_b2a1);
    expect(order).toEqual(["keyboard+0/1=a1", "speaker+0/1=b2", "other+0/1=d4"]);
    expect(unclaimed).toEqual([]);
  });

  it("unclaimed ports read as ones and swallow writes", () => {
    expect([ports.read(0x80, 1), ports.read(0x80, 2), ports.read(0x80, 4)]).toEqual([
      0xff, 0xffff, 0xffff_ffff,
    ]);
    ports.write(0x80, 1, 0x55);
    expect(unclaimed.at(-1)).toEqual({
      bus: "port",
      direction: "write",
      address: 0x80,
      size: 1,
      value: 0x55,
    });
    expect(unclaimed).toHaveLength(4);
  });

  it("past the last port there is nobody", () => {
    ports.add(0xfffe, 2, new ProbeDevice(() => 0x10), "last");
    expect(ports.read(0xffff, 4)).toBe(0xffff_ff10);
    expect(ports.read(0xfffe, 2)).toBe(0x0010);
    ports.write(0xffff, 4, 0);
  });

  it("refuses overlaps, naming both, and ranges outside", () => {
    ports.add(0x20, 2, new ProbeDevice(), "master PIC");
    const overlap = () => ports.add(0x21, 4, new ProbeDevice(), "other");
    expect(overlap).toThrow(OverlapError);
    expect(overlap).toThrow(/other at 0x21.*master PIC at 0x20/);
    for (const [base, count] of [
      [-1, 1],
      [0x1_0000, 1],
      [0xffff, 2],
      [0, 0],
      [0, 0x1_0001],
      [0.5, 1],
    ] as const) {
      expect(() => ports.add(base, count, new ProbeDevice(), "x")).toThrow(RangeError);
    }
    expect(ports.ranges()).toEqual([{ name: "master PIC", start: 0x20, end: 0x22 }]);
    expect(ports.overlapping(0x1f, 2)).toMatchObject({ name: "master PIC" });
    expect(ports.overlapping(0x22, 0x100)).toBeUndefined();
  });

  it("a released range can be claimed anew", () => {
    const claim = ports.add(0x1f0, 8, new ProbeDevice(() => 1), "old");
    claim.release();
    expect(ports.read(0x1f0, 1)).toBe(0xff);
    ports.add(0x1f0, 8, new ProbeDevice(() => 2), "new");
    claim.release();
    expect(ports.read(0x1f0, 1)).toBe(2);
  });

  it("takes all 65,536 ports", () => {
    const all = new ProbeDevice(() => 0);
    ports.add(0, 0x1_0000, all, "all");
    for (const port of [0, 0x7fff, 0x8000, 0xffff]) expect(ports.read(port, 1)).toBe(0);
    expect(all.take().map(({ offset }) => offset)).toEqual([0, 0x7fff, 0x8000, 0xffff]);
  });
});
