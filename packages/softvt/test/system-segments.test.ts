import { describe, expect, it } from "vitest";
import { Cpu, Mode, Seg } from "../src/cpu/layout.ts";
import { descriptor, GDT, gate, IDT, longMachine, Machine, protectedMachine, Sel } from "./machine.ts";
import { done, fault, GP, RAX, RBX, RCX, RSP, UD } from "./support/outcomes.ts";

describe("segment registers", () => {
  it("MOV loads the hidden part, sets accessed, and MOV SS holds interrupts off", () => {
    const m = protectedMachine();
    m.write(64, GDT + 0x58, descriptor(0x1_2345, 0x777, 0x0092));
    m.setReg(RAX, 0x58n);
    expect(m.run(0x8e, 0xd8)).toEqual(done); // mov ds, ax
    expect([m.base(Seg.DS), m.limit(Seg.DS), m.access(Seg.DS)]).toEqual([0x1_2345n, 0x777, 0x93]);
    expect(m.get32(Cpu.MODE) & Mode.FLAT).toBe(0);
    expect(m.read(8, GDT + 0x58 + 5)).toBe(0x93n);
    expect(m.get32(Cpu.SHADOW)).toBe(0);
    m.setReg(RAX, BigInt(Sel.DATA0));
    expect(m.run(0x8e, 0xd8)).toEqual(done);
    expect(m.get32(Cpu.MODE) & Mode.FLAT).toBe(Mode.FLAT);
    expect(m.run(0x8e, 0xd0)).toEqual(done); // mov ss, ax
    expect(m.get32(Cpu.SHADOW)).toBe(2);
    expect(m.run(0x8c, 0xd3)).toEqual(done); // mov ebx, ss
    expect(m.reg(RBX)).toBe(BigInt(Sel.DATA0));
  });

  it.each([
    ["DS: beyond the GDT", 0xd8, 0x100, fault(13, 0x100)],
    ["DS: system segment", 0xd8, Sel.TSS, fault(13, Sel.TSS)],
    ["DS: RPL above DPL", 0xd8, Sel.DATA0 | 3, fault(13, Sel.DATA0)],
    ["DS: execute-only code", 0xd8, 0x58, fault(13, 0x58)],
    ["DS: not present", 0xd8, 0x60, fault(11, 0x60)],
    ["DS: LDT without one", 0xd8, 0x0c, fault(13, 0x0c)],
    ["SS: null", 0xd0, 0, fault(13, 0)],
    ["SS: code", 0xd0, Sel.CODE0, fault(13, Sel.CODE0)],
    ["SS: another privilege", 0xd0, Sel.DATA3, fault(13, Sel.DATA3 & ~3)],
    ["SS: not present", 0xd0, 0x60, fault(12, 0x60)],
    ["CS", 0xc8, Sel.CODE0, UD],
    ["no such register", 0xf0, Sel.DATA0, UD],
  ])("refuses %s", (_name, modrm, selector, expected) => {
    const m = protectedMachine();
    m.write(64, GDT + 0x58, descriptor(0, 0xffff, 0x0099));
    m.write(64, GDT + 0x60, descriptor(0, 0xffff, 0x0013));
    m.segment(Seg.LDTR, 0, 0n, 0, 0x1_0000);
    m.setReg(RAX, BigInt(selector));
    expect(m.run(0x8e, modrm)).toEqual(expected);
    expect(m.selector(Seg.DS)).toBe(Sel.DATA0);
  });

  it("a null DS is unusable; a null SS is allowed in 64-bit mode below CPL 3", () => {
    const m = protectedMachine();
    expect(m.run(0x8e, 0xd8)).toEqual(done);
    expect(m.access(Seg.DS)).toBe(0x1_0000);
    expect(m.run(0x0f, 0x00, 0x10)).toEqual(GP); // lldt [eax]
    const l = longMachine();
    expect(l.run(0x8e, 0xd0)).toEqual(done);
    expect(l.selector(Seg.SS)).toBe(0);
    expect(longMachine(3).run(0x8e, 0xd0)).toEqual(GP);
  });

  it("reads descriptors from the LDT", () => {
    const m = protectedMachine();
    m.write(64, GDT + Sel.LDT, descriptor(0x4000, 0x0f, 0x0082));
    m.setReg(RAX, BigInt(Sel.LDT));
    expect(m.run(0x0f, 0x00, 0xd0)).toEqual(done); // lldt ax
    expect([m.base(Seg.LDTR), m.limit(Seg.LDTR)]).toEqual([0x4000n, 0x0f]);
    m.write(64, 0x4008, descriptor(0x5000, 0xff, 0x0093));
    m.setReg(RAX, 0x0cn);
    expect(m.run(0x8e, 0xe0)).toEqual(done); // mov fs, ax
    expect(m.base(Seg.FS)).toBe(0x5000n);
    m.setReg(RAX, 0x14n);
    expect(m.run(0x8e, 0xe0)).toEqual(fault(13, 0x14));
  });

  it("LTR marks the TSS busy; a second LTR refuses it; in 64-bit mode it takes 16 bytes", () => {
    const m = protectedMachine();
    m.setReg(RAX, BigInt(Sel.TSS));
    expect(m.run(0x0f, 0x00, 0xd8)).toEqual(done);
    expect(m.read(8, GDT + Sel.TSS + 5)).toBe(0x8bn);
    expect(m.run(0x0f, 0x00, 0xd8)).toEqual(fault(13, Sel.TSS));
    const l = longMachine();
    l.write(64, GDT + Sel.TSS, descriptor(0x8000_1000, 0x67, 0x89));
    l.write(64, GDT + Sel.TSS + 8, 0xffff_ffffn);
    l.setReg(RAX, BigInt(Sel.TSS));
    expect(l.run(0x0f, 0x00, 0xd8)).toEqual(done);
    expect(l.base(Seg.TR)).toBe(0xffff_ffff_8000_1000n);
  });

  it("PUSH and POP of segment registers, LSS", () => {
    const m = protectedMachine();
    m.write(32, 0x8ffc, 0xdead_0000);
    expect(m.run(0x16)).toEqual(done); // push ss
    // Only the low half of the slot is written.
    expect(m.read(32, 0x8ffc)).toBe(0xdead_0010n);
    expect(m.run(0x07)).toEqual(done); // pop es
    expect(m.reg(RSP)).toBe(0x9000n);
    expect(m.selector(Seg.ES)).toBe(0x10);
    m.write(32, 0x6000, 0x1234_5678);
    m.write(16, 0x6004, Sel.DATA0);
    m.setReg(RBX, 0x6000n);
    expect(m.run(0x0f, 0xb2, 0x23)).toEqual(done); // lss esp, [ebx]
    expect(m.reg(RSP)).toBe(0x1234_5678n);
  });

  it("real mode: base from the selector; limits of 4 GiB survive", () => {
    const m = new Machine();
    m.segment(Seg.CS, 0, 0n, 0xffff, 0x93);
    m.segment(Seg.DS, 0, 0n, -1, 0xc093);
    m.rip = 0x700n;
    m.setReg(RAX, 0x1234n);
    expect(m.run(0x8e, 0xd8)).toEqual(done);
    expect([m.base(Seg.DS), m.limit(Seg.DS)]).toEqual([0x1_2340n, 0xffff_ffff]);
  });

  it("LAR, LSL, VERR, VERW and ARPL answer with ZF", () => {
    const m = protectedMachine(3);
    const zf = (): number => (m.get32(Cpu.FLAG_AUX) >> 6) & 1;
    const ask = (selector: number, ...code: number[]): [number, bigint] => {
      m.setReg(RAX, BigInt(selector));
      m.setReg(RBX, 0n);
      expect(m.run(...code)).toEqual(done);
      return [zf(), m.reg(RBX)];
    };
    const lar = [0x0f, 0x02, 0xd8];
    const lsl = [0x0f, 0x03, 0xd8];
    expect(ask(Sel.DATA3, ...lar)).toEqual([1, 0xc0_f300n]);
    expect(ask(Sel.DATA0, ...lar)).toEqual([0, 0n]);
    expect(ask(Sel.DATA3, ...lsl)).toEqual([1, 0xffff_ffffn]);
    expect(ask(0x200, ...lsl)).toEqual([0, 0n]);
    expect(ask(0, ...lar)).toEqual([0, 0n]);
    expect(ask(Sel.DATA3, 0x0f, 0x00, 0xe8)[0]).toBe(1); // verw
    expect(ask(Sel.CODE3, 0x0f, 0x00, 0xe8)[0]).toBe(0);
    expect(ask(Sel.CODE3, 0x0f, 0x00, 0xe0)[0]).toBe(1); // verr
    m.setReg(RCX, 3n);
    expect(ask(0x10, 0x63, 0xc8)[0]).toBe(1); // arpl ax, cx
    expect(m.reg(RAX)).toBe(0x13n);
    expect(ask(0x13, 0x63, 0xc8)[0]).toBe(0);
  });

  it("SGDT, SIDT, SLDT and STR; UMIP keeps them from user code", () => {
    const m = longMachine(3);
    m.setReg(RBX, 0x6000n);
    expect(m.run(0x0f, 0x01, 0x03)).toEqual(done);
    expect(m.read(16, 0x6000)).toBe(0xffn);
    expect(m.read(64, 0x6002)).toBe(BigInt(GDT));
    expect(m.run(0x0f, 0x00, 0xc9)).toEqual(done); // str ecx
    expect(m.reg(RCX)).toBe(BigInt(Sel.TSS));
    m.set64(Cpu.CR4, 0x820n);
    expect(m.run(0x0f, 0x01, 0x03)).toEqual(GP);
    expect(m.run(0x0f, 0x00, 0xc9)).toEqual(GP);
    expect(m.run(0x0f, 0x01, 0xe1)).toEqual(GP); // smsw
  });
});

describe("flags", () => {
  it("POPF at CPL 0 changes IF and IOPL, not VM, RF, VIF, VIP", () => {
    const m = protectedMachine();
    m.write(32, 0x8ffc, 0xffff_ffff);
    m.setReg(RSP, 0x8ffcn);
    expect(m.run(0x9d)).toEqual(done);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x24_7702);
    expect(m.run(0x9c)).toEqual(done);
    expect(m.read(32, 0x8ffc)).toBe(0x24_7fd7n);
  });

  it("POPF at CPL 3 leaves IF and IOPL alone; CLI and STI fault", () => {
    const m = protectedMachine(3);
    m.write(32, 0x8ffc, 0x3202);
    m.setReg(RSP, 0x8ffcn);
    expect(m.run(0x9d)).toEqual(done);
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
    expect(m.run(0xfa)).toEqual(GP);
    expect(m.run(0xfb)).toEqual(GP);
    m.set32(Cpu.RFLAGS, 0x3002);
    expect(m.run(0xfb)).toEqual(done);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x3202);
  });

  it("virtual-8086 mode with IOPL below 3 traps PUSHF, POPF, INT n and IRET, but not INT3", () => {
    const m = protectedMachine(3);
    m.set32(Cpu.RFLAGS, 0x2_0202);
    m.segment(Seg.CS, 0x800, 0x8000n, 0xffff, 0xf3);
    m.segment(Seg.SS, 0x900, 0x9000n, 0xffff, 0xf3);
    m.rip = 0n;
    m.update();
    for (const code of [[0x9c], [0x9d], [0xcd, 0x10], [0xcf], [0xfa]]) expect(m.run(...code)).toEqual(GP);
    m.write(64, IDT + 3 * 8, gate(Sel.CODE0, 0x300, 0xee));
    expect(m.run(0xcc)).toEqual(done);
    expect(m.rip).toBe(0x300n);
  });

  it("STI holds interrupts off for one instruction only where they were off", () => {
    const m = protectedMachine();
    expect(m.run(0xfb)).toEqual(done);
    expect(m.get32(Cpu.SHADOW)).toBe(1);
    m.set32(Cpu.SHADOW, 0);
    expect(m.run(0xfb)).toEqual(done);
    expect(m.get32(Cpu.SHADOW)).toBe(0);
  });
});
