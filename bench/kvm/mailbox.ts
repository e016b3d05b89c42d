/**
 * What an exit costs that crosses to the VM's thread, as the guest sees it: it reads a device's port between two RDTSC and
 * stores the difference, one exit at a time.
 */
import type { Engine } from "@skep/vcpu";
import { createExitMachine, PARAMETERS, PORT, SAMPLES, SAMPLES_MAX, type VcpuPlace } from "./exit-machine.ts";

/** Real mode; parameters: the TSC ticks between two samples, and the number of samples. */
const SAMPLE_GUEST = Uint8Array.of(
  ...[0xb8, SAMPLES >> 4, SAMPLES >> 12], // mov ax, SAMPLES >> 4
  ...[0x8e, 0xc0], // mov es, ax
  ...[0x31, 0xff], // xor di, di
  ...[0x66, 0x8b, 0x2e, 0x04, 0x05], // mov ebp, [PARAMETERS + 4]
  // sample:
  ...[0x0f, 0x31], // rdtsc
  ...[0x66, 0x89, 0xc3], // mov ebx, eax
  // wait:
  ...[0x0f, 0x31], // rdtsc
  ...[0x66, 0x29, 0xd8], // sub eax, ebx
  ...[0x66, 0x3b, 0x06, 0x00, 0x05], // cmp eax, [PARAMETERS]
  ...[0x72, 0xf4], // jb wait
  ...[0x0f, 0x31], // rdtsc
  ...[0x66, 0x89, 0xc6], // mov esi, eax
  ...[0xe4, PORT], // in al, PORT
  ...[0x0f, 0x31], // rdtsc
  ...[0x66, 0x29, 0xf0], // sub eax, esi
  ...[0x66, 0xab], // stosd
  ...[0x66, 0x4d], // dec ebp
  ...[0x75, 0xdd], // jnz sample
  ...[0xe6, 0xf4], // out STOP_PORT, al
  0xf4, // hlt
);

export interface LatencyOptions {
  /** 1 to 16,384. */
  readonly samples: number;
  /** What the guest computes between two exits, in µs: with nothing both sides still look for each other's word. */
  readonly pauseUs: number;
}

/** Microseconds of each exit by the guest's TSC, in the order that they happened. */
export async function exitLatencies(
  engine: Engine,
  place: VcpuPlace,
  { samples, pauseUs }: LatencyOptions,
): Promise<number[]> {
  if (!Number.isInteger(samples) || samples < 1 || samples > SAMPLES_MAX) {
    throw new RangeError(`samples: expected 1 to ${SAMPLES_MAX}, got ${samples}`);
  }
  let reads = 0;
  const device = { read: () => ++reads & 0xff, write: () => {} };
  const { vm, memory } = await createExitMachine(engine, place, { code: SAMPLE_GUEST, device });
  try {
    const ticksPerUs = vm.clock.tscHz / 1e6;
    memory.dma.writeU32(PARAMETERS, Math.round(pauseUs * ticksPerUs));
    memory.dma.writeU32(PARAMETERS + 4, samples);
    const outcome = await vm.run();
    if (outcome.kind !== "poweroff" || reads !== samples) {
      throw new Error(`the guest ended with ${outcome.kind} after ${reads} exits of ${samples}`);
    }
    return Array.from({ length: samples }, (_, i) => memory.dma.readU32(SAMPLES + 4 * i)! / ticksPerUs);
  } finally {
    await vm.close();
  }
}
