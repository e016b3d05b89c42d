import { Pit8254, Port61 } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";

// Ports as offsets from 0x40, and commands as the 82C54 data sheet (order no. 231244) spells them.
const CH0 = 0;
const CH2 = 2;
const CTRL = 3;
/** First nanosecond of tick `n` of 1.193182 MHz. */
const ns = (ticks: number): number => Math.ceil((ticks * 1e9) / 1_193_182);

function setup() {
  const clock = new FakeClock();
  const irq = new LineProbe(clock);
  const pit = new Pit8254(clock, irq);
  const out = (port: number, value: number): void => pit.write(port, 1, value);
  const inb = (port: number): number => pit.read(port, 1);
  const toTick = (ticks: number): void => clock.advanceTo(ns(ticks));
  /** Read-back of the status of one counter (figure 10 and 11). */
  const status = (channel: number): number => {
    out(CTRL, 0xe0 | (2 << channel));
    return inb(channel);
  };
  const latch = (channel: number): number => {
    out(CTRL, channel << 6);
    const low = inb(channel);
    return low | (inb(channel) << 8);
  };
  return { clock, irq, pit, out, inb, toTick, status, latch };
}

describe("8254 reset and registers", () => {
  it("stands still before it is programmed", () => {
    const { clock, irq, status } = setup();
    clock.advance(1_000_000_000);
    expect(irq.transitions).toEqual([]);
    // OUT low, NULL COUNT set, mode 0.
    expect(status(CH0)).toBe(0x70);
  });

  it("reads all ones at the control port", () => {
    expect(setup().inb(CTRL)).toBe(0xff);
  });

  it("takes zeros and ones at every offset", () => {
    for (const value of [0x00, 0xff]) {
      const { pit, clock } = setup();
      for (let offset = 0; offset < 4; offset++) pit.write(offset, 1, value);
      for (let offset = 0; offset < 4; offset++) expect(pit.read(offset, 1)).toBeLessThan(0x100);
      clock.advance(1_000_000);
    }
  });

  it("splits wide accesses into bytes, as the ISA bus does", () => {
    const { pit, clock, toTick } = setup();
    // Control word 0x34 in byte 3, nothing that matters below: one 32-bit write at 0x40 ends with the control port.
    pit.write(0, 4, 0x34_00_00_00);
    pit.write(CH0, 1, 0x10);
    pit.write(CH0, 1, 0x00);
    toTick(5);
    expect(clock.now()).toBeGreaterThan(0);
    // Two bytes from port 0x42 on: counter 2's low byte, then the control port's ones.
    expect(pit.read(2, 2) >> 8).toBe(0xff);
    // Beyond the chip, all ones.
    expect(pit.read(3, 4)).toBe(0xffffffff);
  });
});

describe('8254 modes (82C54, "Mode Definitions")', () => {
  it("mode 0: OUT rises N + 1 ticks after the count is written", () => {
    const { irq, out, toTick, status, inb } = setup();
    out(CTRL, 0x30);
    out(CH0, 100);
    out(CH0, 0);
    toTick(100);
    expect(irq.level).toBe(false);
    toTick(101);
    expect(irq.transitions).toEqual([{ ns: ns(101), level: true }]);
    expect(status(CH0) & 0xc0).toBe(0x80);
    // It goes on counting round through FFFF.
    toTick(103);
    expect([inb(CH0), inb(CH0)]).toEqual([0xfe, 0xff]);
  });

  it("mode 0: the first byte of a new count stops the counter and takes OUT low", () => {
    const { irq, out, toTick } = setup();
    out(CTRL, 0x30);
    out(CH0, 10);
    out(CH0, 0);
    toTick(20);
    expect(irq.level).toBe(true);
    out(CH0, 5);
    expect(irq.level).toBe(false);
    toTick(1000);
    expect(irq.level).toBe(false);
    out(CH0, 0);
    toTick(1006);
    expect(irq.level).toBe(true);
  });

  it("mode 0: gate low holds the count", () => {
    const { pit, out, toTick } = setup();
    pit.setGate(2, true);
    out(CTRL, 0x90);
    out(CH2, 100);
    toTick(51);
    pit.setGate(2, false);
    toTick(500);
    expect(pit.read(CH2, 1)).toBe(50);
    pit.setGate(2, true);
    toTick(549);
    expect(pit.out(2)).toBe(false);
    toTick(550);
    expect(pit.out(2)).toBe(true);
  });

  it("mode 1: a trigger gives one pulse of N ticks, another one starts it again", () => {
    const { pit, out, toTick } = setup();
    out(CTRL, 0x92);
    out(CH2, 10);
    expect(pit.out(2)).toBe(true);
    pit.setGate(2, true);
    toTick(1);
    expect(pit.out(2)).toBe(false);
    toTick(5);
    pit.setGate(2, false);
    pit.setGate(2, true);
    toTick(15);
    expect(pit.out(2)).toBe(false);
    toTick(16);
    expect(pit.out(2)).toBe(true);
  });

  it("mode 2: an interrupt every N ticks, for ever, without drift", () => {
    const { clock, irq, out } = setup();
    out(CTRL, 0x34);
    out(CH0, 11932 & 0xff);
    out(CH0, 11932 >> 8);
    clock.advance(10_000_000_000);
    // 10 s of 1193182 Hz: the load takes one tick, then whole periods.
    expect(irq.edges).toBe(Math.floor((11_931_820 - 1) / 11932) + 1);
    const rises = irq.transitions.filter(({ level }) => level);
    expect(rises.at(-1)?.ns).toBe(ns(1 + 11932 * 999));
  });

  it("mode 2: counts N down to 1", () => {
    const { out, toTick, latch, status } = setup();
    out(CTRL, 0x34);
    out(CH0, 4);
    out(CH0, 0);
    const seen: number[] = [];
    for (let tick = 1; tick <= 6; tick++) {
      toTick(tick);
      seen.push(latch(CH0));
    }
    expect(seen).toEqual([4, 3, 2, 1, 4, 3]);
    toTick(8);
    expect(status(CH0) & 0x80).toBe(0);
  });

  it("mode 2: a new count waits for the end of the period", () => {
    const { irq, out, toTick, status } = setup();
    out(CTRL, 0x14);
    out(CH0, 100);
    toTick(50);
    out(CH0, 200);
    expect(status(CH0) & 0x40).toBe(0x40);
    irq.clear();
    toTick(101);
    expect(status(CH0) & 0x40).toBe(0);
    toTick(301);
    expect(irq.transitions.filter(({ level }) => level).map((edge) => edge.ns)).toEqual([ns(101), ns(301)]);
  });

  it("mode 3: even counts halve, odd ones are high one tick longer", () => {
    for (const [count, high] of [
      [100, 50],
      [101, 51],
    ] as const) {
      const { irq, out, toTick } = setup();
      out(CTRL, 0x16);
      out(CH0, count);
      irq.clear();
      toTick(1 + count);
      expect(irq.transitions).toEqual([
        { ns: ns(1 + high), level: false },
        { ns: ns(1 + count), level: true },
      ]);
    }
  });

  it("mode 3: counts by two (figure 18)", () => {
    const { out, toTick, inb } = setup();
    out(CTRL, 0x16);
    out(CH0, 5);
    const seen: number[] = [];
    for (let tick = 1; tick <= 6; tick++) {
      toTick(tick);
      seen.push(inb(CH0));
    }
    expect(seen).toEqual([4, 2, 0, 4, 2, 4]);
  });

  it("mode 3: gate low holds OUT high, its rise starts the period again", () => {
    const { pit, out, toTick } = setup();
    pit.setGate(2, true);
    out(CTRL, 0x96);
    out(CH2, 100);
    toTick(60);
    expect(pit.out(2)).toBe(false);
    pit.setGate(2, false);
    expect(pit.out(2)).toBe(true);
    pit.setGate(2, true);
    toTick(60 + 50);
    expect(pit.out(2)).toBe(true);
    toTick(60 + 52);
    expect(pit.out(2)).toBe(false);
  });

  it("mode 4: one strobe N ticks after the load (Linux's one-shot timer)", () => {
    const { irq, out, toTick } = setup();
    out(CTRL, 0x38);
    out(CH0, 0x10);
    out(CH0, 0x00);
    irq.clear();
    toTick(18);
    expect(irq.transitions.filter(({ level }) => level)).toEqual([{ ns: ns(18), level: true }]);
    irq.clear();
    toTick(200_000);
    expect(irq.transitions).toEqual([]);
    out(CH0, 0x20);
    out(CH0, 0x00);
    toTick(200_034);
    expect(irq.edges).toBe(1);
  });

  it("mode 5: a trigger gives one strobe", () => {
    const { pit, out, toTick } = setup();
    out(CTRL, 0x9a);
    out(CH2, 3);
    toTick(100);
    pit.setGate(2, true);
    const seen: boolean[] = [];
    for (let tick = 101; tick <= 106; tick++) {
      toTick(tick);
      seen.push(pit.out(2));
    }
    expect(seen).toEqual([true, true, true, false, true, true]);
  });

  it("takes 0 for 65,536, or in BCD for 10,000", () => {
    for (const [control, period] of [
      [0x34, 65_536],
      [0x35, 10_000],
    ] as const) {
      const { irq, out, toTick } = setup();
      out(CTRL, control);
      out(CH0, 0);
      out(CH0, 0);
      irq.clear();
      toTick(1 + period * 2);
      expect(irq.transitions.filter(({ level }) => level).map((edge) => edge.ns)).toEqual([
        ns(1 + period),
        ns(1 + period * 2),
      ]);
    }
  });

  it("counts in BCD", () => {
    const { out, toTick, latch } = setup();
    out(CTRL, 0x35);
    out(CH0, 0x00);
    out(CH0, 0x10);
    toTick(2);
    expect(latch(CH0)).toBe(0x0999);
  });
});

describe("8254 latches", () => {
  it("keeps a latched count until it is read, and takes no second latch", () => {
    const { out, inb, toTick } = setup();
    out(CTRL, 0x34);
    out(CH0, 0x00);
    out(CH0, 0x10);
    toTick(1 + 0x10);
    out(CTRL, 0x00);
    toTick(1 + 0x20);
    out(CTRL, 0x00);
    expect([inb(CH0), inb(CH0)]).toEqual([0xf0, 0x0f]);
    expect([inb(CH0), inb(CH0)]).toEqual([0xe0, 0x0f]);
  });

  it("read-back latches status and count of several counters at once", () => {
    const { out, inb, toTick, pit } = setup();
    pit.setGate(2, true);
    out(CTRL, 0x34);
    out(CH0, 0x00);
    out(CH0, 0x10);
    out(CTRL, 0xb6);
    out(CH2, 0x00);
    out(CH2, 0x20);
    toTick(11);
    out(CTRL, 0xca);
    toTick(5000);
    // Status first, then the count (figure 12).
    expect([inb(CH0), inb(CH0), inb(CH0)]).toEqual([0xb4, 0xf6, 0x0f]);
    expect([inb(CH2), inb(CH2), inb(CH2)]).toEqual([0xb6, 0xec, 0x1f]);
  });

  it("reads low or high bytes alone where the control word says so", () => {
    const { out, inb, toTick } = setup();
    out(CTRL, 0x24);
    out(CH0, 0x02);
    toTick(1);
    expect([inb(CH0), inb(CH0)]).toEqual([0x02, 0x02]);
  });
});

describe("8254 under load", () => {
  it("delivers missed edges after a short hold-up", () => {
    const { clock, irq, out } = setup();
    out(CTRL, 0x34);
    out(CH0, 0xa9);
    out(CH0, 0x04);
    irq.clear();
    clock.stall(10_000_000);
    clock.advance(0);
    expect(irq.edges).toBe(10);
  });

  it("drops edges that are too late, and keeps the phase", () => {
    const { clock, irq, out } = setup();
    out(CTRL, 0x34);
    out(CH0, 0xa9);
    out(CH0, 0x04);
    irq.clear();
    clock.stall(10_000_000_000);
    clock.advance(0);
    expect(irq.edges).toBe(1);
    irq.clear();
    clock.advance(1_000_000_000);
    expect(irq.transitions.filter(({ level }) => level)[0]?.ns).toBe(
      ns(1 + 1193 * Math.ceil(11_931_819 / 1193)),
    );
  });

  it("bounds how often a guest can make the line rise", () => {
    const { clock, irq, out } = setup();
    out(CTRL, 0x14);
    out(CH0, 2);
    clock.advance(1_000_000_000);
    expect(irq.edges).toBeGreaterThan(40_000);
    expect(irq.edges).toBeLessThan(52_000);
  });

  it("keeps quiet with the illegal count of 1", () => {
    for (const control of [0x14, 0x16]) {
      const { clock, irq, out } = setup();
      out(CTRL, control);
      out(CH0, 1);
      irq.clear();
      clock.advance(1_000_000_000);
      expect(irq.transitions).toEqual([]);
    }
  });
});

describe("port 0x61", () => {
  it("gates counter 2 and shows its OUT, as Linux times its TSC", () => {
    const { clock, pit, out, toTick } = setup();
    const port = new Port61(clock, pit);
    port.write(0, 1, (port.read(0, 1) & ~0x02) | 0x01);
    out(CTRL, 0xb0);
    out(CH2, 0xff);
    out(CH2, 0x0f);
    toTick(0xfff);
    expect(port.read(0, 1) & 0x20).toBe(0);
    toTick(0x1000);
    expect(port.read(0, 1) & 0x20).toBe(0x20);
  });

  it("keeps four bits, reads no NMI reason, toggles refresh", () => {
    const { clock, pit } = setup();
    const port = new Port61(clock, pit);
    port.write(0, 1, 0xff);
    expect(port.read(0, 1) & 0xcf).toBe(0x0f);
    expect(port.speakerEnabled).toBe(true);
    const seen = new Set<number>();
    for (let index = 0; index < 4; index++) {
      seen.add(port.read(0, 1) & 0x10);
      clock.advance(15_086);
    }
    expect([...seen].sort()).toEqual([0, 0x10]);
    expect(port.read(1, 2)).toBe(0xffff);
  });

  it("saves and restores", () => {
    const { clock, pit } = setup();
    const port = new Port61(clock, pit);
    port.write(0, 1, 0x0a);
    const other = new Port61(clock, pit);
    other.restore(port.save());
    expect(other.read(0, 1) & 0x0f).toBe(0x0a);
    expect(() => other.restore({ kind: "port61", version: 1, control: 0x10 })).toThrow(/control/);
  });
});

describe("8254 state", () => {
  it("goes on where it was, on a clock that stands elsewhere", () => {
    const first = setup();
    first.out(CTRL, 0x34);
    first.out(CH0, 0xa9);
    first.out(CH0, 0x04);
    first.toTick(1 + 1193 * 3 + 193);
    const state = structuredClone(first.pit.save());

    const clock = new FakeClock({ startNs: 777_000_000_000 });
    const irq = new LineProbe(clock);
    const pit = new Pit8254(clock, irq);
    pit.restore(state);
    expect(pit.save()).toEqual(state);
    irq.clear();
    clock.advance(ns(1000) + 1000);
    expect(irq.edges).toBe(1);
  });

  it("refuses what is not a state and changes nothing", () => {
    const { pit, out } = setup();
    out(CTRL, 0x34);
    out(CH0, 0xa9);
    out(CH0, 0x04);
    const good = pit.save();
    const counter = good.counters[0]!;
    for (const bad of [
      undefined,
      null,
      {},
      { ...good, kind: "pit8253" },
      { ...good, version: 2 },
      { ...good, counters: good.counters.slice(1) },
      { ...good, counters: [{ ...counter, n: 0 }, counter, counter] },
      { ...good, counters: [counter, counter, { ...counter, origin: Number.NaN }] },
      { ...good, counters: [counter, counter, { ...counter, gate: 1 }] },
    ]) {
      expect(() => pit.restore(bad)).toThrow(/pit8254/);
      expect(pit.save()).toEqual(good);
    }
  });
});
