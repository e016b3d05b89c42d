/** Small guests that are run on every tier, a slice at a time, and compared by all that they leave behind. */
import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { ExitReason, type VcpuStateV1 } from "@skep/vcpu";
import { Assembler } from "../../../../test/host-cpu/assembler.ts";
import { Guest } from "../guest.ts";

export interface Scenario {
  readonly name: string;
  /** Whether no region comes of slices that end in it: what lies where is known of flat code alone. */
  readonly isSegmented?: boolean;
  /** Default 1; they take turns, a slice each. */
  readonly vcpus?: number;
  build(guest: Guest): void;
  /** What the host does after slice number `slice`. */
  between?(guest: Guest, slice: number): void;
}

/** All that can be told of a guest from outside. */
export interface Outcome {
  readonly states: readonly VcpuStateV1[];
  readonly instructions: readonly number[];
  /** SHA-256 of its RAM. */
  readonly ram: string;
}

/** What is known of a scenario's end besides that it is the same on every tier. */
export interface Expectation {
  /** @param outcome the interpreter's. */
  check(outcome: Outcome): void;
}

/** Short, so that a guest of some thousand instructions is looked at often. */
const SLICE = 61;
const MAX_SLICES = 20_000;
const RAM_BYTES = 4 * 2 ** 20;

/** Opens a guest with the scenario's code in it. */
export async function openScenario(scenario: Scenario, compileAfter: number): Promise<Guest> {
  const guest = await Guest.open({ compileAfter, vcpus: scenario.vcpus ?? 1 });
  scenario.build(guest);
  return guest;
}

/**
 * Runs slices from number `from` until all vCPUs have halted or slice number `until` is reached; the event loop gets its
 * turn after each, so that what is compiled meanwhile is used.
 *
 * @throws Error for an exit that is neither HLT nor the end of a slice, and where there is no end.
 */
export async function runSlices(
  guest: Guest,
  scenario: Scenario,
  { from = 0, until = Number.POSITIVE_INFINITY } = {},
): Promise<void> {
  for (let slice = from; slice < until; slice++) {
    if (slice === MAX_SLICES) throw new Error(`${scenario.name}: no end after ${slice} slices`);
    let running = 0;
    for (const vcpu of guest.vcpus) {
      if (vcpu.save().activity === "halted") continue;
      const { reason } = guest.run({ budget: SLICE, tsc: BigInt(vcpu.instructions) }, vcpu);
      if (reason !== ExitReason.PreemptionTimer && reason !== ExitReason.Hlt)
        throw new Error(`${scenario.name}: exit ${reason}`);
      running++;
    }
    if (running === 0) return;
    scenario.between?.(guest, slice);
    await setImmediate();
  }
}

export function outcomeOf(guest: Guest): Outcome {
  const ram = new Uint8Array(RAM_BYTES);
  guest.memory.dma.read(0, ram);
  return {
    states: guest.vcpus.map((vcpu) => vcpu.save()),
    instructions: guest.vcpus.map((vcpu) => vcpu.instructions),
    ram: createHash("sha256").update(ram).digest("hex"),
  };
}

/** Assembles 64-bit code for `at`; the bytes go to `physical`. */
export function assemble(
  guest: Guest,
  at: number,
  build: (code: Assembler) => void,
  physical = at,
): Assembler {
  const code = new Assembler(BigInt(at));
  build(code);
  guest.code(physical, ...code.finish());
  return code;
}

export const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
