import { describe, expect, it } from "vitest";
import { deliverEvent, EventKind } from "../src/cpu/interrupts.ts";
import { Cpu, Mode, Seg } from "../src/cpu/layout.ts";
import { Slot } from "../src/cpu/slots.ts";
import { GDT, gate, IDT, longMachine, Machine, protectedMachine, Sel } from "./machine.ts";
import { done, exit, fault, GP, RAX, RBX, RCX, RDX, UD } from "./support/outcomes.ts";

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
