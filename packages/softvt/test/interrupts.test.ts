import { describe, expect, it } from "vitest";
import { deliverEvent, EventKind } from "../src/cpu/interrupts.ts";
import { Cpu, Mode, Seg, VCPUS } from "../src/cpu/layout.ts";
import { descriptor, GDT, gate, IDT, longMachine, Machine, protectedMachine, Sel, TSS } from "./machine.ts";

const deliver = (
  m: Machine,
  vector: number,
  error: number | undefined = undefined,
  kind: number = EventKind.EXCEPTION,
): number => m.call(deliverEvent, vector, error ?? 0, error === undefined ? 0 : 1, kind, m.rip) as number;

/** The doublewords (or quadwords) from the top of the stack at `at`. */
const stack = (m: Machine, bits: 16 | 32 | 64, at: number, count: number): bigint[] =>
  Array.from({ length: count }, (_, i) => m.read(bits, at + (i * bits) / 8));

describe("real mode", () => {
  function machine(): Machine {
    const m = new Machine();
    m.segment(Seg.CS, 0x100, 0x1000n, 0xffff, 0x93);
    m.segment(Seg.SS, 0x200, 0x2000n, 0xffff, 0x93);
    m.setReg(4, 0x1234_0100n);
    m.rip = 0x55n;
    m.set32(Cpu.RFLAGS, 0x4_0302);
    m.write(32, 0x21 * 4, 0x3000_0042);
    m.update();
    return m;
  }

  it("enters through the vector table with three words on the stack", () => {
    const m = machine();
    expect(deliver(m, 0x21, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.rip).toBe(0x42n);
    expect(m.selector(Seg.CS)).toBe(0x3000);
    expect(m.base(Seg.CS)).toBe(0x3_0000n);
    expect(m.reg(4)).toBe(0x1234_00fan);
    expect(stack(m, 16, 0x20fa, 3)).toEqual([0x55n, 0x100n, 0x302n]);
    // IF, TF and AC are clear inside.
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
  });

  it("shuts down where the table is too short for the vector and for #DF", () => {
    const m = machine();
    m.set32(Cpu.IDT_LIMIT, 8 * 4 - 1);
    expect(deliver(m, 0x21, undefined, EventKind.EXTERNAL)).toBe(1);
  });

  it("pushes no error code", () => {
    const m = machine();
    m.write(32, 13 * 4, 0x3000_0042);
    expect(deliver(m, 13, 0)).toBe(0);
    expect(m.reg(4) & 0xffffn).toBe(0xfan);
  });

  it("faults a stack that ends inside the frame", () => {
    const m = machine();
    m.segment(Seg.SS, 0x200, 0x2000n, 0xfc, 0x93);
    m.write(32, 12 * 4, 0x3000_0099);
    // The #SS handler meets the same stack; #DF follows, and its handler too.
    expect(deliver(m, 0x21, undefined, EventKind.EXTERNAL)).toBe(1);
  });
});

describe("protected mode", () => {
  it("same privilege: EFLAGS, CS, EIP and error code; an interrupt gate clears IF", () => {
    const m = protectedMachine();
    m.set32(Cpu.RFLAGS, 0x4302);
    m.write(64, IDT + 13 * 8, gate(Sel.CODE0, 0xc000_1234, 0x8e));
    expect(deliver(m, 13, 0x18)).toBe(0);
    expect(m.rip).toBe(0xc000_1234n);
    expect(m.reg(4)).toBe(0x8ff0n);
    // A fault's image has RF set.
    expect(stack(m, 32, 0x8ff0, 4)).toEqual([0x18n, 0x8000n, 0x08n, 0x1_4302n]);
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
  });

  it("a trap gate leaves IF set", () => {
    const m = protectedMachine();
    m.set32(Cpu.RFLAGS, 0x202);
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE0, 0x1234, 0x8f));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x202);
    expect(stack(m, 32, 0x8ff4, 3)).toEqual([0x8000n, 0x08n, 0x202n]);
  });

  it("a 16-bit gate pushes words", () => {
    const m = protectedMachine();
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE0, 0xffff_1234, 0x86));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.rip).toBe(0x1234n);
    expect(stack(m, 16, 0x8ffa, 3)).toEqual([0x8000n, 0x08n, 0x2n]);
  });

  it("to an inner privilege level takes the TSS's stack", () => {
    const m = protectedMachine(3);
    m.write(64, IDT + 14 * 8, gate(Sel.CODE0, 0x1234, 0x8e));
    expect(deliver(m, 14, 7)).toBe(0);
    expect(m.get32(Cpu.CPL)).toBe(0);
    expect(m.selector(Seg.CS)).toBe(Sel.CODE0);
    expect(m.selector(Seg.SS)).toBe(Sel.DATA0);
    expect(m.access(Seg.SS)).toBe(0xc093);
    expect(m.reg(4)).toBe(0x9fe8n);
    expect(stack(m, 32, 0x9fe8, 6)).toEqual([7n, 0x8000n, 0x1bn, 0x1_0002n, 0x9000n, 0x23n]);
    expect(m.get32(Cpu.TLB)).toBe(VCPUS + Cpu.TLBS);
  });

  it("to an inner level by a 16-bit TSS", () => {
    const m = protectedMachine(3);
    m.segment(Seg.TR, Sel.TSS, BigInt(TSS), 0x2b, 0x83);
    m.write(16, TSS + 2, 0x7000);
    m.write(16, TSS + 4, Sel.DATA0);
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE0, 0x1234, 0x8e));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.reg(4)).toBe(0x7000n - 20n);
  });

  it("from virtual-8086 mode pushes the data segments and clears them", () => {
    const m = protectedMachine(3);
    m.set32(Cpu.RFLAGS, 0x2_3202);
    for (const [i, seg] of [Seg.ES, Seg.CS, Seg.SS, Seg.DS, Seg.FS, Seg.GS].entries())
      m.segment(seg, 0x100 + i, BigInt((0x100 + i) << 4), 0xffff, 0xf3);
    m.rip = 0x77n;
    m.setReg(4, 0x90n);
    m.update();
    expect(m.get32(Cpu.MODE)).toBe(Mode.CODE16 | Mode.REAL);
    m.write(64, IDT + 13 * 8, gate(Sel.CODE0, 0x1234, 0x8e));
    expect(deliver(m, 13, 0)).toBe(0);
    const at = 0xa000 - 40;
    expect(m.reg(4)).toBe(BigInt(at));
    expect(stack(m, 32, at, 10)).toEqual([
      0n,
      0x77n,
      0x101n,
      0x3_3202n,
      0x90n,
      0x102n,
      0x100n,
      0x103n,
      0x104n,
      0x105n,
    ]);
    expect([Seg.ES, Seg.DS, Seg.FS, Seg.GS].map((seg) => m.selector(seg))).toEqual([0, 0, 0, 0]);
    expect(m.access(Seg.DS) & 0x1_0000).toBe(0x1_0000);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x3002);
    expect(m.get32(Cpu.MODE) & Mode.REAL).toBe(0);
  });

  it("virtual-8086 mode can enter privilege level 0 only: else #GP with the selector", () => {
    const m = protectedMachine(3);
    m.set32(Cpu.RFLAGS, 0x2_0002);
    m.segment(Seg.CS, 0x100, 0x1000n, 0xffff, 0xf3);
    m.update();
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE3, 0x1234, 0xee));
    m.write(64, IDT + 13 * 8, gate(Sel.CODE0, 0x1300, 0x8e));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.rip).toBe(0x1300n);
    // Selector 0x18 with EXT.
    expect(m.read(32, Number(m.reg(4)))).toBe(0x19n);
  });

  it.each([
    ["past the IDT's limit", (m: Machine) => m.set32(Cpu.IDT_LIMIT, 0x30 * 8 + 6), 13, 0x30 * 8 + 3],
    ["no gate", (m: Machine) => m.write(64, IDT + 0x180, gate(Sel.CODE0, 0, 0x8c)), 13, 0x30 * 8 + 3],
    ["not present", (m: Machine) => m.write(64, IDT + 0x180, gate(Sel.CODE0, 0, 0x0e)), 11, 0x30 * 8 + 3],
    ["null selector", (m: Machine) => m.write(64, IDT + 0x180, gate(0, 0, 0x8e)), 13, 1],
    ["data segment", (m: Machine) => m.write(64, IDT + 0x180, gate(Sel.DATA0, 0, 0x8e)), 13, 0x11],
    ["outer code segment", (m: Machine) => m.write(64, IDT + 0x180, gate(Sel.CODE3, 0, 0x8e)), 13, 0x19],
    ["beyond the GDT", (m: Machine) => m.write(64, IDT + 0x180, gate(0x100, 0, 0x8e)), 13, 0x101],
    [
      "offset beyond the limit",
      (m: Machine) => m.write(64, IDT + 0x180, gate(Sel.CODE16, 0x1_0000, 0x8e)),
      13,
      1,
    ],
  ])("%s: the fault carries EXT", (_name, spoil, vector, error) => {
    const m = protectedMachine();
    for (const handled of [11, 13]) m.write(64, IDT + handled * 8, gate(Sel.CODE0, handled * 0x100, 0x8e));
    spoil(m);
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.rip).toBe(BigInt(vector * 0x100));
    expect(m.read(32, Number(m.reg(4)))).toBe(BigInt(error));
  });

  it.each([
    ["null", 0, 10, 1],
    ["beyond the GDT", 0x100, 10, 0x101],
    ["wrong privilege", Sel.DATA3, 10, 0x21],
    ["code", Sel.CODE0, 10, 0x09],
  ])("an inner stack selector that is %s is #TS", (_name, ss, vector, error) => {
    const m = protectedMachine(3);
    m.write(16, TSS + 8, ss);
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE0, 0x1234, 0x8e));
    m.write(64, IDT + 10 * 8, gate(Sel.CODE3, 0x1000, 0xee));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.rip).toBe(BigInt(vector === 10 ? 0x1000 : 0));
    expect(m.read(32, Number(m.reg(4)))).toBe(BigInt(error));
  });

  it("#GP while delivering #GP is a double fault with error code 0", () => {
    const m = protectedMachine();
    m.write(64, IDT + 8 * 8, gate(Sel.CODE0, 0x800, 0x8e));
    expect(deliver(m, 13, 0x18)).toBe(0);
    expect(m.rip).toBe(0x800n);
    expect(m.read(32, Number(m.reg(4)))).toBe(0n);
  });

  it("#GP while delivering #UD, which is benign, is delivered in its place", () => {
    const m = protectedMachine();
    m.write(64, IDT + 13 * 8, gate(Sel.CODE0, 0x1300, 0x8e));
    m.write(64, IDT + 8 * 8, gate(Sel.CODE0, 0x800, 0x8e));
    expect(deliver(m, 6)).toBe(0);
    expect(m.rip).toBe(0x1300n);
    expect(m.read(32, Number(m.reg(4)))).toBe(BigInt(6 * 8 + 3));
  });

  it("nothing to enter at all is a triple fault that changes nothing", () => {
    const m = protectedMachine();
    m.set32(Cpu.IDT_LIMIT, 0);
    expect(deliver(m, 13, 0)).toBe(1);
    expect(m.rip).toBe(0x8000n);
    expect(m.reg(4)).toBe(0x9000n);
  });

  it("sets the accessed bit of the code segment", () => {
    const m = protectedMachine();
    m.write(64, GDT + Sel.CODE0, descriptor(0, 0xffff_ffff, 0xc09a));
    m.write(64, IDT + 0x30 * 8, gate(Sel.CODE0, 0x1234, 0x8e));
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.read(64, GDT + Sel.CODE0)).toBe(descriptor(0, 0xffff_ffff, 0xc09b));
  });

  it("NMIs stay blocked until IRET", () => {
    const m = protectedMachine();
    m.write(64, IDT + 2 * 8, gate(Sel.CODE0, 0x200, 0x8e));
    expect(deliver(m, 2, undefined, EventKind.NMI)).toBe(0);
    expect(m.get32(Cpu.NMI_BLOCKED)).toBe(1);
    m.write(8, 0x200, 0xcf);
    expect(m.step()).toEqual({ kind: "done" });
    expect(m.get32(Cpu.NMI_BLOCKED)).toBe(0);
    expect(m.rip).toBe(0x8000n);
  });
});

describe("64-bit mode", () => {
  const put = (
    m: Machine,
    vector: number,
    offset: bigint,
    type = 0x8e,
    ist = 0,
    selector: number = Sel.CODE64,
  ): void => {
    m.write(64, IDT + vector * 16, gate(selector, Number(offset & 0xffff_ffffn), type, ist));
    m.write(64, IDT + vector * 16 + 8, offset >> 32n);
  };

  it("pushes five quadwords on an aligned stack, at the same privilege too", () => {
    const m = longMachine();
    m.setReg(4, 0x9009n);
    put(m, 14, 0xffff_8000_0000_1234n);
    expect(deliver(m, 14, 2)).toBe(0);
    expect(m.rip).toBe(0xffff_8000_0000_1234n);
    expect(m.reg(4)).toBe(0x8fd0n);
    expect(stack(m, 64, 0x8fd0, 6)).toEqual([2n, 0x8000n, 0x40n, 0x1_0002n, 0x9009n, 0x10n]);
    expect(m.selector(Seg.SS)).toBe(Sel.DATA0);
  });

  it("to privilege level 0: RSP0 and a null SS", () => {
    const m = longMachine(3);
    put(m, 0x30, 0x1234n);
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.reg(4)).toBe(0x9fd8n);
    expect(stack(m, 64, 0x9fd8, 5)).toEqual([0x8000n, 0x4bn, 2n, 0x9000n, 0x23n]);
    expect(m.selector(Seg.SS)).toBe(0);
    expect(m.get32(Cpu.CPL)).toBe(0);
    expect(m.get32(Cpu.MODE)).toBe(Mode.CODE64 | Mode.FLAT);
  });

  it("an IST entry gives the stack whatever the privilege", () => {
    const m = longMachine();
    put(m, 2, 0x200n, 0x8e, 1);
    expect(deliver(m, 2, undefined, EventKind.NMI)).toBe(0);
    expect(m.reg(4)).toBe(0xafd8n);
    expect(m.read(64, 0xafd8 + 24)).toBe(0x9000n);
  });

  it("from compatibility mode", () => {
    const m = longMachine(3);
    m.segment(Seg.CS, Sel.CODE3, 0n, -1, 0xc0fb);
    m.update();
    expect(m.get32(Cpu.MODE)).toBe(Mode.CODE32 | Mode.STACK32 | Mode.FLAT);
    put(m, 0x80, 0x1234n, 0xee);
    expect(deliver(m, 0x80, undefined, EventKind.SOFTWARE_INTERRUPT)).toBe(0);
    expect(m.get32(Cpu.MODE)).toBe(Mode.CODE64 | Mode.FLAT);
    expect(stack(m, 64, 0x9fd8, 5)).toEqual([0x8000n, 0x1bn, 2n, 0x9000n, 0x23n]);
  });

  it("refuses a 32-bit code segment and a target that is not canonical", () => {
    for (const [selector, offset, error] of [
      [Sel.CODE0, 0x1000n, 0x09n],
      [Sel.CODE64, 0x8000_0000_0000_0000n, 1n],
    ] as const) {
      const m = longMachine();
      put(m, 0x30, offset, 0x8e, 0, selector);
      put(m, 13, 0x1300n);
      expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
      expect(m.rip).toBe(0x1300n);
      expect(m.read(64, Number(m.reg(4)))).toBe(error);
    }
  });

  it("a stack page fault while delivering a page fault is a double fault", () => {
    const m = longMachine();
    m.setReg(4, 0x80_0000n);
    put(m, 14, 0x1400n);
    put(m, 8, 0x800n, 0x8e, 1);
    expect(deliver(m, 14, 0)).toBe(0);
    expect(m.rip).toBe(0x800n);
    expect(m.get64(Cpu.CR2)).toBe(0x80_0000n - 8n);
    expect(m.read(64, Number(m.reg(4)))).toBe(0n);
  });

  it("a page fault while delivering #GP is delivered itself", () => {
    const m = longMachine();
    m.setReg(4, 0x80_0000n);
    put(m, 13, 0x1300n);
    put(m, 14, 0x1400n, 0x8e, 1);
    expect(deliver(m, 13, 0)).toBe(0);
    expect(m.rip).toBe(0x1400n);
  });

  it("a stack that is not canonical ends in a triple fault without one for #DF", () => {
    const m = longMachine();
    m.setReg(4, 0x8000_0000_0000_0000n);
    put(m, 0x30, 0x1000n);
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(1);
  });

  it("a stack in MMIO space counts as a triple fault", () => {
    const m = longMachine();
    m.write(64, 0x10_2000 + 8 * 4, (4n << 21n) | 0x87n);
    m.setReg(4, 0x81_0000n);
    put(m, 0x30, 0x1000n);
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(1);
  });

  it("a user-mode delivery uses the user's page rights only for user handlers", () => {
    const m = longMachine(3);
    // Supervisor page for the ring 0 stack: the push must still be made.
    m.write(64, 0x10_2000, 0x83n);
    put(m, 0x30, 0x1234n);
    expect(deliver(m, 0x30, undefined, EventKind.EXTERNAL)).toBe(0);
    expect(m.get32(Cpu.TLB)).toBe(VCPUS + Cpu.TLBS);
  });
});
