import type { RunClock, RunLoopOptions } from "@skep/vcpu";
import {
  CpuidModel,
  ExitReason,
  InstructionClock,
  MsrModel,
  RealClock,
  RunLoop,
  type VmExit,
} from "@skep/vcpu";
import { FakeEngine, FakeInterrupts, FakeScheduler, RecordingBuses } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const HLT: VmExit = { reason: ExitReason.Hlt };

function machine(vcpus = 1, options: RunLoopOptions & { clock?: (host: FakeScheduler) => RunClock } = {}) {
  const engine = new FakeEngine(vcpus);
  const interrupts = new FakeInterrupts(vcpus);
  const buses = new RecordingBuses();
  const scheduler = new FakeScheduler();
  const clock = options.clock?.(scheduler) ?? new InstructionClock();
  const tscHz = clock.tscHz;
  const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus, tscHz });
  const msrs = new MsrModel(interrupts, { vcpus, physicalBits: cpuid.physicalBits, tscHz });
  const parts = { memory: buses, interrupts, cpuid, msrs, clock, scheduler };
  const loop = new RunLoop(engine.vcpus, parts, options);
  interrupts.connect(loop);
  const stop: VmExit = { reason: ExitReason.IoInstruction, port: 0xf4, size: 1, direction: "out", data: 0 };
  buses.onWrite = ({ address }) => address === 0xf4 && loop.stop();
  return { engine, vcpu: engine.vcpus[0]!, interrupts, buses, scheduler, clock, loop, stop };
}

const real = (host: FakeScheduler): RunClock => new RealClock({ hostMs: () => host.ms });

describe("exits", () => {
  it("answers port reads and passes port writes on", async () => {
    const { vcpu, buses, loop, stop } = machine();
    const input: VmExit = { reason: ExitReason.IoInstruction, port: 0x60, size: 2, direction: "in", data: 0 };
    buses.onRead = () => 0xbeef;
    vcpu.play({ exit: input }, { exit: stop });
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(input.data).toBe(0xbeef);
    expect(buses.accesses.map(({ direction, address, size }) => [direction, address, size])).toEqual([
      ["read", 0x60, 2],
      ["write", 0xf4, 1],
    ]);
    expect(loop.exitCounts[ExitReason.IoInstruction]).toBe(2);
  });

  it("answers memory-mapped reads and writes of all sizes", async () => {
    const { vcpu, buses, loop, stop } = machine();
    const at = (access: "read" | "write", size: 1 | 2 | 4 | 8) =>
      ({
        reason: ExitReason.EptViolation,
        address: 0xd000_0010,
        size,
        access,
        data: 0x1122_3344,
        dataHigh: 0x5566_7788,
      }) as const;
    const reads = ([1, 2, 4, 8] as const).map((size) => ({ ...at("read", size), data: 0, dataHigh: 0 }));
    const writes = ([1, 2, 4, 8] as const).map((size) => at("write", size));
    buses.onRead = () => 0xcafe;
    buses.lastHigh = 0x77;
    vcpu.play(...[...reads, ...writes].map((exit) => ({ exit })), { exit: stop });
    await loop.run();
    expect(reads.map((exit) => exit.data)).toEqual([0xcafe, 0xcafe, 0xcafe, 0xcafe]);
    expect(reads[3]!.dataHigh).toBe(0x77);
    expect(buses.accesses.filter((a) => a.bus === "memory" && a.direction === "write")).toMatchObject([
      { size: 1, value: 0x1122_3344 },
      { size: 2, value: 0x1122_3344 },
      { size: 4, value: 0x1122_3344 },
      { size: 8, value: 0x1122_3344, high: 0x5566_7788 },
    ]);
  });

  it("gives each vCPU its own local APIC page", async () => {
    const { vcpu, buses, interrupts, loop, stop } = machine();
    const write: VmExit = {
      reason: ExitReason.EptViolation,
      address: 0xfee0_0080,
      size: 4,
      access: "write",
      data: 0x20,
      dataHigh: 0,
    };
    const read: VmExit = { ...write, access: "read", data: 0 };
    vcpu.play({ exit: write }, { exit: read }, { exit: stop });
    await loop.run();
    expect(interrupts.localApic(0).registers.get(0x80)).toBe(0x20);
    expect(read.data).toBe(0x20);
    expect(buses.accesses).toHaveLength(1);

    const second = machine();
    second.interrupts.localApic(0).mmioBase = undefined;
    second.vcpu.play({ exit: write }, { exit: second.stop });
    await second.loop.run();
    expect(second.buses.accesses[0]).toMatchObject({ bus: "memory", address: 0xfee0_0080 });
  });

  it("answers MSRs, CR8, CPUID and hypercalls", async () => {
    const { vcpu, interrupts, loop, stop } = machine();
    const apicBase = { reason: ExitReason.Rdmsr, index: 0x1b, value: 0n, fault: false } as VmExit;
    const unknown = { reason: ExitReason.Rdmsr, index: 0x1234_5678, value: 5n, fault: false } as VmExit;
    const readOnly = { reason: ExitReason.Wrmsr, index: 0xfe, value: 1n, fault: false } as VmExit;
    const setTpr = { reason: ExitReason.CrAccess, register: 8, direction: "write", value: 9 } as VmExit;
    const getTpr = { reason: ExitReason.CrAccess, register: 8, direction: "read", value: 0 } as VmExit;
    const cpuid = { reason: ExitReason.Cpuid, leaf: 0, subleaf: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 } as VmExit;
    const call = {
      reason: ExitReason.Vmcall,
      number: 1n,
      args: [0n, 0n, 0n, 0n],
      result: 0n,
    } as VmExit;
    for (const exit of [apicBase, unknown, readOnly, setTpr, getTpr, cpuid, call, stop]) vcpu.play({ exit });
    await loop.run();
    expect(apicBase).toMatchObject({ value: 0xfee0_0900n, fault: false });
    expect(unknown).toMatchObject({ value: 0n, fault: true });
    expect(readOnly).toMatchObject({ fault: true });
    expect(interrupts.localApic(0).tpr).toBe(9);
    expect(getTpr).toMatchObject({ value: 9 });
    // "GenuineIntel" in EBX, EDX, ECX.
    expect(cpuid).toMatchObject({ ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e });
    expect(call).toMatchObject({ result: 0xffff_ffff_ffff_fc18n });
  });

  it("shows the APIC in CPUID only while it is enabled", async () => {
    const leaf1 = { reason: ExitReason.Cpuid, leaf: 1, subleaf: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 } as const;
    for (const [base, flag] of [
      [0xfee0_0900n, 1],
      [0xfee0_0100n, 0],
    ] as const) {
      const { vcpu, interrupts, loop, stop } = machine();
      const exit = { ...leaf1 };
      interrupts.localApic(0).msrs.set(0x1b, base);
      vcpu.play({ exit }, { exit: stop });
      await loop.run();
      expect((exit.edx >>> 9) & 1).toBe(flag);
    }
  });

  it.each([
    [{ reason: ExitReason.TripleFault } as VmExit, "TRIPLE_FAULT"],
    [{ reason: ExitReason.InvalidGuestState } as VmExit, "INVALID_GUEST_STATE"],
    [{ reason: ExitReason.EptMisconfiguration, address: 0x1000 } as VmExit, "EPT_MISCONFIGURATION"],
    [
      {
        reason: ExitReason.EptViolation,
        address: 0,
        size: 1,
        access: "execute",
        data: 0,
        dataHigh: 0,
      } as VmExit,
      "EXECUTE_UNMAPPED",
    ],
    [{ reason: ExitReason.MonitorTrapFlag } as VmExit, "UNEXPECTED_EXIT"],
    [{ reason: 63 } as unknown as VmExit, "UNEXPECTED_EXIT"],
  ])("ends the guest at %j", async (exit, code) => {
    const { vcpu, loop } = machine();
    vcpu.play({ exit });
    const end = await loop.run();
    expect(end).toMatchObject({ kind: "crash", error: { code } });
    expect(end.kind === "crash" && end.error.message).toMatch(/vCPU 0 ended at CS 0xf000:RIP 0xfff0/);
  });
});

describe("interrupts", () => {
  it("injects a pending interrupt at the next entry", async () => {
    const { vcpu, interrupts, loop, stop } = machine();
    interrupts.raise(0, 0x31);
    vcpu.play({ exit: stop });
    await loop.run();
    expect(vcpu.entries[0]).toMatchObject({ injected: 0x31, interruptWindow: false });
    expect(interrupts.acknowledged[0]).toEqual([0x31]);
  });

  it("asks for an interrupt window while interrupts are off", async () => {
    const { vcpu, interrupts, loop, stop } = machine();
    vcpu.interruptFlag = false;
    interrupts.raise(0, 0x31);
    vcpu.play(
      {
        exit: { reason: ExitReason.InterruptWindow },
        before: (v) => {
          v.interruptFlag = true;
        },
      },
      { exit: stop },
    );
    await loop.run();
    expect(vcpu.entries.map((e) => [e.injected, e.interruptWindow])).toEqual([
      [undefined, true],
      [0x31, false],
    ]);
  });

  it("wakes a halted vCPU for an interrupt or an NMI, not while its interrupts are off", async () => {
    const { vcpu, interrupts, loop, stop, clock } = machine(1, { haltedForever: "wait" });
    clock.timer(() => interrupts.raise(0, 0x20)).arm(1000);
    clock.timer(() => loop.nmi(0)).arm(5000);
    vcpu.play(
      { exit: HLT },
      {
        exit: HLT,
        before: (v) => {
          v.interruptFlag = false;
          interrupts.raise(0, 0x21);
        },
      },
      { exit: stop },
    );
    await loop.run();
    expect(vcpu.entries.map((e) => [e.injected, e.nmi])).toEqual([
      [undefined, false],
      [0x20, false],
      [undefined, true],
    ]);
    expect(clock.now()).toBeGreaterThanOrEqual(5000);
  });

  it("ends where every vCPU halts with interrupts off", async () => {
    const { vcpu, loop } = machine();
    vcpu.interruptFlag = false;
    vcpu.play({ exit: HLT });
    expect(await loop.run()).toEqual({ kind: "halted" });
  });

  it("waits instead where told to", async () => {
    const { vcpu, loop, clock, stop } = machine(1, { haltedForever: "wait" });
    vcpu.interruptFlag = false;
    vcpu.play({ exit: HLT }, { exit: stop });
    clock.timer(() => loop.nmi(0)).arm(1_000_000);
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(clock.now()).toBeGreaterThanOrEqual(1_000_000);
  });
});

describe("time", () => {
  it("runs to the next deadline exactly, then fires", async () => {
    const { vcpu, loop, clock } = machine();
    const at: number[] = [];
    for (const deadline of [700, 60_000, 60_001]) {
      clock
        .timer((due) => {
          at.push(due, clock.now());
          if (due === 60_001) loop.stop();
        })
        .arm(deadline);
    }
    await loop.run();
    expect(at).toEqual([700, 700, 60_000, 60_000, 60_001, 60_001]);
    expect(vcpu.entries.map((e) => e.budget)).toEqual([700, 50_000, 9_300, 1]);
    expect(vcpu.entries.map((e) => e.tsc)).toEqual([0n, 700n, 50_700n, 60_000n]);
  });

  it("lets virtual time jump while all halt", async () => {
    const { vcpu, interrupts, loop, clock, scheduler, stop } = machine();
    clock.timer(() => interrupts.raise(0, 1)).arm(3_600_000_000_000);
    vcpu.play({ exit: HLT }, { exit: stop });
    await loop.run();
    expect(scheduler.sleeps).toEqual([]);
    expect(vcpu.entries[1]!.tsc).toBe(3_600_000_000_000n);
  });

  it("sleeps through real time until the deadline", async () => {
    const { vcpu, interrupts, loop, clock, scheduler, stop } = machine(1, { clock: real });
    clock.timer(() => interrupts.raise(0, 1)).arm(25_000_000);
    vcpu.play({ exit: HLT }, { exit: stop });
    await loop.run();
    expect(scheduler.sleeps).toEqual([25_000_000]);
    expect(clock.now()).toBe(25_000_000);
  });

  it("is woken from an endless sleep by an interrupt from outside", async () => {
    const { vcpu, interrupts, loop, scheduler, stop } = machine(1, { clock: real });
    vcpu.play({ exit: HLT }, { exit: stop });
    scheduler.onIdle = () => interrupts.raise(0, 0x55);
    await loop.run();
    expect(scheduler.sleeps).toEqual([Number.POSITIVE_INFINITY]);
    expect(vcpu.entries[1]!.injected).toBe(0x55);
  });

  it("sleeps less when an earlier timer is armed meanwhile", async () => {
    const { vcpu, interrupts, loop, clock, scheduler, stop } = machine(1, { clock: real });
    vcpu.play({ exit: HLT }, { exit: stop });
    const timer = clock.timer(() => interrupts.raise(0, 1));
    clock.timer(() => {}).arm(1e12);
    scheduler.onIdle = () => {
      if (timer.deadline === undefined) timer.arm(2_000_000);
    };
    await loop.run();
    expect(scheduler.sleeps).toEqual([1e12, 2_000_000]);
  });

  it("yields to the event loop while a guest spins, which keeps it stoppable", async () => {
    const { vcpu, loop, scheduler } = machine(1, { clock: real });
    scheduler.hostMs = () => {
      scheduler.ms += 1;
      return scheduler.ms;
    };
    scheduler.onIdle = () => loop.stop();
    expect(await loop.run()).toEqual({ kind: "stopped" });
    expect(scheduler.yields).toBe(1);
    expect(vcpu.entries.length).toBeGreaterThan(1);
  });

  it("yields while a timer that is always due keeps a halted guest from sleeping", async () => {
    const { vcpu, loop, clock, scheduler } = machine(1, { clock: real });
    scheduler.hostMs = () => {
      scheduler.ms += 1;
      return scheduler.ms;
    };
    const timer = clock.timer((due) => timer.arm(due));
    timer.arm(0);
    vcpu.play({ exit: HLT });
    scheduler.onIdle = () => loop.stop();
    expect(await loop.run()).toEqual({ kind: "stopped" });
  });
});

describe("several vCPUs", () => {
  it("keeps application processors off until INIT and SIPI", async () => {
    const { engine, vcpu, interrupts, loop, stop } = machine(2);
    const other = engine.vcpus[1]!;
    expect(other.signals).toEqual(["init"]);
    vcpu.play(
      {
        exit: { reason: ExitReason.Pause },
        before: () => {
          interrupts.signals!.init(1);
          interrupts.signals!.startup(1, 0x9a);
          interrupts.signals!.startup(1, 0x9b);
        },
      },
      { exit: stop },
    );
    await loop.run();
    expect(other.signals).toEqual(["init", "init", "startup 0x9a"]);
    expect(other.entries.length).toBeGreaterThan(0);
  });

  it("ignores a SIPI to a processor that runs", async () => {
    const { vcpu, interrupts, loop, stop } = machine(1);
    vcpu.play(
      { exit: { reason: ExitReason.Pause }, before: () => interrupts.signals!.startup(0, 1) },
      { exit: stop },
    );
    await loop.run();
    expect(vcpu.signals).toEqual([]);
  });

  it("resets a processor that sends INIT to itself", async () => {
    const { engine, vcpu, interrupts, loop, stop } = machine(2);
    const other = engine.vcpus[1]!;
    const icr: VmExit = {
      reason: ExitReason.EptViolation,
      address: 0xfee0_0300,
      size: 4,
      access: "write",
      data: 0,
      dataHigh: 0,
    };
    interrupts.localApic(1).write = () => interrupts.signals!.init(1);
    vcpu.play({
      exit: { reason: ExitReason.Pause },
      before: () => interrupts.signals!.startup(1, 8),
    });
    other.play({ exit: icr });
    vcpu.play({ exit: { reason: ExitReason.Pause } }, { exit: stop });
    await loop.run();
    expect(other.signals).toEqual(["init", "startup 0x8", "init"]);
    expect(other.entries).toHaveLength(1);
  });

  it("shares time fairly, exits counted", async () => {
    const { engine, loop, clock, buses, interrupts } = machine(2, { sliceInstructions: 10_000 });
    interrupts.signals!.startup(1, 1);
    const io: VmExit = { reason: ExitReason.IoInstruction, port: 1, size: 1, direction: "out", data: 0 };
    engine.vcpus[0]!.play(...Array.from({ length: 5000 }, () => ({ exit: io })));
    clock.timer(() => loop.stop()).arm(100_000);
    await loop.run();
    const [busy, spinning] = engine.vcpus.map((v) => v.entries.length);
    expect(buses.accesses.length).toBe(busy);
    // A slice holds at most 10,000 / 200 exits; the other vCPU had ten slices of 10,000 instructions.
    expect(spinning).toBe(10);
    expect(busy!).toBeLessThanOrEqual(50 * 11);
  });

  it("gives the turn away at PAUSE", async () => {
    const { engine, loop, interrupts, stop } = machine(2);
    interrupts.signals!.startup(1, 1);
    const order: number[] = [];
    const pause = { exit: { reason: ExitReason.Pause } as VmExit };
    for (const vcpu of engine.vcpus) {
      vcpu.play(...[1, 2, 3].map(() => ({ ...pause, before: () => void order.push(vcpu.index) })));
    }
    engine.vcpus[0]!.play({ exit: stop });
    await loop.run();
    expect(order).toEqual([0, 1, 0, 1, 0, 1]);
  });
});

describe("failures", () => {
  it("rejects with what a device threw, and time stands still", async () => {
    const { vcpu, buses, loop, clock, scheduler } = machine(1, { clock: real });
    const broken = new Error("broken device");
    buses.onRead = () => {
      throw broken;
    };
    vcpu.play({ exit: { reason: ExitReason.IoInstruction, port: 1, size: 1, direction: "in", data: 0 } });
    await expect(loop.run()).rejects.toBe(broken);
    const now = clock.now();
    scheduler.ms += 1000;
    expect(clock.now()).toBe(now);
  });
});
