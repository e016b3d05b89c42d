/** With time counted in instructions, a run repeats bit for bit, however it is sliced. */
import { setImmediate } from "node:timers/promises";
import { ExitReason, type VcpuStateV1 } from "@skep/vcpu";
import { expect, it } from "vitest";
import { CODE, Guest } from "./guest.ts";

const IRETQ = [0x48, 0xcf];

/**
 * Mixes time, port input, interrupts and floating point into memory, for 2,000 rounds:
 *
 *     sti; mov ecx, 2000; mov edi, 200000h; fninit; fld1
 * a:  rdtsc; add eax, r15d; mov [rdi], eax; add rdi, 4; in al, 60h; xor [rdi - 4], al
 *     fadd st, st(0); fsqrt; cvtsi2sd xmm0, eax; sqrtsd xmm1, xmm0; dec ecx; jnz a; cli; hlt
 */
const LOOP = [
  ...[0x0f, 0x31, 0x44, 0x01, 0xf8, 0x89, 0x07, 0x48, 0x83, 0xc7, 0x04, 0xe4, 0x60, 0x30, 0x47, 0xfc],
  ...[0xd8, 0xc0, 0xd9, 0xfa, 0xf2, 0x0f, 0x2a, 0xc0, 0xf2, 0x0f, 0x51, 0xc8, 0xff, 0xc9],
];
const HEAD = [0xfb, 0xb9, 0xd0, 0x07, 0, 0, 0xbf, 0, 0, 0x20, 0, 0xdb, 0xe3, 0xd9, 0xe8];
const PROGRAM = [...HEAD, ...LOOP, 0x75, 0x100 - LOOP.length - 2, 0xfa, 0xf4];

interface Result {
  readonly state: VcpuStateV1;
  readonly memory: Uint8Array;
  readonly exits: number;
  /** Regions that were compiled. */
  readonly regions: number;
}

/** Runs it, with an interrupt at every 50th port access; `budget` gives each slice's length. */
async function run(
  budget: (slice: number) => number,
  compileAfter = Number.POSITIVE_INFINITY,
): Promise<Result> {
  const guest = await Guest.open({ compileAfter });
  guest.handler(0x40, [0x49, 0x81, 0xc7, 0x11, 0x11, 0, 0, ...IRETQ]); // add r15, 1111h
  guest.code(CODE, ...PROGRAM);
  let exits = 0;
  let inputs = 0;
  for (let slice = 0; slice < 1_000_000; slice++) {
    // What is hot is compiled meanwhile.
    if (slice % 16 === 0) await setImmediate();
    const exit = guest.run({ budget: budget(slice), tsc: BigInt(guest.vcpu.instructions) });
    if (exit.reason === ExitReason.PreemptionTimer) continue;
    exits++;
    if (exit.reason === ExitReason.Hlt) break;
    if (exit.reason !== ExitReason.IoInstruction) throw new Error(`exit ${exit.reason}`);
    exit.data = (inputs * 37) & 0xff;
    if (++inputs % 50 !== 0) continue;
    // The input first, then the interrupt.
    expect(guest.run({ budget: 1, singleStep: true, tsc: BigInt(guest.vcpu.instructions) }).reason).toBe(
      ExitReason.MonitorTrapFlag,
    );
    expect(guest.vcpu.canTakeInterrupt()).toBe(true);
    guest.vcpu.injectInterrupt(0x40);
  }
  const memory = new Uint8Array(8192);
  guest.memory.dma.read(0x20_0000, memory);
  const state = guest.vcpu.save();
  const regions = guest.regionStats.compiled;
  await guest.close();
  return { state, memory, exits, regions };
}

it("two runs are the same, in state and memory", async () => {
  const first = await run(() => 5000);
  const second = await run(() => 5000);
  expect(second).toEqual(first);
  expect(first.exits).toBe(2001);
  expect(first.state.gpr[15]).toBe(40n * 0x1111n);
});

it("so they are with slices of other lengths", async () => {
  const whole = await run(() => 1_000_000);
  const slices = await run((slice) => 1 + ((slice * 7919) % 97));
  expect(slices).toEqual(whole);
});

it("and so they are whether interpreted or compiled", async () => {
  const slice = (index: number): number => 1 + ((index * 7919) % 997);
  const { regions, ...interpreted } = await run(slice);
  expect(regions).toBe(0);
  for (const compileAfter of [0, 1]) {
    const { regions, ...compiled } = await run(slice, compileAfter);
    expect(compiled, `compileAfter ${compileAfter}`).toEqual(interpreted);
    expect(regions).toBeGreaterThan(0);
  }
});
