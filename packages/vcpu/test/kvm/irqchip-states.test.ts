/**
 * KVM's structures against the form that every engine's interrupt controllers have. Offsets and bits are restated from
 * arch/x86/include/uapi/asm/kvm.h and the SDM (Vol. 3A table 11-1).
 */
import { type IrqChipStateV1, StateError } from "@skep/vcpu";
import { describe, expect, it } from "vitest";
import { ioApicFromKvm, ioApicToKvm, picFromKvm, picIntr, picToKvm } from "../../src/kvm/chip-states.ts";
import { lapicFromKvm, lapicToKvm } from "../../src/kvm/lapic-state.ts";
import { pitFromKvm, pitToKvm } from "../../src/kvm/pit-state.ts";

const word = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
const setWord = (bytes: Uint8Array, at: number, value: number): void =>
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, true);

/** As the kernel makes it without CMCI and EOI suppression: ID 1, version 0x14, six LVT entries. */
function madePage(): Uint8Array {
  const page = new Uint8Array(1024);
  setWord(page, 0x20, 0x0100_0000);
  setWord(page, 0x30, 0x0005_0014);
  return page;
}

const LAPIC: IrqChipStateV1["lapics"][number] = {
  kind: "lapic",
  version: 1,
  apicBase: 0xfee0_0800n,
  tpr: 0x35,
  ldr: 0x0200_0000,
  dfr: 0xffff_ffff,
  svr: 0x1ff,
  esr: 0x40,
  errors: 0,
  errorRaised: false,
  icrLow: 0x000c_08fd,
  icrHigh: 0x0300_0000,
  lvt: [0x1_0000, 0x2_00ec, 0x1_0000, 0x1_0400, 0x700, 0x400, 0xfe],
  isr: [0, 2, 0, 0, 0, 0, 0, 0x100],
  tmr: [0, 4, 0, 0, 0, 0, 0, 0x200],
  irr: [0, 8, 0, 0, 0, 0, 0, 0x400],
  extInt: false,
  lint0: false,
  lint1: false,
  timer: {
    kind: "lapic-timer",
    version: 1,
    initialCount: 1_000_000,
    divideConfig: 0xb,
    startCount: 400_000,
    elapsedNs: 0,
    sinceFireNs: 20_000,
    deadline: 0n,
  },
};

describe("a local APIC", () => {
  it("becomes KVM's register page, field by field", () => {
    const { page, apicBase, tscDeadline } = lapicToKvm(LAPIC, madePage(), "irqchip.lapics[0]");
    expect(apicBase).toBe(0xfee0_0800n);
    expect(tscDeadline).toBe(0n);
    const registers: Record<number, number> = {
      32: 0x0100_0000,
      48: 0x0005_0014,
      128: 0x35,
      208: 0x0200_0000,
      224: 0xffff_ffff,
      240: 0x1ff,
      272: 2,
      368: 0x100,
      400: 4,
      496: 0x200,
      528: 8,
      624: 0x400,
      640: 0x40,
      768: 0x000c_08fd,
      784: 0x0300_0000,
      800: 0x2_00ec,
      816: 0x1_0000,
      832: 0x1_0400,
      848: 0x700,
      864: 0x400,
      880: 0xfe,
      896: 1_000_000,
      912: 400_000,
      992: 0xb,
    };
    const found: Record<number, number> = {};
    for (let at = 0; at < 1024; at += 4) if (word(page, at) !== 0) found[at] = word(page, at);
    expect(found).toEqual(registers);
  });

  it("comes back from it", () => {
    const kvm = lapicToKvm(LAPIC, madePage(), "lapic");
    expect(lapicFromKvm(kvm, false)).toEqual(LAPIC);
    expect(lapicFromKvm(kvm, true)).toEqual({ ...LAPIC, lint0: true });
  });

  it("keeps a deadline and none of the counts in TSC-deadline mode", () => {
    const lvt = [0x1_0000, 0x4_00ec, ...LAPIC.lvt.slice(2)];
    const timer = { ...LAPIC.timer, initialCount: 0, startCount: 0, deadline: 12_345_678_901n };
    const kvm = lapicToKvm({ ...LAPIC, lvt, timer }, madePage(), "lapic");
    expect(kvm.tscDeadline).toBe(12_345_678_901n);
    expect(lapicFromKvm(kvm, false).timer).toEqual(timer);
  });

  it("has no logical ID of its own in x2APIC mode", () => {
    const apicBase = 0xfee0_0c00n;
    const page = madePage();
    setWord(page, 0xd0, 0x0001_0002);
    expect(lapicFromKvm({ page, apicBase, tscDeadline: 0n }, false)).toMatchObject({ apicBase, ldr: 0 });
  });

  const countdown = (
    mode: number,
    timer: Partial<typeof LAPIC.timer>,
  ): [initial: number, current: number] => {
    const lvt = [0x1_0000, (mode << 17) | 0xec, ...LAPIC.lvt.slice(2)];
    const { page } = lapicToKvm({ ...LAPIC, lvt, timer: { ...LAPIC.timer, ...timer } }, madePage(), "lapic");
    return [word(page, 0x380), word(page, 0x390)];
  };

  it("tells KVM what is left of a countdown, by its divider", () => {
    // Divider 16 at 1 GHz: 16 ns a tick.
    const sixteen = { divideConfig: 3, startCount: 1000 };
    expect(countdown(0, { ...sixteen, elapsedNs: 16 * 250 })).toEqual([1_000_000, 750]);
    expect(countdown(1, { ...sixteen, elapsedNs: 16 * 250 + 15 })).toEqual([1_000_000, 750]);
    expect(countdown(0, { ...sixteen, elapsedNs: 1e9 })).toEqual([1_000_000, 1]);
    expect(countdown(1, { ...sixteen, elapsedNs: 1e9 })).toEqual([1_000_000, 1]);
  });

  it("leaves a countdown that is over stopped: KVM would take a count of zero for one that is due", () => {
    expect(countdown(0, { startCount: 0 })).toEqual([0, 0]);
  });

  it("takes KVM's one-shot countdown at zero for due, unless its vector is requested", () => {
    const page = madePage();
    setWord(page, 0x320, 0xec);
    setWord(page, 0x380, 5000);
    setWord(page, 0x3e0, 0xb);
    const timer = () => lapicFromKvm({ page, apicBase: 0xfee0_0800n, tscDeadline: 0n }, false).timer;
    expect(timer()).toMatchObject({ initialCount: 5000, startCount: 1, elapsedNs: 1 });
    setWord(page, 0x270, 1 << 12);
    expect(timer()).toMatchObject({ initialCount: 5000, startCount: 0, elapsedNs: 0 });
  });

  it.each([
    ["errors", { errors: 0x20 }],
    ["extInt", { extInt: true }],
    ["lint1", { lint1: true }],
    ["svr", { svr: 0x11ff }],
    ["lvt", { lvt: [0xf2, ...LAPIC.lvt.slice(1)] }],
  ])("is refused by name where KVM's cannot hold it: %s", (field, change) => {
    const write = () => lapicToKvm({ ...LAPIC, ...change }, madePage(), "irqchip.lapics[1]");
    expect(write).toThrow(StateError);
    expect(write).toThrow(`irqchip.lapics[1].${field}: expected`);
  });

  it("has EOI suppression and CMCI where KVM's version register offers them", () => {
    const page = madePage();
    setWord(page, 0x30, 0x0106_0014);
    const state = { ...LAPIC, svr: 0x11ff, lvt: [0xf2, ...LAPIC.lvt.slice(1)] };
    const kvm = lapicToKvm(state, page, "lapic");
    expect(word(kvm.page, 0x2f0)).toBe(0xf2);
    expect(lapicFromKvm(kvm, false)).toEqual(state);
  });
});

const CHIP: IrqChipStateV1["pic"]["master"] = {
  step: 5,
  icw1: 0x11,
  icw2: 0x30,
  icw3: 0x04,
  icw4: 0x01,
  imr: 0xb8,
  isr: 0x02,
  latch: 0x41,
  levels: 0x21,
  elcr: 0x20,
  lowest: 7,
  rotateOnAutoEoi: false,
  specialMask: false,
  readIsr: true,
  poll: false,
};
const SLAVE = { ...CHIP, icw2: 0x38, icw3: 0x02, imr: 0xff, isr: 0, latch: 0, levels: 0, elcr: 0 };

describe("the 8259s", () => {
  it("become KVM's structures, field by field", () => {
    const { master } = picToKvm({ kind: "pic8259", version: 1, master: CHIP, slave: SLAVE }, "pic");
    expect([...master.subarray(0, 16)]).toEqual([
      0x21, // last_irr: the wires
      0x61, // irr: edges, and the level-triggered input that is asserted
      0xb8, // imr
      0x02, // isr
      0, // priority_add
      0x30, // irq_base
      1, // read_reg_select
      0, // poll
      0, // special_mask
      0, // init_state
      0, // auto_eoi
      0, // rotate_on_auto_eoi
      0, // special_fully_nested_mode
      1, // init4
      0x20, // elcr
      0xf8, // elcr_mask
    ]);
  });

  it.each([
    ["usual", {}],
    ["automatic EOI, rotating", { icw4: 0x03, rotateOnAutoEoi: true, lowest: 3 }],
    ["specially nested", { icw4: 0x11 }],
    ["special mask, polled", { specialMask: true, poll: true, readIsr: false }],
    ["waiting for ICW2", { step: 2 }],
    ["waiting for ICW4", { step: 4 }],
  ])("come back: %s", (_, change) => {
    const state = { kind: "pic8259", version: 1, master: { ...CHIP, ...change }, slave: SLAVE } as const;
    const { master, slave } = picToKvm(state, "pic");
    expect(picFromKvm(master, slave)).toEqual(state);
  });

  it("come back before they are initialised", () => {
    const zero = Object.fromEntries(Object.keys(CHIP).map((key) => [key, 0])) as unknown as typeof CHIP;
    const off = { rotateOnAutoEoi: false, specialMask: false, readIsr: false, poll: false };
    const reset = { ...zero, ...off, lowest: 7 };
    const state = { kind: "pic8259", version: 1, master: reset, slave: reset } as const;
    const { master, slave } = picToKvm(state, "pic");
    expect(picFromKvm(master, slave)).toEqual(state);
  });

  it("have the slave's INT as a level, which KVM's have not", () => {
    const slave = { ...SLAVE, imr: 0xfe, latch: 0x01, levels: 0x01 };
    const master = { ...CHIP, imr: 0xfb, isr: 0, latch: 0x04, levels: 0x04, elcr: 0 };
    const state = { kind: "pic8259", version: 1, master, slave } as const;
    const kvm = picToKvm(state, "pic");
    expect([kvm.master[0], kvm.master[1]]).toEqual([0, 0x04]);
    expect(picFromKvm(kvm.master, kvm.slave)).toEqual(state);
    expect(picIntr(state)).toBe(true);
    // The request is gone: KVM's master still has it latched.
    kvm.slave[1] = 0;
    expect(picFromKvm(kvm.master, kvm.slave).master).toMatchObject({ latch: 0, levels: 0 });
  });

  it("assert INTR for what is unmasked and above what is served", () => {
    const intr = (change: Partial<typeof CHIP>): boolean =>
      picIntr({ kind: "pic8259", version: 1, master: { ...CHIP, ...change }, slave: SLAVE });
    expect(intr({ isr: 0 })).toBe(true);
    expect(intr({})).toBe(true); // IR0 before IR1
    expect(intr({ isr: 0x01 })).toBe(false);
    expect(intr({ lowest: 0 })).toBe(false); // IR0 is the least now
    expect(intr({ isr: 0, imr: 0xff })).toBe(false);
    expect(intr({ isr: 0, step: 3 })).toBe(false);
    // IR0 in service holds IR5 and IR6 off, but not where it is masked in special mask mode.
    expect(intr({ isr: 0x01, imr: 0x9f })).toBe(false);
    expect(intr({ isr: 0x01, imr: 0x9f, specialMask: true })).toBe(true);
  });

  it("are refused by name in a mode that KVM's do not know", () => {
    const state = {
      kind: "pic8259",
      version: 1,
      master: { ...CHIP, step: 2, icw1: 0x13 },
      slave: SLAVE,
    } as const;
    expect(() => picToKvm(state, "irqchip.pic")).toThrow("irqchip.pic.master.icw1: expected no single mode");
  });
});

describe("the I/O APIC", () => {
  const low = Array.from({ length: 24 }, (_, input) =>
    input === 20 ? 0xe045 : input === 4 ? 0x0034 : 0x1_0000,
  );
  const high = Array.from({ length: 24 }, (_, input) => (input << 24) >>> 0);
  const state = {
    kind: "ioapic",
    version: 1,
    id: 3,
    select: 0x38,
    low,
    high,
    levels: (1 << 20) | (1 << 4),
  } as const;

  it("becomes KVM's structure; edges that were delivered are not asserted anew", () => {
    const bytes = ioApicToKvm({ ...state, low: [...low], high: [...high] });
    expect([word(bytes, 0), word(bytes, 4)]).toEqual([0xfec0_0000, 0]);
    expect([word(bytes, 8), word(bytes, 12), word(bytes, 16)]).toEqual([0x38, 3, 1 << 20]);
    expect([word(bytes, 24 + 8 * 20), word(bytes, 28 + 8 * 20)]).toEqual([0xe045, 0x1400_0000]);
    expect([word(bytes, 24 + 8 * 4), word(bytes, 28 + 8 * 4)]).toEqual([0x34, 0x0400_0000]);
  });

  it("comes back, with the levels that its wires have", () => {
    const bytes = ioApicToKvm({ ...state, low: [...low], high: [...high] });
    expect(ioApicFromKvm(bytes, state.levels)).toEqual(state);
  });
});

describe("the 8254", () => {
  const counter = {
    control: 0x34,
    gate: true,
    counted: true,
    running: true,
    countRegister: 0x2e9c,
    n: 0x2e9c,
    origin: 0,
    before: true,
    held: -1,
    nullUntil: 0,
    writeLow: -1,
    readHigh: false,
    latchedCount: -1,
    latchedStatus: -1,
  };
  const { nullUntil: _, ...unset } = counter;
  const reset = {
    ...unset,
    ...{ control: 0x30, counted: false, running: false, countRegister: 0x1_0000, n: 0x1_0000, before: false },
  };
  const pit = (first: object): NonNullable<IrqChipStateV1["pit"]> =>
    ({
      kind: "pit8254",
      version: 1,
      counters: [{ ...counter, ...first }, reset, { ...reset, gate: false }],
    }) as never;

  it.each([
    ["a rate generator", {}],
    ["half written", { writeLow: 0x9c }],
    ["half read", { readHigh: true }],
    ["a count latched, and read in part", { latchedCount: 0x1234, readHigh: true }],
    ["count and status latched", { latchedCount: 0x1234, latchedStatus: 0xb4 }],
    ["one-shot, low byte only", { control: 0x10, before: false }],
  ])("comes back: %s", (_name, change) => {
    const state = pit(change);
    expect(pitFromKvm(pitToKvm(state, true, "pit"), 0n)).toEqual({ pit: state, speaker: true });
  });

  it("tells how long a counter has counted, which KVM remembers as a time", () => {
    const bytes = pitToKvm(pit({}), false, "pit");
    const { counters } = pitFromKvm(bytes, 1_000_000_000n).pit;
    expect(counters[0]).toMatchObject({ origin: -1_193_182, nullUntil: -1_193_182 });
    expect(counters[1]).toMatchObject({ origin: 0, counted: false });
  });

  it.each([
    ["control", { control: 0x35 }],
    ["counted", { counted: false, running: false }],
  ])("is refused by name where KVM's cannot hold it: %s", (field, change) => {
    const write = () => pitToKvm(pit(change), false, "irqchip.pit");
    expect(write).toThrow(StateError);
    expect(write).toThrow(`irqchip.pit.counters[0].${field}: expected`);
  });
});
