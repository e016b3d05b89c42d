import { type CaseGroup, start } from "./case.ts";
import {
  CR0,
  expectEqual,
  expectRegisters,
  type Guest,
  runToHalt,
  runToVector,
  TO_RING_3_AT_RAX,
} from "./guest.ts";
import { gate, hex, Layout, Selector, u32s } from "./layout.ts";

/** Starts in ring 0 and continues `code` in ring 3, at 0x8100. */
function startRing3(guest: Guest, code: Uint8Array, rflags = 0n): void {
  start(guest, "protected", TO_RING_3_AT_RAX, { registers: { rax: 0x8100n }, rflags });
  guest.load(0x8100, code);
}

/** Error code, EIP, CS, EFLAGS, ESP, SS from the top of the stack. */
function frame(guest: Guest, sp: number, words: number): number[] {
  return Array.from({ length: words }, (_, i) => guest.u32(sp + 4 * i));
}

/** Protected mode: privilege, gates, exceptions (SDM Vol. 3A ch. 6 and 7). */
export const protectedCases: CaseGroup<Guest> = {
  title: "protected mode",
  cases: [
    {
      name: "takes faults, traps and software interrupts through 32-bit gates",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          cd 80 ; int 0x80
          f4    ; hlt
        `,
          { rflags: 0x246n },
        );
        // A trap gate leaves IF as it is.
        guest.load(Layout.IDT + 8 * 0x80, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x80, 0x8f));
        const { state, sp } = runToVector(guest, 0x80);
        expectEqual("EIP, CS, EFLAGS", frame(guest, sp, 3), [0x8002, 8, 0x246]);
        expectEqual("IF after a trap gate", state.rflags & 0x200n, 0x200n);
      },
    },
    {
      name: "pushes 16-bit frames through 16-bit gates",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          cd 40 ; int 0x40
          f4    ; hlt
        `,
        );
        guest.load(Layout.IDT + 8 * 0x40, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x40, 0x86));
        const { sp } = runToVector(guest, 0x40);
        expectEqual("SP", sp, 0x7000 - 6);
        expectEqual("IP, CS", [guest.u16(sp), guest.u16(sp + 2)], [0x8002, 8]);
      },
    },
    {
      name: "goes to ring 3 and comes back on the stack of the TSS",
      needs: ["protected mode"],
      run(guest) {
        startRing3(
          guest,
          hex`
          ; bits 32, at 0x8100
          8c cb ; mov ebx, cs
          89 e6 ; mov esi, esp
          cd 81 ; int 0x81
          f4    ; hlt
        `,
          0x202n,
        );
        guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        const { state, sp } = runToVector(guest, 0x81);
        expectRegisters(state, { rbx: 0x33n, rsi: 0x6400n });
        expectEqual("stack", sp, Layout.KERNEL_STACK - 20);
        expectEqual("EIP, CS, EFLAGS, ESP, SS", frame(guest, sp, 5), [0x8106, 0x33, 0x202, 0x6400, 0x3b]);
        expectEqual("SS", state.ss.selector, Selector.DATA);
      },
    },
    {
      name: "refuses a gate to ring 3 that its privilege does not allow, naming the vector",
      needs: ["protected mode"],
      run(guest) {
        startRing3(
          guest,
          hex`
          ; bits 32, at 0x8100
          cd 82 ; int 0x82
        `,
        );
        const { sp } = runToVector(guest, 13);
        // Index × 8, IDT bit.
        expectEqual("error code, EIP, CS", frame(guest, sp, 3), [0x82 * 8 + 2, 0x8100, 0x33]);
      },
    },
    {
      name: "refuses privileged instructions in ring 3",
      needs: ["protected mode"],
      run(guest) {
        const instructions = {
          hlt: hex`
            ; bits 32, at 0x8100
            f4 ; hlt
          `,
          cli: hex`
            ; bits 32, at 0x8100
            fa ; cli
          `,
          "mov cr0": hex`
            ; bits 32, at 0x8100
            0f 20 c0 ; mov eax, cr0
          `,
          lgdt: hex`
            ; bits 32, at 0x8100
            0f 01 15 00 00 02 00 ; lgdt [0x20000]
          `,
          invlpg: hex`
            ; bits 32, at 0x8100
            0f 01 3d 00 00 02 00 ; invlpg [0x20000]
          `,
          rdmsr: hex`
            ; bits 32, at 0x8100
            0f 32 ; rdmsr
          `,
          "in al": hex`
            ; bits 32, at 0x8100
            e4 60 ; in al, 0x60
          `,
          "mov dr7": hex`
            ; bits 32, at 0x8100
            0f 21 f8 ; mov eax, dr7
          `,
          lmsw: hex`
            ; bits 32, at 0x8100
            0f 01 f0 ; lmsw ax
          `,
          clts: hex`
            ; bits 32, at 0x8100
            0f 06 ; clts
          `,
          ltr: hex`
            ; bits 32, at 0x8100
            0f 00 d8 ; ltr ax
          `,
          wbinvd: hex`
            ; bits 32, at 0x8100
            0f 09 ; wbinvd
          `,
        };
        for (const [name, code] of Object.entries(instructions)) {
          startRing3(guest, code);
          const { sp } = runToVector(guest, 13);
          expectEqual(`${name}: error code, EIP, CS`, frame(guest, sp, 3), [0, 0x8100, 0x33]);
        }
      },
    },
    {
      name: "lets ring 3 change IF with IOPL 3 only, and never IOPL",
      needs: ["protected mode"],
      run(guest) {
        const code = hex`
          ; bits 32, at 0x8100
          68 02 32 00 00 ; push 0x3202
          9d             ; popf
          9c             ; pushf
          5b             ; pop ebx
          cd 81          ; int 0x81
        `;
        for (const [flags, expected] of [
          [0x2n, 0x2n],
          [0x3002n, 0x3202n],
        ] as const) {
          startRing3(guest, code, flags);
          guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
          expectRegisters(runToVector(guest, 0x81).state, { rbx: expected });
        }
      },
    },
    {
      name: "calls a more privileged routine through a call gate, with parameters, and returns",
      needs: ["protected mode"],
      run(guest) {
        startRing3(
          guest,
          hex`
          ; bits 32, at 0x8100
          68 11 11 11 11       ; push 0x11111111
          68 22 22 22 22       ; push 0x22222222
          9a 00 00 00 00 5b 00 ; call far ptr 0x5b:0
          89 e7                ; mov edi, esp
          8c cd                ; mov ebp, cs
          cd 81                ; int 0x81
        `,
        );
        guest.load(
          0x8200,
          hex`
          ; bits 32, at 0x8200
          8b 5c 24 08 ; mov ebx, [esp+8]
          8b 4c 24 0c ; mov ecx, [esp+12]
          8b 54 24 10 ; mov edx, [esp+16]
          8c ce       ; mov esi, cs
          ca 08 00    ; retf 8
        `,
        );
        guest.load(Layout.GDT + 0x58, gate(Selector.CODE32, 0x8200, 0xec, 2));
        guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        const { state } = runToVector(guest, 0x81);
        expectRegisters(state, {
          rbx: 0x2222_2222n,
          rcx: 0x1111_1111n,
          rdx: 0x63f8n,
          rsi: 8n,
          rdi: 0x6400n,
          rbp: 0x33n,
        });
      },
    },
    {
      name: "raises #DF for a fault while it delivers one, with error code 0",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          31 d2 ; xor edx, edx
          f7 f2 ; div edx
        `,
        );
        // #DE's gate is not present: #NP while delivering a contributory exception (SDM Vol. 3A table 7-5).
        guest.load(Layout.IDT, gate(Selector.CODE32, Layout.HANDLERS, 0x0e));
        const { sp } = runToVector(guest, 8);
        expectEqual("error code", guest.u32(sp), 0);
      },
    },
    {
      name: "raises #NP, naming the gate, for an interrupt gate that is not present",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          cd 60 ; int 0x60
        `,
        );
        guest.load(Layout.IDT + 8 * 0x60, gate(Selector.CODE32, Layout.HANDLERS, 0x0e));
        const { sp } = runToVector(guest, 11);
        expectEqual("error code, EIP", frame(guest, sp, 2), [0x60 * 8 + 2, 0x8000]);
      },
    },
    {
      name: "shuts down at a fault while it delivers #DF (triple fault)",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          0f 01 1d 00 00 02 00 ; lidt [0x20000]
          cc                   ; int3
        `,
        );
        expectEqual("end of run", guest.run(), "triple-fault");
      },
    },
    {
      name: "raises #AC in ring 3 for what is not aligned, if asked",
      needs: ["protected mode"],
      run(guest) {
        start(guest, "protected", TO_RING_3_AT_RAX, {
          registers: { rax: 0x8100n },
          rflags: 1n << 18n,
          cr0: CR0.AM,
        });
        guest.load(
          0x8100,
          hex`
          ; bits 32, at 0x8100
          a1 04 00 02 00 ; mov eax, [0x20004]
          a1 02 00 02 00 ; mov eax, [0x20002]
        `,
        );
        const { sp } = runToVector(guest, 17);
        expectEqual("error code, EIP", frame(guest, sp, 2), [0, 0x8105]);
      },
    },
    {
      name: "raises #NM for the FPU when CR0 says so",
      needs: ["protected mode", "FPU"],
      run(guest) {
        for (const cr0 of [CR0.TS, CR0.EM]) {
          start(
            guest,
            "protected",
            hex`
            ; bits 32, at 0x8000
            d9 e8 ; fld1
            f4    ; hlt
          `,
            { cr0 },
          );
          runToVector(guest, 7);
        }
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          9b ; wait
          f4 ; hlt
        `,
          { cr0: CR0.TS | CR0.MP },
        );
        runToVector(guest, 7);
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          9b ; wait
          f4 ; hlt
        `,
          { cr0: CR0.TS },
        );
        runToHalt(guest);
      },
    },
    {
      name: "pushes and pops all registers, enters and leaves frames",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          b8 01 00 00 00    ; mov eax, 1
          b9 02 00 00 00    ; mov ecx, 2
          ba 03 00 00 00    ; mov edx, 3
          bb 04 00 00 00    ; mov ebx, 4
          bd 06 00 00 00    ; mov ebp, 6
          be 07 00 00 00    ; mov esi, 7
          bf 08 00 00 00    ; mov edi, 8
          60                ; pushad
          31 ff             ; xor edi, edi
          31 c0             ; xor eax, eax
          61                ; popad
          bd 00 68 00 00    ; mov ebp, 0x6800
          c8 10 00 02       ; enter 16, 2
          89 25 00 00 02 00 ; mov [0x20000], esp
          89 2d 04 00 02 00 ; mov [0x20004], ebp
          c9                ; leave
          89 25 08 00 02 00 ; mov [0x20008], esp
          f4                ; hlt
        `,
        );
        guest.load(0x67fc, u32s(0x7654_3210));
        const state = runToHalt(guest);
        expectRegisters(state, { rax: 1n, rdi: 8n, rbp: 0x6800n });
        // PUSHAD's frame: EDI lowest, ESP as it was before.
        expectEqual("pushad, overwritten by enter", guest.u32(0x6ff0), 4);
        // enter: push ebp; push [ebp - 4]; push the new frame pointer; 16 bytes of locals.
        expectEqual("ESP, EBP in the frame", [guest.u32(0x2_0000), guest.u32(0x2_0004)], [0x6fe4, 0x6ffc]);
        expectEqual(
          "enter's stack",
          [guest.u32(0x6ffc), guest.u32(0x6ff8), guest.u32(0x6ff4)],
          [0x6800, 0x7654_3210, 0x6ffc],
        );
        expectEqual("ESP after leave", guest.u32(0x2_0008), 0x7000);
      },
    },
  ],
};
