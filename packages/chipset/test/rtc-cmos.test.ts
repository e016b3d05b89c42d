import { RtcCmos } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";
import { civilSeconds, civilTime } from "../src/calendar.ts";

// Registers and bits of the MC146818A data sheet.
const INDEX = 0;
const DATA = 1;
const SECOND = 1_000_000_000;

function setup(options?: ConstructorParameters<typeof RtcCmos>[2], wallStartMs?: number) {
  const clock = new FakeClock(wallStartMs === undefined ? {} : { wallStartMs });
  const irq = new LineProbe(clock);
  const rtc = new RtcCmos(clock, irq, options);
  const get = (index: number): number => {
    rtc.write(INDEX, 1, index);
    return rtc.read(DATA, 1);
  };
  const set = (index: number, value: number): void => {
    rtc.write(INDEX, 1, index);
    rtc.write(DATA, 1, value);
  };
  /** Century, year, month, day, hour, minute, second, weekday as the registers show them. */
  const time = (): string =>
    [0x32, 9, 8, 7, 4, 2, 0, 6].map((index) => get(index).toString(16).padStart(2, "0")).join(" ");
  return { clock, irq, rtc, get, set, time };
}

describe("RTC reset and registers", () => {
  it("starts as firmware leaves it", () => {
    const { get } = setup();
    expect([get(0x0a), get(0x0b), get(0x0c), get(0x0d)]).toEqual([0x26, 0x02, 0x00, 0x80]);
  });

  it("gives the wall clock's time: leap day, a Thursday", () => {
    // FakeClock starts at 2024-02-29 23:59:50 UTC.
    expect(setup().time()).toBe("20 24 02 29 23 59 50 05");
  });

  it("starts in the zone that it is told", () => {
    expect(setup({ utcOffsetSeconds: 3600 }).time()).toBe("20 24 03 01 00 59 50 06");
  });

  it("rolls over into March", () => {
    const { clock, time } = setup();
    clock.advance(10 * SECOND);
    expect(time()).toBe("20 24 03 01 00 00 00 06");
  });

  it("reads ones at the index port and keeps NMI disable", () => {
    const { rtc } = setup();
    rtc.write(INDEX, 1, 0x8d);
    expect(rtc.nmiDisabled).toBe(true);
    expect(rtc.read(DATA, 1)).toBe(0x80);
    expect(rtc.read(INDEX, 1)).toBe(0xff);
    rtc.write(INDEX, 1, 0x0d);
    expect(rtc.nmiDisabled).toBe(false);
  });

  it("splits wide accesses: one 16-bit write sets index and data", () => {
    const { rtc, get } = setup();
    rtc.write(INDEX, 2, 0xa540);
    expect(get(0x40)).toBe(0xa5);
    expect(rtc.read(INDEX, 2)).toBe(0xa5ff);
    expect(rtc.read(DATA, 4)).toBe(0xffffffa5);
  });

  it("takes zeros and ones in every register without losing its way", () => {
    for (const value of [0x00, 0xff]) {
      const { clock, get, set } = setup();
      for (let index = 0; index < 128; index++) set(index, value);
      for (let index = 0; index < 128; index++) expect(get(index)).toBeLessThan(0x100);
      clock.advance(3 * SECOND);
      // C and D are read-only, UIP is not the guest's.
      expect(get(0x0d)).toBe(0x80);
      expect(get(0x0a) & 0x7f).toBe(value & 0x7f);
    }
  });

  it("keeps 128 bytes of memory through a reset", () => {
    const { rtc, get, set } = setup();
    for (let index = 0x0e; index < 0x80; index++) if (index !== 0x32) set(index, index ^ 0x55);
    rtc.reset();
    for (let index = 0x0e; index < 0x80; index++) if (index !== 0x32) expect(get(index)).toBe(index ^ 0x55);
  });
});

describe("RTC formats", () => {
  it("shows binary and 12-hour time", () => {
    const { set, get } = setup();
    set(0x0b, 0x06);
    expect([get(9), get(8), get(7), get(4), get(2), get(0)]).toEqual([24, 2, 29, 23, 59, 50]);
    set(0x0b, 0x04);
    expect(get(4)).toBe(0x80 | 11);
    set(0x0b, 0x00);
    expect(get(4)).toBe(0x91);
  });

  it("shows 12 at midnight and noon", () => {
    const midnight = setup(undefined, Date.UTC(2001, 0, 1, 0, 5));
    midnight.set(0x0b, 0x00);
    expect(midnight.get(4)).toBe(0x12);
    const noon = setup(undefined, Date.UTC(2001, 0, 1, 12, 5));
    noon.set(0x0b, 0x00);
    expect(noon.get(4)).toBe(0x92);
  });

  it("goes without a century byte", () => {
    const { get, set } = setup({ century: false }, Date.UTC(1999, 11, 31, 23, 59, 59));
    set(0x32, 0x77);
    expect([get(0x32), get(9)]).toEqual([0x77, 0x99]);
    expect(() => setup({ century: 0x0d })).toThrow(RangeError);
  });

  it("puts the century where it is told", () => {
    const { get, clock } = setup({ century: 0x37 }, Date.UTC(1999, 11, 31, 23, 59, 59));
    expect(get(0x37)).toBe(0x19);
    clock.advance(SECOND);
    expect([get(0x37), get(9)]).toEqual([0x20, 0x00]);
  });
});

describe("RTC setting the time", () => {
  it("as Linux does: SET, divider reset, registers, release; the next second comes 500 ms later", () => {
    const { clock, set, get, time } = setup();
    clock.advance(300_000_000);
    set(0x0b, 0x82);
    set(0x0a, 0x76);
    for (const [index, value] of [
      [9, 0x30],
      [8, 0x12],
      [7, 0x31],
      [4, 0x23],
      [2, 0x59],
      [0, 0x58],
      [0x32, 0x20],
      [6, 0x03],
    ] as const)
      set(index, value);
    set(0x0b, 0x02);
    clock.advance(5 * SECOND);
    expect(get(0)).toBe(0x58);
    set(0x0a, 0x26);
    clock.advance(499_000_000);
    expect(time()).toBe("20 30 12 31 23 59 58 03");
    clock.advance(2_000_000);
    expect(get(0)).toBe(0x59);
    clock.advance(SECOND);
    expect(time()).toBe("20 31 01 01 00 00 00 04");
  });

  it("stands still while SET is 1 and shows what was written", () => {
    const { clock, set, get } = setup();
    set(0x0b, 0x82);
    set(0, 0x33);
    clock.advance(10 * SECOND);
    expect(get(0)).toBe(0x33);
    expect(get(2)).toBe(0x59);
    set(0x0b, 0x02);
    expect(get(0)).toBe(0x33);
  });

  it("takes nonsense for what it weighs", () => {
    const { clock, set, get } = setup();
    set(0x0b, 0x86);
    for (const index of [0, 2, 4, 6, 7, 8, 9, 0x32]) set(index, 0xff);
    set(0x0b, 0x06);
    clock.advance(100 * SECOND);
    expect(get(8)).toBeGreaterThan(0);
    expect(get(8)).toBeLessThan(13);
  });

  it("follows the wall clock when told to, with the guest's own offset", () => {
    const { clock, rtc, set, get } = setup();
    set(0x0b, 0x82);
    set(4, 0x22);
    set(0x0b, 0x02);
    clock.advance(5 * SECOND);
    rtc.syncToWall();
    expect([get(4), get(2), get(0)]).toEqual([0x22, 0x59, 0x55]);
  });
});

describe("RTC and the wall clock", () => {
  it("catches up after a pause when the guest reads the time, its own setting kept", () => {
    let pausedMs = 0;
    class PausedClock extends FakeClock {
      override wallTimeMs(): number {
        return super.wallTimeMs() + pausedMs;
      }
    }
    const rtc = new RtcCmos(new PausedClock(), new LineProbe());
    const get = (index: number): number => {
      rtc.write(INDEX, 1, index);
      return rtc.read(DATA, 1);
    };
    rtc.write(INDEX, 2, 0x820b);
    rtc.write(INDEX, 2, 0x2204);
    rtc.write(INDEX, 2, 0x020b);
    pausedMs = 1500;
    expect([get(4), get(2), get(0)]).toEqual([0x22, 0x59, 0x50]);
    pausedMs = 600_000;
    expect([get(4), get(2), get(0)]).toEqual([0x23, 0x09, 0x50]);
  });
});

describe("RTC updates", () => {
  it("announces an update by UIP for 244 microseconds", () => {
    const { clock, get, set } = setup();
    clock.advance(999_700_000);
    expect(get(0x0a) & 0x80).toBe(0);
    clock.advance(60_000);
    expect(get(0x0a) & 0x80).toBe(0x80);
    expect(get(0)).toBe(0x50);
    clock.advance(240_000);
    expect(get(0x0a) & 0x80).toBe(0);
    expect(get(0)).toBe(0x51);
    set(0x0b, 0x82);
    clock.advance(999_900_000);
    expect(get(0x0a) & 0x80).toBe(0);
  });

  it("interrupts once a second where enabled, until register C is read", () => {
    const { clock, irq, get, set } = setup();
    set(0x0b, 0x12);
    clock.advance(SECOND);
    expect(irq.transitions).toEqual([{ ns: SECOND, level: true }]);
    // IRQF and UF; PF too, since flags are set whether or not they are enabled.
    expect(get(0x0c)).toBe(0xd0);
    expect(irq.level).toBe(false);
    expect(get(0x0c)).toBe(0x00);
    clock.advance(SECOND);
    expect(irq.level).toBe(true);
    // SET clears UIE.
    set(0x0b, 0x92);
    expect(get(0x0b)).toBe(0x82);
    expect(irq.level).toBe(false);
  });

  it("sets the update flag without an interrupt too", () => {
    const { clock, irq, get } = setup();
    clock.advance(SECOND);
    expect(get(0x0c)).toBe(0x50);
    expect(irq.transitions).toEqual([]);
  });
});

describe("RTC alarm", () => {
  it("interrupts at the exact second", () => {
    const { clock, irq, get, set } = setup();
    set(5, 0x00);
    set(3, 0x01);
    set(1, 0x30);
    set(0x0b, 0x22);
    clock.advance(3600 * SECOND);
    expect(irq.transitions).toEqual([{ ns: 100 * SECOND, level: true }]);
    expect(get(0x0c) & 0xa0).toBe(0xa0);
    clock.advance(86_400 * SECOND);
    expect(irq.edges).toBe(2);
  });

  it("matches every hour, minute or second with don't-care bytes", () => {
    const { clock, irq, get, set } = setup();
    for (const index of [1, 3, 5]) set(index, 0xff);
    set(0x0b, 0x22);
    for (let second = 1; second <= 3; second++) {
      clock.advance(SECOND);
      expect(irq.level).toBe(true);
      expect(get(0x0c) & 0xa0).toBe(0xa0);
    }
  });

  it("works in 12-hour time", () => {
    const { clock, irq, set } = setup(undefined, Date.UTC(2020, 5, 1, 11, 59, 59));
    set(0x0b, 0x20);
    set(5, 0x92);
    set(3, 0x00);
    set(1, 0x00);
    clock.advance(SECOND);
    expect(irq.level).toBe(true);
  });

  it("never matches what is no time", () => {
    const { clock, irq, set } = setup();
    set(5, 0x99);
    set(0x0b, 0x22);
    clock.advance(3 * 86_400 * SECOND);
    expect(irq.transitions).toEqual([]);
  });
});

describe("RTC periodic interrupt (table 5)", () => {
  it("has the rates of the data sheet", () => {
    for (const [rate, hz] of [
      [1, 256],
      [2, 128],
      [3, 8192],
      [6, 1024],
      [15, 2],
    ] as const) {
      const { clock, irq, get, set } = setup();
      set(0x0a, 0x20 | rate);
      set(0x0b, 0x42);
      let count = 0;
      for (let elapsed = 0; elapsed < SECOND; elapsed += 50_000) {
        clock.advance(50_000);
        if (irq.level && (get(0x0c) & 0xc0) === 0xc0) count++;
      }
      expect([rate, count]).toEqual([rate, hz]);
    }
  });

  it("is off with rate 0 or the divider held", () => {
    for (const a of [0x20, 0x66]) {
      const { clock, irq, set } = setup();
      set(0x0a, a);
      set(0x0b, 0x42);
      clock.advance(SECOND);
      expect(irq.transitions).toEqual([]);
    }
  });

  it("costs nothing while nobody reads register C", () => {
    const { clock, irq, set } = setup();
    set(0x0b, 0x42);
    clock.advance(SECOND);
    expect(irq.edges).toBe(1);
    expect(clock.nextDeadline).toBeUndefined();
  });

  it("is disabled by reset", () => {
    const { rtc, clock, irq, set, get } = setup();
    set(0x0b, 0x7a);
    clock.advance(2 * SECOND);
    rtc.reset();
    expect(irq.level).toBe(false);
    expect([get(0x0b), get(0x0c)]).toEqual([0x02, 0x00]);
  });
});

describe("RTC host side", () => {
  it("tells firmware the memory size", () => {
    const { rtc, get } = setup();
    rtc.setMemorySize(512 * 1024 * 1024, 3 * 1024 * 1024 * 1024);
    expect(get(0x15) | (get(0x16) << 8)).toBe(640);
    expect(get(0x17) | (get(0x18) << 8)).toBe(0xffff);
    expect(get(0x34) | (get(0x35) << 8)).toBe((496 * 1024 * 1024) / 65_536);
    expect(get(0x5b) | (get(0x5c) << 8) | (get(0x5d) << 16)).toBe(0xc000);
    expect(() => rtc.setByte(0x0d, 0)).toThrow(RangeError);
    expect(() => rtc.setByte(0x20, 256)).toThrow(RangeError);
  });
});

describe("RTC state", () => {
  it("round-trips with an alarm pending, on another clock", () => {
    const first = setup();
    first.set(0x40, 0x12);
    first.set(1, 0x05);
    first.set(3, 0xff);
    first.set(5, 0xff);
    first.set(0x0b, 0x22);
    first.clock.advance(2_345_678_901);
    const state = structuredClone(first.rtc.save());

    const clock = new FakeClock({ startNs: 99_999_999_999 });
    const irq = new LineProbe(clock);
    const rtc = new RtcCmos(clock, irq);
    rtc.restore(state);
    expect(rtc.save()).toEqual(state);
    clock.advance(15 * SECOND - 2_345_678_901 - 1);
    expect(irq.level).toBe(false);
    clock.advance(1);
    expect(irq.level).toBe(true);
  });

  it("refuses what is not a state and changes nothing", () => {
    const { rtc } = setup();
    const good = rtc.save();
    for (const bad of [
      [],
      { ...good, kind: "rtc" },
      { ...good, cmos: good.cmos.slice(1) },
      { ...good, cmos: good.cmos.map(() => 256) },
      { ...good, seconds: Number.POSITIVE_INFINITY },
      { ...good, phaseNs: SECOND },
      { ...good, flags: 0x80 },
      { ...good, weekdayOffset: 7 },
    ]) {
      expect(() => rtc.restore(bad)).toThrow(/rtc-cmos/);
      expect(rtc.save()).toEqual(good);
    }
  });
});

describe("the calendar", () => {
  it("agrees with the platform's from 1600 to 2400", () => {
    for (let seconds = -11_676_096_000; seconds < 13_569_465_600; seconds += 86_400 * 13 + 3671) {
      const date = new Date(seconds * 1000);
      const time = civilTime(seconds);
      expect(time).toEqual({
        year: date.getUTCFullYear(),
        month: date.getUTCMonth() + 1,
        day: date.getUTCDate(),
        hour: date.getUTCHours(),
        minute: date.getUTCMinutes(),
        second: date.getUTCSeconds(),
        weekday: date.getUTCDay(),
      });
      expect(civilSeconds(time)).toBe(seconds);
    }
  });
});
