import { describe, expect, it } from "vitest";
import { Cpu } from "../src/cpu/layout.ts";
import { longMachine, type Machine } from "./machine.ts";
import { done, fault, GP, RAX, RBX, UD } from "./support/outcomes.ts";

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
