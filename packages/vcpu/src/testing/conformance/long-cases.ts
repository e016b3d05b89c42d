import { type CaseGroup, start } from "./case.ts";
import { expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { gate64, hex, Layout, Selector, u32s, u64s } from "./layout.ts";

/** Goes to 64-bit ring 3 at the address in RAX. */
const TO_RING_3 = hex`
  ; bits 64, at 0x8000
  6a 3b          ; push 0x3b
  68 00 64 00 00 ; push 0x6400
  68 02 02 00 00 ; push 0x202
  6a 43          ; push 0x43
  50             ; push rax
  48 cf          ; iretq
`;

function startRing3(guest: Guest, code: Uint8Array, efer = 0n): void {
  start(guest, "long", TO_RING_3, { registers: { rax: 0x8100n }, efer });
  guest.load(0x8100, code);
  guest.load(Layout.IDT + 16 * 0x81, gate64(Selector.CODE64, Layout.HANDLERS + 4 * 0x81, 0xee));
}

/** Quadwords from the top of the stack. */
function frame(guest: Guest, sp: number, words: number): bigint[] {
  return Array.from({ length: words }, (_, i) => guest.u64(sp + 8 * i));
}

/** IA-32e mode (SDM Vol. 1 sec. 3.5 ff., Vol. 3A sec. 7.14). */
export const longCases: CaseGroup<Guest> = {
  title: "long mode",
  cases: [
    {
      name: "computes with 64 bits, and clears the upper half in 32-bit operations",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 b8 88 77 66 55 44 33 22 11 ; mov rax, 0x1122334455667788
          48 89 c3                      ; mov rbx, rax
          89 c0                         ; mov eax, eax
          48 c7 c1 ff ff ff ff          ; mov rcx, -1
          66 b9 34 12                   ; mov cx, 0x1234
          48 c7 c2 ff ff ff ff          ; mov rdx, -1
          b2 00                         ; mov dl, 0
          49 b8 00 00 00 00 00 00 00 80 ; mov r8, 0x8000000000000000
          4d 01 c0                      ; add r8, r8
          41 0f 92 c1                   ; setc r9b
          4d 63 d0                      ; movsxd r10, r8d
          48 0f cb                      ; bswap rbx
          31 f6                         ; xor esi, esi
          40 b7 55                      ; mov dil, 0x55
          48 be 00 00 00 00 01 00 00 00 ; mov rsi, 0x100000000
          48 6b f6 fe                   ; imul rsi, rsi, -2
          49 c7 c3 ff ff ff ff          ; mov r11, -1
          49 c1 eb 24                   ; shr r11, 36
          f4                            ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), {
          rax: 0x5566_7788n,
          rbx: 0x8877_6655_4433_2211n,
          rcx: 0xffff_ffff_ffff_1234n,
          rdx: 0xffff_ffff_ffff_ff00n,
          rdi: 0x55n,
          rsi: 0xffff_fffe_0000_0000n,
          r8: 0n,
          r9: 1n,
          r11: 0xfff_ffffn,
        });
      },
    },
    {
      name: "multiplies and divides 128 bits",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 ff ff ff ff          ; mov rax, -1
          48 bb 10 32 54 76 98 ba dc fe ; mov rbx, 0xfedcba9876543210
          48 f7 e3                      ; mul rbx
          49 89 c0                      ; mov r8, rax
          49 89 d1                      ; mov r9, rdx
          48 c7 c1 ff ff ff ff          ; mov rcx, 0xffffffffffffffff
          48 f7 f1                      ; div rcx
          49 89 c2                      ; mov r10, rax
          49 89 d3                      ; mov r11, rdx
          48 c7 c0 9c ff ff ff          ; mov rax, -100
          48 99                         ; cqo
          48 c7 c1 07 00 00 00          ; mov rcx, 7
          48 f7 f9                      ; idiv rcx
          f4                            ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), {
          r8: 0x0123_4567_89ab_cdf0n,
          r9: 0xfedc_ba98_7654_320fn,
          r10: 0xfedc_ba98_7654_3210n,
          r11: 0n,
          rax: 0xffff_ffff_ffff_fff2n,
          rdx: 0xffff_ffff_ffff_fffen,
        });
      },
    },
    {
      name: "raises #DE where a quotient does not fit",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c2 01 00 00 00 ; mov rdx, 1
          31 c0                ; xor eax, eax
          48 c7 c1 01 00 00 00 ; mov rcx, 1
          48 f7 f1             ; div rcx
          f4                   ; hlt
        `,
        );
        const { sp } = runToVector(guest, 0);
        expectEqual("RIP", guest.u64(sp), 0x800en + 2n);
      },
    },
    {
      name: "addresses relative to RIP, to FS and to GS",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          8b 05 36 00 00 00       ; mov eax, [rip+there]
          b9 00 01 00 c0          ; mov ecx, 0xc0000100
          b8 00 00 02 00          ; mov eax, 0x20000
          31 d2                   ; xor edx, edx
          0f 30                   ; wrmsr
          ff c1                   ; inc ecx
          b8 00 10 02 00          ; mov eax, 0x21000
          0f 30                   ; wrmsr
          64 8b 1c 25 08 00 00 00 ; mov ebx, fs:[8]
          65 8b 34 25 08 00 00 00 ; mov esi, gs:[8]
          8b 3c 25 08 00 02 00    ; mov edi, ds:[0x20008]
          44 8b 05 01 00 00 00    ; mov r8d, [rip+there]
          f4                      ; hlt
          ; there:
          fe ca ad 0b             ; dd 0x0badcafe
        `,
        );
        guest.load(Layout.DATA + 8, u32s(0xf5f5_f5f5));
        guest.load(Layout.DATA + 0x1008, u32s(0x6666_6666));
        const state = runToHalt(guest);
        expectRegisters(state, { rbx: 0xf5f5_f5f5n, rsi: 0x6666_6666n, rdi: 0xf5f5_f5f5n, r8: 0x0bad_cafen });
        expectEqual("FS base", state.fs.base, 0x2_0000n);
      },
    },
    {
      name: "pushes SS:RSP and aligns the stack on every interrupt",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c4 f3 6f 00 00 ; mov rsp, 0x6ff3
          cd 50                ; int 0x50
        `,
          { rflags: 0x202n },
        );
        const { state, sp } = runToVector(guest, 0x50);
        expectEqual("RIP, CS, RFLAGS, RSP, SS", frame(guest, sp, 5), [
          0x8009n,
          0x28n,
          0x202n,
          0x6ff3n,
          0x10n,
        ]);
        expectEqual("RSP", sp, 0x6ff0 - 40);
        expectEqual("IF", state.rflags & 0x200n, 0n);
      },
    },
    {
      name: "switches to the interrupt stack table's stack",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 0b ; ud2
        `,
        );
        guest.load(Layout.IDT + 16 * 6, gate64(Selector.CODE64, Layout.HANDLERS + 4 * 6, 0x8e, 1));
        const { sp } = runToVector(guest, 6);
        expectEqual("RSP", sp, Layout.IST1 - 40);
        expectEqual("pushed RSP", guest.u64(sp + 24), 0x7000n);
      },
    },
    {
      name: "goes to ring 3 and comes back with a null SS",
      needs: ["long mode"],
      run(guest) {
        startRing3(
          guest,
          hex`
          ; bits 64, at 0x8100
          8c cb ; mov rbx, cs
          cd 81 ; int 0x81
        `,
        );
        const { state, sp } = runToVector(guest, 0x81);
        expectRegisters(state, { rbx: 0x43n });
        expectEqual("RIP, CS, RFLAGS, RSP, SS", frame(guest, sp, 5), [
          0x8104n,
          0x43n,
          0x202n,
          0x6400n,
          0x3bn,
        ]);
        expectEqual("SS", state.ss.selector, 0);
        expectEqual("stack", sp, Layout.KERNEL_STACK - 40);
      },
    },
    {
      name: "returns with IRETQ to any stack segment, also the null one in ring 0",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          31 c0          ; xor eax, eax
          50             ; push rax
          68 00 68 00 00 ; push 0x6800
          6a 02          ; push 0x2
          6a 28          ; push 0x28
          68 13 80 00 00 ; push @there
          48 cf          ; iretq
          ; there:
          48 89 e3       ; mov rbx, rsp
          8c d1          ; mov rcx, ss
          f4             ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), { rbx: 0x6800n, rcx: 0n });
      },
    },
    {
      name: "raises #GP for a branch to an address that is not canonical",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 bb 00 00 00 00 00 80 00 00 ; mov rbx, 0x800000000000
          ff e3                         ; jmp rbx
        `,
        );
        const { sp } = runToVector(guest, 13);
        expectEqual("error code, RIP", frame(guest, sp, 2), [0n, 0x800an]);
      },
    },
    {
      name: "runs 32-bit code in compatibility mode",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 ff ff ff ff ; mov rax, -1
          49 c7 c0 ff ff ff ff ; mov r8, -1
          6a 08                ; push 0x08
          68 17 80 00 00       ; push @compat
          48 cb                ; rex.w retf
          ; bits 32
          ; compat:
          b8 78 56 34 12       ; mov eax, 0x12345678
          40                   ; inc eax
          89 e3                ; mov ebx, esp
          48                   ; db 0x48
          8b 0d 00 00 02 00    ; mov ecx, [0x20000]
          ea 2d 80 00 00 28 00 ; jmp far ptr 0x28:@back
          ; bits 64
          ; back:
          48 89 c2             ; mov rdx, rax
          f4                   ; hlt
        `,
        );
        guest.load(Layout.DATA, u32s(0x0f0f_0f0f));
        // 0x48 is DEC EAX there.
        const state = runToHalt(guest);
        expectRegisters(state, {
          rax: 0x1234_5678n,
          rbx: 0x7000n,
          rcx: 0x0f0f_0f0fn,
          rdx: 0x1234_5678n,
          r8: 0xffff_ffff_ffff_ffffn,
        });
      },
    },
    {
      name: "takes an interrupt from 32-bit ring 3 in 64-bit code",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          6a 3b          ; push 0x3b
          68 00 64 00 00 ; push 0x6400
          6a 02          ; push 0x2
          6a 33          ; push 0x33
          68 00 81 00 00 ; push 0x8100
          48 cf          ; iretq
        `,
        );
        guest.load(
          0x8100,
          hex`
          ; bits 32, at 0x8100
          66 b8 3b 00    ; mov ax, 0x3b
          8e d8          ; mov ds, ax
          68 34 12 00 00 ; push 0x1234
          cd 81          ; int 0x81
        `,
        );
        guest.load(Layout.IDT + 16 * 0x81, gate64(Selector.CODE64, Layout.HANDLERS + 4 * 0x81, 0xee));
        const { state, sp } = runToVector(guest, 0x81);
        expectEqual("RIP, CS, RFLAGS, RSP, SS", frame(guest, sp, 5), [0x810dn, 0x33n, 0x2n, 0x63fcn, 0x3bn]);
        expectEqual("CS", state.cs.selector, Selector.CODE64);
      },
    },
    {
      name: "has no use for instructions that 64-bit mode dropped",
      needs: ["long mode"],
      run(guest) {
        // PUSH ES, DAA, PUSHAD, direct far JMP, INTO, AAM.
        for (const opcode of [0x06, 0x27, 0x60, 0xea, 0xce, 0xd4]) {
          start(guest, "long", Uint8Array.of(opcode, 0x0a, 0, 0, 0, 0, 0));
          expectEqual(`opcode ${opcode.toString(16)}: RIP`, guest.u64(runToVector(guest, 6).sp), 0x8000n);
        }
      },
    },
    {
      name: "pushes and pops 64 bits, 16 with a prefix, never 32",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          6a ff          ; push -1
          68 ff ff ff 7f ; push 0x7fffffff
          0f a0          ; push fs
          66 68 34 12    ; pushw 0x1234
          48 89 e3       ; mov rbx, rsp
          66 58          ; popw ax
          59             ; pop rcx
          5a             ; pop rdx
          5e             ; pop rsi
          f4             ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), {
          rbx: 0x7000n - 26n,
          rcx: 0x10n,
          rdx: 0x7fff_ffffn,
          rsi: 0xffff_ffff_ffff_ffffn,
        });
      },
    },
    {
      name: "exchanges 16 bytes with CMPXCHG16B, aligned ones only",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c7 00 00 02 00 ; mov rdi, 0x20000
          48 c7 c0 01 00 00 00 ; mov rax, 1
          48 c7 c2 02 00 00 00 ; mov rdx, 2
          48 c7 c3 03 00 00 00 ; mov rbx, 3
          48 c7 c1 04 00 00 00 ; mov rcx, 4
          f0 48 0f c7 0f       ; lock cmpxchg16b [rdi]
          41 0f 94 c0          ; setz r8b
          f0 48 0f c7 0f       ; lock cmpxchg16b [rdi]
          41 0f 94 c1          ; setz r9b
          48 0f c7 4f 08       ; cmpxchg16b [rdi+8]
        `,
        );
        guest.load(Layout.DATA, u64s(1n, 2n));
        const { state, sp } = runToVector(guest, 13);
        expectEqual("error code", guest.u64(sp), 0n);
        expectEqual("memory", [guest.u64(Layout.DATA), guest.u64(Layout.DATA + 8)], [3n, 4n]);
        expectRegisters(state, { rdx: 4n, r8: 1n, r9: 0n });
      },
    },
    {
      name: "keeps the upper half of RIP and registers through the 32-bit address prefix",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 bb 00 00 02 00 ff ff ff ff ; mov rbx, 0xffffffff00020000
          67 8b 03                      ; mov eax, [ebx]
          67 48 8d 4b 04                ; lea rcx, [ebx+4]
          48 be 00 00 02 00 ff ff ff ff ; mov rsi, 0xffffffff00020000
          48 bf 00 01 02 00 ff ff ff ff ; mov rdi, 0xffffffff00020100
          48 89 ca                      ; mov rdx, rcx
          48 b9 02 00 00 00 ff ff ff ff ; mov rcx, 0xffffffff00000002
          67 f3 a4                      ; addr32 rep movsb
          f4                            ; hlt
        `,
        );
        guest.load(Layout.DATA, u32s(0x1020_3040));
        const state = runToHalt(guest);
        expectRegisters(state, {
          rax: 0x1020_3040n,
          rdx: 0x2_0004n,
          rsi: 0x2_0002n,
          rdi: 0x2_0102n,
          rcx: 0n,
        });
        expectEqual("copied", guest.u32(Layout.DATA + 0x100), 0x3040);
      },
    },
  ],
};
