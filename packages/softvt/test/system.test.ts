import { describe, expect, it } from "vitest";
import { deliverEvent, EventKind } from "../src/cpu/interrupts.ts";
import { Cpu, Mode, Seg } from "../src/cpu/layout.ts";
import { Slot } from "../src/cpu/slots.ts";
import { descriptor, GDT, gate, IDT, longMachine, Machine, protectedMachine, Sel, TSS } from "./machine.ts";

const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RSI = 6;
const RDI = 7;
const done = { kind: "done" };
const fault = (vector: number, error?: number) => ({ kind: "fault", vector, error });
const exit = (reason: number) => ({ kind: "exit", reason });
const UD = fault(6);
const GP = fault(13, 0);

describe("control registers", () => {
  it("walks from real mode to 64-bit mode", () => {
    const m = longMachine();
    const target = new Machine();
    // The tables that longMachine made, without its processor state.
    new Uint8Array(target.memory.buffer).set(new Uint8Array(m.memory.buffer, 0x20_0000), 0x20_0000);
    const real = target;
    real.segment(Seg.CS, 0, 0n, 0xffff, 0x93);
    real.rip = 0x7000n;
    real.write(16, 0x500, 0xff);
    real.write(32, 0x502, GDT);
    expect(real.run(0x0f, 0x01, 0x16, 0x00, 0x05)).toEqual(done); // lgdt [0x500]
    expect(real.get64(Cpu.GDT_BASE)).toBe(BigInt(GDT));
    expect(real.get32(Cpu.GDT_LIMIT)).toBe(0xff);
    real.setReg(RAX, 0x20n);
    expect(real.run(0x0f, 0x22, 0xe0)).toEqual(done); // mov cr4, eax
    real.setReg(RAX, 0x10_0000n);
    expect(real.run(0x0f, 0x22, 0xd8)).toEqual(done); // mov cr3, eax
    real.setReg(RCX, 0xc000_0080n);
    real.setReg(RAX, 0x100n);
    expect(real.run(0x0f, 0x30)).toEqual(done); // wrmsr
    real.setReg(RAX, 0x8000_0011n);
    expect(real.run(0x0f, 0x22, 0xc0)).toEqual(done); // mov cr0, eax
    expect(real.get64(Cpu.EFER)).toBe(0x500n);
    expect(real.get32(Cpu.MODE) & Mode.REAL).toBe(0);
    expect(real.run(0x66, 0xea, 0x00, 0x70, 0x00, 0x00, Sel.CODE64, 0x00)).toEqual(done); // jmp far
    expect(real.rip).toBe(0x7000n);
    expect(real.get32(Cpu.MODE)).toBe(Mode.CODE64 | Mode.FLAT);
    // Leaving it from 64-bit code is refused.
    real.setReg(RAX, 0x11n);
    expect(real.run(0x0f, 0x22, 0xc0)).toEqual(GP);
    expect(real.get64(Cpu.EFER)).toBe(0x500n);
  });

  it.each([
    ["PG without PE", 0x8000_0010n],
    ["NW without CD", 0x2000_0011n],
    ["the upper half", 0x1_0000_0011n],
    ["clearing PG in 64-bit mode", 0x11n],
  ])("CR0 refuses %s", (_name, value) => {
    const m = longMachine();
    m.setReg(RAX, value);
    expect(m.run(0x0f, 0x22, 0xc0)).toEqual(GP);
    expect(m.get64(Cpu.CR0)).toBe(0x8001_0011n);
  });

  it("CR0 keeps ET, drops reserved bits", () => {
    const m = protectedMachine();
    m.setReg(RAX, 0x1fff_ffdfn & ~0x4_0000n);
    expect(m.run(0x0f, 0x22, 0xc0)).toEqual(done);
    expect(m.get64(Cpu.CR0)).toBe(0x1_001fn);
    expect(m.run(0x0f, 0x20, 0xc3)).toEqual(done);
    expect(m.reg(RBX)).toBe(0x1_001fn);
  });

  it.each([
    ["a bit that is not offered", 0x20n | (1n << 22n)],
    ["VME", 0x21n],
    ["clearing PAE in IA-32e mode", 0n],
  ])("CR4 refuses %s", (_name, value) => {
    const m = longMachine();
    m.setReg(RAX, value);
    expect(m.run(0x0f, 0x22, 0xe0)).toEqual(GP);
    expect(m.get64(Cpu.CR4)).toBe(0x20n);
  });

  it("PCIDE wants CR3's low bits clear; bit 63 of CR3 is then no address bit", () => {
    const m = longMachine();
    m.set64(Cpu.CR3, 0x10_0008n);
    m.setReg(RAX, 0x2_0020n);
    expect(m.run(0x0f, 0x22, 0xe0)).toEqual(GP);
    m.set64(Cpu.CR3, 0x10_0000n);
    m.setReg(RBX, (1n << 63n) | 0x10_0003n);
    expect(m.run(0x0f, 0x22, 0xdb)).toEqual(GP);
    expect(m.run(0x0f, 0x22, 0xe0)).toEqual(done);
    expect(m.run(0x0f, 0x22, 0xdb)).toEqual(done);
    expect(m.get64(Cpu.CR3)).toBe(0x10_0003n);
  });

  it("CR3 loads PAE's page-directory pointers, unless one has a reserved bit", () => {
    const m = protectedMachine();
    m.set64(Cpu.CR4, 0x20n);
    for (let i = 0; i < 4; i++) m.write(64, 0x6020 + 8 * i, 0x10_2001n + BigInt(i << 12));
    m.write(64, 0x10_2000, 0x87n);
    m.write(64, 0x10_2008, 0x20_0087n);
    m.set64(Cpu.CR3, 0x6020n);
    m.setReg(RAX, 0x8000_0011n);
    expect(m.run(0x0f, 0x22, 0xc0)).toEqual(done);
    expect(m.get64(Cpu.PDPTR + 24)).toBe(0x10_5001n);
    m.write(64, 0x6040, 3n);
    m.setReg(RAX, 0x6040n);
    expect(m.run(0x0f, 0x22, 0xd8)).toEqual(GP);
    expect(m.get64(Cpu.CR3)).toBe(0x6020n);
  });

  it("CR8 exits, both ways", () => {
    const m = longMachine();
    m.setReg(RAX, 5n);
    expect(m.run(0x44, 0x0f, 0x22, 0xc0)).toEqual(exit(28));
    expect([m.get32(Cpu.EXIT_A), m.get32(Cpu.EXIT_B)]).toEqual([0, 5]);
    m.answer(0n);
    expect(m.step()).toEqual(done);
    m.set32(Cpu.REPLAY_COUNT, 0);
    expect(m.run(0x44, 0x0f, 0x20, 0xc3)).toEqual(exit(28));
    expect(m.get32(Cpu.EXIT_A)).toBe(1);
    m.answer(9n);
    expect(m.step()).toEqual(done);
    expect(m.reg(RBX)).toBe(9n);
    m.setReg(RAX, 16n);
    expect(m.run(0x44, 0x0f, 0x22, 0xc0)).toEqual(GP);
  });

  it("CR1 and CR5 do not exist; CPL 3 may not", () => {
    expect(longMachine().run(0x0f, 0x20, 0xc8)).toEqual(UD);
    expect(longMachine().run(0x0f, 0x22, 0xe8)).toEqual(UD);
    expect(longMachine(3).run(0x0f, 0x20, 0xc0)).toEqual(GP);
  });

  it("LMSW sets PE and cannot clear it; CLTS clears TS; SMSW shows CR0", () => {
    const m = protectedMachine();
    m.setReg(RAX, 0x8n);
    expect(m.run(0x0f, 0x01, 0xf0)).toEqual(done);
    expect(m.get64(Cpu.CR0)).toBe(0x19n);
    expect(m.run(0x0f, 0x06)).toEqual(done);
    expect(m.run(0x0f, 0x01, 0xe3)).toEqual(done);
    expect(m.reg(RBX)).toBe(0x11n);
  });

  it("INVLPG forgets a translation", () => {
    const m = longMachine();
    m.setReg(RBX, 0x20_0000n);
    m.write(64, 0x20_0000, 0x1122n);
    m.rip = 0x8000n;
    expect(m.run(0x0f, 0x00, 0x13)).toEqual(fault(13, 0x1120)); // lldt [rbx]: reads it
    m.write(64, 0x10_2008, 0n);
    expect(m.run(0x0f, 0x01, 0x3b)).toEqual(done);
    expect(m.run(0x0f, 0x00, 0x13)).toEqual(fault(14, 0));
    expect(m.get64(Cpu.CR2)).toBe(0x20_0000n);
  });

  it("INVLPG forgets a large page whole, CR3 everything", () => {
    const m = longMachine();
    m.write(64, 0x20_5000, 0x1120n);
    m.write(64, 0x20_6000, 0x1128n);
    const touch = (at: bigint) => {
      m.setReg(RBX, at);
      return m.run(0x0f, 0x00, 0x13); // lldt [rbx]
    };
    expect(touch(0x20_5000n)).toEqual(fault(13, 0x1120));
    expect(touch(0x20_6000n)).toEqual(fault(13, 0x1128));
    m.write(64, 0x10_2008, 0n);
    expect(touch(0x20_5000n)).toEqual(fault(13, 0x1120));
    m.setReg(RBX, 0x20_0000n);
    expect(m.run(0x0f, 0x01, 0x3b)).toEqual(done);
    expect(touch(0x20_5000n)).toEqual(fault(14, 0));
    expect(touch(0x20_6000n)).toEqual(fault(14, 0));
    m.write(64, 0x10_2008, 0x20_0087n);
    expect(touch(0x20_5000n)).toEqual(fault(13, 0x1120));
    m.write(64, 0x10_2008, 0n);
    m.setReg(RAX, 0x10_0000n);
    expect(m.run(0x0f, 0x22, 0xd8)).toEqual(done);
    expect(touch(0x20_5000n)).toEqual(fault(14, 0));
  });

  it("INVLPG of a small page leaves others alone", () => {
    const m = longMachine();
    // 0x20_0000 to 0x3f_ffff by 4 KiB pages.
    m.write(64, 0x10_2008, 0x10_3007n);
    for (let i = 0; i < 512; i++) m.write(64, 0x10_3000 + 8 * i, BigInt(0x20_0007 + (i << 12)));
    const touch = (at: bigint) => {
      m.setReg(RBX, at);
      return m.run(0x0f, 0x00, 0x13);
    };
    expect(touch(0x20_5000n)).toEqual(done);
    expect(touch(0x20_6000n)).toEqual(done);
    m.write(64, 0x10_3000 + 8 * 5, 0n);
    m.write(64, 0x10_3000 + 8 * 6, 0n);
    m.setReg(RBX, 0x20_5000n);
    expect(m.run(0x0f, 0x01, 0x3b)).toEqual(done);
    expect(touch(0x20_5000n)).toEqual(fault(14, 0));
    expect(touch(0x20_6000n)).toEqual(done);
  });

  it("XSETBV: x87 must stay; CR4.OSXSAVE must be set", () => {
    const m = longMachine();
    m.setReg(RAX, 3n);
    expect(m.run(0x0f, 0x01, 0xd1)).toEqual(UD);
    m.set64(Cpu.CR4, 0x4_0020n);
    expect(m.run(0x0f, 0x01, 0xd1)).toEqual(done);
    expect(m.get64(Cpu.XCR0)).toBe(3n);
    m.setReg(RAX, 2n);
    expect(m.run(0x0f, 0x01, 0xd1)).toEqual(GP);
    m.setReg(RAX, 7n);
    expect(m.run(0x0f, 0x01, 0xd1)).toEqual(GP);
    expect(m.run(0x0f, 0x01, 0xd0)).toEqual(done);
    expect(m.reg(RAX)).toBe(3n);
  });

  it("STAC opens user pages to the supervisor under SMAP, CLAC closes them", () => {
    const m = longMachine();
    // Code, tables and stacks in the first 2 MiB become supervisor pages; the second stays a user page.
    m.write(64, 0x10_2000, 0x83n);
    m.set64(Cpu.CR4, 0x20_0020n);
    m.update();
    m.setReg(RBX, 0x20_0000n);
    expect(m.run(0x0f, 0x00, 0x13)).toEqual(fault(14, 1));
    expect(m.run(0x0f, 0x01, 0xcb)).toEqual(done);
    expect(m.run(0x0f, 0x00, 0x13)).toEqual(done);
    expect(m.run(0x0f, 0x01, 0xca)).toEqual(done);
    expect(m.run(0x0f, 0x00, 0x13)).toEqual(fault(14, 1));
  });
});

describe("model-specific registers", () => {
  const write = (m: Machine, index: number, value: bigint) => {
    m.setReg(RCX, BigInt(index));
    m.setReg(RAX, value & 0xffff_ffffn);
    m.setReg(RDX, value >> 32n);
    return m.run(0x0f, 0x30);
  };
  const read = (m: Machine, index: number) => {
    m.setReg(RCX, BigInt(index));
    return m.run(0x0f, 0x32);
  };

  it.each([
    [0xc000_0081, 0x1234_5678_9abc_def0n, Cpu.STAR],
    [0xc000_0082, 0xffff_ffff_8100_0000n, Cpu.LSTAR],
    [0xc000_0084, 0x4_7700n, Cpu.FMASK],
    [0xc000_0100, 0x7fff_ffff_f000n, Cpu.SEG_BASE + 8 * Seg.FS],
    [0xc000_0101, 0xffff_8880_0000_0000n, Cpu.SEG_BASE + 8 * Seg.GS],
    [0xc000_0102, 0x1000n, Cpu.KERNEL_GS_BASE],
    [0xc000_0103, 0x1005n, Cpu.TSC_AUX],
    [0x174, 0x10n, Cpu.SYSENTER_CS],
    [0x277, 0x0407_0106_0007_0506n, Cpu.PAT],
  ])("%i keeps what is written", (index, value, field) => {
    const m = longMachine();
    expect(write(m, index, value)).toEqual(done);
    expect(m.get64(field)).toBe(value);
    expect(read(m, index)).toEqual(done);
    expect(m.reg(RAX) | (m.reg(RDX) << 32n)).toBe(value);
  });

  it.each([
    [0xc000_0082, 0x8000_0000_0000_0000n],
    [0xc000_0100, 0x0000_8000_0000_0000n],
    [0xc000_0084, 0x1_0000_0000n],
    [0xc000_0103, 0x1_0000_0000n],
    [0x277, 2n],
    [0x277, 0x0300n],
    [0x277, 8n],
    [0x1d9, 2n],
    [0xc000_0080, 0x1000n],
    // LME while paging is on.
    [0xc000_0080, 0xc01n],
  ])("%i refuses a bad value", (index, value) => {
    expect(write(longMachine(), index, value)).toEqual(GP);
  });

  it("EFER.LMA cannot be written", () => {
    const m = longMachine();
    expect(write(m, 0xc000_0080, 0x901n)).toEqual(done);
    expect(m.get64(Cpu.EFER)).toBe(0xd01n);
  });

  it("others exit, and the host may refuse them", () => {
    const m = longMachine();
    expect(read(m, 0x1b)).toEqual(exit(31));
    expect(m.get32(Cpu.EXIT_A)).toBe(0x1b);
    m.answer(0x1_fee0_0900n);
    expect(m.step()).toEqual(done);
    expect([m.reg(RAX), m.reg(RDX)]).toEqual([0xfee0_0900n, 1n]);
    m.set32(Cpu.REPLAY_COUNT, 0);
    expect(write(m, 0x8ff, 0x1_0000_0002n)).toEqual(exit(32));
    expect([m.get32(Cpu.EXIT_A), m.get32(Cpu.EXIT_B), m.get32(Cpu.EXIT_C)]).toEqual([0x8ff, 2, 1]);
    m.answer(0n);
    m.set32(Slot.MSR_FAULT, 1);
    expect(m.step()).toEqual(GP);
    expect(m.get32(Slot.MSR_FAULT)).toBe(0);
  });

  it("the time-stamp counter: offset and adjustment move together", () => {
    const m = longMachine();
    m.set64(Cpu.TSC_BASE, 1000n);
    m.memory.setFloat64(0x1000 + Cpu.TSC_STEP, 1.5, true);
    m.set64(Cpu.ICOUNT_BASE, 100n);
    m.set64(Cpu.ICOUNT, 111n);
    expect(m.run(0x0f, 0x31)).toEqual(done);
    expect(m.reg(RAX)).toBe(1016n);
    expect(m.get32(Cpu.SYNCED)).toBe(0);
    expect(write(m, 0x10, 5000n)).toEqual(done);
    expect(m.get64(Cpu.TSC_ADJUST)).toBe(5000n - 1016n);
    expect(m.run(0x0f, 0x31)).toEqual(done);
    expect(m.reg(RAX)).toBe(5000n);
    expect(write(m, 0x3b, 0n)).toEqual(done);
    expect(m.run(0x0f, 0x31)).toEqual(done);
    expect(m.reg(RAX)).toBe(1016n);
  });

  it("CR4.TSD keeps RDTSC from user code", () => {
    const m = longMachine(3);
    m.set64(Cpu.CR4, 0x24n);
    expect(m.run(0x0f, 0x31)).toEqual(GP);
    m.set64(Cpu.CR4, 0x20n);
    expect(m.run(0x0f, 0x01, 0xf9)).toEqual(done);
  });

  it("CPL 3 may not", () => {
    expect(longMachine(3).run(0x0f, 0x32)).toEqual(GP);
    expect(longMachine(3).run(0x0f, 0x30)).toEqual(GP);
  });
});

describe("fast system calls", () => {
  it("SYSCALL and SYSRET", () => {
    const m = longMachine(3);
    m.set64(Cpu.STAR, 0x0033_0040_0000_0000n);
    m.set64(Cpu.LSTAR, 0x9000n);
    m.set64(Cpu.FMASK, 0x200n);
    m.set32(Cpu.RFLAGS, 0x202);
    m.set32(Cpu.FLAG_AUX, 0x41);
    expect(m.run(0x0f, 0x05)).toEqual(done);
    expect(m.rip).toBe(0x9000n);
    expect(m.reg(RCX)).toBe(0x8002n);
    expect(m.reg(11)).toBe(0x243n);
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
    expect(m.get32(Cpu.CPL)).toBe(0);
    expect([m.selector(Seg.CS), m.selector(Seg.SS)]).toEqual([0x40, 0x48]);
    expect([m.access(Seg.CS), m.access(Seg.SS)]).toEqual([0xa09b, 0xc093]);
    m.setReg(11, 0x1_0246n | 0x2_0000n);
    expect(m.run(0x48, 0x0f, 0x07)).toEqual(done);
    expect(m.rip).toBe(0x8002n);
    expect([m.selector(Seg.CS), m.selector(Seg.SS)]).toEqual([0x43, 0x3b]);
    expect([m.access(Seg.CS), m.access(Seg.SS)]).toEqual([0xa0fb, 0xc0f3]);
    expect(m.get32(Cpu.CPL)).toBe(3);
    // RF and VM do not come back.
    expect(m.get32(Cpu.RFLAGS)).toBe(0x202);
  });

  it("SYSRET to compatibility mode, and a target that is not canonical", () => {
    const m = longMachine();
    m.set64(Cpu.STAR, 0x0033_0040_0000_0000n);
    m.setReg(RCX, 0x8000_0000_0000_0000n);
    m.setReg(11, 2n);
    expect(m.run(0x48, 0x0f, 0x07)).toEqual(GP);
    expect(m.get32(Cpu.CPL)).toBe(0);
    m.setReg(RCX, 0xffff_ffff_0000_7000n);
    expect(m.run(0x0f, 0x07)).toEqual(done);
    expect(m.rip).toBe(0x7000n);
    expect(m.selector(Seg.CS)).toBe(0x33);
    expect(m.access(Seg.CS)).toBe(0xc0fb);
    expect(m.get32(Cpu.MODE) & Mode.CODE_MASK).toBe(Mode.CODE32);
  });

  it("SYSCALL is #UD without EFER.SCE", () => {
    const m = longMachine(3);
    m.set64(Cpu.EFER, 0xd00n);
    expect(m.run(0x0f, 0x05)).toEqual(UD);
  });

  it("SYSENTER and SYSEXIT", () => {
    const m = protectedMachine(3);
    expect(m.run(0x0f, 0x34)).toEqual(GP);
    m.set64(Cpu.SYSENTER_CS, 0x8n);
    m.set64(Cpu.SYSENTER_ESP, 0x7000n);
    m.set64(Cpu.SYSENTER_EIP, 0x9000n);
    m.set32(Cpu.RFLAGS, 0x202);
    expect(m.run(0x0f, 0x34)).toEqual(done);
    expect([m.rip, m.reg(RSP)]).toEqual([0x9000n, 0x7000n]);
    expect([m.selector(Seg.CS), m.selector(Seg.SS), m.get32(Cpu.CPL)]).toEqual([0x08, 0x10, 0]);
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
    m.setReg(RDX, 0x8000n);
    m.setReg(RCX, 0x6000n);
    expect(m.run(0x0f, 0x35)).toEqual(done);
    expect([m.rip, m.reg(RSP)]).toEqual([0x8000n, 0x6000n]);
    expect([m.selector(Seg.CS), m.selector(Seg.SS), m.get32(Cpu.CPL)]).toEqual([0x1b, 0x23, 3]);
  });

  it("SWAPGS and the base instructions", () => {
    const m = longMachine();
    m.set64(Cpu.KERNEL_GS_BASE, 0x1234n);
    expect(m.run(0x0f, 0x01, 0xf8)).toEqual(done);
    expect(m.base(Seg.GS)).toBe(0x1234n);
    expect(m.get64(Cpu.KERNEL_GS_BASE)).toBe(0n);
    expect(longMachine(3).run(0x0f, 0x01, 0xf8)).toEqual(GP);
    expect(m.run(0xf3, 0x48, 0x0f, 0xae, 0xc8)).toEqual(UD);
    m.set64(Cpu.CR4, 0x1_0020n);
    expect(m.run(0xf3, 0x48, 0x0f, 0xae, 0xc8)).toEqual(done); // rdgsbase rax
    expect(m.reg(RAX)).toBe(0x1234n);
    m.setReg(RAX, 0x8000_0000_0000_0000n);
    expect(m.run(0xf3, 0x48, 0x0f, 0xae, 0xd0)).toEqual(GP); // wrfsbase rax
    expect(m.run(0xf3, 0x0f, 0xae, 0xd0)).toEqual(done); // wrfsbase eax
    expect(m.base(Seg.FS)).toBe(0n);
  });
});

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

describe("port input and output", () => {
  it("OUT and IN exit and complete", () => {
    const m = protectedMachine();
    m.setReg(RAX, 0x1122_3344n);
    m.setReg(RDX, 0x3f8n);
    expect(m.run(0xee)).toEqual(exit(30));
    expect([Cpu.EXIT_A, Cpu.EXIT_B, Cpu.EXIT_C, Cpu.EXIT_D].map((x) => m.get32(x))).toEqual([
      0x3f8, 1, 0, 0x44,
    ]);
    m.answer(0n);
    expect(m.step()).toEqual(done);
    expect(m.rip).toBe(0x8001n);
    expect(m.run(0x66, 0xe5, 0xf0)).toEqual(exit(30)); // in ax, 0xf0
    expect([Cpu.EXIT_A, Cpu.EXIT_B, Cpu.EXIT_C].map((x) => m.get32(x))).toEqual([0xf0, 2, 1]);
    m.answer(0xabcdn);
    expect(m.step()).toEqual(done);
    expect(m.reg(RAX)).toBe(0x1122_abcdn);
  });

  it("user code needs IOPL or the permission bitmap", () => {
    const m = protectedMachine(3);
    m.segment(Seg.TR, Sel.TSS, BigInt(TSS), 0x67 + 0x80 + 1, 0x8b);
    m.write(16, TSS + 0x66, 0x68);
    for (let i = 0; i < 0x80; i++) m.write(8, TSS + 0x68 + i, 0xff);
    m.write(8, TSS + 0x68 + (0x3f8 >> 3), 0xf0);
    m.setReg(RDX, 0x3f8n);
    expect(m.run(0xec)).toEqual(exit(30));
    m.setReg(RDX, 0x3fan);
    expect(m.run(0x66, 0xed)).toEqual(exit(30));
    m.setReg(RDX, 0x3fbn);
    expect(m.run(0x66, 0xed)).toEqual(GP);
    m.setReg(RDX, 0x3fcn);
    expect(m.run(0xec)).toEqual(GP);
    // Beyond the TSS's limit.
    m.setReg(RDX, 0x408n);
    expect(m.run(0xec)).toEqual(GP);
    m.set32(Cpu.RFLAGS, 0x3002);
    expect(m.run(0xec)).toEqual(exit(30));
  });

  it("REP INS goes on element by element", () => {
    const m = protectedMachine();
    m.setReg(RCX, 2n);
    m.setReg(RDI, 0x6000n);
    m.setReg(RDX, 0x1f0n);
    for (const [value, left] of [
      [0x1111n, 1n],
      [0x2222n, 0n],
    ] as const) {
      expect(m.run(0xf3, 0x66, 0x6d)).toEqual(exit(30));
      m.answer(value);
      expect(m.step()).toEqual(done);
      expect(m.reg(RCX)).toBe(left);
    }
    expect(m.rip).toBe(0x8003n);
    expect(m.read(32, 0x6000)).toBe(0x2222_1111n);
    expect(m.reg(RDI)).toBe(0x6004n);
    m.setReg(RSI, 0x6003n);
    m.set32(Cpu.RFLAGS, 0x402);
    expect(m.run(0x6e)).toEqual(exit(30)); // outsb, down
    expect(m.get32(Cpu.EXIT_D)).toBe(0x22);
    m.answer(0n);
    expect(m.step()).toEqual(done);
    expect(m.reg(RSI)).toBe(0x6002n);
    // A count of zero does nothing.
    expect(m.run(0xf3, 0x6c)).toEqual(done);
  });

  it("INS checks its memory before it asks the device", () => {
    const m = longMachine();
    m.setReg(RDI, 0x80_0000n);
    expect(m.run(0x6c)).toEqual(fault(14, 2));
  });
});

describe("far returns and IRET", () => {
  const put32 = (m: Machine, at: number, ...values: number[]): void => {
    values.forEach((value, i) => {
      m.write(32, at + 4 * i, value);
    });
    m.setReg(RSP, BigInt(at));
  };
  const put64 = (m: Machine, at: number, ...values: bigint[]): void => {
    values.forEach((value, i) => {
      m.write(64, at + 8 * i, value);
    });
    m.setReg(RSP, BigInt(at));
  };

  it("IRET to an outer level loads the stack and drops segments that are too privileged", () => {
    const m = protectedMachine();
    put32(m, 0x8f00, 0x7000, Sel.CODE3, 0x3246, 0x6000, Sel.DATA3);
    expect(m.run(0xcf)).toEqual(done);
    expect([m.rip, m.reg(RSP), m.get32(Cpu.CPL)]).toEqual([0x7000n, 0x6000n, 3]);
    expect([m.selector(Seg.SS), m.selector(Seg.DS), m.access(Seg.DS)]).toEqual([Sel.DATA3, 0, 0x1_0000]);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x3202);
  });

  it("IRET to virtual-8086 mode", () => {
    const m = protectedMachine();
    put32(m, 0x8f00, 0x10, 0x700, 0x2_0202, 0x20, 0x900, 0x100, 0x200, 0x300, 0x400);
    expect(m.run(0xcf)).toEqual(done);
    expect([Seg.CS, Seg.SS, Seg.ES, Seg.DS, Seg.FS, Seg.GS].map((seg) => m.base(seg))).toEqual([
      0x7000n,
      0x9000n,
      0x1000n,
      0x2000n,
      0x3000n,
      0x4000n,
    ]);
    expect([m.rip, m.reg(RSP), m.get32(Cpu.CPL)]).toEqual([0x10n, 0x20n, 3]);
    expect(m.get32(Cpu.MODE)).toBe(Mode.REAL);
  });

  it.each([
    ["null CS", [0x7000, 0, 2], GP],
    ["data CS", [0x7000, Sel.DATA0, 2], fault(13, Sel.DATA0)],
    ["CS beyond the GDT", [0x7000, 0x100, 2], fault(13, 0x100)],
    ["CS whose RPL is not its DPL", [0x7000, Sel.CODE0 | 3, 2], fault(13, Sel.CODE0)],
    ["EIP beyond the limit", [0x1_0000, Sel.CODE16, 2], GP],
    ["outer with a bad SS", [0x7000, Sel.CODE3, 2, 0x6000, Sel.DATA0], fault(13, Sel.DATA0)],
    ["outer with a null SS", [0x7000, Sel.CODE3, 2, 0x6000, 0], GP],
  ])("IRET refuses %s", (_name, frame, expected) => {
    const m = protectedMachine();
    put32(m, 0x8f00, ...frame);
    expect(m.run(0xcf)).toEqual(expected);
    expect([m.rip, m.reg(RSP), m.get32(Cpu.CPL)]).toEqual([0x8000n, 0x8f00n, 0]);
  });

  it("IRETQ: same level with SS:RSP, a null SS, user code, compatibility code", () => {
    const m = longMachine();
    put64(m, 0x8f00, 0x7000n, BigInt(Sel.CODE64), 0x202n, 0x6000n, 0n);
    expect(m.run(0x48, 0xcf)).toEqual(done);
    expect([m.rip, m.reg(RSP), m.selector(Seg.SS)]).toEqual([0x7000n, 0x6000n, 0]);
    put64(m, 0x8f00, 0x7000n, BigInt(Sel.CODE64_3), 0x202n, 0x6000n, BigInt(Sel.DATA3));
    m.segment(Seg.FS, 0, 0x1234n, 0, 0x1_0000);
    expect(m.run(0x48, 0xcf)).toEqual(done);
    expect([m.get32(Cpu.CPL), m.reg(RSP)]).toEqual([3, 0x6000n]);
    // FS was null already: the base that an MSR put there stays.
    expect(m.base(Seg.FS)).toBe(0x1234n);
    const l = longMachine();
    put64(l, 0x8f00, 0x7000n, BigInt(Sel.CODE3), 0x202n, 0x1_0000_6000n, BigInt(Sel.DATA3));
    expect(l.run(0x48, 0xcf)).toEqual(done);
    expect(l.get32(Cpu.MODE) & Mode.CODE_MASK).toBe(Mode.CODE32);
    expect(l.reg(RSP)).toBe(0x6000n);
  });

  it("IRETQ refuses a RIP that is not canonical, a null SS at CPL 3, and NT", () => {
    const m = longMachine();
    put64(m, 0x8f00, 0x8000_0000_0000n, BigInt(Sel.CODE64), 2n, 0x6000n, BigInt(Sel.DATA0));
    expect(m.run(0x48, 0xcf)).toEqual(GP);
    put64(m, 0x8f00, 0x7000n, BigInt(Sel.CODE64_3), 2n, 0x6000n, 3n);
    expect(m.run(0x48, 0xcf)).toEqual(GP);
    m.set32(Cpu.RFLAGS, 0x4002);
    expect(m.run(0x48, 0xcf)).toEqual(GP);
  });

  it("IRET of real mode", () => {
    const m = new Machine();
    m.segment(Seg.CS, 0, 0n, 0xffff, 0x93);
    m.segment(Seg.SS, 0, 0n, 0xffff, 0x93);
    m.rip = 0x700n;
    m.write(16, 0x8f00, 0x1234);
    m.write(16, 0x8f02, 0x700);
    m.write(16, 0x8f04, 0x3246);
    m.setReg(RSP, 0x8f00n);
    expect(m.run(0xcf)).toEqual(done);
    expect([m.rip, m.base(Seg.CS), m.reg(RSP), m.get32(Cpu.RFLAGS)]).toEqual([
      0x1234n,
      0x7000n,
      0x8f06n,
      0x3202,
    ]);
  });

  it("far CALL and RETF in the same segment kind, with parameters released", () => {
    const m = protectedMachine();
    expect(m.run(0x9a, 0x00, 0x70, 0x00, 0x00, Sel.CODE0, 0x00)).toEqual(done);
    expect([m.rip, m.reg(RSP)]).toEqual([0x7000n, 0x8ff8n]);
    expect([m.read(32, 0x8ff8), m.read(32, 0x8ffc)]).toEqual([0x8007n, BigInt(Sel.CODE0)]);
    expect(m.run(0xca, 0x10, 0x00)).toEqual(done);
    expect([m.rip, m.reg(RSP)]).toEqual([0x8007n, 0x9010n]);
  });

  it("a call gate to an inner level copies parameters; RETF goes back out", () => {
    const m = protectedMachine(3);
    m.write(64, GDT + 0x58, gate(Sel.CODE0, 0x7000, 0xec, 2));
    put32(m, 0x8f00, 0x11, 0x22);
    expect(m.run(0x9a, 0, 0, 0, 0, 0x5b, 0x00)).toEqual(done);
    expect([m.rip, m.get32(Cpu.CPL), m.reg(RSP)]).toEqual([0x7000n, 0, 0xa000n - 24n]);
    const frame = Array.from({ length: 6 }, (_, i) => m.read(32, 0xa000 - 24 + 4 * i));
    expect(frame).toEqual([0x8007n, BigInt(Sel.CODE3), 0x11n, 0x22n, 0x8f00n, BigInt(Sel.DATA3)]);
    expect(m.run(0xca, 0x08, 0x00)).toEqual(done);
    expect([m.rip, m.get32(Cpu.CPL), m.reg(RSP)]).toEqual([0x8007n, 3, 0x8f08n]);
  });

  it("a 64-bit call gate", () => {
    const m = longMachine(3);
    m.write(64, GDT + 0x58, gate(Sel.CODE64, 0x7000, 0xec));
    m.write(64, GDT + 0x60, 0n);
    m.setReg(RBX, 0x6000n);
    m.write(32, 0x6000, 0);
    m.write(16, 0x6004, 0x5b);
    expect(m.run(0xff, 0x1b)).toEqual(done); // call far [rbx]
    expect([m.rip, m.get32(Cpu.CPL), m.selector(Seg.SS), m.reg(RSP)]).toEqual([0x7000n, 0, 0, 0x9fe0n]);
    expect([0, 8, 16, 24].map((i) => m.read(64, 0x9fe0 + i))).toEqual([0x8002n, 0x4bn, 0x9000n, 0x23n]);
    expect(m.run(0x48, 0xcb)).toEqual(done); // retfq
    expect([m.rip, m.get32(Cpu.CPL), m.reg(RSP), m.selector(Seg.SS)]).toEqual([
      0x8002n,
      3,
      0x9000n,
      Sel.DATA3,
    ]);
  });

  it.each([
    ["a gate's DPL below the CPL", gate(Sel.CODE0, 0, 0x8c), fault(13, 0x58)],
    ["an absent gate", gate(Sel.CODE0, 0, 0x6c), fault(11, 0x58)],
    ["a gate to data", gate(Sel.DATA0, 0, 0xec), fault(13, Sel.DATA0)],
    ["an interrupt gate", gate(Sel.CODE0, 0, 0xee), fault(13, 0x58)],
    ["inner code without a gate", descriptor(0, -1, 0xc09b), fault(13, 0x58)],
  ])("a far call refuses %s", (_name, raw, expected) => {
    const m = protectedMachine(3);
    m.write(64, GDT + 0x58, raw);
    expect(m.run(0x9a, 0, 0, 0, 0, 0x5b, 0x00)).toEqual(expected);
  });
});

describe("tasks", () => {
  const OTHER = 0x4000;
  const OTHER_SEL = 0x58;

  function machine(type = 0x89): Machine {
    const m = protectedMachine();
    m.write(64, GDT + Sel.TSS, descriptor(TSS, 0x67, 0x8b));
    m.write(64, GDT + OTHER_SEL, descriptor(OTHER, 0x67, type));
    const put = (offset: number, value: number): void => m.write(32, OTHER + offset, value);
    put(0x20, 0x7000);
    put(0x24, 0x202);
    for (let i = 0; i < 8; i++) put(0x28 + 4 * i, 0x100 + i);
    put(0x38, 0x6000);
    put(0x48, Sel.DATA3);
    put(0x4c, Sel.CODE3);
    put(0x50, Sel.DATA3);
    put(0x54, Sel.DATA3);
    return m;
  }
  const JMP = [0xea, 0, 0, 0, 0, OTHER_SEL, 0];
  const CALL = [0x9a, 0, 0, 0, 0, OTHER_SEL, 0];

  it("JMP saves the old task and starts the new", () => {
    const m = machine();
    m.setReg(RAX, 0xaaaan);
    expect(m.run(...JMP)).toEqual(done);
    expect([m.rip, m.reg(RAX), m.reg(RSP), m.get32(Cpu.CPL)]).toEqual([0x7000n, 0x100n, 0x6000n, 3]);
    expect([m.selector(Seg.CS), m.selector(Seg.SS), m.selector(Seg.FS), m.selector(Seg.TR)]).toEqual([
      Sel.CODE3,
      Sel.DATA3,
      0,
      OTHER_SEL,
    ]);
    expect(m.get64(Cpu.CR0) & 8n).toBe(8n);
    expect([m.read(32, TSS + 0x20), m.read(32, TSS + 0x28), m.read(16, TSS + 0x4c)]).toEqual([
      0x8007n,
      0xaaaan,
      BigInt(Sel.CODE0),
    ]);
    expect([m.read(8, GDT + Sel.TSS + 5), m.read(8, GDT + OTHER_SEL + 5)]).toEqual([0x89n, 0x8bn]);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x202);
  });

  it("CALL nests and IRET goes back", () => {
    const m = machine();
    m.write(32, OTHER + 0x4c, Sel.CODE0);
    m.write(32, OTHER + 0x50, Sel.DATA0);
    m.write(32, OTHER + 0x48, 0);
    m.write(32, OTHER + 0x54, 0);
    expect(m.run(...CALL)).toEqual(done);
    expect(m.get32(Cpu.RFLAGS)).toBe(0x4202);
    expect(m.read(16, OTHER)).toBe(BigInt(Sel.TSS));
    expect([m.read(8, GDT + Sel.TSS + 5), m.read(8, GDT + OTHER_SEL + 5)]).toEqual([0x8bn, 0x8bn]);
    expect(m.run(0xcf)).toEqual(done);
    expect([m.rip, m.selector(Seg.TR), m.reg(RSP)]).toEqual([0x8007n, Sel.TSS, 0x9000n]);
    expect(m.get32(Cpu.RFLAGS)).toBe(2);
    expect([m.read(8, GDT + Sel.TSS + 5), m.read(8, GDT + OTHER_SEL + 5)]).toEqual([0x8bn, 0x89n]);
    // The image that was saved has NT clear.
    expect(m.read(32, OTHER + 0x24)).toBe(0x202n);
  });

  it("a 16-bit TSS", () => {
    const m = machine(0x81);
    m.write(64, GDT + OTHER_SEL, descriptor(OTHER, 0x2b, 0x81));
    for (const [offset, value] of [
      [0x0e, 0x7000],
      [0x10, 0x0202],
      [0x12, 0x1111],
      [0x1a, 0x6000],
      [0x22, Sel.DATA3],
      [0x24, Sel.CODE3],
      [0x26, Sel.DATA3],
      [0x28, 0],
      [0x2a, 0],
    ] as const)
      m.write(16, OTHER + offset, value);
    m.setReg(RAX, 0x1234_5678n);
    expect(m.run(...JMP)).toEqual(done);
    expect([m.rip, m.reg(RAX), m.selector(Seg.ES)]).toEqual([0x7000n, 0x1234_1111n, Sel.DATA3]);
  });

  it.each([
    ["busy", (m: Machine) => m.write(8, GDT + OTHER_SEL + 5, 0x8b), fault(13, OTHER_SEL)],
    ["absent", (m: Machine) => m.write(8, GDT + OTHER_SEL + 5, 0x09), fault(11, OTHER_SEL)],
    ["too short", (m: Machine) => m.write(16, GDT + OTHER_SEL, 0x66), fault(10, OTHER_SEL)],
  ])("a TSS that is %s changes nothing", (_name, spoil, expected) => {
    const m = machine();
    spoil(m);
    expect(m.run(...JMP)).toEqual(expected);
    expect([m.rip, m.selector(Seg.TR), m.get64(Cpu.CR0)]).toEqual([0x8000n, Sel.TSS, 0x11n]);
  });

  it("a bad segment in the new task is that task's fault", () => {
    const m = machine();
    m.write(32, OTHER + 0x50, Sel.DATA0);
    m.run(...JMP);
    expect([m.get32(Cpu.EXC_VECTOR), m.get32(Cpu.EXC_ERROR)]).toEqual([10, Sel.DATA0]);
    expect([m.rip, m.selector(Seg.TR)]).toEqual([0x7000n, OTHER_SEL]);
    expect(m.get32(Slot.TASK_COMMITTED)).toBe(0);
  });

  it("an exception through a task gate pushes its error code there", () => {
    const m = machine();
    m.write(64, IDT + 8 * 8, gate(OTHER_SEL, 0, 0x85));
    const result = m.call(deliverEvent, 8, 0, 1, EventKind.EXCEPTION, m.rip);
    expect(result).toBe(0);
    expect([m.rip, m.reg(RSP), m.selector(Seg.TR)]).toEqual([0x7000n, 0x5ffcn, OTHER_SEL]);
    expect(m.read(32, 0x5ffc)).toBe(0n);
    // RF is set in the old task's image: it resumes at the faulting instruction.
    expect(m.read(32, TSS + 0x24)).toBe(0x1_0002n);
  });

  it("the T flag raises a debug trap before the new task starts", () => {
    const m = machine();
    m.write(16, OTHER + 0x64, 1);
    m.write(64, IDT + 8, gate(Sel.CODE0, 0x100, 0x8e));
    m.run(...JMP);
    expect(m.get32(Cpu.EXC_VECTOR)).toBe(1);
    expect(m.get64(Cpu.DR + 48) & 0x8000n).toBe(0x8000n);
  });

  it("does not exist in IA-32e mode", () => {
    const m = longMachine();
    m.write(64, GDT + OTHER_SEL, descriptor(OTHER, 0x67, 0x89));
    m.setReg(RBX, 0x6000n);
    m.write(16, 0x6004, OTHER_SEL);
    expect(m.run(0xff, 0x2b)).toEqual(fault(13, OTHER_SEL));
  });
});

describe("saved processor state", () => {
  function machine(): Machine {
    const m = longMachine();
    m.set64(Cpu.CR4, 0x4_0220n);
    m.set64(Cpu.XCR0, 3n);
    m.set32(Cpu.FCW, 0x37f);
    m.set32(Cpu.FSW, 0x4001);
    m.set32(Cpu.TOP, 6);
    m.set32(Cpu.FTW, 0x1fff);
    m.set64(Cpu.FIP, 0x1234_5678_9abcn);
    m.set64(Cpu.FPR + 16 * 6, 0x8000_0000_0000_0000n);
    m.set64(Cpu.FPR + 16 * 6 + 8, 0xbfffn);
    for (let i = 0; i < 16; i++) m.set64(Cpu.XMM + 16 * i, BigInt(i + 1));
    m.set32(Cpu.MXCSR, 0x1f80);
    m.setReg(RBX, 0x6fc0n);
    return m;
  }

  it("FXSAVE64 and FXRSTOR64 carry everything, across a page boundary too", () => {
    const m = machine();
    expect(m.run(0x48, 0x0f, 0xae, 0x03)).toEqual(done);
    expect(m.read(16, 0x6fc0)).toBe(0x37fn);
    expect(m.read(16, 0x6fc2)).toBe(0x7001n);
    // R6 and R7 hold values.
    expect(m.read(8, 0x6fc4)).toBe(0xc0n);
    expect(m.read(64, 0x6fc8)).toBe(0x1234_5678_9abcn);
    expect([m.read(32, 0x6fc0 + 24), m.read(32, 0x6fc0 + 28)]).toEqual([0x1f80n, 0xffffn]);
    expect([m.read(64, 0x6fc0 + 32), m.read(16, 0x6fc0 + 40)]).toEqual([0x8000_0000_0000_0000n, 0xbfffn]);
    expect(m.read(64, 0x6fc0 + 160 + 15 * 16)).toBe(16n);
    for (const field of [Cpu.FCW, Cpu.FSW, Cpu.TOP, Cpu.FTW, Cpu.MXCSR]) m.set32(field, 0);
    m.set64(Cpu.XMM + 16 * 15, 0n);
    expect(m.run(0x48, 0x0f, 0xae, 0x0b)).toEqual(done);
    expect([Cpu.FCW, Cpu.FSW, Cpu.TOP, Cpu.MXCSR].map((field) => m.get32(field))).toEqual([
      0x37f, 0x4001, 6, 0x1f80,
    ]);
    // R6 is valid; R7 is zero: its tag is worked out anew.
    expect(m.get32(Cpu.FTW)).toBe(0x4fff);
    expect(m.get64(Cpu.XMM + 16 * 15)).toBe(16n);
  });

  it("faults: alignment, MXCSR, CR0.TS and EM, a page that cannot be written", () => {
    const m = machine();
    m.setReg(RBX, 0x6008n);
    expect(m.run(0x0f, 0xae, 0x03)).toEqual(GP);
    m.setReg(RBX, 0x6000n);
    m.write(32, 0x6018, 0x1_0000);
    expect(m.run(0x0f, 0xae, 0x0b)).toEqual(GP);
    m.setReg(RBX, 0x3f_ff00n);
    m.set64(Cpu.CR0, 0x8001_0019n);
    expect(m.run(0x0f, 0xae, 0x03)).toEqual(fault(7));
    m.set64(Cpu.CR0, 0x8001_0015n);
    expect(m.run(0x0f, 0xae, 0x03)).toEqual(UD);
    m.set64(Cpu.CR0, 0x8001_0011n);
    expect(m.run(0x0f, 0xae, 0x03)).toEqual(fault(14, 0));
    expect(m.get64(Cpu.CR2)).toBe(0x40_0000n);
  });

  it("XSAVE writes what is asked for and XRSTOR initializes what is not held", () => {
    const m = machine();
    m.setReg(RBX, 0x6000n);
    m.setReg(RAX, 2n);
    for (let i = 0; i < 576; i += 8) m.write(64, 0x6000 + i, 0n);
    expect(m.run(0x48, 0x0f, 0xae, 0x23)).toEqual(done);
    expect(m.read(64, 0x6200)).toBe(2n);
    expect(m.read(16, 0x6000)).toBe(0n);
    expect(m.read(64, 0x60a0)).toBe(1n);
    m.setReg(RAX, 3n);
    m.set64(Cpu.XMM, 99n);
    expect(m.run(0x48, 0x0f, 0xae, 0x2b)).toEqual(done);
    expect(m.get64(Cpu.XMM)).toBe(1n);
    expect([Cpu.FCW, Cpu.FSW, Cpu.TOP, Cpu.FTW].map((field) => m.get32(field))).toEqual([
      0x37f, 0, 0, 0xffff,
    ]);
    m.write(64, 0x6208, 1n << 63n);
    expect(m.run(0x48, 0x0f, 0xae, 0x2b)).toEqual(GP);
    m.write(64, 0x6208, 0n);
    m.write(64, 0x6200, 4n);
    expect(m.run(0x48, 0x0f, 0xae, 0x2b)).toEqual(GP);
    m.set64(Cpu.CR4, 0x220n);
    expect(m.run(0x48, 0x0f, 0xae, 0x2b)).toEqual(UD);
  });
});

describe("debug registers", () => {
  it("fixed bits, the aliases, CR4.DE", () => {
    const m = longMachine();
    m.setReg(RAX, 0xffff_ffffn);
    expect(m.run(0x0f, 0x23, 0xf0)).toEqual(done); // mov dr6, rax
    expect(m.get64(Cpu.DR + 48)).toBe(0xffff_efffn);
    m.setReg(RAX, 0n);
    expect(m.run(0x0f, 0x23, 0xe8)).toEqual(done); // mov dr5, rax
    expect(m.get64(Cpu.DR + 56)).toBe(0x400n);
    m.set64(Cpu.CR4, 0x28n);
    expect(m.run(0x0f, 0x23, 0xe8)).toEqual(UD);
    m.setReg(RAX, 1n << 32n);
    expect(m.run(0x0f, 0x23, 0xf8)).toEqual(GP);
    expect(m.run(0x0f, 0x23, 0xc0)).toEqual(done);
    expect(m.get64(Cpu.DR)).toBe(1n << 32n);
    expect(longMachine(3).run(0x0f, 0x21, 0xc0)).toEqual(GP);
  });

  it("general detect", () => {
    const m = longMachine();
    m.set64(Cpu.DR + 56, 0x2400n);
    expect(m.run(0x0f, 0x21, 0xc0)).toEqual(fault(1));
    expect(m.get64(Cpu.DR + 48) & 0x2000n).toBe(0x2000n);
    m.write(64, IDT + 16, gate(Sel.CODE64, 0x100, 0x8e));
    expect(m.call(deliverEvent, 1, 0, 0, EventKind.EXCEPTION, m.rip)).toBe(0);
    expect(m.get64(Cpu.DR + 56)).toBe(0x400n);
  });
});

describe("the rest", () => {
  it("CPUID asks the host", () => {
    const m = longMachine();
    m.setReg(RAX, 0xffff_ffff_0000_0007n);
    m.setReg(RCX, 1n);
    expect(m.run(0x0f, 0xa2)).toEqual(exit(10));
    expect([m.get32(Cpu.EXIT_A), m.get32(Cpu.EXIT_B)]).toEqual([7, 1]);
    m.answer(0n, 0n);
    expect(m.step()).toEqual(done);
    // OSXSAVE is the processor's own: CR4's.
    m.set32(Cpu.REPLAY_COUNT, 0);
    m.setReg(RAX, 1n);
    m.set64(Cpu.CR4, 0x4_0020n);
    expect(m.run(0x0f, 0xa2)).toEqual(exit(10));
    m.answer(0n, 0n);
    expect(m.step()).toEqual(done);
    expect(m.reg(RCX)).toBe(0x800_0000n);
  });

  it("CPUID's results go to four registers", () => {
    const m = longMachine();
    expect(m.run(0x0f, 0xa2)).toEqual(exit(10));
    m.answer(0x2222_2222_1111_1111n, 0x4444_4444_3333_3333n);
    expect(m.step()).toEqual(done);
    expect([RAX, RBX, RCX, RDX].map((r) => m.reg(r))).toEqual([
      0x1111_1111n,
      0x2222_2222n,
      0x3333_3333n,
      0x4444_4444n,
    ]);
  });

  it("HLT halts behind itself; VMCALL exits done", () => {
    const m = longMachine();
    expect(m.run(0xf4)).toEqual(exit(12));
    expect([m.rip, m.get32(Cpu.ACTIVITY)]).toEqual([0x8001n, 1]);
    expect(m.run(0x0f, 0x01, 0xc1)).toEqual(exit(18));
    expect(m.rip).toBe(0x8004n);
    expect(longMachine(3).run(0xf4)).toEqual(GP);
  });

  it("INT n respects the gate's privilege; its faults are its own", () => {
    const m = longMachine(3);
    const put = (vector: number, type: number): void => {
      m.write(64, IDT + vector * 16, gate(Sel.CODE64, vector << 4, type));
      m.write(64, IDT + vector * 16 + 8, 0n);
    };
    put(0x80, 0xee);
    put(0x81, 0x8e);
    expect(m.run(0xcd, 0x81)).toEqual(fault(13, 0x81 * 8 + 2));
    expect(m.rip).toBe(0x8000n);
    expect(m.run(0xcd, 0x80)).toEqual(done);
    expect(m.rip).toBe(0x800n);
    expect(m.read(64, Number(m.reg(RSP)))).toBe(0x8002n);
  });

  it("RDRAND sets CF and clears the rest; RDPMC faults; undefined instructions are", () => {
    const m = longMachine();
    m.set32(Cpu.FLAG_AUX, 0x8d4);
    expect(m.run(0x48, 0x0f, 0xc7, 0xf0)).toEqual(done);
    expect(m.reg(RAX)).toBe(0x1234_5678_9abc_def0n);
    expect(m.get32(Cpu.FLAG_AUX)).toBe(1);
    expect(m.run(0x0f, 0x33)).toEqual(GP);
    for (const code of [
      [0x0f, 0x0b],
      [0x0f, 0xb9, 0xc0],
      [0x0f, 0xff, 0xc0],
      [0x0f, 0xaa],
      [0x0f, 0x01, 0xc8],
    ])
      expect(m.run(...code)).toEqual(UD);
  });

  it("hints do nothing, with any address", () => {
    const m = longMachine();
    m.setReg(RBX, 0x8000_0000_0000_0000n);
    for (const code of [
      [0x0f, 0x1f, 0x03],
      [0x0f, 0x18, 0x0b],
      [0x0f, 0x0d, 0x0b],
      [0xf3, 0x0f, 0x1e, 0xfa],
      [0x0f, 0xae, 0xe8],
      [0x0f, 0xae, 0xf0],
      [0x0f, 0xae, 0xf8],
      [0xf3, 0x90],
    ])
      expect(m.run(...code)).toEqual(done);
    expect(m.run(0x0f, 0xae, 0x3b)).toEqual(GP); // clflush does look
  });
});
