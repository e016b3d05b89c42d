import { Hpet } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";

// Offsets and bits of the IA-PC HPET specification 1.0a, sec. 2.3.
const CONF = 0x010;
const STATUS = 0x020;
const COUNTER = 0x0f0;
const TIMER = (index: number): number => 0x100 + 0x20 * index;
const LEVEL = 0x0002;
const ENABLE = 0x0004;
const PERIODIC = 0x0008;
const SETVAL = 0x0040;
const MODE32 = 0x0100;
const FSB = 0x4000;
const route = (input: number): number => input << 9;

function setup(options: { msi?: boolean; startNs?: number } = {}) {
  const clock = new FakeClock({ startNs: options.startNs ?? 0 });
  const irq0 = new LineProbe(clock);
  const irq8 = new LineProbe(clock);
  const pins = { 2: new LineProbe(clock), 8: new LineProbe(clock), 20: new LineProbe(clock) };
  const inputs = Array.from({ length: 24 }, (_, index) => (pins as Record<number, LineProbe>)[index]);
  const messages: [number, number][] = [];
  const msi = { send: (address: number, data: number) => void messages.push([address, data]) };
  const hpet = new Hpet(clock, { inputs, irq0, irq8, ...(options.msi === true ? { msi } : {}) });
  const r32 = (offset: number): number => hpet.read(offset, 4);
  const w32 = (offset: number, value: number): void => hpet.write(offset, 4, value);
  /** An eight-byte access, as the bus hands it on. */
  const w64 = (offset: number, value: bigint): void => {
    w32(offset, Number(value & 0xffff_ffffn));
    w32(offset + 4, Number(value >> 32n));
  };
  const r64 = (offset: number): bigint => BigInt(r32(offset)) | (BigInt(r32(offset + 4)) << 32n);
  return { clock, irq0, irq8, pins, messages, hpet, r32, w32, r64, w64 };
}

describe("HPET registers", () => {
  it("identifies itself: Intel, revision 1, three 64-bit timers, legacy capable, 10 ns", () => {
    const { r32 } = setup();
    expect(r32(0x000)).toBe(0x8086a201);
    // Femtoseconds; the specification allows at most 0x05F5E100, Linux at least 100,000.
    expect(r32(0x004)).toBe(10_000_000);
  });

  it("has reset values without a bit that Linux does not know", () => {
    const { r32, r64 } = setup();
    expect([r32(CONF), r32(STATUS), r32(COUNTER)]).toEqual([0, 0, 0]);
    for (let index = 0; index < 3; index++) {
      expect(r32(TIMER(index))).toBe(0x0030);
      expect(r32(TIMER(index) + 4)).toBe((1 << 2) | (1 << 8) | (1 << 20));
      expect(r64(TIMER(index) + 8)).toBe(0xffff_ffff_ffff_ffffn);
    }
  });

  it("takes zeros and ones everywhere, keeps what exists", () => {
    for (const value of [0x0000_0000, 0xffff_ffff]) {
      const { hpet, clock, r32, w32 } = setup();
      for (let offset = 0; offset < 0x400; offset += 4) w32(offset, value);
      clock.advance(1_000_000);
      expect(r32(CONF)).toBe(value & 3);
      expect(r32(0)).toBe(0x8086a201);
      // No FSB delivery, an input that is not offered, VAL_SET not kept.
      expect(r32(TIMER(1))).toBe(0x30 | (value & 0x010e));
      expect(hpet.read(0x3fd, 4)).toBe(0);
    }
  });

  it("takes narrow and straddling accesses", () => {
    const { hpet, r32 } = setup();
    hpet.write(CONF, 1, 0x02);
    expect(r32(CONF)).toBe(2);
    hpet.write(TIMER(2) + 9, 2, 0xbbaa);
    expect(r32(TIMER(2) + 8)).toBe(0xffbbaaff);
    expect(hpet.read(TIMER(2) + 10, 4)).toBe(0xffffffbb);
    expect(hpet.read(3, 1)).toBe(0x80);
    expect(hpet.read(2, 4)).toBe(0x9680_8086);
  });
});

describe("HPET main counter", () => {
  it("counts 100 MHz only while enabled, and keeps its value", () => {
    const { clock, r64, w32 } = setup({ startNs: 123_456_780 });
    clock.advance(1000);
    expect(r64(COUNTER)).toBe(0n);
    w32(CONF, 1);
    clock.advance(12_345);
    expect(r64(COUNTER)).toBe(1234n);
    w32(CONF, 0);
    clock.advance(1_000_000);
    expect(r64(COUNTER)).toBe(1234n);
    w32(CONF, 1);
    clock.advance(10);
    expect(r64(COUNTER)).toBe(1235n);
  });

  it("takes 64-bit values and carries, with halves that belong together", () => {
    const { clock, r32, r64, w32, w64 } = setup();
    w64(COUNTER, 0x1234_ffff_fffen);
    w32(CONF, 1);
    clock.advance(10);
    expect(r64(COUNTER)).toBe(0x1234_ffff_ffffn);
    // The carry falls between the two halves of one eight-byte read.
    const low = r32(COUNTER);
    clock.advance(10);
    expect([low, r32(COUNTER + 4)]).toEqual([0xffff_ffff, 0x1234]);
    expect(r32(COUNTER + 4)).toBe(0x1235);
    w32(CONF, 0);
    w64(COUNTER, 0xffff_ffff_ffff_ffffn);
    w32(CONF, 1);
    clock.advance(10);
    expect(r64(COUNTER)).toBe(0n);
  });

  it("does not hold an old high half against a guest that reads it much later", () => {
    const { clock, r32, w32, w64 } = setup();
    w64(COUNTER, 0xffff_ff00n);
    w32(CONF, 1);
    r32(COUNTER);
    clock.advance(10_000_000);
    expect(r32(COUNTER + 4)).toBe(1);
  });
});

describe("HPET one-shot", () => {
  it("gives an edge at the match", () => {
    const { clock, pins, r32, w32 } = setup();
    w32(TIMER(2), ENABLE | MODE32 | route(20));
    w32(TIMER(2) + 8, 1000);
    w32(CONF, 1);
    clock.advance(20_000);
    expect(pins[20].transitions).toEqual([{ ns: 10_000, level: true }]);
    expect(r32(STATUS)).toBe(0);
    // A second edge is one again.
    pins[20].clear();
    w32(TIMER(2) + 8, 3000);
    clock.advance(20_000);
    expect(pins[20].transitions).toEqual([
      { ns: 30_000, level: false },
      { ns: 30_000, level: true },
    ]);
    w32(TIMER(2), MODE32 | route(20));
    expect(pins[20].level).toBe(false);
  });

  it("does not interrupt while masked or halted", () => {
    const { clock, pins, w32 } = setup();
    w32(TIMER(0), MODE32 | route(2));
    w32(TIMER(0) + 8, 100);
    w32(CONF, 1);
    clock.advance(10_000);
    w32(CONF, 0);
    w32(TIMER(0), ENABLE | MODE32 | route(2));
    w32(TIMER(0) + 8, 2000);
    clock.advance(100_000);
    expect(pins[2].transitions).toEqual([]);
  });

  it("matches again in 32-bit mode when the counter comes round, not in 64-bit mode", () => {
    const { clock, pins, w32, w64 } = setup();
    const wrap = 2 ** 32 * 10;
    w32(TIMER(0), ENABLE | MODE32 | route(2));
    w64(TIMER(0) + 8, 100n);
    w32(TIMER(1), ENABLE | route(8));
    w64(TIMER(1) + 8, 100n);
    w32(CONF, 1);
    clock.advance(wrap + 10_000);
    expect(pins[2].edges).toBe(2);
    expect(pins[8].edges).toBe(1);
  });

  it("does not fire for a comparator in the past (Linux checks for that itself)", () => {
    const { clock, pins, w32, w64 } = setup();
    w32(CONF, 1);
    clock.advance(1_000_000);
    w32(TIMER(0), ENABLE | route(2));
    w64(TIMER(0) + 8, 5n);
    clock.advance(1_000_000_000);
    expect(pins[2].edges).toBe(0);
  });

  it("reaches 64-bit comparators", () => {
    const { clock, pins, w32, w64 } = setup();
    w32(TIMER(0), ENABLE | route(2));
    w64(TIMER(0) + 8, 0x1_0000_0010n);
    w32(CONF, 1);
    clock.advance(0x1_0000_000f * 10);
    expect(pins[2].edges).toBe(0);
    clock.advance(10);
    expect(pins[2].edges).toBe(1);
  });
});

describe("HPET level-triggered", () => {
  it("holds the line until the status is cleared", () => {
    const { clock, pins, r32, w32 } = setup();
    w32(TIMER(1), ENABLE | LEVEL | PERIODIC | SETVAL | MODE32 | route(8));
    w32(TIMER(1) + 8, 10_000);
    w32(CONF, 1);
    clock.advance(100_000);
    expect(pins[8].level).toBe(true);
    expect(r32(STATUS)).toBe(2);
    w32(STATUS, 5);
    expect(pins[8].level).toBe(true);
    w32(STATUS, 2);
    expect(pins[8].level).toBe(false);
    expect(r32(STATUS)).toBe(0);
    clock.advance(100_000);
    expect(pins[8].level).toBe(true);
  });

  it("sets the status of a masked timer, shows it when unmasked", () => {
    const { clock, pins, r32, w32 } = setup();
    w32(TIMER(0), LEVEL | MODE32 | route(2));
    w32(TIMER(0) + 8, 100);
    w32(CONF, 1);
    clock.advance(1000);
    expect(r32(STATUS)).toBe(1);
    expect(pins[2].level).toBe(false);
    w32(TIMER(0), LEVEL | ENABLE | MODE32 | route(2));
    expect(pins[2].level).toBe(true);
    w32(CONF, 0);
    expect(pins[2].level).toBe(false);
  });

  it("shares an input between timers", () => {
    const { clock, pins, w32 } = setup();
    for (const index of [0, 1]) {
      w32(TIMER(index), LEVEL | ENABLE | MODE32 | route(20));
      w32(TIMER(index) + 8, 100);
    }
    w32(CONF, 1);
    clock.advance(1000);
    w32(STATUS, 1);
    expect(pins[20].level).toBe(true);
    w32(STATUS, 2);
    expect(pins[20].level).toBe(false);
  });
});

describe("HPET periodic", () => {
  it("as Linux sets it: first value with SETVAL, then the period", () => {
    const { clock, pins, r32, w32 } = setup();
    w32(CONF, 1);
    clock.advance(5000);
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    w32(TIMER(0) + 8, r32(COUNTER) + 100_000);
    w32(TIMER(0) + 8, 100_000);
    clock.advance(10_000_000);
    const rises = pins[2].transitions.filter(({ level }) => level).map(({ ns }) => ns);
    expect(rises).toEqual(Array.from({ length: 10 }, (_, index) => 5000 + 1_000_000 * (index + 1)));
    expect(r32(TIMER(0) + 8)).toBe(500 + 100_000 * 11);
    expect(r32(TIMER(0)) & SETVAL).toBe(0);
  });

  it("takes one write for first value and period (sec. 2.3.9.2.2)", () => {
    const { clock, pins, w32, w64, r64 } = setup();
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | route(2));
    w64(TIMER(0) + 8, 50_000n);
    w32(CONF, 1);
    clock.advance(5_000_000);
    expect(pins[2].edges).toBe(10);
    expect(r64(TIMER(0) + 8)).toBe(550_000n);
  });

  it("sets both halves of the accumulator by one eight-byte write, and only by that", () => {
    const { w32, w64, r64 } = setup();
    w32(TIMER(0), PERIODIC | SETVAL);
    w64(TIMER(0) + 8, 0x0000_0003_0000_0005n);
    expect(r64(TIMER(0) + 8)).toBe(0x0000_0003_0000_0005n);
    w64(TIMER(0) + 8, 0x0000_0007_0000_0009n);
    expect(r64(TIMER(0) + 8)).toBe(0x0000_0003_0000_0005n);
    w32(TIMER(0), PERIODIC | SETVAL);
    w32(TIMER(0) + 8, 1);
    w32(STATUS, 0);
    w32(TIMER(0) + 12, 9);
    expect(r64(TIMER(0) + 8)).toBe(0x0000_0003_0000_0001n);
  });

  it("wraps in 32-bit mode", () => {
    const { clock, pins, w32, w64, r32 } = setup();
    w64(COUNTER, 0xffff_fff0n);
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    w32(TIMER(0) + 8, 0xffff_fff8);
    w32(TIMER(0) + 8, 0x10_0000);
    w32(CONF, 1);
    clock.advance(80 + 2 * 0x10_0000 * 10);
    expect(pins[2].edges).toBe(3);
    expect(r32(TIMER(0) + 8)).toBe(0x2f_fff8);
  });

  it("bounds the rate and keeps the accumulator exact", () => {
    const { clock, pins, w32, r32 } = setup();
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    w32(TIMER(0) + 8, 1);
    w32(CONF, 1);
    clock.advance(1_000_000_000);
    expect(pins[2].edges).toBeGreaterThan(40_000);
    expect(pins[2].edges).toBeLessThan(50_002);
    expect(r32(TIMER(0) + 8)).toBe(100_000_001);
  });

  it("stands still with a period of 0", () => {
    const { clock, pins, w32 } = setup();
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    w32(TIMER(0) + 8, 0);
    w32(CONF, 1);
    clock.advance(1_000_000_000);
    expect(pins[2].edges).toBeLessThan(2);
  });

  it("ends a hold-up in one interrupt", () => {
    const { clock, pins, w32 } = setup();
    w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    w32(TIMER(0) + 8, 100_000);
    w32(CONF, 1);
    clock.stall(50_500_000);
    clock.advance(0);
    expect(pins[2].edges).toBe(1);
    clock.advance(500_000);
    expect(pins[2].edges).toBe(2);
  });
});

describe("HPET legacy replacement", () => {
  it("takes lines 0 and 8 from the 8254 and the RTC, and gives them back", () => {
    const { clock, irq0, irq8, pins, hpet, w32 } = setup();
    hpet.pitInput.set(true);
    hpet.rtcInput.set(true);
    expect([irq0.level, irq8.level]).toEqual([true, true]);
    for (const index of [0, 1]) {
      w32(TIMER(index), ENABLE | MODE32 | route(20));
      w32(TIMER(index) + 8, 1000 * (index + 1));
    }
    w32(CONF, 3);
    expect([irq0.level, irq8.level]).toEqual([false, false]);
    irq0.clear();
    irq8.clear();
    hpet.pitInput.set(false);
    hpet.pitInput.set(true);
    expect(irq0.transitions).toEqual([]);
    clock.advance(30_000);
    expect(irq0.transitions).toEqual([{ ns: 10_000, level: true }]);
    expect(irq8.transitions).toEqual([{ ns: 20_000, level: true }]);
    expect(pins[20].transitions).toEqual([]);
    w32(CONF, 1);
    hpet.pitInput.set(false);
    expect(irq0.level).toBe(false);
    expect(irq8.level).toBe(true);
  });
});

describe("HPET messages", () => {
  it("sends the timer's message where an MSI target is wired", () => {
    const { clock, messages, pins, r32, w32 } = setup({ msi: true });
    expect(r32(TIMER(0)) & 0x8000).toBe(0x8000);
    w32(TIMER(0) + 0x10, 0x4031);
    w32(TIMER(0) + 0x14, 0xfee0_1000);
    expect([r32(TIMER(0) + 0x10), r32(TIMER(0) + 0x14)]).toEqual([0x4031, 0xfee0_1000]);
    w32(TIMER(0), ENABLE | FSB | MODE32 | route(2));
    w32(TIMER(0) + 8, 100);
    w32(CONF, 1);
    clock.advance(5000);
    expect(messages).toEqual([[0xfee0_1000, 0x4031]]);
    expect(pins[2].transitions).toEqual([]);
  });
});

describe("HPET state", () => {
  it("round-trips between two interrupts, on another clock", () => {
    const first = setup();
    first.w32(TIMER(0), ENABLE | PERIODIC | SETVAL | MODE32 | route(2));
    first.w32(TIMER(0) + 8, 100_000);
    first.w32(TIMER(1), ENABLE | LEVEL | MODE32 | route(8));
    first.w32(TIMER(1) + 8, 5);
    first.w32(CONF, 1);
    first.clock.advance(3_400_000);
    const state = structuredClone(first.hpet.save());
    const second = setup({ startNs: 1_000_000_000_000 });
    second.hpet.restore(state);
    expect(second.hpet.save()).toEqual(state);
    expect(second.pins[8].level).toBe(true);
    second.pins[2].clear();
    second.clock.advance(600_000 - 10);
    expect(second.pins[2].edges).toBe(0);
    second.clock.advance(10);
    expect(second.pins[2].edges).toBe(1);
  });

  it("does not repeat an interrupt that came at the very time of the save", () => {
    const first = setup();
    first.w32(TIMER(0), ENABLE | MODE32 | route(2));
    first.w32(TIMER(0) + 8, 100);
    first.w32(CONF, 1);
    first.clock.advance(1000);
    expect(first.pins[2].edges).toBe(1);
    const second = setup();
    second.hpet.restore(first.hpet.save());
    second.pins[2].clear();
    second.clock.advance(1_000_000);
    expect(second.pins[2].transitions).toEqual([]);
  });

  it("resets", () => {
    const { clock, hpet, pins, r32, w32 } = setup();
    w32(TIMER(0), ENABLE | LEVEL | MODE32 | route(2));
    w32(TIMER(0) + 8, 5);
    w32(CONF, 1);
    clock.advance(1000);
    hpet.reset();
    expect(pins[2].level).toBe(false);
    expect([r32(CONF), r32(STATUS), r32(COUNTER), r32(TIMER(0))]).toEqual([0, 0, 0, 0x30]);
    expect(clock.nextDeadline).toBeUndefined();
  });

  it("refuses what is not a state and changes nothing", () => {
    const { hpet } = setup();
    const good = hpet.save();
    const timer = good.timers[0]!;
    for (const bad of [
      "hpet",
      { ...good, kind: "pit8254" },
      { ...good, config: 4 },
      { ...good, counter: 0 },
      { ...good, counter: -1n },
      { ...good, counter: 1n << 64n },
      { ...good, timers: [timer, timer] },
      { ...good, timers: [timer, timer, { ...timer, config: 0x30 }] },
      { ...good, timers: [timer, timer, { ...timer, comparator: "0" }] },
    ]) {
      expect(() => hpet.restore(bad)).toThrow(/hpet/);
      expect(hpet.save()).toEqual(good);
    }
  });
});
