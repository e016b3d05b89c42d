import { ExitReason, MsrModel, RealClock, ThreadLoop, type VcpuThreads, type VmExit } from "@skep/vcpu";
import { everyFeature, FakeInterrupts, FakeScheduler, FakeVcpu, RecordingBuses } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const KICKED: VmExit = { reason: ExitReason.ExternalInterrupt };
const out = (data: number): VmExit => ({
  reason: ExitReason.IoInstruction,
  port: 0xe9,
  size: 1,
  direction: "out",
  data,
});

/** Threads whose vCPUs play a script of exits; past its end they run until they are kicked. */
class FakeThreads implements VcpuThreads {
  readonly log: string[] = [];
  readonly stuck = new Set<number>();
  readonly #scripts: (VmExit | Error)[][];
  readonly #exits: (VmExit | Error | undefined)[] = [];
  readonly #immediate = new Set<number>();
  readonly #entered = new Set<number>();
  #wake: () => void = () => {};

  constructor(scripts: (VmExit | Error)[][]) {
    this.#scripts = scripts;
  }

  start(): void {
    this.log.push("start");
  }

  stop(): void {
    this.log.push("stop");
  }

  enter(index: number): void {
    this.log.push(`enter ${index}`);
    this.#entered.add(index);
    const isImmediate = this.#immediate.delete(index);
    this.#exits[index] = isImmediate ? KICKED : this.#scripts[index]!.shift();
  }

  exit(index: number): VmExit | undefined {
    const exit = this.#exits[index];
    if (exit instanceof Error) throw exit;
    return exit;
  }

  kick(index: number): void {
    this.log.push(`kick ${index}`);
    if (this.#entered.has(index) && this.#exits[index] === undefined) this.#exits[index] = KICKED;
    else this.#immediate.add(index);
    this.#wake();
  }

  /** The guest of a running vCPU exits by itself. */
  exitBy(index: number, exit: VmExit): void {
    this.#exits[index] = exit;
    this.#wake();
  }

  isStuck(index: number): boolean {
    return this.stuck.has(index);
  }

  spin(): boolean {
    return false;
  }

  wait(): Promise<void> {
    return new Promise((done) => {
      this.#wake = done;
      setTimeout(done, 5);
    });
  }

  ring(): void {
    this.#wake();
  }
}

function make(scripts: (VmExit | Error)[][]) {
  const threads = new FakeThreads(scripts);
  const vcpus = scripts.map((_, index) => new FakeVcpu(index));
  const buses = new RecordingBuses();
  const interrupts = new FakeInterrupts(vcpus.length);
  const scheduler = new FakeScheduler();
  // Host time goes on by itself: the loop asks for it in every round.
  scheduler.hostMs = () => performance.now();
  const parts = {
    memory: buses,
    interrupts,
    cpuid: everyFeature(),
    msrs: new MsrModel(interrupts, { vcpus: vcpus.length, physicalBits: 36, tscHz: 1_000_000_000 }),
    clock: new RealClock(),
    scheduler,
  };
  const loop = new ThreadLoop(vcpus, threads, parts);
  return { loop, threads, vcpus, buses };
}

describe("ThreadLoop", () => {
  it("answers exits of all vCPUs, and stops each between two instructions", async () => {
    const { loop, threads, buses } = make([[out(1), out(2)], [out(3)]]);
    buses.onWrite = ({ value }) => {
      if (buses.accesses.length === 3) loop.stop();
      expect(value).toBeLessThan(4);
    };
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(buses.accesses.map(({ value }) => value).sort()).toEqual([1, 2, 3]);
    expect(loop.exitCounts[ExitReason.IoInstruction]).toBe(3);
    // Every vCPU's last exit is a kick: what its last instruction began is completed.
    expect(loop.exitCounts[ExitReason.ExternalInterrupt]).toBe(2);
    expect(threads.log[0]).toBe("start");
    expect(threads.log.at(-1)).toBe("stop");
  });

  it("does not enter a guest again that asked for a stop, but to complete its instruction", async () => {
    const { loop, threads, buses } = make([[out(1), out(2)]]);
    buses.onWrite = () => loop.stop();
    await loop.run();
    expect(buses.accesses).toHaveLength(1);
    expect(threads.log).toEqual(["start", "enter 0", "kick 0", "enter 0", "stop"]);
  });

  it("ends where every vCPU is stuck", async () => {
    const { loop, threads } = make([[], []]);
    threads.stuck.add(0).add(1);
    expect(await loop.run()).toEqual({ kind: "halted" });
  });

  it("goes on where one is not", async () => {
    const { loop, threads } = make([[], []]);
    threads.stuck.add(0);
    const run = loop.run();
    await new Promise((done) => setTimeout(done, 500));
    loop.stop();
    expect(await run).toEqual({ kind: "stopped" });
    expect(threads.log.filter((line) => line === "enter 0").length).toBeGreaterThan(1);
  });

  it("what a device asks for as it looks for stuck ones comes before the guest's next instruction", async () => {
    const { loop, threads, buses } = make([[], []]);
    threads.stuck.add(0);
    const kick = threads.kick.bind(threads);
    let isFirst = true;
    threads.kick = (index) => {
      // It was about to exit by itself.
      if (index === 1 && isFirst) threads.exitBy(1, out(7));
      else kick(index);
      isFirst &&= index !== 1;
    };
    buses.onWrite = () => loop.stop();
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(buses.accesses.map(({ value }) => value)).toEqual([7]);
    // Entered once more, to complete the instruction and no other.
    const entries = threads.log.flatMap((line, i) => (line === "enter 1" ? [threads.log[i - 1]] : []));
    expect(entries).toEqual(["enter 0", "kick 1"]);
  });

  it("a crash of one ends the run of all", async () => {
    const { loop } = make([[{ reason: ExitReason.TripleFault }], []]);
    const end = await loop.run();
    expect(end.kind === "crash" && end.error.code).toBe("TRIPLE_FAULT");
  });

  it("what an engine or a device throws comes out once all have stopped", async () => {
    const broken = make([[new Error("gone")], []]);
    await expect(broken.loop.run()).rejects.toThrow("gone");
    expect(broken.threads.log).toContain("kick 1");
    expect(broken.threads.log.at(-1)).toBe("stop");
    const device = make([[out(1)], []]);
    device.buses.onWrite = () => {
      throw new Error("device");
    };
    await expect(device.loop.run()).rejects.toThrow("device");
    expect(device.threads.log).toContain("kick 1");
  });

  it("a stop before the run ends it at once", async () => {
    const { loop, threads } = make([[out(1)]]);
    loop.stop();
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(threads.log).toEqual(["start", "stop"]);
  });

  it("application processors wait for SIPI from the beginning and after a reset", () => {
    const { loop, vcpus } = make([[], []]);
    loop.reset();
    expect(vcpus[1]!.signals).toEqual(["init", "reset", "init"]);
    expect(vcpus[0]!.signals).toEqual(["reset"]);
  });
});
