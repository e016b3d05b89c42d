import { describe, expect, it } from "vitest";
import { deliverEvent, EventKind } from "../src/cpu/interrupts.ts";
import { Cpu, Seg } from "../src/cpu/layout.ts";
import { Slot } from "../src/cpu/slots.ts";
import {
  descriptor,
  GDT,
  gate,
  IDT,
  longMachine,
  type Machine,
  protectedMachine,
  Sel,
  TSS,
} from "./machine.ts";
import { done, fault, RAX, RBX, RSP } from "./support/outcomes.ts";

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
