/** Scenarios for region-invalidation.test.ts: instructions of a hot loop that fault, and begin again. */
import { expect } from "vitest";
import { CODE, type Guest } from "../guest.ts";
import { assemble, type Expectation, type Scenario, u32 } from "./scenario.ts";

const DIRECTORY = 0x10_2000;
const TABLE = 0x10_3000;
/** 64 linear pages, none of them there at first, and the physical ones that the handler gives them. */
const LINEAR = 0x20_0000;
const PHYSICAL = 0x30_0000;
const BYTES = 64 * 4096;
const HANDLER = 0x1_0000;
const HLT = 0xf4;

/**
 * Demand paging: the handler maps the page, on IST1. R10 counts, R12 sums up the instruction pointers and R13 the flags
 * that it finds: a fault in the wrong place, or with flags that were not due yet, shows there.
 */
function demandPaging(guest: Guest): void {
  guest.memory.dma.writeU64(DIRECTORY + 8, BigInt(TABLE) | 7n);
  guest.handler(14, [0xe9, ...u32(HANDLER - (0xc000 + 14 * 64) - 5)], { ist: 1 });
  assemble(guest, HANDLER, (code) => {
    code.raw(0x49, 0xff, 0xc2); // inc r10
    code.raw(0x4c, 0x03, 0x64, 0x24, 8); // add r12, [rsp + 8]
    code.raw(0x4c, 0x03, 0x6c, 0x24, 0x18); // add r13, [rsp + 24]
    code.raw(0x41, 0x0f, 0x20, 0xd1); // mov r9, cr2
    code.raw(0x49, 0xc1, 0xe9, 12); // shr r9, 12
    code.raw(0x41, 0x81, 0xe1, ...u32(0x1ff)); // and r9d, 1ffh
    code.raw(0x45, 0x89, 0xc8); // mov r8d, r9d
    code.raw(0x41, 0xc1, 0xe0, 12); // shl r8d, 12
    code.raw(0x41, 0x81, 0xc0, ...u32(PHYSICAL | 7)); // add r8d, PHYSICAL + 7
    code.raw(0x4e, 0x89, 0x04, 0xcd, ...u32(TABLE)); // mov [TABLE + 8 r9], r8
    code.raw(0x48, 0x83, 0xc4, 8, 0x48, 0xcf); // add rsp, 8; iretq
  });
}

interface FaultOptions {
  readonly name: string;
  /** Instructions that write at [rdi], the first byte below `reach` beyond it; RCX, RDX, RSP and R8 to R13 are taken. */
  readonly body: readonly number[];
  /** Bytes from one round to the next. */
  readonly step: number;
}

/** Flags that the faulting instruction must find, and leave, as they were: carries run through all the rounds. */
const BEFORE = [0x05, ...u32(0x7654_3211), 0x83, 0xd3, 0x15]; // add eax, …; adc ebx, 15h
const AFTER = [0x83, 0xd6, 0x35, 0x0f, 0x92, 0xc0]; // adc esi, 35h; setc al

function faulting({ name, body, step }: FaultOptions): Scenario & Expectation {
  const rounds = Math.floor((BYTES - 512) / step);
  return {
    name: `${name} that faults in a loop`,
    build: (guest) => {
      demandPaging(guest);
      const head = [0xba, ...u32(rounds), 0xbf, ...u32(LINEAR + 3)]; // mov edx, rounds; mov edi, …
      const loop = [...BEFORE, ...body, ...AFTER, 0x48, 0x81, 0xc7, ...u32(step), 0xff, 0xca];
      const back = 0x1_0000_0000 - loop.length - 6;
      guest.code(CODE, ...head, ...loop, 0x0f, 0x85, ...u32(back), HLT);
    },
    check: ({ states: [state] }) => {
      const { gpr } = state!;
      expect(gpr[2]).toBe(0n);
      // Every page but perhaps the last ones was missing once.
      expect(Number(gpr[10])).toBeGreaterThanOrEqual(60);
      expect(Number(gpr[10])).toBeLessThanOrEqual(64);
    },
  };
}

export const faultScenarios = [
  faulting({ name: "a store", body: [0x89, 0x07], step: 0x12d }), // mov [rdi], eax
  faulting({ name: "a read, a change and a write", body: [0x11, 0x07], step: 0x12d }), // adc [rdi], eax
  faulting({ name: "an exchange with LOCK", body: [0xf0, 0x0f, 0xc1, 0x07], step: 0x12d }), // lock xadd [rdi], eax
  faulting({ name: "CMPXCHG", body: [0x0f, 0xb1, 0x1f], step: 0x12d }), // cmpxchg [rdi], ebx
  faulting({ name: "a load", body: [0x13, 0x1f], step: 0x12d }), // adc ebx, [rdi]
  faulting({
    name: "a string instruction",
    // mov ecx, 100; push rdi; rep stosd; pop rdi: faults and goes on within
    body: [0xb9, ...u32(100), 0x57, 0xf3, 0xab, 0x5f],
    step: 0x1ad,
  }),
  faulting({
    name: "a push",
    // mov r15, rsp; lea rsp, [rdi + 40]; push rax; push rbx; pop rbx; mov rsp, r15
    body: [0x49, 0x89, 0xe7, 0x48, 0x8d, 0x67, 40, 0x50, 0x53, 0x5b, 0x4c, 0x89, 0xfc],
    step: 0x12d,
  }),
  faulting({
    name: "a vector's store",
    // movd xmm1, eax; pshufd xmm1, xmm1, 1; movdqu [rdi], xmm1
    body: [0x66, 0x0f, 0x6e, 0xc8, 0x66, 0x0f, 0x70, 0xc9, 1, 0xf3, 0x0f, 0x7f, 0x0f],
    step: 0x12d,
  }),
  faulting({
    name: "an 80-bit store",
    body: [0xdb, 0xe3, 0xd9, 0xeb, 0xdb, 0x3f], // fninit; fldpi; fstp tbyte [rdi]
    step: 0x12d,
  }),
];
