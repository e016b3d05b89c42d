/** What the three parts measure, on this machine's /dev/kvm: the same on a host and inside the rig. */
import type { Engine } from "@skep/vcpu";
import type { KvmOptions } from "@skep/vcpu/kvm";
import { type BootCommand, type BootTimes, boot } from "./boots.ts";
import type { VcpuPlace } from "./exit-machine.ts";
import { type ExitRunner, engineRunner, exitLoopRunner } from "./exits.ts";
import { exitLatencies } from "./mailbox.ts";
import { median, medianRatio, quantile } from "./statistics.ts";
import { countExits, type ExitCounts } from "./trace.ts";

export interface ExitPlan {
  /** Rounds of each side, alternating. */
  readonly rounds: number;
  /** Exits a round. */
  readonly exits: number;
  /** exit-loop.c, compiled; without it only the engine is measured. */
  readonly exitLoop: string | undefined;
}

/** Nanoseconds an exit. */
export interface ExitFigures {
  readonly rounds: number;
  readonly exits: number;
  readonly engineNs: number;
  readonly exitLoopNs: number | undefined;
  /** Median of the rounds' ratios, each with its neighbour in time. */
  readonly ratio: number | undefined;
}

/** Before these, JavaScript is not compiled yet. */
const WARM_UP_ROUNDS = 10;

export async function measureExits(engine: Engine, plan: ExitPlan): Promise<ExitFigures> {
  const { rounds, exits, exitLoop } = plan;
  const runners: ExitRunner[] = [];
  const times: number[][] = [];
  try {
    runners.push(await engineRunner(engine, "vm-thread"));
    if (exitLoop !== undefined) runners.push(exitLoopRunner(exitLoop));
    for (const _ of runners) times.push([]);
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      for (const [i, runner] of runners.entries()) {
        const { exits: counted, ns } = await runner.round(exits);
        if (counted !== exits) throw new Error(`expected ${exits} exits, counted ${counted}`);
        if (round >= 0) times[i]!.push(ns / exits);
      }
    }
  } finally {
    for (const runner of runners) await runner.close();
  }
  const [ours, theirs] = times;
  return {
    rounds,
    exits,
    engineNs: median(ours!),
    exitLoopNs: theirs && median(theirs),
    ratio: theirs && medianRatio(ours!, theirs),
  };
}

/** Microseconds of a port read, by the guest's TSC. */
export interface LatencyFigures {
  readonly place: VcpuPlace;
  readonly pauseUs: number;
  readonly samples: number;
  readonly medianUs: number;
  readonly p99Us: number;
}

export interface LatencyPlan {
  /** Samples without a pause between them, and with one. */
  readonly busy: number;
  readonly idle: number;
  /** The pause, in µs. */
  readonly pauseUs: number;
}

/** Of the samples, the first part in which JavaScript is not compiled yet. */
const WARM_UP_PART = 0.2;

/** Whether vCPUs have threads of their own, so that hosts of one processor measure both ways. */
const VCPU_THREADS = {
  "vm-thread": "auto",
  "vm-thread-irqchip": "never",
  "own-thread": "always",
} as const satisfies Record<VcpuPlace, KvmOptions["vcpuThreads"]>;

export async function measureLatencies(
  makeEngine: (options: KvmOptions) => Engine,
  plan: LatencyPlan,
): Promise<LatencyFigures[]> {
  const figures: LatencyFigures[] = [];
  for (const place of ["vm-thread", "vm-thread-irqchip", "own-thread"] as const) {
    const engine = makeEngine({ vcpuThreads: VCPU_THREADS[place] });
    for (const [samples, pauseUs] of [
      [plan.busy, 0],
      [plan.idle, plan.pauseUs],
    ] as const) {
      const all = await exitLatencies(engine, place, { samples, pauseUs });
      const counted = all.slice(Math.floor(samples * WARM_UP_PART));
      const [medianUs, p99Us] = [median(counted), quantile(counted, 0.99)];
      figures.push({ place, pauseUs, samples: counted.length, medianUs, p99Us });
    }
  }
  return figures;
}

export interface BootPlan {
  readonly rounds: number;
  readonly timeoutMs: number;
  /** By name; the first is the one that the others are compared with. */
  readonly commands: Readonly<Record<string, BootCommand>>;
  /** Told before each boot. */
  readonly onBoot?: (name: string, round: number) => void;
}

export interface BootFigures {
  readonly runs: Readonly<Record<string, readonly BootTimes[]>>;
  /** Exits that came to user space in a boot that was not timed; absent where the kernel does not trace. */
  readonly exits: Readonly<Record<string, ExitCounts | undefined>>;
}

export async function measureBoots(plan: BootPlan): Promise<BootFigures> {
  const runs: Record<string, BootTimes[]> = {};
  const exits: Record<string, ExitCounts | undefined> = {};
  const names = Object.keys(plan.commands);
  for (const name of names) {
    runs[name] = [];
    // Brings the files into the page cache, too.
    plan.onBoot?.(name, 0);
    exits[name] = await countExits(() => boot(plan.commands[name]!, plan.timeoutMs));
  }
  for (let round = 1; round <= plan.rounds; round++) {
    for (const name of names) {
      plan.onBoot?.(name, round);
      runs[name]!.push(await boot(plan.commands[name]!, plan.timeoutMs));
    }
  }
  return { runs, exits };
}
