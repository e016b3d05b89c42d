import { AcpiPm, type AcpiPmOptions, ResetControl } from "@skep/chipset";
import { FakeClock, LineProbe } from "@skep/chipset/testing";
import { describe, expect, it } from "vitest";

// ACPI 6.5 sec. 4.8.3: offsets in the block at 0x600, bits by table.
const STS = 0x00;
const EN = 0x02;
const CNT = 0x04;
const TMR = 0x08;
const GPE_STS = 0x20;
const GPE_EN = 0x28;
const SECOND = 1_000_000_000;

function setup(options: AcpiPmOptions = {}, startNs = 0) {
  const clock = new FakeClock({ startNs });
  const sci = new LineProbe(clock);
  const pm = new AcpiPm(clock, sci, options);
  const r16 = (offset: number): number => pm.read(offset, 2);
  const w16 = (offset: number, value: number): void => pm.write(offset, 2, value);
  return { clock, sci, pm, r16, w16 };
}

describe("ACPI PM registers", () => {
  it("resets to zeros", () => {
    const { pm, r16 } = setup();
    expect([r16(STS), r16(EN), r16(CNT), pm.read(TMR, 4)]).toEqual([0, 0, 0, 0]);
    for (let offset = 0x10; offset < 0x30; offset += 4) expect(pm.read(offset, 4)).toBe(0);
  });

  it("keeps the bits that exist, everywhere", () => {
    const { pm, r16 } = setup();
    for (let offset = 0; offset < 0x30; offset += 4) {
      if (offset !== CNT) pm.write(offset, 4, 0xffff_ffff);
    }
    expect(r16(EN)).toBe(0x0721);
    expect([pm.read(GPE_EN, 4), pm.read(GPE_EN + 4, 4)]).toEqual([0xffff_ffff, 0xffff_ffff]);
    pm.write(CNT, 2, 0xdfff);
    // GBL_RLS and SLP_EN are write-only.
    expect(r16(CNT)).toBe(0x1c03);
    for (let offset = 0; offset < 0x30; offset += 4) pm.write(offset, 4, 0);
    expect([r16(EN), r16(CNT), pm.read(GPE_EN, 4)]).toEqual([0, 0, 0]);
  });

  it("takes bytes and straddling words", () => {
    const { pm, r16 } = setup();
    pm.write(EN + 1, 1, 0x01);
    expect(r16(EN)).toBe(0x0100);
    pm.pressPowerButton();
    // A byte write to the enable register clears no status beside it.
    pm.write(EN, 1, 0x01);
    expect(r16(STS)).toBe(0x0100);
    expect(pm.read(STS + 1, 2)).toBe(0x0101);
    expect(pm.read(0x2e, 4)).toBe(0);
    pm.write(STS + 1, 1, 0x01);
    expect(r16(STS)).toBe(0);
  });
});

describe("ACPI mode", () => {
  it("is switched by the SMI command port and shown by SCI_EN", () => {
    const { pm, r16 } = setup();
    pm.smiCommand.write(0, 1, 0xf1);
    expect(r16(CNT)).toBe(0x0001);
    expect(pm.acpiEnabled).toBe(true);
    expect(pm.smiCommand.read(0, 1)).toBe(0xf1);
    pm.smiCommand.write(0, 2, 0x55f0);
    expect(r16(CNT)).toBe(0x0000);
    expect(pm.smiCommand.read(0, 4)).toBe(0xffff_55f0);
  });

  it("starts in ACPI mode where there is no SMI command port", () => {
    const { pm, r16 } = setup({ acpiEnabled: true });
    expect(r16(CNT)).toBe(1);
    pm.write(CNT, 2, 0);
    pm.reset();
    expect(r16(CNT)).toBe(1);
  });
});

describe("ACPI events", () => {
  it("raise the SCI only if enabled and in ACPI mode, as a level", () => {
    const { pm, sci, r16, w16 } = setup();
    pm.pressPowerButton();
    expect(r16(STS)).toBe(0x0100);
    expect(sci.level).toBe(false);
    w16(EN, 0x0100);
    expect(sci.level).toBe(false);
    pm.smiCommand.write(0, 1, 0xf1);
    expect(sci.level).toBe(true);
    w16(EN, 0);
    expect(sci.level).toBe(false);
    w16(EN, 0x0100);
    w16(STS, 0x0200);
    expect(sci.level).toBe(true);
    w16(STS, 0x0100);
    expect(sci.level).toBe(false);
  });

  it("come from the sleep button and the clock's alarm too", () => {
    const { pm, r16 } = setup();
    pm.pressSleepButton();
    pm.raiseRtcAlarm();
    expect(r16(STS)).toBe(0x0600);
  });

  it("come from all general purpose events", () => {
    const { pm, sci } = setup({ acpiEnabled: true });
    for (let index = 0; index < 64; index++) {
      const byte = index >> 3;
      const bit = 1 << (index & 7);
      pm.raiseGpe(index);
      expect(pm.read(GPE_STS + byte, 1)).toBe(bit);
      expect(sci.level).toBe(false);
      pm.write(GPE_EN + byte, 1, bit);
      expect(sci.level).toBe(true);
      pm.write(GPE_STS + byte, 1, bit);
      expect(sci.level).toBe(false);
      pm.write(GPE_EN + byte, 1, 0);
    }
    expect(() => pm.raiseGpe(64)).toThrow(RangeError);
  });
});

describe("ACPI sleep", () => {
  it("powers off on S5 and sleeps on others, only with SLP_EN", () => {
    const calls: string[] = [];
    const { pm, r16, w16 } = setup({
      onPowerOff: () => calls.push("off"),
      onSleep: (slpTyp) => calls.push(`sleep ${slpTyp}`),
    });
    w16(CNT, 0x0001);
    expect(calls).toEqual([]);
    w16(CNT, 0x2001);
    w16(CNT, 0x2401);
    expect(calls).toEqual(["off", "sleep 1"]);
    expect(r16(CNT)).toBe(0x0401);
    pm.wake();
    expect(r16(STS)).toBe(0x8000);
  });

  it("survives a guest whose embedder does not care", () => {
    const { w16 } = setup();
    expect(() => w16(CNT, 0xffff)).not.toThrow();
  });
});

describe("ACPI timer", () => {
  it("counts 3.579545 MHz without drift and cannot be written", () => {
    const { clock, pm } = setup();
    clock.advance(SECOND);
    expect(pm.read(TMR, 4)).toBe(3_579_545);
    pm.write(TMR, 4, 0);
    clock.advance(999 * SECOND);
    expect(pm.read(TMR, 4)).toBe(3_579_545_000);
    expect(pm.read(TMR + 1, 2)).toBe((3_579_545_000 >>> 8) & 0xffff);
  });

  it("wraps at 24 or 32 bits", () => {
    for (const [timerBits, period] of [
      [24, 2 ** 24],
      [32, 2 ** 32],
    ] as const) {
      const { clock, pm } = setup({ timerBits });
      clock.advance(Math.ceil((period * SECOND) / 3_579_545) - 279);
      expect(pm.read(TMR, 4)).toBe(period - 1);
      clock.advance(279);
      expect(pm.read(TMR, 4)).toBe(0);
    }
  });

  it("interrupts when its top bit changes", () => {
    const { clock, sci, r16, w16 } = setup({ timerBits: 24, acpiEnabled: true });
    const half = Math.ceil((2 ** 23 * SECOND) / 3_579_545);
    w16(EN, 0x0001);
    clock.advance(half - 1);
    expect(sci.level).toBe(false);
    clock.advance(1);
    expect(sci.level).toBe(true);
    w16(STS, 0x0001);
    expect(sci.level).toBe(false);
    clock.advance(half);
    expect(sci.level).toBe(true);
    w16(EN, 0);
    w16(STS, 0x0001);
    clock.advance(half);
    expect(r16(STS)).toBe(0x0001);
    expect(clock.nextDeadline).toBeUndefined();
  });
});

describe("ACPI PM state", () => {
  it("round-trips on another clock, timer and SCI included", () => {
    const first = setup({ acpiEnabled: true });
    first.w16(EN, 0x0101);
    first.pm.pressPowerButton();
    first.pm.raiseGpe(33);
    first.pm.smiCommand.write(1, 1, 0x66);
    first.clock.advance(7 * SECOND);
    const state = structuredClone(first.pm.save());
    const second = setup({ acpiEnabled: true }, 5_000_000_123);
    second.pm.restore(state);
    expect(second.pm.save()).toEqual(state);
    expect(second.sci.level).toBe(true);
    expect(second.pm.read(TMR, 4)).toBe(3_579_545 * 7);
  });

  it("refuses what is not a state and changes nothing", () => {
    const { pm } = setup({ timerBits: 24 });
    const good = pm.save();
    for (const bad of [
      null,
      { ...good, version: "1" },
      { ...good, pm1Enable: 0x8000 },
      { ...good, gpeStatus: [0] },
      { ...good, gpeEnable: [0, 2 ** 32] },
      { ...good, timer: 2 ** 24 },
      { ...good, apmStatus: -1 },
    ]) {
      expect(() => pm.restore(bad)).toThrow(/acpi-pm/);
      expect(pm.save()).toEqual(good);
    }
  });
});

describe("reset control", () => {
  it("resets on the rise of RST_CPU, by kind", () => {
    const kinds: string[] = [];
    const reset = new ResetControl((kind) => kinds.push(kind));
    expect(reset.read(1, 1)).toBe(0);
    // Linux and the FADT's reset register: 0x02, then 0x06.
    reset.write(1, 1, 0x02);
    expect(kinds).toEqual([]);
    reset.write(1, 1, 0x06);
    reset.write(1, 1, 0x06);
    expect(kinds).toEqual(["system"]);
    reset.write(1, 1, 0x00);
    reset.write(1, 1, 0x04);
    expect(kinds).toEqual(["system", "processor"]);
    reset.write(1, 1, 0xff);
    expect(reset.read(1, 1)).toBe(0x0e);
    reset.reset();
    expect(reset.read(1, 1)).toBe(0);
  });

  it("ignores wide accesses: they are PCI's", () => {
    const kinds: string[] = [];
    const reset = new ResetControl((kind) => kinds.push(kind));
    // A configuration address with byte 1 set, the probe of a guest without PCI.
    reset.write(0, 4, 0x8000_0600);
    reset.write(0, 2, 0x0600);
    reset.write(1, 2, 0x06);
    for (const offset of [0, 2, 3]) reset.write(offset, 1, 0x06);
    expect(kinds).toEqual([]);
    expect(reset.read(0, 4)).toBe(0xffff_ffff);
  });

  it("saves and restores", () => {
    const reset = new ResetControl(() => {});
    reset.write(1, 1, 0x02);
    const other = new ResetControl(() => {});
    other.restore(reset.save());
    expect(other.read(1, 1)).toBe(0x02);
    expect(() => other.restore({ kind: "reset-control", version: 1, control: 1 })).toThrow(/control/);
  });
});
