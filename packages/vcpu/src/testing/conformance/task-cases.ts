import { type CaseGroup, start } from "./case.ts";
import { CR0, expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { descriptor, gate, hex, Layout, Selector, u32s } from "./layout.ts";

const TSS2 = 0x3100;
const BUSY_BIT = 0x02;

/** A 32-bit TSS (SDM Vol. 3A figure 9-2) of a ring-0 task that starts at `eip`. */
function tss(eip: number, esp: number): Uint8Array {
  const words = new Array<number>(26).fill(0);
  words[1] = Layout.KERNEL_STACK;
  words[2] = Selector.DATA;
  words[8] = eip;
  words[9] = 2;
  for (let i = 0; i < 8; i++) words[10 + i] = 0x1111_1111 * (i + 1);
  words[14] = esp;
  for (const i of [18, 20, 21, 22, 23]) words[i] = Selector.DATA;
  words[19] = Selector.CODE32;
  words[25] = 0x68_0000;
  return u32s(...words);
}

/** A second task at selector 0x58. */
function addTask(guest: Guest, code: Uint8Array): void {
  guest.load(TSS2, tss(0x8200, 0x6800));
  guest.load(Layout.GDT + 0x58, descriptor(TSS2, 0x67, 0x89));
  guest.load(0x8200, code);
}

/** Task switches (SDM Vol. 3A ch. 9). */
export const taskCases: CaseGroup<Guest> = {
  title: "task switches",
  cases: [
    {
      name: "jumps to a task: saves the old one, loads the new one",
      needs: ["protected mode", "task switch"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          bb b0 b0 b0 b0       ; mov ebx, 0xb0b0b0b0
          ea 00 00 00 00 58 00 ; jmp far ptr 0x58:0
          f4                   ; hlt
        `,
        );
        addTask(
          guest,
          hex`
          ; bits 32, at 0x8200
          a3 00 00 02 00    ; mov [0x20000], eax
          89 3d 04 00 02 00 ; mov [0x20004], edi
          89 25 08 00 02 00 ; mov [0x20008], esp
          0f 20 c0          ; mov eax, cr0
          0f 00 ca          ; str edx
          f4                ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectEqual(
          "EAX, EDI, ESP",
          [guest.u32(0x2_0000), guest.u32(0x2_0004), guest.u32(0x2_0008)],
          [0x1111_1111, 0x8888_8888, 0x6800],
        );
        expectEqual("CR0.TS", state.gpr[0]! & CR0.TS, CR0.TS);
        expectRegisters(state, { rdx: 0x58n, rcx: 0x2222_2222n });
        expectEqual(
          "saved EIP, EBX, ESP",
          [guest.u32(Layout.TSS + 0x20), guest.u32(Layout.TSS + 0x34), guest.u32(Layout.TSS + 0x38)],
          [0x800c, 0xb0b0_b0b0, 0x7000],
        );
        expectEqual("saved CS, SS", [guest.u16(Layout.TSS + 0x4c), guest.u16(Layout.TSS + 0x50)], [8, 0x10]);
        expectEqual("old task's busy bit", guest.u8(Layout.GDT + Selector.TSS + 5) & BUSY_BIT, 0);
        expectEqual("new task's busy bit", guest.u8(Layout.GDT + 0x58 + 5) & BUSY_BIT, BUSY_BIT);
        expectEqual("back link", guest.u16(TSS2), 0);
      },
    },
    {
      name: "calls a task and returns with IRET",
      needs: ["protected mode", "task switch"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          bb 34 12 00 00       ; mov ebx, 0x1234
          9a 00 00 00 00 58 00 ; call far ptr 0x58:0
          0f 00 c9             ; str ecx
          9c                   ; pushf
          5a                   ; pop edx
          f4                   ; hlt
        `,
        );
        addTask(
          guest,
          hex`
          ; bits 32, at 0x8200
          9c             ; pushf
          58             ; pop eax
          a3 00 00 02 00 ; mov [0x20000], eax
          cf             ; iretd
        `,
        );
        const state = runToHalt(guest);
        expectEqual("NT in the called task", guest.u32(0x2_0000) & 0x4000, 0x4000);
        expectRegisters(state, { rbx: 0x1234n, rcx: 0x48n });
        expectEqual("NT after the return", state.gpr[2]! & 0x4000n, 0n);
        expectEqual("back link", guest.u16(TSS2), Selector.TSS);
        expectEqual(
          "busy bits",
          [guest.u8(Layout.GDT + Selector.TSS + 5) & BUSY_BIT, guest.u8(Layout.GDT + 0x58 + 5) & BUSY_BIT],
          [BUSY_BIT, 0],
        );
        expectEqual("called task's saved EIP", guest.u32(TSS2 + 0x20), 0x8208);
      },
    },
    {
      name: "takes an exception through a task gate, its error code on the new stack",
      needs: ["protected mode", "task switch"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          66 b8 08 01 ; mov ax, 0x108
          8e e0       ; mov fs, ax
          f4          ; hlt
        `,
        );
        addTask(
          guest,
          hex`
          ; bits 32, at 0x8200
          58    ; pop eax
          89 e3 ; mov ebx, esp
          f4    ; hlt
        `,
        );
        guest.load(Layout.IDT + 8 * 13, gate(0x58, 0, 0x85));
        expectRegisters(runToHalt(guest), { rax: 0x108n, rbx: 0x6800n });
        expectEqual("saved EIP", guest.u32(Layout.TSS + 0x20), 0x8004);
      },
    },
    {
      name: "refuses a busy task, and a TSS that is too small",
      needs: ["protected mode", "task switch"],
      run(guest) {
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          ea 00 00 00 00 58 00 ; jmp far ptr 0x58:0
        `,
        );
        addTask(guest, Uint8Array.of(0xf4));
        guest.load(Layout.GDT + 0x58, descriptor(TSS2, 0x67, 0x8b));
        expectEqual("error code", guest.u32(runToVector(guest, 13).sp), 0x58);
        start(
          guest,
          "protected",
          hex`
          ; bits 32, at 0x8000
          ea 00 00 00 00 58 00 ; jmp far ptr 0x58:0
        `,
        );
        addTask(guest, Uint8Array.of(0xf4));
        guest.load(Layout.GDT + 0x58, descriptor(TSS2, 0x66, 0x89));
        expectEqual("error code", guest.u32(runToVector(guest, 10).sp), 0x58);
      },
    },
  ],
};

/** Goes to virtual-8086 code at 0800:0100 with the flags in EAX. */
const TO_V86 = hex`
  ; bits 32, at 0x8000
  68 44 44 00 00 ; push 0x4444
  68 33 33 00 00 ; push 0x3333
  68 22 22 00 00 ; push 0x2222
  68 00 20 00 00 ; push 0x2000
  68 00 06 00 00 ; push 0x0600
  68 00 04 00 00 ; push 0x0400
  0d 00 00 02 00 ; or eax, 0x20000
  50             ; push eax
  68 00 08 00 00 ; push 0x0800
  68 00 01 00 00 ; push 0x0100
  cf             ; iretd
`;

function startV86(guest: Guest, code: Uint8Array, flags: bigint): void {
  start(guest, "protected", TO_V86, { registers: { rax: flags } });
  guest.load(0x8100, code);
  guest.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
}

const VM = 0x2_0000;
const RF = 0x1_0000;

/** Virtual-8086 mode (SDM Vol. 3B ch. 21.2). */
export const v86Cases: CaseGroup<Guest> = {
  title: "virtual-8086 mode",
  cases: [
    {
      name: "runs 8086 code, and comes back to ring 0 with null data segments",
      needs: ["protected mode", "virtual-8086"],
      run(guest) {
        startV86(
          guest,
          hex`
          ; bits 16, at 0x100
          8c c0                ; mov ax, es
          8c db                ; mov bx, ds
          26 c7 06 10 00 ef be ; mov word ptr es:[0x10], 0xbeef
          0e                   ; push cs
          59                   ; pop cx
          89 e2                ; mov dx, sp
          cd 81                ; int 0x81
        `,
          0x3002n,
        );
        const { state, sp } = runToVector(guest, 0x81);
        expectEqual("es:[10h]", guest.u16(0x2_0010), 0xbeef);
        expectRegisters(state, { rbx: 0x2222n, rcx: 0x800n, rdx: 0x400n });
        const frame = Array.from({ length: 9 }, (_, i) => guest.u32(sp + 4 * i));
        expectEqual("EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS", frame, [
          0x111,
          0x800,
          VM | 0x3002,
          0x400,
          0x600,
          0x2000,
          0x2222,
          0x3333,
          0x4444,
        ]);
        const data = [state.es, state.ds, state.fs, state.gs].map(({ selector }) => selector);
        expectEqual("ES, DS, FS, GS", data, [0, 0, 0, 0]);
        expectEqual("SS", state.ss.selector, Selector.DATA);
        expectEqual("stack", sp, Layout.KERNEL_STACK - 36);
      },
    },
    {
      name: "raises #GP for CLI, STI, PUSHF, POPF, INT n and IRET with IOPL below 3",
      needs: ["protected mode", "virtual-8086"],
      run(guest) {
        for (const code of [[0xfa], [0xfb], [0x9c], [0x9d], [0xcd, 0x81], [0xcf]]) {
          startV86(guest, Uint8Array.from(code), 0x2n);
          const { sp } = runToVector(guest, 13);
          const name = code.map((byte) => byte.toString(16)).join(" ");
          const frame = [0, 4, 8].map((i) => guest.u32(sp + i));
          expectEqual(`${name}: error code, EIP, CS`, frame, [0, 0x100, 0x800]);
          expectEqual(`${name}: EFLAGS without RF`, guest.u32(sp + 12) & ~RF, VM | 2);
        }
      },
    },
    {
      name: "allows them with IOPL 3, HLT never",
      needs: ["protected mode", "virtual-8086"],
      run(guest) {
        startV86(
          guest,
          hex`
          ; bits 16, at 0x100
          fb ; sti
          9c ; pushf
          5b ; pop bx
          fa ; cli
          9c ; pushf
          59 ; pop cx
          f4 ; hlt
        `,
          0x3002n,
        );
        const { state } = runToVector(guest, 13);
        expectRegisters(state, { rbx: 0x3202n, rcx: 0x3002n });
      },
    },
    {
      name: "raises #UD for what only protected mode has",
      needs: ["protected mode", "virtual-8086"],
      run(guest) {
        for (const code of [
          [0x0f, 0x02, 0xc0], // lar ax, ax
          [0x0f, 0x00, 0xc0], // sldt ax
          [0x63, 0xc0], // arpl ax, ax
        ]) {
          startV86(guest, Uint8Array.from(code), 0x3002n);
          expectEqual("EIP", guest.u32(runToVector(guest, 6).sp), 0x100);
        }
      },
    },
  ],
};
