// Who gets an IPI or MSI: every destination mode, shorthand and delivery mode. Intel SDM Vol. 3A sec. 11.6, 11.11.
import { describe, expect, it } from "vitest";
import { enable, enterX2apic, type Machine, machine } from "./irq-machine.ts";

const VECTOR = 0x62;
const LOGICAL = 0x800;
const LOWEST = 0x100;
const SELF = 0x4_0000;
const ALL = 0x8_0000;
const OTHERS = 0xc_0000;

/** Four processors in xAPIC mode, enabled, logical IDs by the flat model: 1, 2, 4, 8. */
function four(): Machine {
  const m = machine({ vcpus: 4 });
  enable(m, 0, 1, 2, 3);
  for (let cpu = 0; cpu < 4; cpu++) m.wr(cpu, 0xd0, (1 << cpu) << 24);
  return m;
}

function ipi(m: Machine, from: number, low: number, destination = 0): void {
  m.wr(from, 0x310, (destination << 24) >>> 0);
  m.wr(from, 0x300, low);
}

/** The processors that have `VECTOR` to take, which they then take. */
function receivers(m: Machine, cpus = 4): number[] {
  return Array.from({ length: cpus }, (_, cpu) => cpu).filter((cpu) => m.drain(cpu).includes(VECTOR));
}

describe("xAPIC IPIs", () => {
  it.each([
    [0, [0]],
    [2, [2]],
    [3, [3]],
    [4, []],
    [0xfe, []],
    [0xff, [0, 1, 2, 3]],
  ])("physical destination %i", (destination, expected) => {
    const m = four();
    ipi(m, 1, VECTOR, destination);
    expect(receivers(m)).toEqual(expected);
  });

  it.each([
    [0x01, [0]],
    [0x06, [1, 2]],
    [0x0f, [0, 1, 2, 3]],
    [0xf0, []],
    [0x00, []],
    [0xff, [0, 1, 2, 3]],
  ])("flat logical destination 0x%s", (destination, expected) => {
    const m = four();
    ipi(m, 1, LOGICAL | VECTOR, destination);
    expect(receivers(m)).toEqual(expected);
  });

  it.each([
    [0x01, [0]],
    [0x03, [0, 1]],
    [0x11, [2]],
    [0x13, [2, 3]],
    [0x21, []],
    [0x04, []],
    [0xff, [0, 1, 2, 3]],
  ])("cluster logical destination 0x%s", (destination, expected) => {
    const m = four();
    for (const [cpu, logical] of [0x01, 0x02, 0x11, 0x12].entries()) {
      m.wr(cpu, 0xe0, 0x0fff_ffff);
      m.wr(cpu, 0xd0, logical << 24);
    }
    ipi(m, 1, LOGICAL | VECTOR, destination);
    expect(receivers(m)).toEqual(expected);
  });

  it("matches nothing but the broadcast in an undefined destination model", () => {
    const m = four();
    m.wr(2, 0xe0, 0x7fff_ffff);
    ipi(m, 1, LOGICAL | VECTOR, 0x04);
    expect(receivers(m)).toEqual([]);
    ipi(m, 1, LOGICAL | VECTOR, 0xff);
    expect(receivers(m)).toEqual([0, 1, 2, 3]);
  });

  it.each([
    [SELF, [1]],
    [ALL, [0, 1, 2, 3]],
    [OTHERS, [0, 2, 3]],
  ])("shorthand 0x%s", (shorthand, expected) => {
    const m = four();
    ipi(m, 1, shorthand | VECTOR, 3);
    expect(receivers(m)).toEqual(expected);
  });

  it("sends lowest priority to the one with the least PPR, and round to equals", () => {
    const m = four();
    m.wr(0, 0x80, 0x40);
    m.wr(1, 0x80, 0x20);
    m.wr(2, 0x80, 0x30);
    m.wr(3, 0x80, 0x40);
    ipi(m, 0, LOGICAL | LOWEST | VECTOR, 0x0f);
    expect(receivers(m)).toEqual([1]);
    ipi(m, 0, LOGICAL | LOWEST | VECTOR, 0x0d);
    expect(receivers(m)).toEqual([2]);
    for (let cpu = 0; cpu < 4; cpu++) m.wr(cpu, 0x80, 0);
    const seen = new Set<number>();
    for (let count = 0; count < 4; count++) {
      ipi(m, 0, LOGICAL | LOWEST | VECTOR, 0x0f);
      const got = receivers(m);
      expect(got).toHaveLength(1);
      seen.add(got[0]!);
    }
    expect(seen.size).toBe(4);
  });

  it("passes over software-disabled processors for lowest priority", () => {
    const m = four();
    for (const cpu of [0, 1, 3]) m.wr(cpu, 0xf0, 0xff);
    for (let count = 0; count < 4; count++) {
      ipi(m, 0, OTHERS | LOWEST | VECTOR);
      expect(receivers(m)).toEqual([2]);
    }
  });

  it("delivers NMI, INIT and start-up to destinations and to all others", () => {
    const m = four();
    ipi(m, 0, 0x4400, 2);
    ipi(m, 0, 0x4500, 1);
    ipi(m, 0, 0x4608, 1);
    expect(m.log).toEqual(["nmi 2", "init 1", "startup 1 0x8"]);
    m.log.length = 0;
    ipi(m, 0, OTHERS | 0x400);
    ipi(m, 3, OTHERS | 0x4500);
    ipi(m, 0, OTHERS | 0x4699);
    expect(m.log).toEqual([
      "nmi 1",
      "nmi 2",
      "nmi 3",
      "init 0",
      "init 1",
      "init 2",
      "startup 1 0x99",
      "startup 2 0x99",
      "startup 3 0x99",
    ]);
  });

  it("resets the APIC that an INIT reaches, ID and base kept", () => {
    const m = four();
    ipi(m, 2, VECTOR, 3);
    m.wr(3, 0x80, 0x10);
    ipi(m, 2, 0xc500, 3);
    expect(m.rd(3, 0x20)).toBe(0x0300_0000);
    expect([m.rd(3, 0xd0), m.rd(3, 0xf0), m.rd(3, 0x80), m.rd(3, 0x230)]).toEqual([0, 0xff, 0, 0]);
    expect(m.apic(3).readMsr(0x1b)).toBe(0xfee0_0800n);
    expect(m.chip.pending(3)).toBe(-1);
  });

  it.each([
    ["INIT level de-assert", 0x8500],
    ["INIT level de-assert to all", ALL | 0x8500],
    ["SMI", 0x4200],
    ["the reserved mode", 0x4300 | VECTOR],
    ["ExtINT", 0x4700 | VECTOR],
    ["NMI to self by shorthand", SELF | 0x400],
    ["INIT to all by shorthand", ALL | 0x500],
    ["start-up to all by shorthand", ALL | 0x600],
    ["lowest priority to self by shorthand", SELF | LOWEST | VECTOR],
  ])("drops %s", (_, low) => {
    const m = four();
    ipi(m, 1, low, 2);
    expect(m.log).toEqual([]);
    expect(receivers(m)).toEqual([]);
    expect(m.rd(2, 0xf0)).toBe(0x1ff);
  });

  it("treats an asserted level as an edge", () => {
    const m = four();
    ipi(m, 1, 0xc000 | VECTOR, 2);
    expect(m.rd(2, 0x1b0)).toBe(0);
    expect(receivers(m)).toEqual([2]);
  });

  it("reaches no processor whose APIC is globally disabled", () => {
    const m = four();
    m.apic(2).writeMsr(0x1b, 0xfee0_0000n);
    ipi(m, 1, VECTOR, 2);
    ipi(m, 1, ALL | VECTOR);
    ipi(m, 1, 0x4400, 2);
    ipi(m, 1, 0x4500, 2);
    expect(m.log).toEqual([]);
    expect(receivers(m)).toEqual([0, 1, 3]);
  });
});

describe("x2APIC IPIs", () => {
  /** 40 processors: clusters of 16. */
  const many = (): Machine => {
    const m = machine({ vcpus: 40 });
    enterX2apic(m, ...Array.from({ length: 40 }, (_, cpu) => cpu));
    return m;
  };
  const taken = (m: Machine): number[] => {
    const cpus: number[] = [];
    for (let cpu = 0; cpu < 40; cpu++)
      for (let vector = m.chip.acknowledge(cpu); vector >= 0; vector = m.chip.acknowledge(cpu)) {
        expect(vector).toBe(VECTOR);
        cpus.push(cpu);
        m.apic(cpu).writeMsr(0x80b, 0n);
      }
    return cpus;
  };
  const every = Array.from({ length: 40 }, (_, cpu) => cpu);

  it.each([
    [0x0000_0000n, [0]],
    [0x0000_0027n, [39]],
    [0x0000_0028n, []],
    [0x0000_00ffn, []],
    [0x0100_0000n, []],
    [0xffff_ffffn, every],
  ])("physical destination 0x%s", (destination, expected) => {
    const m = many();
    expect(m.apic(7).writeMsr(0x830, (destination << 32n) | BigInt(VECTOR))).toBe(true);
    expect(m.apic(7).readMsr(0x830)).toBe((destination << 32n) | BigInt(VECTOR));
    expect(taken(m)).toEqual(expected);
  });

  it.each([
    [0x0000_0001n, [0]],
    [0x0000_8001n, [0, 15]],
    [0x0001_0003n, [16, 17]],
    [0x0002_00ffn, [32, 33, 34, 35, 36, 37, 38, 39]],
    [0x0002_ff00n, []],
    [0x0003_ffffn, []],
    [0x0001_0000n, []],
    [0xffff_ffffn, every],
  ])("logical destination 0x%s", (destination, expected) => {
    const m = many();
    m.apic(7).writeMsr(0x830, (destination << 32n) | BigInt(LOGICAL | VECTOR));
    expect(taken(m)).toEqual(expected);
  });

  it("has the shorthands, and the self-IPI register", () => {
    const m = many();
    m.apic(7).writeMsr(0x83f, BigInt(VECTOR));
    expect(taken(m)).toEqual([7]);
    m.apic(7).writeMsr(0x830, BigInt(SELF | VECTOR));
    expect(taken(m)).toEqual([7]);
    m.apic(7).writeMsr(0x830, BigInt(ALL | VECTOR));
    expect(taken(m)).toEqual(every);
    m.apic(7).writeMsr(0x830, BigInt(OTHERS | VECTOR));
    expect(taken(m)).toEqual(every.filter((cpu) => cpu !== 7));
  });

  it("reports an illegal self-IPI vector", () => {
    const m = many();
    m.apic(7).writeMsr(0x83f, 5n);
    m.apic(7).writeMsr(0x828, 0n);
    expect(m.apic(7).readMsr(0x828)).toBe(0x20n);
  });

  it("reaches processors in xAPIC mode by their ID and logical ID", () => {
    const m = machine({ vcpus: 2 });
    enterX2apic(m, 0);
    enable(m, 1);
    m.wr(1, 0xd0, 0x0200_0000);
    m.apic(0).writeMsr(0x830, (1n << 32n) | BigInt(VECTOR));
    expect(m.drain(1)).toEqual([VECTOR]);
    m.apic(0).writeMsr(0x830, (2n << 32n) | BigInt(LOGICAL | VECTOR));
    expect(m.drain(1)).toEqual([VECTOR]);
    m.apic(0).writeMsr(0x830, (0x102n << 32n) | BigInt(LOGICAL | VECTOR));
    expect(m.drain(1)).toEqual([]);
    m.apic(0).writeMsr(0x830, (0xffff_ffffn << 32n) | BigInt(LOGICAL | VECTOR));
    expect(m.drain(1)).toEqual([VECTOR]);
  });
});

describe("MSI (sec. 11.11)", () => {
  it.each([
    [0xfee0_2000, [2]],
    [0xfee0_4000, []],
    [0xfeef_f000, [0, 1, 2, 3]],
    [0xfee0_6004, [1, 2]],
    [0xfeef_f004, [0, 1, 2, 3]],
    [0xfee0_2008, [2]],
    [0xfed0_2000, []],
    [0x0000_2000, []],
    [0xfef0_2000, []],
  ])("address 0x%s", (address, expected) => {
    const m = four();
    m.chip.send(address, VECTOR);
    expect(receivers(m)).toEqual(expected);
  });

  it("goes to one processor by the redirection hint or lowest-priority mode", () => {
    const m = four();
    m.wr(0, 0x80, 0x30);
    m.wr(1, 0x80, 0x30);
    m.wr(3, 0x80, 0x30);
    m.chip.send(0xfee0_f00c, VECTOR);
    expect(receivers(m)).toEqual([2]);
    m.chip.send(0xfee0_f004, LOWEST | VECTOR);
    expect(receivers(m)).toEqual([2]);
  });

  it("delivers NMI and INIT, drops SMI, start-up's reserved code apart", () => {
    const m = four();
    m.chip.send(0xfee0_3000, 0x400);
    m.chip.send(0xfee0_3000, 0x500);
    m.chip.send(0xfee0_3000, 0x200);
    m.chip.send(0xfee0_3000, 0x300);
    expect(m.log).toEqual(["nmi 3", "init 3"]);
  });

  it("ignores a level-triggered de-assertion", () => {
    const m = four();
    m.chip.send(0xfee0_1000, 0x8000 | VECTOR);
    expect(receivers(m)).toEqual([]);
    m.chip.send(0xfee0_1000, 0xc000 | VECTOR);
    expect(receivers(m)).toEqual([1]);
  });

  it("reaches x2APICs by ID, by the low logical IDs of cluster 0, and by broadcast", () => {
    const m = machine({ vcpus: 20 });
    const cpus = Array.from({ length: 20 }, (_, cpu) => cpu);
    enterX2apic(m, ...cpus);
    const taken = (): number[] => cpus.filter((cpu) => m.chip.acknowledge(cpu) === VECTOR);
    m.chip.send(0xfee1_2000, VECTOR);
    expect(taken()).toEqual([18]);
    m.chip.send(0xfee8_1004, VECTOR - 0x20);
    expect(cpus.filter((cpu) => m.chip.acknowledge(cpu) === VECTOR - 0x20)).toEqual([0, 7]);
    m.chip.send(0xfeef_f000, VECTOR + 0x20);
    expect(cpus.filter((cpu) => m.chip.acknowledge(cpu) === VECTOR + 0x20)).toEqual(cpus);
  });
});

it("runs 255 processors", () => {
  const m = machine({ vcpus: 255 });
  enable(m, 254);
  ipi(m, 0, VECTOR, 254);
  expect(m.drain(254)).toEqual([VECTOR]);
  expect(() => machine({ vcpus: 256 })).toThrow(RangeError);
  expect(() => machine({ vcpus: 0 })).toThrow(RangeError);
  expect(() => m.chip.localApic(255)).toThrow(/index below 255, got 255/);
});
