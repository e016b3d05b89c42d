import { Mmio, Pm, Port } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";
import { readBytes, writeBytes } from "../src/access.ts";
import { nsOfTick, ticksAt } from "../src/ticks.ts";

describe("layout", () => {
  it("has no two owners for a port or address, but for reset control inside PCI's", () => {
    const { RESET_CONTROL, ...ports } = Port;
    for (const map of [ports, Mmio, Pm]) {
      const ranges = Object.values(map).sort((a, b) => a.base - b.base);
      ranges.forEach((range, index) => {
        const next = ranges[index + 1];
        if (next !== undefined) expect(range.base + range.bytes).toBeLessThanOrEqual(next.base);
      });
    }
    expect(RESET_CONTROL.base).toBe(Port.PCI_CONFIG_ADDRESS.base + 1);
  });

  it("keeps the parts of the power-management block inside it", () => {
    for (const part of Object.values(Pm)) {
      expect(part.base).toBeGreaterThanOrEqual(Port.ACPI_PM.base);
      expect(part.base + part.bytes).toBeLessThanOrEqual(Port.ACPI_PM.base + Port.ACPI_PM.bytes);
    }
  });
});

describe("accesses", () => {
  it("read and write bytes in rising order", () => {
    const log: string[] = [];
    const chip = {
      readByte: (offset: number) => 0x80 + offset,
      writeByte: (offset: number, value: number) => void log.push(`${offset}=${value.toString(16)}`),
    };
    expect(readBytes(chip, 1, 4)).toBe(0x84838281);
    expect(readBytes(chip, 3, 1)).toBe(0x83);
    writeBytes(chip, 2, 4, 0xdeadbeef);
    expect(log).toEqual(["2=ef", "3=be", "4=ad", "5=de"]);
  });
});

describe("ticks", () => {
  it("are exact far into a run, and nsOfTick is their first nanosecond", () => {
    for (const hz of [32_768, 1_193_182, 3_579_545]) {
      for (const ns of [0, 1, 999_999_999, 1e9, 86_400e9 + 7, 9e15 - 1, -1, -1e9]) {
        expect(BigInt(ticksAt(ns, hz))).toBe(floorDivide(BigInt(ns) * BigInt(hz), 1_000_000_000n));
        const tick = ticksAt(ns, hz) + 1;
        expect(ticksAt(nsOfTick(tick, hz), hz)).toBe(tick);
        expect(ticksAt(nsOfTick(tick, hz) - 1, hz)).toBe(tick - 1);
      }
    }
  });
});

function floorDivide(a: bigint, b: bigint): bigint {
  return a / b - (a % b < 0n ? 1n : 0n);
}

describe("the fakes", () => {
  it("fire timers in order of deadline, those armed on the way too, never inside arm", () => {
    const clock = new FakeClock({ startNs: 5 });
    const log: string[] = [];
    const late = clock.timer((deadline) => log.push(`late ${deadline} at ${clock.now()}`));
    const early = clock.timer((deadline) => {
      log.push(`early ${deadline} at ${clock.now()}`);
      if (deadline < 20) early.arm(20);
    });
    late.arm(15);
    early.arm(2);
    expect(log).toEqual([]);
    expect(clock.nextDeadline).toBe(2);
    clock.advance(25);
    expect(log).toEqual(["early 2 at 5", "late 15 at 15", "early 20 at 20"]);
    expect(clock.now()).toBe(30);
    expect(early.deadline).toBeUndefined();
    late.arm(40);
    late.cancel();
    clock.advance(100);
    expect(log.length).toBe(3);
  });

  it("refuse to go back, and to fire for ever", () => {
    const clock = new FakeClock();
    expect(() => clock.advance(-1)).toThrow(RangeError);
    const timer = clock.timer(() => timer.arm(clock.now()));
    timer.arm(1);
    expect(() => clock.advance(1)).toThrow(/fired/);
  });

  it("record changes of a line only", () => {
    const clock = new FakeClock();
    const line = new LineProbe(clock);
    line.set(false);
    line.set(true);
    line.set(true);
    clock.advance(3);
    line.set(false);
    expect(line.transitions).toEqual([
      { ns: 0, level: true },
      { ns: 3, level: false },
    ]);
    expect(line.edges).toBe(1);
    line.set(true);
    line.clear();
    expect([line.level, line.edges]).toEqual([true, 0]);
  });
});
