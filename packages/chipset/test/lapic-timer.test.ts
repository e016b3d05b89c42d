// The local APIC's timer as a guest programs it. Values: Intel SDM Vol. 3A sec. 11.5.4.
import { describe, expect, it } from "vitest";
import { enable, type Machine, machine } from "./irq-machine.ts";

const ONE_SHOT = 0x0_0000;
const PERIODIC = 0x2_0000;
const DEADLINE = 0x4_0000;
const MASKED = 0x1_0000;
const VECTOR = 0xec;

/** A machine with a 1 GHz timer divided by one, mode in the LVT. */
function timer(mode: number, options: Parameters<typeof machine>[0] = {}, tscHz = 1e9): Machine {
  const m = machine(options, tscHz);
  enable(m, 0);
  m.wr(0, 0x3e0, 0xb);
  m.wr(0, 0x320, mode | VECTOR);
  return m;
}

describe("one-shot", () => {
  it("counts down once and interrupts at zero", () => {
    const m = timer(ONE_SHOT);
    m.wr(0, 0x380, 100_000);
    expect(m.rd(0, 0x390)).toBe(100_000);
    m.clock.advance(40_000);
    expect(m.rd(0, 0x390)).toBe(60_000);
    m.clock.advance(59_999);
    expect(m.rd(0, 0x390)).toBe(1);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.rd(0, 0x390)).toBe(0);
    expect(m.rd(0, 0x380)).toBe(100_000);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.clock.advance(1e9);
    expect(m.drain(0)).toEqual([]);
    expect(m.clock.next).toBeUndefined();
  });

  it("restarts on another initial count, and stops on zero", () => {
    const m = timer(ONE_SHOT);
    m.wr(0, 0x380, 1000);
    m.clock.advance(900);
    m.wr(0, 0x380, 1000);
    m.clock.advance(900);
    expect(m.drain(0)).toEqual([]);
    m.wr(0, 0x380, 0);
    expect(m.rd(0, 0x390)).toBe(0);
    m.clock.advance(1e6);
    expect(m.drain(0)).toEqual([]);
  });

  it("counts while masked, without an interrupt and without a host timer", () => {
    const m = timer(ONE_SHOT | MASKED);
    m.wr(0, 0x380, 1000);
    expect(m.clock.next).toBeUndefined();
    m.clock.advance(400);
    expect(m.rd(0, 0x390)).toBe(600);
    m.wr(0, 0x320, VECTOR);
    m.clock.advance(600);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.wr(0, 0x320, MASKED | VECTOR);
    m.wr(0, 0x380, 1000);
    m.clock.advance(2000);
    m.wr(0, 0x320, VECTOR);
    m.clock.advance(2000);
    expect(m.drain(0)).toEqual([]);
  });

  it.each([
    [0x0, 2],
    [0x1, 4],
    [0x2, 8],
    [0x3, 16],
    [0x8, 32],
    [0x9, 64],
    [0xa, 128],
    [0xb, 1],
  ])("divides by configuration %i: %i", (config, divisor) => {
    const m = timer(ONE_SHOT);
    m.wr(0, 0x3e0, config);
    m.wr(0, 0x380, 10_000);
    m.clock.advance(128 * 50);
    expect(m.rd(0, 0x390)).toBe(10_000 - (128 * 50) / divisor);
    m.clock.advance(10_000 * divisor - 128 * 50 - 1);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.chip.pending(0)).toBe(VECTOR);
  });

  it("goes on from its count when the divider changes", () => {
    const m = timer(ONE_SHOT);
    m.wr(0, 0x380, 1000);
    m.clock.advance(500);
    m.wr(0, 0x3e0, 0x0);
    expect(m.rd(0, 0x390)).toBe(500);
    m.clock.advance(999);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.chip.pending(0)).toBe(VECTOR);
  });

  it("has the frequency that the options give, whatever does not divide", () => {
    const m = timer(ONE_SHOT, { timerHz: 24_000_000 });
    m.wr(0, 0x380, 24_000_000);
    m.clock.advance(250_000_000);
    expect(m.rd(0, 0x390)).toBe(18_000_000);
    m.clock.advance(749_999_999);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.chip.pending(0)).toBe(VECTOR);
    expect(m.rd(0, 0x390)).toBe(0);
  });

  it("counts 2^32 - 1 divided by 128", () => {
    const m = timer(ONE_SHOT);
    m.wr(0, 0x3e0, 0xa);
    m.wr(0, 0x380, 0xffff_ffff);
    m.clock.advance(128 * 0xffff_ffff - 1);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.chip.pending(0)).toBe(VECTOR);
  });

  it("loses no interrupt that is due when it is programmed anew before the clock reports it", () => {
    for (const [register, value] of [
      [0x380, 5000],
      [0x3e0, 0xb],
      [0x320, MASKED | VECTOR],
    ] as const) {
      const m = timer(ONE_SHOT);
      m.wr(0, 0x380, 1000);
      m.clock.skip(1500);
      m.wr(0, register, value);
      expect(m.drain(0)).toEqual([VECTOR]);
    }
  });
});

describe("periodic", () => {
  it("interrupts every period without drift", () => {
    const m = timer(PERIODIC, { timerHz: 24_000_000 });
    // 4 kHz of 24 MHz: 250 µs; and a period that is no whole number of nanoseconds.
    m.wr(0, 0x380, 1_000_001);
    let count = 0;
    for (let step = 0; step < 240; step++) {
      m.clock.advance(41_666_709);
      count += m.drain(0).length;
    }
    // 240 * 41,666,709 ns * 24 MHz = 240.0000… periods of 1,000,001 ticks.
    expect(count).toBe(240);
  });

  it("reloads its count", () => {
    const m = timer(PERIODIC);
    m.wr(0, 0x380, 100_000);
    m.clock.advance(130_000);
    expect(m.rd(0, 0x390)).toBe(70_000);
    m.clock.skip(1_000_000);
    expect(m.rd(0, 0x390)).toBe(70_000);
  });

  it("makes one interrupt of periods that passed unseen, and keeps its phase", () => {
    const m = timer(PERIODIC);
    m.wr(0, 0x380, 100_000);
    m.clock.skip(1_050_000);
    m.clock.advance(0);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.clock.advance(49_999);
    expect(m.drain(0)).toEqual([]);
    m.clock.advance(1);
    expect(m.drain(0)).toEqual([VECTOR]);
  });

  it("is not fired more often than every 20 µs, however short its period", () => {
    const m = timer(PERIODIC);
    m.wr(0, 0x380, 1);
    m.clock.advance(1_000_000);
    expect(m.clock.fired).toBeGreaterThan(40);
    expect(m.clock.fired).toBeLessThanOrEqual(51);
  });

  it("keeps its phase while masked", () => {
    const m = timer(PERIODIC);
    m.wr(0, 0x380, 100_000);
    m.wr(0, 0x320, PERIODIC | MASKED | VECTOR);
    expect(m.clock.next).toBeUndefined();
    m.clock.advance(1_050_000);
    expect(m.drain(0)).toEqual([]);
    m.wr(0, 0x320, PERIODIC | VECTOR);
    expect(m.clock.next).toBe(1_100_000);
    m.clock.advance(50_000);
    expect(m.drain(0)).toEqual([VECTOR]);
  });

  it("becomes one-shot in the middle, and stops", () => {
    const m = timer(PERIODIC);
    m.wr(0, 0x380, 100_000);
    m.clock.advance(50_000);
    m.wr(0, 0x320, ONE_SHOT | VECTOR);
    m.clock.advance(1_000_000);
    expect(m.drain(0)).toEqual([VECTOR]);
    expect(m.clock.next).toBeUndefined();
  });
});

describe("TSC-deadline", () => {
  it("interrupts once when the TSC reaches the deadline, and disarms", () => {
    const m = timer(DEADLINE, {}, 2_500_000_000);
    m.clock.advance(1000);
    expect(m.apic(0).writeMsr(0x6e0, 2500n + 2_500_000n)).toBe(true);
    expect(m.apic(0).readMsr(0x6e0)).toBe(2_502_500n);
    m.clock.advance(999_999);
    expect(m.chip.pending(0)).toBe(-1);
    m.clock.advance(1);
    expect(m.drain(0)).toEqual([VECTOR]);
    expect(m.apic(0).readMsr(0x6e0)).toBe(0n);
    expect(m.clock.next).toBeUndefined();
  });

  it("interrupts at once for a deadline that has passed", () => {
    const m = timer(DEADLINE);
    m.clock.advance(1_000_000);
    m.apic(0).writeMsr(0x6e0, 1n);
    expect(m.drain(0)).toEqual([VECTOR]);
  });

  it("is disarmed by zero, and replaced by another deadline", () => {
    const m = timer(DEADLINE);
    m.apic(0).writeMsr(0x6e0, 1000n);
    m.apic(0).writeMsr(0x6e0, 0n);
    m.clock.advance(2000);
    expect(m.drain(0)).toEqual([]);
    m.apic(0).writeMsr(0x6e0, 10_000n);
    m.apic(0).writeMsr(0x6e0, 5000n);
    m.clock.advance(3000);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.clock.advance(1e6);
    expect(m.drain(0)).toEqual([]);
  });

  it("loses no deadline that is due when another is written before the clock reports it", () => {
    const m = timer(DEADLINE);
    m.apic(0).writeMsr(0x6e0, 1000n);
    m.clock.skip(1500);
    m.apic(0).writeMsr(0x6e0, 5000n);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.clock.advance(3500);
    expect(m.drain(0)).toEqual([VECTOR]);
  });

  it("reads zero and ignores writes in the other modes; the counter does so in this one", () => {
    const m = timer(ONE_SHOT);
    expect(m.apic(0).writeMsr(0x6e0, 5000n)).toBe(true);
    expect(m.apic(0).readMsr(0x6e0)).toBe(0n);
    m.clock.advance(10_000);
    expect(m.drain(0)).toEqual([]);
    m.wr(0, 0x320, DEADLINE | VECTOR);
    m.wr(0, 0x380, 1000);
    expect(m.rd(0, 0x380)).toBe(0);
    expect(m.rd(0, 0x390)).toBe(0);
  });

  it("is disarmed by a change of mode, either way", () => {
    const m = timer(DEADLINE);
    m.apic(0).writeMsr(0x6e0, 5000n);
    m.wr(0, 0x320, ONE_SHOT | VECTOR);
    expect(m.clock.next).toBeUndefined();
    m.wr(0, 0x380, 5000);
    m.wr(0, 0x320, DEADLINE | VECTOR);
    expect(m.clock.next).toBeUndefined();
    expect(m.rd(0, 0x380)).toBe(0);
  });

  it("expires without an interrupt while masked", () => {
    const m = timer(DEADLINE | MASKED);
    m.apic(0).writeMsr(0x6e0, 5000n);
    m.clock.advance(5000);
    expect(m.apic(0).readMsr(0x6e0)).toBe(0n);
    expect(m.drain(0)).toEqual([]);
  });

  it("follows the guest's TSC offset, also when that changes", () => {
    let offset = -1_000_000n;
    const m = timer(DEADLINE, { tscOffset: () => offset });
    m.clock.advance(2_000_000);
    m.apic(0).writeMsr(0x6e0, 1_500_000n);
    expect(m.clock.next).toBe(2_500_000);
    offset = 0n;
    m.chip.tscAdjusted(0);
    expect(m.drain(0)).toEqual([VECTOR]);
    m.apic(0).writeMsr(0x6e0, 3_000_000n);
    offset = 500_000n;
    m.chip.tscAdjusted(0);
    expect(m.clock.next).toBe(2_500_000);
  });

  it("takes deadlines at the end of time without arming the clock for them", () => {
    const m = timer(DEADLINE);
    m.apic(0).writeMsr(0x6e0, 0xffff_ffff_ffff_ffffn);
    m.clock.advance(1e12);
    expect(m.drain(0)).toEqual([]);
    expect(m.apic(0).readMsr(0x6e0)).toBe(0xffff_ffff_ffff_ffffn);
  });

  it("never fires before the TSC has reached the deadline, at frequencies that do not divide", () => {
    const m = timer(DEADLINE, {}, 2_893_417_113);
    for (let step = 1n; step <= 200n; step++) {
      const tsc = (BigInt(m.clock.now()) * 2_893_417_113n) / 1_000_000_000n;
      const deadline = tsc + step * 7919n;
      m.apic(0).writeMsr(0x6e0, deadline);
      m.clock.advance(m.clock.next! - m.clock.now());
      expect(m.drain(0)).toEqual([VECTOR]);
      expect((BigInt(m.clock.now()) * 2_893_417_113n) / 1_000_000_000n).toBeGreaterThanOrEqual(deadline);
    }
  });
});

it("stops at INIT and at reset", () => {
  for (const [mode, start] of [
    [PERIODIC, (m: Machine) => m.wr(0, 0x380, 1000)],
    [DEADLINE, (m: Machine) => m.apic(0).writeMsr(0x6e0, 1000n)],
  ] as const) {
    const m = timer(mode);
    start(m);
    expect(m.clock.next).toBe(1000);
    m.chip.send(0xfee0_0000, 0x500);
    expect(m.clock.next).toBeUndefined();
    expect(m.rd(0, 0x380)).toBe(0);
  }
});

it("treats the reserved timer mode as no timer", () => {
  const m = timer(PERIODIC | DEADLINE);
  m.wr(0, 0x380, 1000);
  m.apic(0).writeMsr(0x6e0, 1000n);
  m.clock.advance(1e6);
  expect(m.drain(0)).toEqual([]);
  expect(m.clock.next).toBeUndefined();
});
