import { type CaseGroup, type ConformanceCase, start } from "./case.ts";
import { CR4, EFER, expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { descriptor, gate64, hex, Layout, Selector, u32s } from "./layout.ts";

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
function _frame(guest: Guest, sp: number, words: number): bigint[] {
  return Array.from({ length: words }, (_, i) => guest.u64(sp + 8 * i));
}

/** Writes to control registers that raise #GP(0) (SDM Vol. 3A sec. 2.5; Vol. 4 table 2-2, IA32_EFER). */
const REFUSED: readonly (readonly [name: string, code: Uint8Array])[] = [
  [
    "CR0.PG without CR0.PE",
    hex`
    ; bits 64, at 0x8000
    0f 20 c0 ; mov rax, cr0
    24 fe    ; and al, 0xfe
    0f 22 c0 ; mov cr0, rax
  `,
  ],
  [
    "CR0.NW without CR0.CD",
    hex`
    ; bits 64, at 0x8000
    0f 20 c0       ; mov rax, cr0
    48 0f ba e8 1d ; bts rax, 29
    48 0f ba f0 1e ; btr rax, 30
    0f 22 c0       ; mov cr0, rax
  `,
  ],
  [
    "a reserved bit in the upper half of CR0",
    hex`
    ; bits 64, at 0x8000
    0f 20 c0       ; mov rax, cr0
    48 0f ba e8 20 ; bts rax, 32
    0f 22 c0       ; mov cr0, rax
  `,
  ],
  [
    "a reserved bit of CR4",
    hex`
    ; bits 64, at 0x8000
    0f 20 e0       ; mov rax, cr4
    48 0f ba e8 28 ; bts rax, 40
    0f 22 e0       ; mov cr4, rax
  `,
  ],
  [
    "to clear CR4.PAE in long mode",
    hex`
    ; bits 64, at 0x8000
    0f 20 e0       ; mov rax, cr4
    48 0f ba f0 05 ; btr rax, 5
    0f 22 e0       ; mov cr4, rax
  `,
  ],
  [
    "CR3 beyond the physical address width",
    hex`
    ; bits 64, at 0x8000
    0f 20 d8       ; mov rax, cr3
    48 0f ba e8 34 ; bts rax, 52
    0f 22 d8       ; mov cr3, rax
  `,
  ],
  [
    "a reserved bit of EFER",
    hex`
    ; bits 64, at 0x8000
    b9 80 00 00 c0 ; mov ecx, 0xc0000080
    0f 32          ; rdmsr
    0f ba e8 01    ; bts eax, 1
    0f 30          ; wrmsr
  `,
  ],
  [
    "to clear EFER.LME while paging is on",
    hex`
    ; bits 64, at 0x8000
    b9 80 00 00 c0 ; mov ecx, 0xc0000080
    0f 32          ; rdmsr
    0f ba f0 08    ; btr eax, 8
    0f 30          ; wrmsr
  `,
  ],
];

/** System calls, segment bases and control registers in IA-32e mode (SDM Vol. 3A sec. 2.5, 6.8.7 and 6.8.8). */
export const systemCases: CaseGroup<Guest> = {
  title: "system instructions in long mode",
  cases: [
    {
      name: "enters with SYSCALL and leaves with SYSRET",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 81 00 00 c0    ; mov ecx, 0xc0000081
          31 c0             ; xor eax, eax
          ba 28 00 30 00    ; mov edx, 0x00300028
          0f 30             ; wrmsr
          ff c1             ; inc ecx
          b8 00 82 00 00    ; mov eax, 0x8200
          31 d2             ; xor edx, edx
          0f 30             ; wrmsr
          b9 84 00 00 c0    ; mov ecx, 0xc0000084
          b8 00 02 04 00    ; mov eax, 0x40200
          0f 30             ; wrmsr
          b9 00 81 00 00    ; mov ecx, 0x8100
          41 bb 97 0a 04 00 ; mov r11d, 0x40a97
          48 0f 07          ; sysretq
        `,
          { efer: EFER.SCE },
        );
        // STAR: SYSCALL CS 0x28, SS 0x30; SYSRET CS 0x30 + 16, SS 0x30 + 8.
        guest.load(
          0x8100,
          hex`
          ; bits 64, at 0x8100
          41 8c c8             ; mov r8, cs
          41 8c d1             ; mov r9, ss
          48 c7 c4 00 64 00 00 ; mov rsp, 0x6400
          9c                   ; pushf
          5b                   ; pop rbx
          0f 05                ; syscall
        `,
        );
        guest.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          41 8c cc ; mov r12, cs
          41 8c d5 ; mov r13, ss
          48 89 ce ; mov rsi, rcx
          4c 89 df ; mov rdi, r11
          9c       ; pushf
          41 5e    ; pop r14
          f4       ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, {
          r8: 0x43n,
          r9: 0x3bn,
          rbx: 0x4_0a97n,
          r12: 0x28n,
          r13: 0x30n,
          rsi: 0x8111n,
          rdi: 0x4_0a97n,
          r14: 0x0897n,
        });
        expectEqual("SS", [state.ss.base, state.ss.limit], [0n, 0xffff_ffff]);
      },
    },
    {
      name: "raises #UD for SYSCALL without EFER.SCE",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 05 ; syscall
        `,
        );
        runToVector(guest, 6);
      },
    },
    {
      name: "enters with SYSENTER and leaves with SYSEXIT",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 74 01 00 00       ; mov ecx, 0x174
          b8 58 00 00 00       ; mov eax, 0x58
          31 d2                ; xor edx, edx
          0f 30                ; wrmsr
          ff c1                ; inc ecx
          b8 00 6c 00 00       ; mov eax, 0x6c00
          0f 30                ; wrmsr
          ff c1                ; inc ecx
          b8 00 82 00 00       ; mov eax, 0x8200
          0f 30                ; wrmsr
          48 c7 c1 00 64 00 00 ; mov rcx, 0x6400
          48 c7 c2 00 81 00 00 ; mov rdx, 0x8100
          48 0f 35             ; sysexitq
        `,
        );
        // From SYSENTER_CS 0x58: ring 0 at 0x58 and 0x60, 64-bit ring 3 at 0x78 and 0x80.
        for (const offset of [0, 8, 16, 24, 32, 40]) {
          const access = [0x9b, 0x93, 0xfb, 0xf3, 0xfb, 0xf3][offset / 8]!;
          const flags = offset === 0 || offset === 32 ? 0xa : 0xc;
          guest.load(Layout.GDT + Selector.FREE + offset, descriptor(0, 0xfffff, access, flags));
        }
        guest.load(
          0x8100,
          hex`
          ; bits 64, at 0x8100
          41 8c c8 ; mov r8, cs
          41 8c d1 ; mov r9, ss
          49 89 e2 ; mov r10, rsp
          0f 34    ; sysenter
        `,
        );
        guest.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          41 8c cc ; mov r12, cs
          41 8c d5 ; mov r13, ss
          49 89 e6 ; mov r14, rsp
          f4       ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), {
          r8: 0x7bn,
          r9: 0x83n,
          r10: 0x6400n,
          r12: 0x58n,
          r13: 0x60n,
          r14: 0x6c00n,
        });
      },
    },
    {
      name: "swaps GS bases",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 01 01 00 c0 ; mov ecx, 0xc0000101
          b8 00 10 00 00 ; mov eax, 0x1000
          ba 00 80 ff ff ; mov edx, 0xffff8000
          0f 30          ; wrmsr
          ff c1          ; inc ecx
          b8 00 20 00 00 ; mov eax, 0x2000
          31 d2          ; xor edx, edx
          0f 30          ; wrmsr
          0f 01 f8       ; swapgs
          ff c9          ; dec ecx
          0f 32          ; rdmsr
          89 c3          ; mov ebx, eax
          ff c1          ; inc ecx
          0f 32          ; rdmsr
          f4             ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), { rbx: 0x2000n, rax: 0x1000n, rdx: 0xffff_8000n });
      },
    },
    {
      name: "reads and writes FS and GS bases by instruction",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 00 00 02 00    ; mov rax, 0x20000
          f3 48 0f ae d0          ; wrfsbase rax
          64 8b 1c 25 00 00 00 00 ; mov ebx, fs:[0]
          f3 48 0f ae c1          ; rdfsbase rcx
          b8 00 10 02 00          ; mov eax, 0x21000
          f3 0f ae d8             ; wrgsbase eax
          f3 48 0f ae ca          ; rdgsbase rdx
          f4                      ; hlt
        `,
          { cr4: CR4.FSGSBASE },
        );
        guest.load(Layout.DATA, u32s(0x2468_ace0));
        expectRegisters(runToHalt(guest), { rbx: 0x2468_ace0n, rcx: 0x2_0000n, rdx: 0x2_1000n });
      },
    },
    {
      name: "raises #GP for a base that is not canonical",
      needs: ["long mode"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          b9 00 01 00 c0 ; mov ecx, 0xc0000100
          31 c0          ; xor eax, eax
          ba 00 80 00 00 ; mov edx, 0x8000
          0f 30          ; wrmsr
        `,
        );
        expectEqual("RIP", guest.u64(runToVector(guest, 13).sp + 8), 0x800cn);
      },
    },
    ...REFUSED.map(
      ([name, code]): ConformanceCase<Guest> => ({
        name: `refuses ${name}`,
        needs: ["long mode"],
        run(guest) {
          start(guest, "long", code);
          expectEqual("error code", guest.u64(runToVector(guest, 13).sp), 0n);
        },
      }),
    ),
    {
      name: "hides descriptor tables from ring 3 under UMIP",
      needs: ["long mode"],
      run(guest) {
        start(guest, "long", TO_RING_3, { registers: { rax: 0x8100n }, cr4: CR4.UMIP });
        guest.load(
          0x8100,
          hex`
          ; bits 64, at 0x8100
          0f 01 44 24 f0 ; sgdt [rsp-16]
        `,
        );
        expectEqual("error code", guest.u64(runToVector(guest, 13).sp), 0n);
        startRing3(
          guest,
          hex`
          ; bits 64, at 0x8100
          0f 01 44 24 f0 ; sgdt [rsp-16]
          48 8b 5c 24 f2 ; mov rbx, [rsp-14]
          0f 01 e1       ; smsw ecx
          cd 81          ; int 0x81
        `,
        );
        expectRegisters(runToVector(guest, 0x81).state, { rbx: BigInt(Layout.GDT) });
      },
    },
  ],
};
