// Local APIC registers, priorities and modes, as a guest sees them. Values: Intel SDM Vol. 3A ch. 11.
import { describe, expect, it } from "vitest";
import { LocalApic, LvtEntry } from "../src/index.ts";
import { enable, enterX2apic, machine, TestClock } from "./irq-machine.ts";

/** A vCPU without the virtual wire: the SDM's RESET state. */
const plain = { virtualWire: false };

/** Register offsets of the xAPIC page that exist here (table 11-1). */
const EXISTING = [
  0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0xc0, 0xd0, 0xe0, 0xf0, 0x100, 0x110, 0x120, 0x130, 0x140, 0x150, 0x160,
  0x170, 0x180, 0x190, 0x1a0, 0x1b0, 0x1c0, 0x1d0, 0x1e0, 0x1f0, 0x200, 0x210, 0x220, 0x230, 0x240, 0x250,
  0x260, 0x270, 0x280, 0x2f0, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0,
];

describe("local APIC registers after RESET", () => {
  const expected: Record<number, number> = {
    32: 0x0100_0000, // APIC ID 1
    48: 0x0106_0014, // version 0x14, seven LVT entries, EOI-broadcast suppression
    224: 0xffff_ffff, // flat
    240: 0x0000_00ff, // software-disabled
    752: 0x0001_0000,
    800: 0x0001_0000,
    816: 0x0001_0000,
    832: 0x0001_0000,
    848: 0x0001_0000,
    864: 0x0001_0000,
    880: 0x0001_0000,
  };

  it.each(EXISTING)("register 0x%s", (register) => {
    const m = machine(plain);
    expect(m.rd(1, register)).toBe(expected[register] ?? 0);
  });

  it("has IA32_APIC_BASE at FEE00000, enabled, with the BSP flag on the first only", () => {
    const m = machine(plain);
    expect(m.apic(0).readMsr(0x1b)).toBe(0xfee0_0900n);
    expect(m.apic(1).readMsr(0x1b)).toBe(0xfee0_0800n);
    expect(m.apic(0).mmioBase).toBe(0xfee0_0000);
  });

  it("leaves the boot processor's virtual wire as firmware does, by default", () => {
    const m = machine();
    expect(m.rd(0, 0xf0)).toBe(0x1ff);
    expect(m.rd(0, 0x350)).toBe(0x700);
    expect(m.rd(0, 0x360)).toBe(0x400);
    expect(m.rd(1, 0xf0)).toBe(0xff);
    expect(m.rd(1, 0x350)).toBe(0x1_0000);
  });
});

describe("local APIC registers written with ones and zeros", () => {
  // [register, what all ones leave, what zeros leave], software-enabled.
  const cases: [number, number, number][] = [
    [0x20, 0x0100_0000, 0x0100_0000],
    [0x30, 0x0106_0014, 0x0106_0014],
    [0x80, 0xff, 0],
    [0x90, 0, 0],
    [0xc0, 0, 0],
    [0xd0, 0xff00_0000, 0],
    [0xe0, 0xffff_ffff, 0x0fff_ffff],
    [0x100, 0, 0],
    [0x180, 0, 0],
    [0x200, 0, 0],
    [0x2f0, 0x1_07ff, 0],
    [0x310, 0xff00_0000, 0],
    [0x320, 0x7_00ff, 0],
    [0x330, 0x1_07ff, 0],
    [0x340, 0x1_07ff, 0],
    [0x350, 0x1_a7ff, 0],
    [0x360, 0x1_a7ff, 0],
    [0x370, 0x1_00ff, 0],
    [0x390, 0, 0],
    [0x3e0, 0xb, 0],
  ];

  it.each(cases)("register %i", (register, ones, zeros) => {
    const m = machine(plain);
    enable(m, 1);
    m.wr(1, register, 0xffff_ffff);
    expect(m.rd(1, register)).toBe(ones);
    m.wr(1, register, 0);
    expect(m.rd(1, register)).toBe(zeros);
  });

  it("keeps SVR's vector, enable, focus and EOI-suppression bits", () => {
    const m = machine(plain);
    m.wr(1, 0xf0, 0xffff_ffff);
    expect(m.rd(1, 0xf0)).toBe(0x13ff);
    m.wr(1, 0xf0, 0);
    expect(m.rd(1, 0xf0)).toBe(0);
  });

  it("keeps ICR's command without delivery status, and sends nothing for the reserved mode 7", () => {
    const m = machine(plain);
    m.wr(1, 0x300, 0xffff_ffff);
    expect(m.rd(1, 0x300)).toBe(0xc_cfff);
    expect(m.log).toEqual([]);
    expect(m.wakes).toEqual([]);
  });

  it("offers neither what its options leave out", () => {
    const m = machine({ ...plain, tscDeadline: false, eoiSuppression: false, x2apic: false });
    expect(m.rd(0, 0x30)).toBe(0x6_0014);
    m.wr(0, 0xf0, 0xffff_ffff);
    expect(m.rd(0, 0xf0)).toBe(0x3ff);
    m.wr(0, 0x320, 0xffff_ffff);
    expect(m.rd(0, 0x320)).toBe(0x3_00ff);
    expect(m.apic(0).readMsr(0x6e0)).toBeUndefined();
    expect(m.apic(0).writeMsr(0x6e0, 1n)).toBe(false);
    expect(m.apic(0).writeMsr(0x1b, 0xfee0_0d00n)).toBe(false);
  });

  it("masks every LVT entry while software-disabled, and keeps them masked", () => {
    const m = machine(plain);
    enable(m, 0);
    for (const register of [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370]) m.wr(0, register, 0x40);
    m.wr(0, 0xf0, 0xff);
    for (const register of [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370]) {
      expect(m.rd(0, register)).toBe(0x1_0040);
      m.wr(0, register, 0x41);
      expect(m.rd(0, register)).toBe(0x1_0041);
    }
  });
});

describe("local APIC access widths", () => {
  it("reads bytes and words of a register, and zero beyond its four bytes", () => {
    const m = machine(plain);
    expect(m.apic(0).read(0x30, 1)).toBe(0x14);
    expect(m.apic(0).read(0x32, 1)).toBe(0x06);
    expect(m.apic(0).read(0x32, 2)).toBe(0x0106);
    expect(m.apic(0).read(0x33, 4)).toBe(0x01);
    expect(m.apic(0).read(0x34, 4)).toBe(0);
    expect(m.apic(0).read(0xe0, 2)).toBe(0xffff);
  });

  it("drops writes that are not aligned doublewords", () => {
    const m = machine(plain);
    m.apic(0).write(0x80, 1, 0x50);
    m.apic(0).write(0x80, 2, 0x50);
    m.apic(0).write(0x82, 4, 0x50);
    m.apic(0).write(0x84, 4, 0x50);
    expect(m.rd(0, 0x80)).toBe(0);
  });

  it("answers every offset at every width without failing", () => {
    const m = machine(plain);
    for (let offset = 0; offset < 0x1000; offset++) {
      for (const size of [1, 2, 4] as const) {
        const value = m.apic(0).read(offset, size);
        expect(value).toBeGreaterThanOrEqual(0);
        expect(value).toBeLessThan(2 ** (8 * size));
        if (offset !== 0x300) m.apic(0).write(offset, size, 0xffff_ffff);
      }
    }
  });
});

describe("interrupt acceptance and priority (sec. 11.8)", () => {
  const msi = (m: ReturnType<typeof machine>, vector: number): void => m.chip.send(0xfee0_0000, vector);

  it("moves an interrupt from IRR to ISR to nothing", () => {
    const m = machine(plain);
    enable(m, 0);
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.chip.acknowledge(0)).toBe(-1);
    msi(m, 0x51);
    expect(m.chip.pending(0)).toBe(0x51);
    expect(m.chip.pending(0)).toBe(0x51);
    expect(m.rd(0, 0x220)).toBe(1 << 0x11);
    expect(m.wakes).toEqual([0]);
    expect(m.chip.acknowledge(0)).toBe(0x51);
    expect(m.rd(0, 0x220)).toBe(0);
    expect(m.rd(0, 0x120)).toBe(1 << 0x11);
    expect(m.rd(0, 0xa0)).toBe(0x50);
    expect(m.chip.pending(0)).toBe(-1);
    m.wr(0, 0xb0, 0);
    expect(m.rd(0, 0x120)).toBe(0);
    expect(m.rd(0, 0xa0)).toBe(0);
  });

  it("has every vector from 16 to 255 in its own bit, and takes them from the highest down", () => {
    const m = machine(plain);
    enable(m, 0);
    for (let vector = 16; vector < 256; vector++) {
      msi(m, vector);
      expect(m.rd(0, 0x200 + (vector >> 5) * 0x10) >>> (vector & 31)).toBe(1);
    }
    expect(m.drain(0)).toEqual(Array.from({ length: 240 }, (_, n) => 255 - n));
  });

  it("lets only a higher priority class interrupt the one in service", () => {
    const m = machine(plain);
    enable(m, 0);
    msi(m, 0x45);
    expect(m.chip.acknowledge(0)).toBe(0x45);
    msi(m, 0x4f);
    expect(m.chip.pending(0)).toBe(-1);
    msi(m, 0x50);
    expect(m.chip.acknowledge(0)).toBe(0x50);
    m.wr(0, 0xb0, 0);
    expect(m.chip.pending(0)).toBe(-1);
    m.wr(0, 0xb0, 0);
    expect(m.chip.pending(0)).toBe(0x4f);
  });

  it("holds a second of the same vector while the first is in service", () => {
    const m = machine(plain);
    enable(m, 0);
    msi(m, 0x61);
    m.chip.acknowledge(0);
    msi(m, 0x61);
    msi(m, 0x61);
    expect(m.chip.pending(0)).toBe(-1);
    m.wr(0, 0xb0, 0);
    expect(m.drain(0)).toEqual([0x61]);
  });

  it("masks by TPR class, from the register and from CR8", () => {
    const m = machine(plain);
    enable(m, 0);
    msi(m, 0x42);
    m.wr(0, 0x80, 0x4f);
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.rd(0, 0xa0)).toBe(0x4f);
    expect(m.apic(0).getTpr()).toBe(4);
    m.apic(0).setTpr(3);
    expect(m.rd(0, 0x80)).toBe(0x30);
    expect(m.chip.pending(0)).toBe(0x42);
    m.apic(0).setTpr(15);
    expect(m.chip.pending(0)).toBe(-1);
    m.apic(0).setTpr(0);
    expect(m.chip.pending(0)).toBe(0x42);
  });

  it("shows the greater of TPR and the class in service as PPR", () => {
    const m = machine(plain);
    enable(m, 0);
    msi(m, 0x63);
    m.chip.acknowledge(0);
    m.wr(0, 0x80, 0x25);
    expect(m.rd(0, 0xa0)).toBe(0x60);
    m.wr(0, 0x80, 0x65);
    expect(m.rd(0, 0xa0)).toBe(0x65);
    m.wr(0, 0x80, 0x71);
    expect(m.rd(0, 0xa0)).toBe(0x71);
  });

  it("ignores an EOI with nothing in service", () => {
    const m = machine(plain);
    enable(m, 0);
    msi(m, 0x40);
    m.wr(0, 0xb0, 0);
    expect(m.chip.pending(0)).toBe(0x40);
  });

  it("refuses fixed interrupts while software-disabled, but takes NMI, INIT and start-up", () => {
    const m = machine(plain);
    msi(m, 0x40);
    expect(m.chip.pending(0)).toBe(-1);
    m.chip.send(0xfee0_1000, 0x400);
    m.chip.send(0xfee0_1000, 0x500);
    enable(m, 0);
    m.wr(0, 0x310, 0x0100_0000);
    m.wr(0, 0x300, 0x69a);
    expect(m.log).toEqual(["nmi 1", "init 1", "startup 1 0x9a"]);
  });

  it("sets TMR for level-triggered and clears it for edge-triggered acceptances", () => {
    const m = machine(plain);
    enable(m, 0);
    m.chip.send(0xfee0_0000, 0xc052);
    expect(m.rd(0, 0x1a0)).toBe(1 << 0x12);
    msi(m, 0x52);
    expect(m.rd(0, 0x1a0)).toBe(0);
  });
});

describe("errors (sec. 11.5.3)", () => {
  it("shows them after a write to ESR, and raises its interrupt once until then", () => {
    const m = machine(plain);
    enable(m, 0);
    m.wr(0, 0x370, 0xfe);
    expect(m.rd(0, 0x280)).toBe(0);
    m.rd(0, 0x40);
    expect(m.rd(0, 0x280)).toBe(0);
    expect(m.drain(0)).toEqual([0xfe]);
    m.wr(0, 0x3f0, 1);
    expect(m.drain(0)).toEqual([]);
    m.wr(0, 0x280, 0);
    expect(m.rd(0, 0x280)).toBe(0x80);
    m.wr(0, 0x280, 0xffff_ffff);
    expect(m.rd(0, 0x280)).toBe(0);
    m.rd(0, 0x3f0);
    expect(m.drain(0)).toEqual([0xfe]);
  });

  it.each([0x00, 0x10, 0x40, 0x50, 0x60, 0x70, 0x290, 0x2e0, 0x3a0, 0x3d0, 0x3f0, 0x400, 0xff0])(
    "knows reserved register %i",
    (register) => {
      const m = machine(plain);
      expect(m.rd(0, register)).toBe(0);
      m.wr(0, 0x280, 0);
      expect(m.rd(0, 0x280)).toBe(0x80);
      m.wr(0, register, 1);
      m.wr(0, 0x280, 0);
      expect(m.rd(0, 0x280)).toBe(0x80);
    },
  );

  it("reports illegal vectors sent and received, and delivers neither", () => {
    const m = machine(plain);
    enable(m, 0, 1);
    m.wr(0, 0x310, 0x0100_0000);
    m.wr(0, 0x300, 0x0f);
    m.wr(0, 0x280, 0);
    expect(m.rd(0, 0x280)).toBe(0x20);
    m.chip.send(0xfee0_1000, 0x05);
    m.wr(1, 0x280, 0);
    expect(m.rd(1, 0x280)).toBe(0x40);
    expect(m.chip.pending(0)).toBe(-1);
    expect(m.chip.pending(1)).toBe(-1);
  });

  it("reports an illegal vector in its own error entry without looping", () => {
    const m = machine(plain);
    enable(m, 0);
    m.wr(0, 0x370, 0x03);
    m.rd(0, 0x40);
    m.wr(0, 0x280, 0);
    expect(m.rd(0, 0x280)).toBe(0xc0);
  });
});

describe("LINT pins and local events", () => {
  it("delivers NMI on the rising edge of LINT1, also while globally disabled", () => {
    const m = machine();
    const line = m.chip.nmiLine();
    line.set(true);
    line.set(true);
    expect(m.log).toEqual(["nmi 0"]);
    line.set(false);
    m.wr(0, 0x360, 0x1_0400);
    line.set(true);
    expect(m.log).toEqual(["nmi 0"]);
    line.set(false);
    m.apic(0).writeMsr(0x1b, 0n);
    line.set(true);
    expect(m.log).toEqual(["nmi 0", "nmi 0"]);
  });

  /** An APIC on its own, its LINT pins in the test's hand. */
  const single = () => {
    const log: string[] = [];
    const apic = new LocalApic(
      {
        ipi: (message) => log.push(`ipi ${message.vector}`),
        eoi: (vector) => log.push(`eoi ${vector}`),
        wake: () => {},
        nmi: () => log.push("nmi"),
        init: () => log.push("init"),
        startup: () => log.push("startup"),
      },
      new TestClock(),
      { id: 0 },
    );
    apic.write(0xf0, 4, 0x1ff);
    return { apic, log };
  };

  it("serves a level-triggered LINT0 once an EOI while it stays asserted", () => {
    const { apic, log } = single();
    apic.write(0x350, 4, 0x8044);
    apic.setLint(0, true);
    expect(apic.read(0x350, 4)).toBe(0xc044);
    expect(apic.acknowledge()).toBe(0x44);
    expect(apic.pending).toBe(-1);
    apic.write(0xb0, 4, 0);
    expect(log).toEqual(["eoi 68"]);
    expect(apic.acknowledge()).toBe(0x44);
    apic.setLint(0, false);
    apic.write(0xb0, 4, 0);
    expect(apic.pending).toBe(-1);
    expect(apic.read(0x350, 4)).toBe(0x8044);
  });

  it("delivers an edge-triggered LINT0 once", () => {
    const { apic } = single();
    apic.write(0x350, 4, 0x45);
    apic.setLint(0, true);
    expect(apic.acknowledge()).toBe(0x45);
    apic.write(0xb0, 4, 0);
    expect(apic.pending).toBe(-1);
    apic.setLint(0, false);
    expect(apic.pending).toBe(-1);
    apic.setLint(0, true);
    expect(apic.pending).toBe(0x45);
  });

  it("serves a LINT0 that was asserted while masked when it is unmasked, if level-triggered", () => {
    const { apic } = single();
    apic.write(0x350, 4, 0x1_8044);
    apic.setLint(0, true);
    expect(apic.pending).toBe(-1);
    apic.write(0x350, 4, 0x8044);
    expect(apic.pending).toBe(0x44);
  });

  it("delivers NMI and INIT from LINT0, drops SMI", () => {
    const { apic, log } = single();
    for (const mode of [0x400, 0x200]) {
      apic.write(0x350, 4, mode);
      apic.setLint(0, true);
      apic.setLint(0, false);
    }
    apic.write(0x350, 4, 0x500);
    apic.setLint(0, true);
    expect(log).toEqual(["nmi", "init"]);
    expect(apic.read(0x350, 4)).toBe(0x1_0000);
  });

  it("fires thermal, CMCI and performance entries, and masks the last", () => {
    const { apic, log } = single();
    apic.localEvent(LvtEntry.THERMAL);
    expect(apic.pending).toBe(-1);
    apic.write(0x330, 4, 0xfa);
    apic.write(0x2f0, 4, 0xf9);
    apic.write(0x340, 4, 0x400);
    apic.localEvent(LvtEntry.CMCI);
    expect(apic.pending).toBe(0xf9);
    apic.localEvent(LvtEntry.THERMAL);
    expect(apic.pending).toBe(0xfa);
    apic.localEvent(LvtEntry.PERFORMANCE);
    apic.localEvent(LvtEntry.PERFORMANCE);
    expect(log).toEqual(["nmi"]);
    expect(apic.read(0x340, 4)).toBe(0x1_0400);
  });

  it.each([
    [{ id: 255 }, /id: expected .* got 255/],
    [{ id: 0, physicalAddressBits: 32 }, /physicalAddressBits: expected .* got 32/],
    [{ id: 0, timerHz: 0 }, /timerHz: expected .* got 0/],
  ])("refuses options %o", (options, message) => {
    const host = { ipi() {}, eoi() {}, wake() {}, nmi() {}, init() {}, startup() {} };
    expect(() => new LocalApic(host, new TestClock(), options)).toThrow(message);
  });
});

describe("IA32_APIC_BASE (sec. 11.4.4, 11.12.1)", () => {
  const XAPIC = 0xfee0_0800n;
  const X2APIC = 0xfee0_0c00n;
  const DISABLED = 0xfee0_0000n;
  const INVALID = 0xfee0_0400n;
  // Fig. 11-27: from, to, allowed.
  const transitions: [bigint, bigint, boolean][] = [
    [XAPIC, XAPIC, true],
    [XAPIC, X2APIC, true],
    [XAPIC, DISABLED, true],
    [XAPIC, INVALID, false],
    [X2APIC, X2APIC, true],
    [X2APIC, XAPIC, false],
    [X2APIC, DISABLED, true],
    [X2APIC, INVALID, false],
    [DISABLED, DISABLED, true],
    [DISABLED, XAPIC, true],
    [DISABLED, X2APIC, false],
    [DISABLED, INVALID, false],
  ];

  it.each(transitions)("from %s to %s: %s", (from, to, allowed) => {
    const m = machine(plain);
    expect(m.apic(1).writeMsr(0x1b, from)).toBe(true);
    expect(m.apic(1).writeMsr(0x1b, to)).toBe(allowed);
    expect(m.apic(1).readMsr(0x1b)).toBe(allowed ? to : from);
    const now = allowed ? to : from;
    expect(m.apic(1).mmioBase).toBe(now === XAPIC ? 0xfee0_0000 : undefined);
  });

  it("moves the page, and refuses reserved bits and addresses beyond the physical width", () => {
    const m = machine({ ...plain, physicalAddressBits: 40 });
    expect(m.apic(0).writeMsr(0x1b, 0xff_1234_5900n)).toBe(true);
    expect(m.apic(0).mmioBase).toBe(0xff_1234_5000);
    expect(m.apic(0).writeMsr(0x1b, 0x100_0000_0900n)).toBe(false);
    for (const bit of [0n, 1n, 7n, 9n, 40n, 63n])
      expect(m.apic(0).writeMsr(0x1b, 0xfee0_0900n | (1n << bit))).toBe(false);
    expect(m.apic(0).mmioBase).toBe(0xff_1234_5000);
  });

  it("loses its state when disabled", () => {
    const m = machine(plain);
    enable(m, 0);
    m.wr(0, 0x80, 0x20);
    m.chip.send(0xfee0_0000, 0x55);
    m.apic(0).writeMsr(0x1b, 0xfee0_0100n);
    expect(m.chip.pending(0)).toBe(-1);
    m.chip.send(0xfee0_0000, 0x56);
    m.apic(0).writeMsr(0x1b, 0xfee0_0900n);
    expect(m.rd(0, 0x80)).toBe(0);
    expect(m.rd(0, 0xf0)).toBe(0xff);
    expect(m.drain(0)).toEqual([]);
  });
});

describe("x2APIC (sec. 11.12)", () => {
  it("keeps the registers of xAPIC mode, with a 32-bit ID and its logical ID", () => {
    const m = machine({ ...plain, vcpus: 40 });
    enable(m, 37);
    m.wr(37, 0x80, 0x30);
    enterX2apic(m, 37);
    expect(m.apic(37).readMsr(0x802)).toBe(37n);
    expect(m.apic(37).readMsr(0x803)).toBe(0x106_0014n);
    expect(m.apic(37).readMsr(0x808)).toBe(0x30n);
    expect(m.apic(37).readMsr(0x80d)).toBe(0x2_0020n);
    expect(m.apic(37).readMsr(0x80f)).toBe(0x1ffn);
  });

  // Table 11-6; what is not listed raises #GP.
  const readable = [
    0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f, 0x828, 0x82f, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837,
    0x838, 0x839, 0x83e,
  ];
  const writable = [
    0x808, 0x80b, 0x80f, 0x828, 0x82f, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83e,
  ];

  it("has exactly the MSRs of the table", () => {
    const m = machine(plain);
    enterX2apic(m, 0);
    for (let msr = 0x800; msr <= 0x8ff; msr++) {
      const bitmap = msr >= 0x810 && msr <= 0x827;
      expect([msr, m.apic(0).readMsr(msr) !== undefined]).toEqual([msr, bitmap || readable.includes(msr)]);
      if (msr === 0x830 || msr === 0x83f) continue;
      expect([msr, m.apic(0).writeMsr(msr, 0n)]).toEqual([msr, writable.includes(msr)]);
    }
    expect(m.apic(0).readMsr(0x900)).toBeUndefined();
    expect(m.apic(0).readMsr(0x7ff)).toBeUndefined();
  });

  it("has none of them in xAPIC mode", () => {
    const m = machine(plain);
    for (let msr = 0x800; msr <= 0x8ff; msr++) {
      expect(m.apic(0).readMsr(msr)).toBeUndefined();
      expect(m.apic(0).writeMsr(msr, 0n)).toBe(false);
    }
  });

  it.each([
    [0x808, 0x100n],
    [0x80b, 1n],
    [0x80f, 0x400n],
    [0x828, 1n],
    [0x830, 0x2000n],
    [0x830, 0x10_0000n],
    [0x832, 0x100n],
    [0x835, 0x800n],
    [0x837, 0x100n],
    [0x838, 0x1_0000_0000n],
    [0x83e, 4n],
    [0x83f, 0x100n],
  ])("refuses reserved bits: MSR %i, value %s", (msr, value) => {
    const m = machine(plain);
    enterX2apic(m, 0);
    expect(m.apic(0).writeMsr(msr, value)).toBe(false);
  });

  it("takes and ends interrupts", () => {
    const m = machine(plain);
    enterX2apic(m, 0);
    m.chip.send(0xfee0_0000, 0x71);
    expect(m.apic(0).readMsr(0x823)).toBe(1n << 17n);
    expect(m.chip.acknowledge(0)).toBe(0x71);
    expect(m.apic(0).readMsr(0x80a)).toBe(0x70n);
    expect(m.apic(0).writeMsr(0x80b, 0n)).toBe(true);
    expect(m.apic(0).readMsr(0x80a)).toBe(0n);
  });

  it("keeps its mode and ID over INIT", () => {
    const m = machine(plain);
    enterX2apic(m, 0, 1);
    m.apic(1).writeMsr(0x808, 0x20n);
    expect(m.apic(0).writeMsr(0x830, (1n << 32n) | 0x4500n)).toBe(true);
    expect(m.log).toEqual(["init 1"]);
    expect(m.apic(1).readMsr(0x802)).toBe(1n);
    expect(m.apic(1).readMsr(0x808)).toBe(0n);
    expect(m.apic(1).readMsr(0x80f)).toBe(0xffn);
  });
});
