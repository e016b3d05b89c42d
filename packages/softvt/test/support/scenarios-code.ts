/** Scenarios for region-invalidation.test.ts: code pages that go and come, and the code segment's limit. */
import { expect } from "vitest";
import { CC } from "../../../../test/host-cpu/assembler.ts";
import type { Guest } from "../guest.ts";
import { assemble, type Expectation, type Scenario, u32 } from "./scenario.ts";

/** The guest's page directory and GDT (guest.ts), and room for a page table of the second 2 MiB. */
const DIRECTORY = 0x10_2000;
const TABLE = 0x10_3000;
const GDT = 0x1000;
/** Two linear pages in a row, and the physical pages that they are put on. */
const LINEAR = 0x20_0000;
const FIRST = 0x30_0000;
const SECOND = 0x31_0000;
const OTHER = 0x32_0000;
const HANDLER = 0x1_0000;
const HLT = 0xf4;
const ROUNDS = 600;

/** mov r32, value */
const mov = (register: number, value: number): number[] => [0xb8 + register, ...u32(value)];
const DEC_ECX = [0xff, 0xc9];
const JMP = (from: number, to: number): number[] => [0xe9, ...u32(to - from - 5)];

/**
 * A #PF handler that puts the second linear page on FIRST's neighbour and on another page in turn. R10 counts, R12 sums
 * up where it happened, R13 has the last address.
 */
function swapHandler(guest: Guest): void {
  guest.handler(14, JMP(0xc000 + 14 * 64, HANDLER));
  assemble(guest, HANDLER, (code) => {
    code.raw(0x48, 0x83, 0xc4, 8); // add rsp, 8
    code.raw(0x49, 0xff, 0xc2); // inc r10
    code.raw(0x4c, 0x03, 0x24, 0x24); // add r12, [rsp]
    code.raw(0x41, 0x0f, 0x20, 0xd5); // mov r13, cr2
    code.raw(0x41, 0xb9, ...u32(SECOND | 7)); // mov r9d, SECOND
    code.raw(0x41, 0xf6, 0xc2, 1); // test r10b, 1
    code.jcc(CC.E, "put");
    code.raw(0x41, 0xb9, ...u32(OTHER | 7)); // mov r9d, OTHER
    code.label("put");
    code.raw(0x4c, 0x89, 0x0c, 0x25, ...u32(TABLE + 8)); // mov [TABLE + 8], r9
    code.raw(0x48, 0xcf); // iretq
  });
}

/**
 * A loop from the first linear page into the second: every 32nd round it takes the second page away before it gets there.
 * `head` bytes of the instruction on the border are on the first page.
 */
function crossing(name: string, head: number): Scenario & Expectation {
  return {
    name,
    build: (guest) => {
      guest.memory.dma.writeU64(DIRECTORY + 8, BigInt(TABLE) | 7n);
      guest.memory.dma.writeU64(TABLE, BigInt(FIRST) | 7n);
      guest.memory.dma.writeU64(TABLE + 8, BigInt(SECOND) | 7n);
      swapHandler(guest);
      const border = [0x81, 0xc3, 0x10, 0, 0, 0]; // add ebx, 16
      const start = LINEAR + 0xf80;
      const loop = start + 5;
      const tail = (step: number): number[] => {
        const rest = [...border.slice(head), 0x83, 0xc6, step, ...DEC_ECX]; // add esi, step; dec ecx
        const at = LINEAR + 0x1000 + rest.length;
        return [...rest, 0x0f, 0x85, ...u32(loop - at - 6), HLT]; // jnz loop
      };
      guest.code(SECOND, ...tail(1));
      guest.code(OTHER, ...tail(3));
      const code = [
        ...mov(1, ROUNDS),
        ...[0xf6, 0xc1, 0x1f, 0x75, 20], // test cl, 31; jnz on
        ...[0x48, 0xc7, 0x04, 0x25, ...u32(TABLE + 8), ...u32(0)], // mov qword [TABLE + 8], 0
        ...[0x0f, 0x01, 0x3c, 0x25, ...u32(LINEAR + 0x1000)], // invlpg
      ];
      const fill = 0x80 - head - code.length;
      guest.code(FIRST + 0xf80, ...code, ...Array(fill).fill(0x90), ...border.slice(0, head));
      guest.set((state) => {
        state.rip = BigInt(start);
      });
    },
    check: ({ states: [state] }) => {
      const { gpr } = state!;
      expect([gpr[1], gpr[10]]).toEqual([0n, 18n]);
      expect(gpr[3]).toBe(BigInt(16 * ROUNDS));
      // Rounds until the first swap and from each to the next: 24 by one, then 32 by three and by one in turn.
      expect(gpr[13]).toBe(BigInt(LINEAR + 0x1000));
      const at = BigInt(LINEAR + 0x1000 - head);
      expect(gpr[12]).toBe(18n * at);
      expect(gpr[6]).toBe(BigInt(24 + 9 * 32 * 3 + 8 * 32 + 32));
    },
  };
}

export const crossingScenarios = [
  crossing("a page goes and comes as another, between two instructions of a block", 0),
  crossing("a page goes and comes as another, within an instruction of a block", 2),
];

/** Selectors of two 32-bit code segments with base 0 (limits below), for use in compatibility mode. */
const SHORT = 0x38;
const LONG = 0x40;
const descriptor = (limit: number): bigint => 0x0040_9b00_0000_0000n | BigInt(limit);

interface LimitOptions {
  readonly name: string;
  /** 32-bit code at 0x8000 under limit 0x8fff; ECX is 500 before. */
  readonly code: readonly number[];
  readonly at?: number;
  /** RIP that #GP(0) has, and what EAX then is. */
  readonly faults: number;
  readonly eax: number;
  readonly ecx?: number;
}

function limit({ name, code, at = 0x8000, faults, eax, ecx }: LimitOptions): Scenario & Expectation {
  return {
    name,
    isSegmented: true,
    build: (guest) => {
      guest.memory.dma.writeU64(GDT + SHORT, descriptor(0x85ff));
      guest.memory.dma.writeU64(GDT + LONG, descriptor(0x8fff));
      guest.handler(13, [0x41, 0x58, 0x4c, 0x8b, 0x0c, 0x24, HLT]); // pop r8; mov r9, [rsp]; hlt
      guest.code(0x8f00, 0x83, 0xc0, 2, 0xc3); // add eax, 2; ret
      guest.code(0x9000, 0x0f, 0x0b);
      guest.code(at, ...code);
      guest.set((state) => {
        state.cs = { selector: LONG, base: 0n, limit: 0x8fff, access: 0x409b };
        state.rip = BigInt(at);
        state.gpr[1] = 500n;
        state.gpr[4] = 0x2_0000n;
      });
    },
    check: ({ states: [state] }) => {
      const { gpr } = state!;
      expect([gpr[8], gpr[9], gpr[0]]).toEqual([0n, BigInt(faults), BigInt(eax)]);
      if (ecx !== undefined) expect(gpr[1]).toBe(BigInt(ecx));
    },
  };
}

const COUNT = [0x40, 0x49]; // inc eax; dec ecx

export const limitScenarios = [
  limit({
    name: "a jump beyond the code segment's limit, out of a loop",
    code: [...COUNT, 0x75, 0xfc, ...JMP(0x8004, 0x9100)],
    faults: 0x8004,
    eax: 500,
  }),
  limit({
    name: "a branch taken at last beyond the limit",
    // a: inc eax; cmp eax, 400; jae 9000h; jmp a
    code: [0x40, 0x3d, ...u32(400), 0x0f, 0x83, ...u32(0x9000 - 0x800c), 0xeb, 0xf2],
    faults: 0x8006,
    eax: 400,
  }),
  limit({
    name: "LOOP beyond the limit, out of a loop: its count stays",
    at: 0x8fe0,
    // mov ebx, 3; a: inc eax; dec ecx; jnz a; mov ecx, ebx; loop 902dh
    code: [...mov(3, 3), ...COUNT, 0x75, 0xfc, 0x89, 0xd9, 0xe2, 0x40],
    faults: 0x8feb,
    eax: 500,
    ecx: 3,
  }),
  limit({
    name: "a return beyond the limit, out of a loop: the stack stays",
    // a: inc eax; dec ecx; jnz a; push 9000h; mov ecx, esp; ret
    code: [...COUNT, 0x75, 0xfc, 0x68, ...u32(0x9000), 0x89, 0xe1, 0xc3],
    faults: 0x800b,
    eax: 500,
    ecx: 0x1_fffc,
  }),
  limit({
    name: "code that runs on beyond the limit, at a page's end",
    at: 0x8ffc,
    code: [...COUNT, 0x75, 0xfc],
    faults: 0x9000,
    eax: 500,
  }),
  limit({
    name: "an instruction that begins within the limit and ends beyond",
    at: 0x8ff9,
    code: [...COUNT, 0x75, 0xfc, 0x90, ...mov(0, 7)],
    faults: 0x8ffe,
    eax: 500,
  }),
  limit({
    name: "a shorter limit, loaded on the way round",
    // a: call 8f00h; dec ecx; cmp ecx, 100; jne a; jmp far 38h:b; b: jmp a
    code: [
      ...[0xe8, ...u32(0x8f00 - 0x8005), 0x49, 0x83, 0xf9, 100, 0x75, 0xf5],
      ...[0xea, ...u32(0x8012), SHORT, 0, 0xeb, 0xec],
    ],
    faults: 0x8000,
    eax: 800,
  }),
];
