/** Scenarios for region-invalidation.test.ts: code that is overwritten while it is hot, by whom and where. */
import { expect } from "vitest";
import { CODE, type Guest } from "../guest.ts";
import type { Expectation, Scenario } from "./scenario.ts";
import { u32 } from "./scenario.ts";

const ROUNDS = 640;
/** Rounds from one write to the next. */
const EVERY = 32;
const HLT = 0xf4;
const RET = 0xc3;
/** Pages of the overwritten function, of the second vCPU's code and its stack. */
const FAR = 0x3_0000;
const SECOND = 0x4_0000;
const SECOND_STACK = 0x5_0000;
const CELL = 0x6_0000;
const HEAD_BYTES = 12;
const ADD_EAX = 0x05;

/** inc byte [address] */
const incByte = (address: number): number[] => [0xfe, 0x04, 0x25, ...u32(address)];

/** A loop of ROUNDS around `add eax, 1`, inline where `target` is undefined; every 32nd round runs `write` first. */
function loop(
  guest: Guest,
  target: number | undefined,
  write: (constant: number) => readonly number[],
): void {
  const body = CODE + HEAD_BYTES + write(0).length;
  const bytes = [0xb9, ...u32(ROUNDS), 0x31, 0xc0]; // mov ecx, ROUNDS; xor eax, eax
  const begin = CODE + bytes.length;
  const written = write((target ?? body) + 1);
  bytes.push(0xf6, 0xc1, EVERY - 1, 0x75, written.length, ...written); // test cl, 31; jnz on
  if (target === undefined) bytes.push(ADD_EAX, ...u32(1));
  else {
    bytes.push(0xe8, ...u32(target - body - 5));
    guest.code(target, ADD_EAX, ...u32(1), RET);
  }
  bytes.push(0xff, 0xc9); // dec ecx
  guest.code(CODE, ...bytes, 0x0f, 0x85, ...u32(begin - (CODE + bytes.length) - 6), HLT);
}

/** The constant grows by one in every 32nd round, before it is added. */
const SUM = Array.from({ length: ROUNDS }, (_, i) => 2 + Math.floor(i / EVERY)).reduce((a, b) => a + b);

const WRITERS: readonly [name: string, write: (constant: number) => number[]][] = [
  ["INC", incByte],
  ["LOCK INC", (constant) => [0xf0, 0xff, 0x04, 0x25, ...u32(constant)]],
  // inc byte [CELL]; mov edi, constant; mov esi, CELL; movsb
  ["MOVS", (constant) => [...incByte(CELL), 0xbf, ...u32(constant), 0xbe, ...u32(CELL), 0xa4]],
  // inc byte [CELL]; movd xmm0, [CELL]; movd [constant], xmm0
  [
    "MOVD",
    (constant) => [
      ...incByte(CELL),
      ...[0x66, 0x0f, 0x6e, 0x04, 0x25, ...u32(CELL)],
      ...[0x66, 0x0f, 0x7e, 0x04, 0x25, ...u32(constant)],
    ],
  ],
];
const PLACES: readonly [name: string, target: number | undefined][] = [
  ["on the same line", undefined],
  ["on the same page", CODE + 0x400],
  ["on another page", FAR],
];

const byItself = PLACES.flatMap(([place, target]) =>
  WRITERS.map(([writer, write]): Scenario & Expectation => ({
    name: `code ${place} that the guest overwrites by ${writer}`,
    build: (guest) => {
      guest.memory.dma.writeU32(CELL, 1);
      loop(guest, target, write);
    },
    check: ({ states: [state] }) => {
      expect([state!.gpr[0], state!.gpr[1]]).toEqual([BigInt(SUM), 0n]);
    },
  })),
);

/** mov edx, 40 × 50; b: test dl, 50 …: a loop that increments a byte every 64th of 2,560 rounds. */
function secondVcpu(guest: Guest, constant: number): void {
  const body = [0xf6, 0xc2, 63, 0x75, 7, ...incByte(constant), 0x01, 0xd3, 0xff, 0xca]; // …; add ebx, edx; dec edx
  guest.code(SECOND, 0xba, ...u32(2560), ...body, 0x75, 0x100 - body.length - 2, HLT);
  guest.set((state) => {
    state.rip = BigInt(SECOND);
    state.gpr[4] = BigInt(SECOND_STACK);
  }, guest.vcpus[1]);
}

const nothing = (): number[] => [];

const byOthers = PLACES.flatMap(([place, target]): (Scenario & Expectation)[] => {
  const constant = (target ?? CODE + HEAD_BYTES) + 1;
  return [
    {
      name: `code ${place} that the other vCPU overwrites`,
      vcpus: 2,
      build: (guest) => {
        loop(guest, target, nothing);
        secondVcpu(guest, constant);
      },
      check: ({ states: [first, second] }) => {
        expect([first!.gpr[1], second!.gpr[2]]).toEqual([0n, 0n]);
        expect(first!.gpr[0]).toBeGreaterThan(BigInt(2 * ROUNDS));
        expect(second!.gpr[3]).toBe(BigInt((2560 * 2561) / 2));
      },
    },
    {
      name: `code ${place} that a device overwrites`,
      build: (guest) => loop(guest, target, nothing),
      between: (guest, slice) => {
        if (slice % 5 === 4) guest.memory.dma.write(constant, Uint8Array.of(slice));
      },
      check: ({ states: [state] }) => {
        expect(state!.gpr[1]).toBe(0n);
        expect(state!.gpr[0]).toBeGreaterThan(BigInt(2 * ROUNDS));
      },
    },
  ];
});

export const writtenScenarios = [...byItself, ...byOthers];
