import { ExitReason } from "../../exit.ts";
import { type CaseGroup, start } from "./case.ts";
import { expectEqual, expectRegisters, runToHalt, runToVector } from "./guest.ts";
import { gate, gate64, hex, Layout, Selector } from "./layout.ts";

const IF = 0x200n;

/** External interrupts and NMIs through the engine contract (SDM Vol. 3A sec. 7.8, Vol. 3C sec. 27.6). */
export const interruptCases: CaseGroup = {
  title: "interrupts",
  cases: [
    {
      name: "an injected interrupt is delivered at the next entry, in every mode",
      needs: ["real mode", "protected mode", "long mode", "interrupts"],
      run(m) {
        for (const mode of ["real", "protected", "long"] as const) {
          start(
            m,
            mode,
            hex`
            ; bits 16, at 0x8000
            90 ; nop
            f4 ; hlt
          `,
            { rflags: IF },
          );
          expectEqual("canTakeInterrupt", m.vcpu.canTakeInterrupt(), true);
          m.vcpu.injectInterrupt(0x31);
          const { state, sp } = runToVector(m, 0x31);
          expectEqual(`${mode}: pushed instruction pointer`, m.u16(sp), 0x8000);
          expectEqual(`${mode}: IF`, state.rflags & IF, 0n);
        }
      },
    },
    {
      name: "an interrupt wakes a halted vCPU, and IRET goes behind the HLT",
      needs: ["long mode", "interrupts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          fb             ; sti
          f4             ; hlt
          b9 07 00 00 00 ; mov ecx, 7
          fa             ; cli
          f4             ; hlt
        `,
        );
        m.load(Layout.IDT + 16 * 0x40, gate64(Selector.CODE64, 0x8200, 0x8e));
        m.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          ff c3 ; inc ebx
          48 cf ; iretq
        `,
        );
        expectEqual("exit", m.run(), "halt");
        expectEqual("RIP", m.state.rip, 0x8002n);
        expectEqual("canTakeInterrupt", m.vcpu.canTakeInterrupt(), true);
        m.vcpu.injectInterrupt(0x40);
        expectRegisters(runToHalt(m), { rbx: 1n, rcx: 7n, rip: 0x8009n });
      },
    },
    {
      name: "canTakeInterrupt follows RFLAGS.IF",
      needs: ["real mode", "interrupts"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          f4 ; hlt
        `,
        );
        expectEqual("IF clear", m.vcpu.canTakeInterrupt(), false);
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          f4 ; hlt
        `,
          { rflags: IF },
        );
        expectEqual("IF set", m.vcpu.canTakeInterrupt(), true);
        m.vcpu.injectInterrupt(0x31);
        expectEqual("an event is pending", m.vcpu.canTakeInterrupt(), false);
      },
    },
    {
      name: "the interrupt window opens when the guest sets IF, one instruction later",
      needs: ["long mode", "interrupts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 01 00 00 00 ; mov ecx, 1
          fb             ; sti
          b9 02 00 00 00 ; mov ecx, 2
          b9 03 00 00 00 ; mov ecx, 3
          f4             ; hlt
        `,
        );
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.InterruptWindow);
        // STI's shadow covers the instruction after it.
        expectRegisters(m.state, { rcx: 2n });
        expectEqual("canTakeInterrupt", m.vcpu.canTakeInterrupt(), true);
        m.vcpu.injectInterrupt(0x33);
        const { sp } = runToVector(m, 0x33);
        expectEqual("pushed RIP", m.u64(sp), m.engine.countsInstructions ? 0x800bn : m.u64(sp));
      },
    },
    {
      name: "the interrupt window opens at POPF and at IRET without a shadow",
      needs: ["long mode", "interrupts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          68 02 02 00 00 ; push 0x202
          9d             ; popf
          b9 02 00 00 00 ; mov ecx, 2
          f4             ; hlt
        `,
        );
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.InterruptWindow);
        expectRegisters(m.state, { rcx: 0n, rip: 0x8006n });
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          6a 10          ; push 0x10
          68 00 70 00 00 ; push 0x7000
          68 02 02 00 00 ; push 0x202
          6a 28          ; push 0x28
          68 15 80 00 00 ; push @there
          48 cf          ; iretq
          ; there:
          b9 02 00 00 00 ; mov ecx, 2
          f4             ; hlt
        `,
        );
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.InterruptWindow);
        expectRegisters(m.state, { rcx: 0n });
      },
    },
    {
      name: "an interrupt window that is open already exits before any instruction",
      needs: ["real mode", "interrupts"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          41 ; inc cx
          f4 ; hlt
        `,
          { rflags: IF },
        );
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.InterruptWindow);
        expectRegisters(m.state, { rcx: 0n });
      },
    },
    {
      name: "MOV SS keeps interrupts off for one instruction",
      needs: ["real mode", "interrupts"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          b8 00 00 ; mov ax, 0
          8e d0    ; mov ss, ax
          bc 00 60 ; mov sp, 0x6000
          b9 01 00 ; mov cx, 1
          f4       ; hlt
        `,
          { rflags: IF },
        );
        m.step(0, { budget: 2 });
        if (m.state.rip === 0x8005n) expectEqual("canTakeInterrupt", m.vcpu.canTakeInterrupt(), false);
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.InterruptWindow);
        expectEqual("SP", m.state.gpr[4], 0x6000n);
      },
    },
    {
      name: "STI followed by CLI opens no window",
      needs: ["real mode", "interrupts"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          fb ; sti
          fa ; cli
          fb ; sti
          fa ; cli
          f4 ; hlt
        `,
        );
        expectEqual("exit", m.step(0, { interruptWindow: true }).reason, ExitReason.Hlt);
        expectRegisters(m.state, { rip: 0x8005n });
      },
    },
    {
      name: "an interrupt in ring 3 switches stacks",
      needs: ["protected mode", "interrupts"],
      run(m) {
        start(
          m,
          "protected",
          hex`
          ; bits 32, at 0x8000
          6a 3b          ; push 0x3b
          68 00 64 00 00 ; push 0x6400
          68 02 02 00 00 ; push 0x202
          6a 33          ; push 0x33
          68 00 81 00 00 ; push 0x8100
          cf             ; iretd
        `,
        );
        m.load(
          0x8100,
          hex`
          ; bits 32, at 0x8100
          ; again:
          eb fe ; jmp again
        `,
        );
        m.step(0, { interruptWindow: true });
        m.vcpu.injectInterrupt(0x44);
        const { sp } = runToVector(m, 0x44);
        const frame = [0, 4, 8, 12, 16].map((offset) => m.u32(sp + offset));
        expectEqual("EIP, CS, EFLAGS, ESP, SS", frame, [0x8100, 0x33, 0x202, 0x6400, 0x3b]);
      },
    },
    {
      name: "an interrupt between the rounds of REP leaves the rest to be done",
      needs: ["long mode", "interrupts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          bf 00 00 10 00 ; mov edi, 0x100000
          b9 00 00 08 00 ; mov ecx, 0x80000
          31 c0          ; xor eax, eax
          f3 aa          ; rep stosb
          89 fa          ; mov edx, edi
          fa             ; cli
          f4             ; hlt
        `,
          { rflags: IF },
        );
        m.load(Layout.IDT + 16 * 0x40, gate64(Selector.CODE64, 0x8200, 0x8e));
        m.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          ff c3 ; inc ebx
          48 cf ; iretq
        `,
        );
        // However much of the REP an entry does: RCX and RDI agree whenever it can be interrupted.
        for (let i = 0; i < 1000; i++) {
          const exit = m.step(0, { budget: 5 });
          const { gpr, rip } = m.state;
          if (rip === 0x800cn) expectEqual("RDI + RCX", gpr[7]! + gpr[1]!, 0x18_0000n);
          if (exit.reason === ExitReason.Hlt) break;
          if (m.vcpu.canTakeInterrupt()) m.vcpu.injectInterrupt(0x40);
        }
        const state = runOn(m);
        expectRegisters(state, { rdx: 0x18_0000n, rcx: 0n });
      },
    },
    {
      name: "a fault while an interrupt is delivered says so in its error code (EXT)",
      needs: ["protected mode", "interrupts"],
      run(m) {
        start(
          m,
          "protected",
          hex`
          ; bits 32, at 0x8000
          f4 ; hlt
        `,
          { rflags: IF },
        );
        m.load(Layout.IDT + 8 * 0x50, gate(Selector.CODE32, 0x9000, 0x0e));
        m.vcpu.injectInterrupt(0x50);
        // An external interrupt is benign: #NP stands, with EXT and IDT set in its error code.
        const { sp } = runToVector(m, 11);
        expectEqual("error code", m.u32(sp), 0x50 * 8 + 3);
      },
    },
    {
      name: "an NMI comes through vector 2 whatever IF is, and blocks the next until IRET",
      needs: ["long mode", "interrupts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          90 ; nop
          f4 ; hlt
        `,
        );
        m.load(Layout.IDT + 16 * 2, gate64(Selector.CODE64, 0x8200, 0x8e));
        m.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          ff c3 ; inc ebx
          f4    ; hlt
          48 cf ; iretq
        `,
        );
        m.vcpu.injectNmi();
        expectEqual("exit", m.run(), "halt");
        expectRegisters(m.state, { rbx: 1n, rip: 0x8203n });
        expectEqual("NMIs blocked", m.state.interruptibility.nmiBlocked, true);
        m.vcpu.injectNmi();
        // HLT is over for the pending NMI only once it may be delivered: IRET first.
        const state = m.state;
        state.activity = "active";
        m.vcpu.restore(state);
        expectEqual("exit", m.run(), "halt");
        expectRegisters(m.state, { rbx: 2n });
      },
    },
  ],
};

function runOn(m: Parameters<CaseGroup["cases"][number]["run"]>[0]) {
  return m.state.activity === "halted" ? m.state : runToHalt(m);
}
