// The controllers wired together, driven as Linux drives them.
import { describe, expect, it } from "vitest";
import type { IrqChip } from "../src/index.ts";
import { enable, enterX2apic, type Machine, machine } from "./irq-machine.ts";

const LEVEL = 0x8000;
const MASKED = 0x1_0000;

/** Linux's 8259 set-up (init_8259A): vectors 0x30 and 0x38, everything masked but `unmasked`. */
function initPic({ chip }: Machine, unmasked = 0, autoEoi = false): void {
  const icw4 = autoEoi ? 0x03 : 0x01;
  chip.pic.master.write(1, 1, 0xff);
  for (const [device, base, cascade] of [
    [chip.pic.master, 0x30, 0x04],
    [chip.pic.slave, 0x38, 0x02],
  ] as const) {
    device.write(0, 1, 0x11);
    device.write(1, 1, base);
    device.write(1, 1, cascade);
    device.write(1, 1, icw4);
  }
  chip.pic.master.write(1, 1, ~(unmasked | 0x04) & 0xff);
  chip.pic.slave.write(1, 1, ~(unmasked >> 8) & 0xff);
}

describe("ISA interrupts through the 8259s: virtual wire", () => {
  it("reach the boot processor only, with the 8259's vector", () => {
    const m = machine();
    initPic(m, 0xffff);
    const uart = m.chip.isaLine(4);
    uart.set(true);
    expect(m.wakes).toContain(0);
    expect(m.chip.pending(0)).toBe(0x34);
    expect(m.chip.pending(1)).toBe(-1);
    expect(m.chip.acknowledge(0)).toBe(0x34);
    expect(m.chip.pending(0)).toBe(-1);
    // No local APIC is involved: nothing in service there.
    expect(m.rd(0, 0xa0)).toBe(0);
    m.chip.pic.master.write(0, 1, 0x20);
    uart.set(false);
    m.chip.isaLine(12).set(true);
    expect(m.chip.acknowledge(0)).toBe(0x3c);
  });

  it("show the more urgent one that came since", () => {
    const m = machine();
    initPic(m, 0xffff);
    m.chip.isaLine(4).set(true);
    expect(m.chip.pending(0)).toBe(0x34);
    m.chip.isaLine(1).set(true);
    expect(m.chip.pending(0)).toBe(0x31);
    expect(m.chip.acknowledge(0)).toBe(0x31);
  });

  it("come before the APIC's own, and regardless of TPR", () => {
    const m = machine();
    initPic(m, 0xffff);
    m.chip.send(0xfee0_0000, 0xf0);
    m.chip.isaLine(4).set(true);
    m.apic(0).setTpr(15);
    expect(m.chip.acknowledge(0)).toBe(0x34);
    expect(m.chip.pending(0)).toBe(-1);
    m.apic(0).setTpr(0);
    expect(m.chip.acknowledge(0)).toBe(0xf0);
  });

  it("stop with LINT0 masked or the 8259 masked, and reach a processor without APIC", () => {
    const m = machine();
    initPic(m, 0xffff);
    m.wr(0, 0x350, MASKED | 0x700);
    m.chip.isaLine(4).set(true);
    expect(m.chip.pending(0)).toBe(-1);
    m.wr(0, 0x350, 0x700);
    expect(m.chip.pending(0)).toBe(0x34);
    m.chip.pic.master.write(1, 1, 0xff);
    expect(m.chip.pending(0)).toBe(-1);
    m.chip.pic.master.write(1, 1, 0);
    m.wr(0, 0x350, MASKED);
    m.apic(0).writeMsr(0x1b, 0xfee0_0100n);
    expect(m.chip.acknowledge(0)).toBe(0x34);
  });
});

describe("interrupts through the I/O APIC", () => {
  it("has ISA IRQ 0 at input 2, the others at their own, PCI beyond", () => {
    const m = machine();
    enable(m, 0, 1);
    for (let pin = 0; pin < 24; pin++) m.route(pin, 0x40 + pin, 0x0100_0000);
    for (let irq = 0; irq < 16; irq++) {
      if (irq === 2) continue;
      m.chip.isaLine(irq).set(true);
      expect(m.drain(1)).toEqual([0x40 + (irq === 0 ? 2 : irq)]);
    }
    for (let gsi = 16; gsi < 24; gsi++) {
      m.chip.line(gsi).set(true);
      expect(m.drain(1)).toEqual([0x40 + gsi]);
    }
    expect(m.drain(0)).toEqual([]);
  });

  it("gives GSI 2 and ISA IRQ 0 the same input, on both controllers", () => {
    const m = machine();
    initPic(m, 0xffff);
    m.route(2, 0x31);
    m.chip.line(2).set(true);
    expect(m.chip.pending(0)).toBe(0x30);
    m.chip.acknowledge(0);
    expect(m.drain(0)).toEqual([0x31]);
  });

  it("delivers a level again at EOI while any device on the line asserts it", () => {
    const m = machine();
    enable(m, 0);
    m.route(20, LEVEL | 0x55);
    const [disk, net] = [m.chip.line(20), m.chip.line(20)];
    disk.set(true);
    net.set(true);
    expect(m.chip.acknowledge(0)).toBe(0x55);
    disk.set(false);
    expect(m.chip.pending(0)).toBe(-1);
    m.wr(0, 0xb0, 0);
    expect(m.chip.acknowledge(0)).toBe(0x55);
    net.set(false);
    m.wr(0, 0xb0, 0);
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.ioRead(0x10 + 40)).toBe(LEVEL | 0x55);
  });

  it("counts a device's level once, however often it sets it", () => {
    const m = machine();
    enable(m, 0);
    m.route(20, LEVEL | 0x55);
    const [disk, net] = [m.chip.line(20), m.chip.line(20)];
    disk.set(true);
    disk.set(true);
    net.set(false);
    disk.set(false);
    expect(m.drain(0)).toEqual([0x55]);
  });

  it("leaves the end to the I/O APIC's EOI register where the broadcast is suppressed", () => {
    const m = machine();
    m.wr(0, 0xf0, 0x11ff);
    m.route(20, LEVEL | 0x55);
    const line = m.chip.line(20);
    line.set(true);
    expect(m.drain(0)).toEqual([0x55]);
    expect(m.ioRead(0x10 + 40)).toBe(LEVEL | 0x4000 | 0x55);
    m.chip.ioapic.write(0x40, 4, 0x55);
    expect(m.drain(0)).toEqual([0x55]);
    line.set(false);
    m.chip.ioapic.write(0x40, 4, 0x55);
    expect(m.ioRead(0x10 + 40)).toBe(LEVEL | 0x55);
  });

  it("ends interrupts of x2APICs", () => {
    const m = machine();
    enterX2apic(m, 1);
    m.route(20, LEVEL | 0x55, 0x0100_0000);
    const line = m.chip.line(20);
    line.set(true);
    expect(m.chip.acknowledge(1)).toBe(0x55);
    line.set(false);
    m.apic(1).writeMsr(0x80b, 0n);
    expect(m.ioRead(0x10 + 40)).toBe(LEVEL | 0x55);
  });

  it("takes the 8259s' interrupts at input 0 as ExtINT, one message an INTA", () => {
    const m = machine({ virtualWire: false });
    enable(m, 1);
    initPic(m, 0xffff, true);
    m.route(0, 0x700, 0x0100_0000);
    m.chip.isaLine(4).set(true);
    m.chip.isaLine(6).set(true);
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.chip.acknowledge(1)).toBe(0x34);
    expect(m.chip.acknowledge(1)).toBe(0x36);
    expect(m.chip.acknowledge(1)).toBe(-1);
  });

  it("gives the spurious vector for an ExtINT whose request is gone", () => {
    const m = machine({ virtualWire: false });
    enable(m, 1);
    initPic(m, 0xffff);
    m.route(0, 0x700, 0x0100_0000);
    m.chip.isaLine(4).set(true);
    m.chip.pic.master.write(1, 1, 0xff);
    expect(m.chip.acknowledge(1)).toBe(0x37);
    expect(m.chip.pending(1)).toBe(-1);
  });

  it("carries NMI and INIT", () => {
    const m = machine();
    m.route(5, 0x400, 0x0100_0000);
    m.route(6, 0x500, 0x0100_0000);
    m.chip.isaLine(5).set(true);
    m.chip.isaLine(6).set(true);
    expect(m.log).toEqual(["nmi 1", "init 1"]);
  });
});

describe("lines", () => {
  it.each([0, 24, -1, 1.5, Number.NaN])("has no GSI %d", (gsi) => {
    expect(() => machine().chip.line(gsi)).toThrow(/line: expected a GSI/);
  });

  it.each([2, 16, -1, 0.5])("has no ISA IRQ %d", (irq) => {
    expect(() => machine().chip.isaLine(irq)).toThrow(/isaLine: expected an ISA IRQ/);
  });

  it("works before it is connected", async () => {
    const { IrqChip } = await import("../src/index.ts");
    const { TestClock } = await import("./irq-machine.ts");
    const chip: IrqChip = new IrqChip(new TestClock(), { vcpus: 1 });
    chip.nmiLine().set(true);
    chip.send(0xfee0_0000, 0x40);
    expect(chip.acknowledge(0)).toBe(0x40);
  });
});

describe("what Linux checks while booting", () => {
  it("check_timer: IRQ 0 ticks through input 2 after the 8259 is set to AEOI and masked", () => {
    const m = machine();
    enable(m, 0);
    initPic(m);
    m.wr(0, 0x350, MASKED | 0x700);
    initPic(m, 0, true);
    m.route(2, 0x30, 0);
    const pit = m.chip.isaLine(0);
    let ticks = 0;
    for (let tick = 0; tick < 10; tick++) {
      m.clock.advance(4_000_000);
      // Rate generator: low for one period of its input, then high again.
      pit.set(false);
      pit.set(true);
      ticks += m.drain(0).filter((vector) => vector === 0x30).length;
    }
    // timer_irq_works() wants more than four in ten jiffies.
    expect(ticks).toBe(10);
  });

  it("check_timer's last resort: IRQ 0 as ExtINT through LINT0", () => {
    const m = machine();
    enable(m, 0);
    initPic(m, 0x01);
    m.wr(0, 0x350, 0x700);
    const pit = m.chip.isaLine(0);
    for (let tick = 0; tick < 5; tick++) {
      pit.set(false);
      pit.set(true);
      expect(m.chip.acknowledge(0)).toBe(0x30);
      m.chip.pic.master.write(0, 1, 0x60);
    }
  });

  it("clear_IO_APIC_pin: a remote IRR left over is gone after EOI, or after level and edge writes", () => {
    const m = machine();
    enable(m, 0);
    m.route(20, LEVEL | 0x55);
    m.chip.line(20).set(true);
    expect(m.ioRead(0x38)).toBe(LEVEL | 0x4000 | 0x55);
    m.ioWrite(0x38, MASKED | LEVEL | 0x55);
    m.chip.ioapic.write(0x40, 4, 0x55);
    m.ioWrite(0x38, MASKED);
    expect(m.ioRead(0x38)).toBe(MASKED);
  });

  it("setup_local_APIC: masks follow the soft disable, stale interrupts drain, no ESR is left", () => {
    const m = machine();
    m.chip.send(0xfee0_0000, 0x31);
    m.chip.acknowledge(0);
    m.wr(0, 0xf0, m.rd(0, 0xf0) & ~0x100);
    expect(m.rd(0, 0x350)).toBe(MASKED | 0x700);
    m.wr(0, 0xe0, 0xffff_ffff);
    m.wr(0, 0xd0, 0x0100_0000);
    m.wr(0, 0x80, 0x10);
    m.wr(0, 0xb0, 0);
    for (let word = 0; word < 8; word++) {
      expect(m.rd(0, 0x100 + word * 0x10)).toBe(0);
      expect(m.rd(0, 0x200 + word * 0x10)).toBe(0);
    }
    m.wr(0, 0xf0, 0x1ff);
    m.wr(0, 0x350, MASKED | 0x700);
    m.wr(0, 0x360, 0x400);
    m.wr(0, 0x280, 0);
    m.wr(0, 0x370, 0xfe);
    m.wr(0, 0x280, 0);
    expect(m.rd(0, 0x280)).toBe(0);
  });

  it("clear_local_APIC: what it writes raises no error", () => {
    const m = machine();
    enable(m, 0);
    m.wr(0, 0x370, MASKED | 0xfe);
    for (const register of [0x320, 0x350, 0x360, 0x340, 0x330, 0x2f0]) {
      m.wr(0, register, m.rd(0, register) | MASKED);
      m.wr(0, register, MASKED);
    }
    m.wr(0, 0x370, MASKED);
    m.wr(0, 0x280, 0);
    expect(m.rd(0, 0x280)).toBe(0);
  });

  it("calibrate_APIC_clock: the counter runs at the option's frequency divided by 16", () => {
    const m = machine({ timerHz: 100_000_000 });
    enable(m, 0);
    m.wr(0, 0x320, 0xec);
    m.wr(0, 0x3e0, 0x3);
    m.wr(0, 0x380, 0xffff_ffff);
    m.clock.advance(100_000_000);
    expect(0xffff_ffff - m.rd(0, 0x390)).toBe(625_000);
  });

  it("__x2apic_disable and __x2apic_enable", () => {
    const m = machine();
    enterX2apic(m, 0);
    expect(m.apic(0).writeMsr(0x1b, 0xfee0_0100n)).toBe(true);
    expect(m.apic(0).writeMsr(0x1b, 0xfee0_0900n)).toBe(true);
    expect(m.rd(0, 0x20)).toBe(0);
    expect(m.apic(0).writeMsr(0x1b, 0xfee0_0d00n)).toBe(true);
  });

  it("wakeup_secondary_cpu_via_init: INIT, de-assert, two start-ups reach the target only", () => {
    const m = machine({ vcpus: 3 });
    enable(m, 0);
    const to = (cpu: number, low: number): void => {
      m.wr(0, 0x310, cpu << 24);
      m.wr(0, 0x300, low);
      expect(m.rd(0, 0x300) & 0x1000).toBe(0);
    };
    to(2, 0xc500);
    to(2, 0x8500);
    to(2, 0x0698);
    to(2, 0x0698);
    expect(m.log).toEqual(["init 2", "startup 2 0x98", "startup 2 0x98"]);
  });
});

describe("wakes", () => {
  it("come once for each interrupt that a processor could take, and for none that it could not", () => {
    const m = machine();
    enable(m, 0, 1);
    m.apic(1).setTpr(8);
    m.chip.send(0xfee0_1000, 0x50);
    expect(m.wakes).toEqual([]);
    m.chip.send(0xfee0_1000, 0x90);
    expect(m.wakes).toEqual([1]);
    m.chip.send(0xfee0_1000, 0x90);
    expect(m.wakes).toEqual([1]);
    m.apic(1).setTpr(0);
    m.chip.acknowledge(1);
    m.wr(1, 0xb0, 0);
    expect(m.wakes).toEqual([1, 1]);
  });

  it("come from timers", () => {
    const m = machine();
    enable(m, 1);
    m.wr(1, 0x320, 0xec);
    m.wr(1, 0x380, 1000);
    m.clock.advance(2000);
    expect(m.wakes).toEqual([1]);
  });
});

describe("reset", () => {
  it("brings everything back to power-up, lines kept", () => {
    const m = machine();
    const fresh = m.chip.save();
    enable(m, 0, 1);
    initPic(m, 0xffff);
    m.route(20, LEVEL | 0x55);
    const line = m.chip.line(20);
    line.set(true);
    m.chip.reset();
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.drain(0)).toEqual([]);
    expect({ ...m.chip.save(), ioapic: { ...m.chip.save().ioapic, levels: 0 } }).toEqual(fresh);
    m.route(20, LEVEL | 0x66);
    expect(m.chip.acknowledge(0)).toBe(0x66);
    line.set(false);
    m.wr(0, 0xb0, 0);
    expect(m.chip.pending(0)).toBe(-1);
  });
});

describe("state", () => {
  /** A machine in the middle of most things. */
  const busy = (): Machine => {
    const m = machine();
    enable(m, 0);
    enterX2apic(m, 1);
    initPic(m, 0xffff);
    m.route(20, LEVEL | 0x55);
    m.route(4, 0x44, 0x0100_0000);
    m.chip.line(20).set(true);
    m.chip.isaLine(4).set(true);
    m.chip.acknowledge(0);
    m.chip.send(0xfee0_0000, 0xc0);
    m.chip.acknowledge(0);
    m.rd(0, 0x40);
    m.wr(0, 0x320, 0x2_00ec);
    m.wr(0, 0x3e0, 0xb);
    m.wr(0, 0x380, 1_000_000);
    m.apic(1).writeMsr(0x832, 0x4_00ecn);
    m.clock.advance(300_000);
    m.apic(1).writeMsr(0x6e0, 900_000n);
    m.apic(1).writeMsr(0x830, 0x4_00d0n);
    return m;
  };

  it("goes on elsewhere as it would have here", () => {
    const a = busy();
    const b = machine();
    b.clock.skip(300_000);
    b.chip.restore(structuredClone(a.chip.save()));
    expect(b.chip.save()).toEqual(a.chip.save());
    expect(b.wakes.sort()).toEqual([0, 1].filter((cpu) => b.chip.pending(cpu) >= 0));
    for (const m of [a, b]) {
      m.clock.advance(2_000_000);
      m.chip.pic.master.write(0, 1, 0x20);
    }
    for (const cpu of [0, 1]) {
      expect(b.chip.pending(cpu)).toBe(a.chip.pending(cpu));
      expect(b.chip.acknowledge(cpu)).toBe(a.chip.acknowledge(cpu));
    }
    expect(b.chip.save()).toEqual(a.chip.save());
    expect(b.clock.next).toBe(a.clock.next);
  });

  it("is taken by a machine that was doing something else, without sending anything", () => {
    const a = busy();
    const b = machine();
    b.clock.skip(300_000);
    initPic(b, 0xffff);
    b.route(0, 0x400, 0xff00_0000);
    b.wr(0, 0x350, 0x500);
    b.chip.restore(a.chip.save());
    expect(b.log).toEqual([]);
    expect(b.chip.save()).toEqual(a.chip.save());
  });

  it("is one clock apart no different: countdowns go on from where they were", () => {
    const a = busy();
    const b = machine();
    b.clock.skip(5_000_000_000);
    b.chip.restore(a.chip.save());
    expect(b.rd(0, 0x390)).toBe(700_000);
    b.drain(0);
    b.clock.advance(700_000);
    expect(b.drain(0)).toContain(0xec);
  });

  it("has devices drive their lines anew without another edge", () => {
    const a = machine();
    enable(a, 0);
    a.route(4, 0x44);
    a.chip.isaLine(4).set(true);
    a.drain(0);
    const b = machine();
    b.chip.restore(a.chip.save());
    const line = b.chip.isaLine(4);
    line.set(true);
    expect(b.drain(0)).toEqual([]);
    line.set(false);
    line.set(true);
    expect(b.drain(0)).toEqual([0x44]);
  });

  const broken: [string, (state: ReturnType<IrqChip["save"]>) => unknown, RegExp][] = [
    ["no object", () => 7, /irqchip: expected an object, got 7/],
    ["another kind", (state) => ({ ...state, kind: "lapic" }), /irqchip\.kind/],
    ["another version", (state) => ({ ...state, version: 2 }), /irqchip\.version: expected 1, got 2/],
    [
      "too few APICs",
      (state) => ({ ...state, lapics: state.lapics.slice(1) }),
      /lapics: expected an array of 2/,
    ],
    ["a turn beyond", (state) => ({ ...state, turn: 2 }), /irqchip\.turn/],
    ["no I/O APIC", (state) => ({ ...state, ioapic: undefined }), /ioapic: expected/],
    ["no 8259s", (state) => ({ ...state, pic: null }), /pic8259: expected/],
  ];
  const lapic = (field: string, value: unknown): (typeof broken)[number] => [
    `lapic.${field} ${String(value)}`,
    (state) => ({ ...state, lapics: [state.lapics[0], { ...state.lapics[1], [field]: value }] }),
    new RegExp(`lapic\\.${field}: expected`),
  ];
  const timer = (field: string, value: unknown): (typeof broken)[number] => [
    `timer.${field} ${String(value)}`,
    (state) => {
      const [first, second] = state.lapics;
      return { ...state, lapics: [first, { ...second, timer: { ...second!.timer, [field]: value } }] };
    },
    new RegExp(`lapic-timer\\.${field}: expected`),
  ];

  it.each([
    ...broken,
    lapic("apicBase", 0xfee0_0400n),
    lapic("apicBase", 0xfee0_0801n),
    lapic("apicBase", -1n),
    lapic("apicBase", 5),
    lapic("tpr", 256),
    lapic("ldr", -1),
    lapic("svr", 0x1_0000),
    lapic("errorRaised", 0),
    lapic("icrHigh", 2 ** 32),
    lapic("lvt", [0, 0]),
    lapic("lvt", Array(7).fill(2 ** 20)),
    lapic("irr", [0x8000, 0, 0, 0, 0, 0, 0, 0]),
    lapic("isr", Array(8).fill(1.5)),
    lapic("tmr", "00000000"),
    lapic("extInt", undefined),
    timer("kind", "x"),
    timer("initialCount", 2 ** 32),
    timer("startCount", -1),
    timer("elapsedNs", Number.POSITIVE_INFINITY),
    timer("elapsedNs", -1),
    timer("sinceFireNs", 1e9),
    timer("deadline", 1n << 64n),
  ])("is refused with %s, and nothing changes", (_, breakIt, message) => {
    const m = busy();
    const before = m.chip.save();
    expect(() => m.chip.restore(breakIt(busy().chip.save()))).toThrow(message);
    expect(m.chip.save()).toEqual(before);
  });
});
