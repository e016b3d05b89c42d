import { describe, expect, it } from "vitest";
import { Cpu, Seg } from "../src/cpu/layout.ts";
import { gate, IDT, longMachine, protectedMachine, Sel, TSS } from "./machine.ts";
import { done, exit, fault, GP, RAX, RBX, RCX, RDI, RDX, RSI, RSP, UD } from "./support/outcomes.ts";

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

describe("other instructions", () => {
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
