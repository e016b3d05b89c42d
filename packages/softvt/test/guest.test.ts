import { ExitReason } from "@skep/vcpu";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CODE, Guest, STACK, TIERS } from "./guest.ts";

const HLT = 0xf4;
const IRETQ = [0x48, 0xcf];
const INC_R15 = [0x49, 0xff, 0xc7];
const R15 = 15;

let guest: Guest;

describe.each(TIERS)("%s", (_tier, compileAfter) => {
  beforeEach(async () => {
    guest = await Guest.open({ compileAfter });
  });
  afterEach(() => guest.close());

  it("a constant of zero that makes what is loaded not matter leaves the next instruction alone", () => {
    // call f; mov eax, [rbx]; hlt; f: test byte [rbx], 0; ret
    guest.code(CODE, 0xe8, 3, 0, 0, 0, 0x8b, 0x03, HLT, 0xf6, 0x03, 0, 0xc3);
    guest.memory.dma.writeU32(0x4000, 0x1234_5678);
    guest.set((state) => {
      state.gpr[3] = 0x4000n;
    });
    expect(guest.run().reason).toBe(ExitReason.Hlt);
    const { gpr, rflags } = guest.vcpu.save();
    // PF and ZF.
    expect([gpr[0], rflags & 0x8d5n]).toEqual([0x1234_5678n, 0x44n]);
  });

  it.each([
    ["UCOMISS", [0x0f, 0x2e, 0xc0]],
    ["CVTTSS2SI", [0xf3, 0x0f, 0x2c, 0xc0, 0x31, 0xd2]], // …; xor edx, edx
  ] as const)("%s that faults for its operand shows the flags of what was before it", (_name, code) => {
    guest.handler(19, [0x48, 0x8b, 0x44, 0x24, 0x10, HLT]); // mov rax, [rsp + 16]; hlt
    // mov ecx, 7fffffffh; inc ecx: PF, AF, SF, OF
    guest.code(CODE, 0xb9, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xc1, ...code, HLT);
    guest.set((state) => {
      state.fpu = { ...state.fpu, mxcsr: 0x1f00, xmm: state.fpu.xmm.map(() => 0x7f80_0001n) };
    });
    expect(guest.run().reason).toBe(ExitReason.Hlt);
    expect(guest.vcpu.save().gpr[0]! & 0x8d5n).toBe(0x894n);
  });

  describe("interrupts", () => {
    it("the shadow of STI covers HLT; an injected interrupt then resumes behind it", () => {
      guest.handler(0x20, [...INC_R15, ...IRETQ]);
      guest.code(CODE, 0xfb, HLT, HLT);
      expect(guest.vcpu.canTakeInterrupt()).toBe(false);
      expect(guest.run({ interruptWindow: true }).reason).toBe(ExitReason.Hlt);
      expect(guest.vcpu.save().rip).toBe(BigInt(CODE + 2));
      expect(guest.vcpu.canTakeInterrupt()).toBe(true);
      guest.vcpu.injectInterrupt(0x20);
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      const state = guest.vcpu.save();
      expect([state.rip, state.gpr[R15], state.gpr[4]]).toEqual([BigInt(CODE + 3), 1n, BigInt(STACK)]);
    });

    it("the interrupt window opens behind STI's shadow, and by POPF and IRET at once", () => {
      const nop = 0x90;
      guest.code(CODE, 0xfb, nop, nop, HLT);
      expect(guest.run({ interruptWindow: true }).reason).toBe(ExitReason.InterruptWindow);
      expect(guest.vcpu.save().rip).toBe(BigInt(CODE + 2));
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      // cli; pushf; or dword [rsp], 0x200; popf
      guest.code(CODE, 0xfa, 0x9c, 0x81, 0x0c, 0x24, 0x00, 0x02, 0x00, 0x00, 0x9d, nop, HLT);
      guest.set((state) => {
        state.rip = BigInt(CODE);
      });
      expect(guest.run({ interruptWindow: false, budget: 1 }).reason).toBe(ExitReason.PreemptionTimer);
      expect(guest.run({ interruptWindow: true }).reason).toBe(ExitReason.InterruptWindow);
      expect(guest.vcpu.save().rip).toBe(BigInt(CODE + 10));
    });

    it("MOV SS holds an NMI off for one instruction", () => {
      guest.handler(2, [...INC_R15, HLT]);
      guest.code(CODE, 0x8e, 0xd0, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc3, HLT); // mov ss, eax; inc rbx; inc rbx
      guest.set((state) => {
        state.gpr[0] = 0x10n;
      });
      expect(guest.run({ budget: 1 }).reason).toBe(ExitReason.PreemptionTimer);
      guest.vcpu.injectNmi();
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      const state = guest.vcpu.save();
      expect([state.gpr[3], state.gpr[R15]]).toEqual([1n, 1n]);
      expect(state.interruptibility.nmiBlocked).toBe(true);
    });

    it("nothing comes between an exit's answer and the instruction that asked", () => {
      guest.handler(0x20, [0xc6, 0x07, 0x42, ...IRETQ]); // mov byte [rdi], 0x42
      guest.handler(2, [0xc6, 0x07, 0x43, ...IRETQ]);
      guest.code(CODE, 0xfb, 0x90, 0xc6, 0x07, 0x41, HLT); // sti; nop; mov byte [rdi], 0x41
      guest.memory.dma.writeU64(0x10_2010, 0x40_0087n);
      guest.set((state) => {
        state.gpr[7] = 0x40_0000n;
      });
      const written: number[] = [];
      const write = (interruptWindow: boolean): void => {
        const exit = guest.run({ interruptWindow });
        if (exit.reason !== ExitReason.EptViolation) throw new Error(`exit ${exit.reason}`);
        written.push(exit.data & 0xff);
      };
      write(false);
      guest.vcpu.injectNmi();
      // The window opens behind the write, not before it; so does the NMI's handler begin.
      write(true);
      expect(guest.run({ interruptWindow: true }).reason).toBe(ExitReason.InterruptWindow);
      guest.vcpu.injectInterrupt(0x20);
      write(false);
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      expect(written).toEqual([0x41, 0x43, 0x42]);
      expect(guest.vcpu.save().rip).toBe(BigInt(CODE + 6));
    });

    it("a handler that faults for ever ends with the budget, not with the host", () => {
      guest.handler(6, [0x0f, 0x0b], { ist: 1 });
      guest.code(CODE, 0x0f, 0x0b);
      expect(guest.run().reason).toBe(ExitReason.PreemptionTimer);
      expect(guest.run().reason).toBe(ExitReason.PreemptionTimer);
    });

    it("no handler at all: triple fault", () => {
      guest.code(CODE, 0x0f, 0x0b);
      expect(guest.run().reason).toBe(ExitReason.TripleFault);
    });
  });

  describe("user mode", () => {
    it("SYSCALL and SYSRET, page faults with the right error code, INT from user code", () => {
      // The handler of #PF keeps the error code in r14 and skips the three-byte access.
      guest.handler(14, [0x41, 0x5e, 0x48, 0x83, 0x04, 0x24, 0x03, ...IRETQ]);
      guest.handler(0x80, [HLT], { dpl: 3 });
      // syscall entry: inc r15; sysretq
      guest.code(0xb800, ...INC_R15, 0x48, 0x0f, 0x07);
      // user: syscall; syscall; mov [rbx], rax (no page there); int 0x80
      guest.code(CODE, 0x0f, 0x05, 0x0f, 0x05, 0x48, 0x89, 0x03, 0xcd, 0x80);
      guest.set((state) => {
        state.msrs = { ...state.msrs, c0000081: 0x001b_0008_0000_0000n, c0000082: 0xb800n, c0000084: 0x200n };
        state.cs = { selector: 0x2b, base: 0n, limit: 0xffff_ffff, access: 0xa0fb };
        state.ss = { selector: 0x23, base: 0n, limit: 0xffff_ffff, access: 0xc0f3 };
        state.rflags = 0x202n;
        state.gpr[3] = 0x60_0000n;
      });
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      const state = guest.vcpu.save();
      // User, write, not present.
      expect([state.gpr[R15], state.gpr[14], state.cr2]).toEqual([2n, 6n, 0x60_0000n]);
      expect([state.cs.selector, state.ss.selector, state.gpr[4]]).toEqual([0x08, 0, 0xa000n - 40n]);
      expect(guest.memory.dma.readU64(0xa000 - 40)).toBe(BigInt(CODE + 9));
      expect(guest.memory.dma.readU64(0xa000 - 32)).toBe(0x2bn);
      expect(guest.memory.dma.readU64(0xa000 - 8)).toBe(0x23n);
    });
  });

  describe("debugging", () => {
    it("TF traps after every instruction, the one that clears it too", () => {
      guest.handler(1, [...INC_R15, ...IRETQ]);
      const nop = 0x90;
      // pushf; or dword [rsp], 0x100; popf; nop; nop; pushf; and dword [rsp], ~0x100; popf; nop; hlt
      guest.code(CODE, 0x9c, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d, nop, nop);
      guest.code(CODE + 11, 0x9c, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d, nop, HLT);
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      const state = guest.vcpu.save();
      expect(state.gpr[R15]).toBe(5n);
      expect(state.dr.dr6 & 0x4000n).toBe(0x4000n);
    });

    it("an instruction breakpoint faults before, and RF lets the instruction go on", () => {
      guest.handler(1, [...INC_R15, 0x81, 0x4c, 0x24, 0x10, 0x00, 0x00, 0x01, 0x00, ...IRETQ]); // sets RF in the image
      guest.code(CODE, 0x48, 0xff, 0xc3, 0x48, 0xff, 0xc3, 0xeb, 0xf8); // a: inc rbx; b: inc rbx; jmp a
      guest.set((state) => {
        state.dr = { ...state.dr, dr1: BigInt(CODE + 3), dr7: 0x404n };
      });
      expect(guest.run({ budget: 30 }).reason).toBe(ExitReason.PreemptionTimer);
      const state = guest.vcpu.save();
      expect(state.gpr[R15]!).toBeGreaterThan(2n);
      expect(state.dr.dr6 & 0xfn).toBe(2n);
      // Each breakpoint let the loop go on: two increments a round.
      expect(state.gpr[3]!).toBeGreaterThanOrEqual(2n * state.gpr[R15]! - 2n);
    });

    it("the embedder's single step", () => {
      guest.code(CODE, 0x90, 0x90, HLT);
      expect(guest.run({ singleStep: true }).reason).toBe(ExitReason.MonitorTrapFlag);
      expect(guest.vcpu.save().rip).toBe(BigInt(CODE + 1));
    });
  });

  describe("exits", () => {
    it("port input, CPUID, an MSR of the host, VMCALL, one after another", () => {
      guest.code(
        CODE,
        ...[0xec, 0x0f, 0xa2], // in al, dx; cpuid
        ...[0xb9, 0x1b, 0x00, 0x00, 0x00, 0x0f, 0x32], // mov ecx, 0x1b; rdmsr
        ...[0x0f, 0x01, 0xc1, HLT], // vmcall; hlt
      );
      guest.set((state) => {
        state.gpr[2] = 0x3fdn;
      });
      const io = guest.run();
      if (io.reason !== ExitReason.IoInstruction) throw new Error(`exit ${io.reason}`);
      expect([io.port, io.size, io.direction]).toEqual([0x3fd, 1, "in"]);
      io.data = 0x60;
      const cpuid = guest.run();
      if (cpuid.reason !== ExitReason.Cpuid) throw new Error(`exit ${cpuid.reason}`);
      expect(cpuid.leaf).toBe(0x60);
      Object.assign(cpuid, { eax: 1, ebx: 2, ecx: 3, edx: 0xffff_ffff });
      const msr = guest.run();
      if (msr.reason !== ExitReason.Rdmsr) throw new Error(`exit ${msr.reason}`);
      expect(msr.index).toBe(0x1b);
      msr.value = 0xfee0_0900n;
      const call = guest.run();
      if (call.reason !== ExitReason.Vmcall) throw new Error(`exit ${call.reason}`);
      expect([call.number, call.args[0]]).toEqual([0xfee0_0900n, 2n]);
      call.result = 7n;
      expect(guest.run().reason).toBe(ExitReason.Hlt);
      expect(guest.vcpu.save().gpr[0]).toBe(7n);
    });

    it("RDTSC counts instructions within a slice", () => {
      guest.code(CODE, 0x90, 0x90, 0x0f, 0x31, HLT); // nop; nop; rdtsc
      expect(guest.run({ tsc: 1000n, tscPerInstruction: 10 }).reason).toBe(ExitReason.Hlt);
      expect(guest.vcpu.save().gpr[0]).toBe(1020n);
    });
  });
});
