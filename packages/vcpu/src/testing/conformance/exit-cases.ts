import { ExitReason } from "../../exit.ts";
import { type CaseGroup, start } from "./case.ts";
import {
  ConformanceError,
  CR4,
  EFER,
  expectEqual,
  expectRegisters,
  runToHalt,
  runToVector,
} from "./guest.ts";
import { hex, Layout } from "./layout.ts";

/** The other VM exits: what a guest's instruction tells the VMM, and how the answer reaches it (SDM Vol. 3C ch. 26 and 28). */
export const exitCases: CaseGroup = {
  title: "exits",
  cases: [
    {
      name: "CPUID, which clears the upper halves",
      needs: ["long mode", "CPUID"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 ff ff ff ff          ; mov rax, -1
          48 c7 c3 ff ff ff ff          ; mov rbx, -1
          48 c7 c2 ff ff ff ff          ; mov rdx, -1
          b8 00 00 00 40                ; mov eax, 0x40000000
          48 b9 07 00 00 00 ff ff ff ff ; mov rcx, 0xffffffff00000007
          0f a2                         ; cpuid
          f4                            ; hlt
        `,
        );
        const expected = m.cpuid.query(0, 0x4000_0000, 7);
        expectRegisters(runToHalt(m), {
          rax: BigInt(expected.eax),
          rbx: BigInt(expected.ebx),
          rcx: BigInt(expected.ecx),
          rdx: BigInt(expected.edx),
        });
        expectEqual("exits", m.events, [{ kind: "cpuid", leaf: 0x4000_0000, subleaf: 7 }]);
      },
    },
    {
      name: "CPUID's OSXSAVE follows CR4",
      needs: ["long mode", "CPUID", "XSAVE"],
      run(m) {
        if (!m.cpuid.has("xsave")) throw new ConformanceError("the engine has no XSAVE: skip what needs it");
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          b8 01 00 00 00 ; mov eax, 1
          0f a2          ; cpuid
          89 ce          ; mov esi, ecx
          0f 20 e0       ; mov rax, cr4
          0f ba e8 12    ; bts eax, 18
          0f 22 e0       ; mov cr4, rax
          b8 01 00 00 00 ; mov eax, 1
          0f a2          ; cpuid
          f4             ; hlt
        `,
        );
        const state = runToHalt(m);
        const osxsave = 1n << 27n;
        expectEqual("OSXSAVE before", state.gpr[6]! & osxsave, 0n);
        expectEqual("OSXSAVE after", state.gpr[1]! & osxsave, osxsave);
      },
    },
    {
      name: "RDMSR and WRMSR of registers that the engine does not keep",
      needs: ["protected mode", "MSRs"],
      run(m) {
        start(
          m,
          "protected",
          hex`
          ; bits 32, at 0x8000
          b9 1b 00 00 00 ; mov ecx, 0x1b
          0f 32          ; rdmsr
          89 c3          ; mov ebx, eax
          89 d6          ; mov esi, edx
          b8 55 00 00 00 ; mov eax, 0x55
          ba 66 00 00 00 ; mov edx, 0x66
          b9 e0 06 00 00 ; mov ecx, 0x6e0
          0f 30          ; wrmsr
          f4             ; hlt
        `,
        );
        m.onRdmsr = () => 0x1234_5678_9abc_def0n;
        m.onWrmsr = () => true;
        expectRegisters(runToHalt(m), { rbx: 0x9abc_def0n, rsi: 0x1234_5678n });
        expectEqual("exits", m.events, [
          { kind: "rdmsr", index: 0x1b, value: 0x1234_5678_9abc_def0n },
          { kind: "wrmsr", index: 0x6e0, value: 0x66_0000_0055n },
        ]);
      },
    },
    {
      name: "a refused RDMSR or WRMSR raises #GP, registers unchanged",
      needs: ["protected mode", "MSRs"],
      run(m) {
        for (const code of [
          hex`
            ; bits 32, at 0x8000
            b9 56 34 12 00 ; mov ecx, 0x123456
            0f 32          ; rdmsr
          `,
          hex`
            ; bits 32, at 0x8000
            b9 56 34 12 00 ; mov ecx, 0x123456
            0f 30          ; wrmsr
          `,
        ]) {
          start(m, "protected", code, { registers: { rax: 0x11_2200n, rdx: 0x33n } });
          const { state, sp } = runToVector(m, 13);
          expectEqual("error code, EIP", [m.u32(sp), m.u32(sp + 4)], [0, 0x8005]);
          expectRegisters(state, { rdx: 0x33n });
          expectEqual("EAX", state.gpr[0]! >> 8n, 0x1122n);
        }
      },
    },
    {
      name: "MSRs that the engine keeps do not exit",
      needs: ["long mode", "MSRs"],
      run(m) {
        for (const index of [
          0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102,
        ]) {
          start(
            m,
            "long",
            hex`
            ; bits 64, at 0x8000
            31 d2          ; xor edx, edx
            b8 40 23 01 00 ; mov eax, 0x12340
            0f 30          ; wrmsr
            31 c0          ; xor eax, eax
            0f 32          ; rdmsr
            f4             ; hlt
          `,
            { registers: { rcx: BigInt(index) } },
          );
          expectRegisters(runToHalt(m), { rax: 0x1_2340n, rdx: 0n });
          expectEqual("saved value", m.state.msrs[index.toString(16)], 0x1_2340n);
        }
        expectEqual("exits", m.events, []);
      },
    },
    {
      name: "CR8, the task priority",
      needs: ["long mode"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          b8 09 00 00 00       ; mov eax, 9
          44 0f 22 c0          ; mov cr8, rax
          44 0f 20 c3          ; mov rbx, cr8
          48 c7 c0 10 00 00 00 ; mov rax, 0x10
          44 0f 22 c0          ; mov cr8, rax
        `,
        );
        // Bits above 3 are reserved.
        const { state } = runToVector(m, 13);
        expectRegisters(state, { rbx: 9n });
        expectEqual("task priority", m.tpr, 9);
      },
    },
    {
      name: "VMCALL, its result in RAX",
      needs: ["long mode"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 b8 88 77 66 55 44 33 22 11 ; mov rax, 0x1122334455667788
          bb 01 00 00 00                ; mov ebx, 1
          b9 02 00 00 00                ; mov ecx, 2
          ba 03 00 00 00                ; mov edx, 3
          be 04 00 00 00                ; mov esi, 4
          0f 01 c1                      ; vmcall
          f4                            ; hlt
        `,
        );
        m.vmcallResult = 0xffff_ffff_ffff_fc18n;
        expectRegisters(runToHalt(m), { rax: 0xffff_ffff_ffff_fc18n, rbx: 1n });
        expectEqual("exits", m.events, [
          { kind: "vmcall", number: 0x1122_3344_5566_7788n, args: [1n, 2n, 3n, 4n] },
        ]);
      },
    },
    {
      name: "HLT leaves RIP behind the instruction, and the vCPU halted",
      needs: ["real mode"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          f4 ; hlt
          40 ; inc ax
          f4 ; hlt
        `,
        );
        expectEqual("exit", m.step().reason, ExitReason.Hlt);
        expectEqual("RIP", m.state.rip, 0x8001n);
        expectEqual("activity", m.state.activity, "halted");
      },
    },
    {
      name: "a triple fault",
      needs: ["long mode"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 0b ; ud2
        `,
        );
        m.load(Layout.IDT, new Uint8Array(0x1000));
        expectEqual("end", m.run(), "triple-fault");
      },
    },
    {
      name: "the budget ends an endless loop, and the guest goes on",
      needs: ["real mode", "instruction counts"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          ; again:
          41    ; inc cx
          eb fd ; jmp again
        `,
        );
        const before = m.vcpu.instructions;
        expectEqual("exit", m.step(0, { budget: 1000 }).reason, ExitReason.PreemptionTimer);
        const count = m.vcpu.instructions - before;
        expectEqual("about 1000 instructions", count >= 1000 && count <= 1100, true);
        m.step(0, { budget: 1000 });
        const total = m.vcpu.instructions - before;
        // Two instructions a round; CX counts the rounds.
        const rounds = Number(m.state.gpr[1]!);
        expectEqual("rounds", rounds === Math.ceil(total / 2) || rounds === Math.floor(total / 2), true);
      },
    },
    {
      // Time is counted in instructions: a budget may be overdrawn by a block, but the count is exact and the
      // place where a run stops is always the same.
      name: "instructions are counted exactly, and a budget ends where it ended before",
      needs: ["real mode", "instruction counts"],
      run(m) {
        const run = (budget: number): number => {
          start(
            m,
            "real",
            hex`
            ; bits 16, at 0x8000
            ; again:
            66 41    ; inc ecx
            66 01 cb ; add ebx, ecx
            eb f9    ; jmp again
          `,
          );
          const before = m.vcpu.instructions;
          expectEqual("exit", m.step(0, { budget }).reason, ExitReason.PreemptionTimer);
          return m.vcpu.instructions - before;
        };
        for (const budget of [1, 2, 3, 7, 100, 4999]) {
          const count = run(budget);
          expectEqual(`at least ${budget}, at most 100 more`, count >= budget && count <= budget + 100, true);
          expectEqual("ECX", m.state.gpr[1], BigInt(Math.ceil(count / 3)));
          const rip = m.state.rip;
          expectEqual("a second run", [run(budget), m.state.rip], [count, rip]);
        }
      },
    },
    {
      name: "RDTSC counts from the slice's start, by instruction",
      needs: ["long mode", "instruction counts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 31 ; rdtsc
          89 c3 ; mov ebx, eax
          89 d6 ; mov esi, edx
          90    ; nop
          90    ; nop
          0f 31 ; rdtsc
          f4    ; hlt
        `,
        );
        expectEqual("exit", m.step(0, { tsc: 0x5_0000_0000n, tscPerInstruction: 4 }).reason, ExitReason.Hlt);
        const [first, second] = [m.state.gpr[3]!, m.state.gpr[0]!];
        expectEqual("upper half", m.state.gpr[6], 5n);
        expectEqual("ticks between", second - first, 20n);
        expectEqual("first reading within the first ticks", first < 8n, true);
      },
    },
    {
      name: "IA32_TSC and IA32_TSC_ADJUST move the time-stamp counter",
      needs: ["long mode", "MSRs", "instruction counts"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 10 00 00 00 ; mov ecx, 0x10
          31 d2          ; xor edx, edx
          b8 00 00 00 01 ; mov eax, 0x1000000
          0f 30          ; wrmsr
          0f 31          ; rdtsc
          89 c3          ; mov ebx, eax
          b9 3b 00 00 00 ; mov ecx, 0x3b
          0f 32          ; rdmsr
          89 c6          ; mov esi, eax
          31 c0          ; xor eax, eax
          31 d2          ; xor edx, edx
          0f 30          ; wrmsr
          0f 31          ; rdtsc
          f4             ; hlt
        `,
        );
        m.step(0, { tsc: 0x100n, tscPerInstruction: 1 });
        const state = m.state;
        expectEqual("after WRMSR of IA32_TSC", state.gpr[3]! - 0x100_0000n < 16n, true);
        expectEqual("IA32_TSC_ADJUST followed", 0x100_0000n - state.gpr[6]! - 0x100n < 16n, true);
        expectEqual("after clearing the adjustment", state.gpr[0]! - 0x100n < 32n, true);
      },
    },
    {
      name: "a single step stops after each instruction (monitor trap flag)",
      needs: ["real mode", "single step"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          b8 01 00 ; mov ax, 1
          40       ; inc ax
          50       ; push ax
          f4       ; hlt
        `,
        );
        for (const rip of [0x8003n, 0x8004n, 0x8005n]) {
          expectEqual("exit", m.step(0, { singleStep: true }).reason, ExitReason.MonitorTrapFlag);
          expectEqual("RIP", m.state.rip, rip);
        }
        expectEqual("exit", m.step(0, { singleStep: true }).reason, ExitReason.Hlt);
      },
    },
    {
      name: "EFER and CR4 in the saved state follow the guest",
      needs: ["long mode", "state"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 80 00 00 c0 ; mov ecx, 0xc0000080
          0f 32          ; rdmsr
          0d 01 08 00 00 ; or eax, 0x801
          0f 30          ; wrmsr
          0f 20 e0       ; mov rax, cr4
          0d 80 00 00 00 ; or eax, 0x80
          0f 22 e0       ; mov cr4, rax
          f4             ; hlt
        `,
        );
        const state = runToHalt(m);
        expectEqual("EFER", state.msrs.c0000080, EFER.LME | EFER.LMA | EFER.NXE | EFER.SCE);
        expectEqual("CR4", state.cr4, CR4.PAE | CR4.PGE);
      },
    },
  ],
};
