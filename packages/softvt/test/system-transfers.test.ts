import { describe, expect, it } from "vitest";
import { Cpu, Mode, Seg } from "../src/cpu/layout.ts";
import { descriptor, GDT, gate, longMachine, Machine, protectedMachine, Sel } from "./machine.ts";
import { done, fault, GP, RAX, RBX, RCX, RDX, RSP, UD } from "./support/outcomes.ts";

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
