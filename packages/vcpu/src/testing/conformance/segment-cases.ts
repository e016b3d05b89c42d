import { type CaseGroup, start } from "./case.ts";
import {
  expectEqual,
  expectRegisters,
  type Guest,
  runToHalt,
  runToVector,
  TO_RING_3_AT_RAX,
} from "./guest.ts";
import { descriptor, gate, hex, Layout, Selector, u32s } from "./layout.ts";

/** Starts in ring 0 and continues `code` in ring 3, at 0x8100. */
function startRing3(guest: Guest, code: Uint8Array, rflags = 0n): void {
  start(guest, "protected", TO_RING_3_AT_RAX, { registers: { rax: 0x8100n }, rflags });
  guest.load(0x8100, code);
}

/** Error code, EIP, CS, EFLAGS, ESP, SS from the top of the stack. */
function frame(guest: Guest, sp: number, words: number): number[] {
  return Array.from({ length: words }, (_, i) => guest.u32(sp + 4 * i));
}

/** Protected mode's segments (SDM Vol. 3A ch. 3 and 6). */
export const segmentCases: CaseGroup<Guest> = {
  title: "segments",
  cases: [
    {
      name: "raises #GP with the selector where a segment may not be loaded",
      needs: ["protected mode"],
      run(guest) {
        for (const [selector, vector, error] of [
          [0x108, 13, 0x108], // beyond the GDT's limit
          [0x58, 11, 0x58], // not present
          [0x60, 13, 0x60], // a system segment
          [0x68, 13, 0x68], // execute-only code
        ] as const) {
          start(
            guest,
            "protected",
            hex`
            ; bits 32, at 0x8000
            8e e3 ; mov fs, bx
            f4    ; hlt
          `,
            { registers: { rbx: BigInt(selector) } },
          );
          guest.load(Layout.GDT + 0x58, descriptor(0, 0xfffff, 0x13, 0xc));
          guest.load(Layout.GDT + 0x60, descriptor(0, 0x67, 0x89));
          guest.load(Layout.GDT + 0x68, descriptor(0, 0xfffff, 0x98, 0xc));
          const { sp } = runToVector(guest, vector);
          expectEqual("error code, EIP", frame(guest, sp, 2), [error, 0x8000]);
        }
      },
    },
    {
      name: "raises #GP at SS with the wrong privilege, #SS where it is not present",
      needs: ["protected mode"],
      run(guest) {
        for (const [selector, vector, error] of [
          [0, 13, 0],
          [Selector.USER_DATA, 13, 0x38],
          [Selector.CODE32, 13, 8],
          [0x58, 12, 0x58],
        ] as const) {
          start(
            guest,
            "protected",
            hex`
            ; bits 32, at 0x8000
            8e d3 ; mov ss, bx
            f4    ; hlt
          `,
            { registers: { rbx: BigInt(selector) } },
          );
          guest.load(Layout.GDT + 0x58, descriptor(0, 0xfffff, 0x13, 0xc));
          const { sp } = runToVector(guest, vector);
          expectEqual("error code, EIP", frame(guest, sp, 2), [error, 0x8000]);
        }
      },
    },
    {
      name: "loads null into data segments, and faults when they are used",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          31 c0             ; xor eax, eax
          8e c0             ; mov es, ax
          bb 01 00 00 00    ; mov ebx, 1
          26 a0 00 20 00 00 ; mov al, es:[0x2000]
          f4                ; hlt
        `,
        );
        const { state, sp } = runToVector(guest, 13);
        expectEqual("error code", guest.u32(sp), 0);
        expectRegisters(state, { rbx: 1n });
      },
    },
    {
      name: "sets the accessed bit of a descriptor that it loads",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 58 00       ; mov ax, 0x58
          8e e8             ; mov gs, ax
          65 a1 04 00 00 00 ; mov eax, gs:[4]
          f4                ; hlt
        `,
        );
        guest.load(Layout.GDT + 0x58, descriptor(0x2_0000, 0xff, 0x92));
        guest.load(Layout.DATA + 4, u32s(0xabcd_1234));
        const state = runToHalt(guest);
        expectRegisters(state, { rax: 0xabcd_1234n });
        expectEqual("access byte", guest.u8(Layout.GDT + 0x58 + 5), 0x93);
        expectEqual("GS", state.gs, { selector: 0x58, base: 0x2_0000n, limit: 0xff, access: 0x93 });
      },
    },
    {
      name: "checks limits, also of segments that expand down",
      needs: ["protected mode"],
      run(guest) {
        for (const [offset, isFault] of [
          [0xfcn, false],
          [0xfdn, true],
          [0xffff_ffffn, true],
        ] as const) {
          start(
            guest,
            "protected",
            hex`
            ; bits 32, at 0x8000
            66 b8 58 00 ; mov ax, 0x58
            8e d8       ; mov ds, ax
            8b 03       ; mov eax, [ebx]
            f4          ; hlt
          `,
            { registers: { rbx: offset } },
          );
          guest.load(Layout.GDT + 0x58, descriptor(0x2_0000, 0xff, 0x93));
          if (isFault) expectEqual("error code", guest.u32(runToVector(guest, 13).sp), 0);
          else runToHalt(guest);
        }
        for (const [offset, isFault] of [
          [0xfffn, true],
          [0x1000n, false],
          [0xfffcn, false],
          [0xfffdn, true],
        ] as const) {
          start(
            guest,
            "protected",
            hex`
            ; bits 32, at 0x8000
            66 b8 58 00 ; mov ax, 0x58
            8e d8       ; mov ds, ax
            8b 03       ; mov eax, [ebx]
            f4          ; hlt
          `,
            { registers: { rbx: offset } },
          );
          // Expand-down, 16-bit: valid from limit + 1 to 0xffff.
          guest.load(Layout.GDT + 0x58, descriptor(0x2_0000, 0xfff, 0x97));
          if (isFault) runToVector(guest, 13);
          else runToHalt(guest);
        }
      },
    },
    {
      name: "refuses writes to code and to read-only data",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          2e a3 00 00 02 00 ; mov dword ptr cs:[0x20000], eax
          f4                ; hlt
        `,
        );
        expectEqual("error code", guest.u32(runToVector(guest, 13).sp), 0);
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 58 00       ; mov ax, 0x58
          8e d8             ; mov ds, ax
          8b 1d 00 00 00 00 ; mov ebx, [0]
          89 1d 00 00 00 00 ; mov [0], ebx
          f4                ; hlt
        `,
        );
        guest.load(Layout.GDT + 0x58, descriptor(0x2_0000, 0xff, 0x91));
        const { sp } = runToVector(guest, 13);
        expectEqual("error code, EIP", frame(guest, sp, 2), [0, 0x800c]);
      },
    },
    {
      name: "nulls data segments that ring 3 may not have when it returns there",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 10 00    ; mov ax, 0x10
          8e d8          ; mov ds, ax
          66 b8 3b 00    ; mov ax, 0x3b
          8e c0          ; mov es, ax
          6a 3b          ; push 0x3b
          68 00 64 00 00 ; push 0x6400
          6a 33          ; push 0x33
          68 00 81 00 00 ; push 0x8100
          cb             ; retf
        `,
        );
        guest.load(
          0x8100,
          hex`
          ; bits 32, at 0x8100
          8c db ; mov ebx, ds
          8c c1 ; mov ecx, es
          cd 81 ; int 0x81
        `,
        );
        guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        expectRegisters(runToVector(guest, 0x81).state, { rbx: 0n, rcx: 0x3bn });
      },
    },
    {
      name: "runs conforming code at the caller's privilege",
      needs: ["protected mode"],
      run(guest) {
        startRing3(
          guest,
          hex`
          ; bits 32, at 0x8100
          9a 00 82 00 00 58 00 ; call far ptr 0x58:0x8200
          cd 81                ; int 0x81
        `,
        );
        guest.load(
          0x8200,
          hex`
          ; bits 32, at 0x8200
          8c cb ; mov ebx, cs
          cb    ; retf
        `,
        );
        guest.load(Layout.GDT + 0x58, descriptor(0, 0xfffff, 0x9e, 0xc));
        guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        expectRegisters(runToVector(guest, 0x81).state, { rbx: 0x5bn });
      },
    },
    {
      name: "answers LAR, LSL, VERR, VERW and ARPL",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          b8 08 00 00 00       ; mov eax, 0x08
          0f 02 d8             ; lar ebx, eax
          0f 03 c8             ; lsl ecx, eax
          0f 00 e8             ; verw ax
          0f 94 05 00 00 02 00 ; setz [0x20000]
          0f 00 e0             ; verr ax
          0f 94 05 01 00 02 00 ; setz [0x20001]
          b8 08 01 00 00       ; mov eax, 0x108
          ba 34 12 00 00       ; mov edx, 0x1234
          0f 02 d0             ; lar edx, eax
          0f 94 05 02 00 02 00 ; setz [0x20002]
          66 b8 10 00          ; mov ax, 0x10
          66 be 03 00          ; mov si, 0x3
          63 f0                ; arpl ax, si
          0f 94 05 03 00 02 00 ; setz [0x20003]
          0f b7 f8             ; movzx edi, ax
          f4                   ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, { rcx: 0xffff_ffffn, rdx: 0x1234n, rdi: 0x13n });
        // Bits 19:16 are undefined (SDM Vol. 2A, LAR).
        expectEqual("LAR", state.gpr[3]! & 0xf0_ff00n, 0xc0_9b00n);
        expectEqual("ZF of verw, verr, lar, arpl", guest.u32(Layout.DATA), 0x0100_0100);
      },
    },
    {
      name: "uses a local descriptor table",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 58 00          ; mov ax, 0x58
          0f 00 d0             ; lldt ax
          66 b8 0c 00          ; mov ax, 0x0c
          8e e0                ; mov fs, ax
          64 8b 1d 00 00 00 00 ; mov ebx, fs:[0]
          0f 00 c1             ; sldt ecx
          0f 00 ca             ; str edx
          f4                   ; hlt
        `,
        );
        guest.load(Layout.GDT + 0x58, descriptor(0x2_1000, 0x1f, 0x82));
        guest.load(0x2_1008, descriptor(0x2_0000, 0xfff, 0x93));
        guest.load(Layout.DATA, u32s(0x1357_9bdf));
        const state = runToHalt(guest);
        expectRegisters(state, { rbx: 0x1357_9bdfn, rcx: 0x58n, rdx: 0x48n });
      },
    },
    {
      name: "runs 16-bit code and stacks, and mixes sizes by prefix",
      needs: ["protected mode"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 20 00          ; mov ax, 0x20
          8e d0                ; mov ss, ax
          bc 00 70 12 00       ; mov esp, 0x00127000
          68 44 33 22 11       ; push 0x11223344
          ea 17 80 00 00 18 00 ; jmp far ptr 0x18:@sixteen
          ; bits 16
          ; sixteen:
          68 66 55             ; push 0x5566
          66 b8 ef cd ab 89    ; mov eax, 0x89abcdef
          66 89 e3             ; mov ebx, esp
          f4                   ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, { rax: 0x89ab_cdefn, rbx: 0x0012_6ffan });
        expectEqual("stack", [guest.u16(0x6ffa), guest.u32(0x6ffc)], [0x5566, 0x1122_3344]);
      },
    },
  ],
};
