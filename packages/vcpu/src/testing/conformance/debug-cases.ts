import { type CaseGroup, start } from "./case.ts";
import { CR4, expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { gate, gate64, hex, Layout, Selector } from "./layout.ts";

/** Bits of DR6 (SDM Vol. 3B figure 18-1). */
const DR6 = { B0: 1n, B1: 2n, BD: 1n << 13n, BS: 1n << 14n } as const;
const DR6_BITS = 0xe00fn;
const TF = 0x100n;
const RF = 0x1_0000;

/** Breakpoints and single steps (SDM Vol. 3B ch. 18). */
export const debugCases: CaseGroup<Guest> = {
  title: "debugging",
  cases: [
    {
      name: "traps after each instruction under TF",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          68 02 01 00 00 ; push 0x102
          9d             ; popf
          90             ; nop
          f4             ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 1);
        // The instruction that sets TF is not trapped after, the next one is.
        expectEqual("RIP", guest.u64(sp), 0x8007n);
        expectEqual("pushed TF", guest.u64(sp + 16) & TF, TF);
        expectEqual("TF in the handler", state.rflags & TF, 0n);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, DR6.BS);
      },
    },
    {
      name: "steps over every instruction of a loop",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 03 00 00 00          ; mov ecx, 3
          68 02 01 00 00          ; push 0x102
          9d                      ; popf
          ; again:
          ff c9                   ; dec ecx
          75 fc                   ; jnz again
          9c                      ; pushf
          48 81 24 24 ff fe ff ff ; and qword ptr [rsp], 0xfffffffffffffeff
          9d                      ; popf
          f4                      ; hlt
        `,
        );
        guest.load(Layout.IDT + 16, gate64(Selector.CODE64, 0x8200, 0x8e));
        guest.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          ff c3 ; inc ebx
          48 cf ; iretq
        `,
        );
        // Three times DEC and JNZ, PUSHF, AND, and POPF, which is trapped after with the TF from before it.
        expectRegisters(runToHalt(guest), { rbx: 9n, rcx: 0n });
      },
    },
    {
      name: "takes ICEBP and INT3, the one as a trap without DR6",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          f1 ; db 0xf1
          f4 ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 1);
        expectEqual("RIP", guest.u64(sp), 0x8001n);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, 0n);
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          cc ; int3
          f4 ; hlt
        `,
        );
        expectEqual("RIP", guest.u64(runToVector(guest, 3).sp), 0x8001n);
      },
    },
    {
      name: "faults before an instruction with a breakpoint, not under RF",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 00 81 00 00 ; mov rax, 0x8100
          0f 23 c0             ; mov dr0, rax
          b8 01 04 00 00       ; mov eax, 0x401
          0f 23 f8             ; mov dr7, rax
          eb 00                ; jmp far_away
          ; far_away:
          b8 00 81 00 00       ; mov eax, 0x8100
          ff e0                ; jmp rax
        `,
        );
        guest.load(
          0x8100,
          hex`
          ; bits 64, at 0x8100
          ff c1 ; inc ecx
          f4    ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 1);
        expectEqual("RIP", guest.u64(sp), 0x8100n);
        // Not set for this one fault (SDM Vol. 3B sec. 18.3.1.1): the handler does it.
        expectEqual("pushed RF", guest.u32(sp + 16) & RF, 0);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, DR6.B0);
        expectRegisters(state, { rcx: 0n });

        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 00 81 00 00 ; mov rax, 0x8100
          0f 23 c0             ; mov dr0, rax
          b8 01 04 00 00       ; mov eax, 0x401
          0f 23 f8             ; mov dr7, rax
          b8 00 81 00 00       ; mov eax, 0x8100
          ff e0                ; jmp rax
        `,
        );
        guest.load(
          0x8100,
          hex`
          ; bits 64, at 0x8100
          ff c1 ; inc ecx
          f4    ; hlt
        `,
        );
        guest.load(Layout.IDT + 16, gate64(Selector.CODE64, 0x8200, 0x8e));
        guest.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          ff c3                   ; inc ebx
          81 4c 24 10 00 00 01 00 ; or dword ptr [rsp+16], 0x10000
          48 cf                   ; iretq
        `,
        );
        expectRegisters(runToHalt(guest), { rbx: 1n, rcx: 1n });
      },
    },
    {
      name: "pushes RF set for faults, and clear for traps",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 0b ; ud2
        `,
        );
        expectEqual("pushed RF", guest.u32(runToVector(guest, 6).sp + 16) & RF, RF);
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          cc ; int3
        `,
        );
        expectEqual("pushed RF", guest.u32(runToVector(guest, 3).sp + 16) & RF, 0);
      },
    },
    {
      name: "traps after a write to watched memory, not after a read or a miss",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b8 04 00 02 00                 ; mov eax, 0x20004
          0f 23 c8                       ; mov dr1, rax
          b8 04 04 d0 00                 ; mov eax, 0xd00404
          0f 23 f8                       ; mov dr7, rax
          8b 04 25 04 00 02 00           ; mov eax, [0x20004]
          c7 04 25 08 00 02 00 01 00 00 00 ; mov dword ptr [0x20008], 1
          66 c7 04 25 00 00 02 00 01 00  ; mov word ptr [0x20000], 1
          c6 04 25 07 00 02 00 01        ; mov byte ptr [0x20007], 1
          90                             ; nop
          f4                             ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 1);
        expectEqual("RIP", guest.u64(sp), 0x8034n);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, DR6.B1);
        expectEqual("written", guest.u8(0x2_0007), 1);
      },
    },
    {
      name: "traps after a read where reads are watched too",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b8 00 00 02 00       ; mov eax, 0x20000
          0f 23 c0             ; mov dr0, rax
          b8 01 04 0f 00       ; mov eax, 0xf0401
          0f 23 f8             ; mov dr7, rax
          8b 04 25 02 00 02 00 ; mov eax, [0x20002]
          f4                   ; hlt
        `,
        );
        const { state } = runToVector(guest, 1);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, DR6.B0);
      },
    },
    {
      name: "guards the debug registers with GD",
      needs: ["long mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b8 00 24 00 00 ; mov eax, 0x2400
          0f 23 f8       ; mov dr7, rax
          0f 21 c3       ; mov rbx, dr0
          f4             ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 1);
        expectEqual("RIP", guest.u64(sp), 0x8008n);
        expectEqual("DR6", state.dr.dr6 & DR6_BITS, DR6.BD);
        expectEqual("GD in the handler", state.dr.dr7 & 0x2000n, 0n);
      },
    },
    {
      name: "has DR4 and DR5 as aliases without CR4.DE, and not at all with it",
      needs: ["protected mode", "debug registers"],
      run(guest) {
        const code = hex`
          ; bits 32, at 0x8000
          0f 21 f8 ; mov eax, dr7
          89 c3    ; mov ebx, eax
          0f 21 e8 ; mov eax, dr5
          f4       ; hlt
        `;
        start(guest, "protected", code);
        const state = runToHalt(guest);
        expectEqual("DR5", state.gpr[0], state.gpr[3]);
        start(guest, "protected", code, { cr4: CR4.DE });
        runToVector(guest, 6);
      },
    },
    {
      name: "does not break in a delay after MOV SS",
      needs: ["protected mode", "debug registers"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 10 00    ; mov ax, 0x10
          68 02 01 00 00 ; push 0x102
          9d             ; popf
          8e d0          ; mov ss, ax
          90             ; nop
          90             ; nop
          f4             ; hlt
        `,
        );
        guest.load(Layout.IDT + 8, gate(Selector.CODE32, Layout.HANDLERS + 4, 0x8e));
        // MOV SS inhibits the trap that TF would give after it; the next instruction has its own.
        const { sp } = runToVector(guest, 1);
        expectEqual("EIP", guest.u32(sp), 0x800d);
      },
    },
  ],
};
