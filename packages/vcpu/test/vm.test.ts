import {
  ExitReason,
  GuestCrashError,
  InstructionClock,
  RealClock,
  Vm,
  type VmExit,
  type VmOptions,
} from "@skep/vcpu";
import { FakeEngine, FakeInterrupts, FakeScheduler, RecordingBuses } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const out = (port: number): VmExit => ({
  reason: ExitReason.IoInstruction,
  port,
  size: 1,
  direction: "out",
  data: 0,
});

async function machine(vcpus = 1, more: Partial<VmOptions> = {}) {
  const engine = new FakeEngine(vcpus);
  const interrupts = new FakeInterrupts(vcpus);
  const buses = new RecordingBuses();
  const scheduler = new FakeScheduler();
  scheduler.hostMs = () => {
    scheduler.ms += 1;
    return scheduler.ms;
  };
  const clock = new InstructionClock();
  const memory = buses as unknown as VmOptions["memory"];
  const vm = await Vm.create({ engine, memory, clock, interrupts, vcpus, scheduler, ...more });
  const log: string[] = [];
  vm.on("state", (state, previous) => log.push(`${previous} -> ${state}`));
  for (const event of ["poweroff", "reset", "halted", "crash"] as const) vm.on(event, () => log.push(event));
  buses.onWrite = ({ address }) => {
    if (address === 0x604) vm.powerOff();
    if (address === 0xcf9) vm.requestReset();
    if (address === 0x505) vm.crash(new GuestCrashError("GUEST_PANIC", "the guest panicked"));
  };
  return { vm, vcpu: engine.vcpus[0]!, engine, interrupts, buses, scheduler, clock, log };
}

describe("Vm", () => {
  it.each([
    [0x604, "poweroff"],
    [0xcf9, "reset"],
    [0x505, "crash"],
  ])("ends when the guest writes to port 0x%s: %s", async (port, kind) => {
    const { vm, vcpu, log } = await machine();
    vcpu.play({ exit: out(port) });
    expect(await vm.run()).toMatchObject({ kind });
    expect(vcpu.entries).toHaveLength(1);
    expect(log).toEqual(["created -> running", "running -> stopped", kind]);
  });

  it("ends with a crash at a triple fault, with halted at an endless HLT", async () => {
    const first = await machine();
    first.vcpu.play({ exit: { reason: ExitReason.TripleFault } });
    const outcome = await first.vm.run();
    expect(outcome.kind === "crash" && outcome.error).toBeInstanceOf(GuestCrashError);

    const second = await machine();
    second.vcpu.interruptFlag = false;
    second.vcpu.play({ exit: { reason: ExitReason.Hlt } });
    expect(await second.vm.run()).toEqual({ kind: "halted" });
    expect(second.log).toContain("halted");
  });

  it("pauses and resumes within one run", async () => {
    const { vm, vcpu, scheduler, clock, log } = await machine();
    const order: string[] = [];
    for (const name of ["a", "b"]) {
      vm.addPart(name, {
        save: () => null,
        restore: () => {},
        pause: async () => void order.push(`pause ${name}`),
        resume: () => order.push(`resume ${name}`),
      });
    }
    let pausing: Promise<void> | undefined;
    scheduler.onIdle = () => {
      pausing ??= vm.pause();
    };
    const outcome = vm.run();
    await new Promise((done) => setTimeout(done, 0));
    await pausing;
    expect(vm.state).toBe("paused");
    const entries = vcpu.entries.length;
    const now = clock.now();
    await new Promise((done) => setTimeout(done, 0));
    expect([vcpu.entries.length, clock.now()]).toEqual([entries, now]);
    vcpu.play({ exit: out(0x604) });
    vm.resume();
    expect(await outcome).toEqual({ kind: "poweroff" });
    expect(order).toEqual(["pause a", "pause b", "resume b", "resume a"]);
    expect(log).toEqual([
      "created -> running",
      "running -> paused",
      "paused -> running",
      "running -> stopped",
      "poweroff",
    ]);
  });

  it("stops a spinning guest, also one that is paused, also from a listener", async () => {
    const spinning = await machine();
    spinning.scheduler.onIdle = () => void spinning.vm.stop();
    expect(await spinning.vm.run()).toEqual({ kind: "stopped" });

    const paused = await machine();
    let pausing: Promise<void> | undefined;
    paused.scheduler.onIdle = () => {
      pausing ??= paused.vm.pause();
    };
    const outcome = paused.vm.run();
    await new Promise((done) => setTimeout(done, 0));
    await pausing;
    await paused.vm.stop();
    expect(await outcome).toEqual({ kind: "stopped" });

    const listening = await machine();
    listening.vm.on("state", (state) => {
      if (state === "running") void listening.vm.stop();
    });
    expect(await listening.vm.run()).toEqual({ kind: "stopped" });
    expect(listening.vcpu.entries).toEqual([]);
  });

  it("rejects calls that do not fit its state", async () => {
    const { vm, vcpu } = await machine();
    expect(() => vm.resume()).toThrow(/expected a VM that is paused, this one is created/);
    await expect(vm.pause()).rejects.toMatchObject({ code: "VM_STATE" });
    vcpu.play({ exit: out(0x604) });
    const running = vm.run();
    expect(() => vm.run()).toThrow(/running/);
    expect(() => vm.save()).toThrow(/running/);
    expect(() => vm.restore({})).toThrow(/running/);
    expect(() => vm.reset()).toThrow(/running/);
    await running;
    await vm.close();
    expect(() => vm.run()).toThrow(/closed/);
  });

  it("runs again after a reset, everything reset in order", async () => {
    const { vm, engine, vcpu } = await machine(2);
    const order: string[] = [];
    for (const name of ["a", "b"]) {
      vm.addPart(name, { save: () => 0, restore: () => {}, reset: () => order.push(name) });
    }
    vcpu.play({ exit: out(0xcf9) });
    expect(await vm.run()).toEqual({ kind: "reset" });
    vm.msrs.write(0, 0x2ff, 0xc06n);
    vm.reset();
    expect(order).toEqual(["a", "b"]);
    expect(vm.state).toBe("created");
    expect(vm.msrs.read(0, 0x2ff)).toBe(0n);
    expect(vcpu.signals).toEqual(["reset"]);
    expect(engine.vcpus[1]!.signals).toEqual(["init", "reset", "init"]);
    vcpu.play({ exit: out(0x604) });
    expect(await vm.run()).toEqual({ kind: "poweroff" });
  });

  it("saves and restores the whole machine, or nothing", async () => {
    const source = await machine(2);
    source.vcpu.play({ exit: { reason: ExitReason.Hlt } }, { exit: out(0x604) });
    source.clock.timer(() => source.interrupts.raise(0, 0x20)).arm(5000);
    await source.vm.run();
    source.vm.msrs.write(0, 0x2ff, 0xc06n);
    let value = 1;
    const part = {
      save: () => ({ value }),
      restore: (state: unknown) => {
        value = (state as { value: number }).value;
      },
    };
    source.vm.addPart("part", part);
    const state = structuredClone(source.vm.save());

    const target = await machine(2);
    target.vm.addPart("part", part);
    value = 2;
    target.vm.restore(state);
    expect(value).toBe(1);
    expect(target.vm.save()).toEqual(state);
    expect(target.clock.now()).toBe(source.clock.now());

    value = 3;
    const before = target.vm.save();
    for (const bad of [
      { ...state, parts: {} },
      { ...state, parts: { part: { value: 9 }, more: 0 } },
      { ...state, vcpus: [state.vcpus[0]] },
      { ...state, vcpus: [state.vcpus[0], { kind: "nonsense" }], parts: { part: { value: 9 } } },
      { ...state, clock: {} },
    ]) {
      expect(() => target.vm.restore(bad)).toThrow();
      expect(target.vm.save()).toEqual(before);
    }
  });

  it("rejects run() with what a device threw", async () => {
    const { vm, vcpu, buses } = await machine();
    buses.onWrite = () => {
      throw new Error("broken device");
    };
    vcpu.play({ exit: out(1) });
    await expect(vm.run()).rejects.toThrow("broken device");
    expect(vm.state).toBe("stopped");
  });

  it("closes parts last to first, then the engine; closing twice is harmless", async () => {
    const { vm, engine } = await machine();
    const order: string[] = [];
    for (const name of ["a", "b"]) {
      vm.addPart(name, { save: () => 0, restore: () => {}, close: () => void order.push(name) });
    }
    await vm.close();
    await vm.close();
    expect(order).toEqual(["b", "a"]);
    expect(engine.isClosed).toBe(true);
    expect(vm.state).toBe("closed");
  });

  it("closes while the guest runs", async () => {
    const { vm, scheduler } = await machine(1, {});
    let closing: Promise<void> | undefined;
    scheduler.onIdle = () => {
      closing ??= vm.close();
    };
    expect(await vm.run()).toEqual({ kind: "stopped" });
    await closing;
    expect(vm.state).toBe("closed");
  });

  it("reports unknown MSRs as an event", async () => {
    const { vm, vcpu } = await machine();
    const seen: number[] = [];
    vm.on("unknownMsr", ({ index }) => seen.push(index));
    vcpu.play(
      { exit: { reason: ExitReason.Rdmsr, index: 0x777, value: 0n, fault: false } },
      { exit: out(0x604) },
    );
    await vm.run();
    expect(seen).toEqual([0x777]);
  });

  it("refuses options that cannot be met", async () => {
    await expect(machine(1, { vcpus: 2 })).rejects.toThrow(RangeError);
    const engine = new FakeEngine(1, { countsInstructions: false });
    await expect(machine(1, { engine })).rejects.toMatchObject({ code: "ENGINE_UNSUITABLE" });
    const { vm } = await machine(1, { engine, clock: new RealClock({ hostMs: () => 0 }) });
    vm.addPart("a", { save: () => 0, restore: () => {} });
    expect(() => vm.addPart("a", { save: () => 0, restore: () => {} })).toThrow(/"a" is taken/);
  });
});
