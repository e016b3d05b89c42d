// The interrupt controllers behind the run loop, with vCPUs that play a script instead of a guest.
import { ExitReason, InstructionClock, Vm, type VmExit, type VmOptions } from "@skep/vcpu";
import { FakeEngine, FakeScheduler, RecordingBuses } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";
import { IrqChip } from "../src/index.ts";

const HLT: VmExit = { reason: ExitReason.Hlt };
const TRIPLE_FAULT: VmExit = { reason: ExitReason.TripleFault };

/** A store to the local APIC's page. */
const store = (register: number, value: number): VmExit => ({
  reason: ExitReason.EptViolation,
  address: 0xfee0_0000 + register,
  size: 4,
  access: "write",
  data: value,
  dataHigh: 0,
});

const wrmsr = (index: number, value: bigint): VmExit => ({
  reason: ExitReason.Wrmsr,
  index,
  value,
  fault: false,
});

async function machine(vcpus: number) {
  const engine = new FakeEngine(vcpus);
  const clock = new InstructionClock();
  const irqchip = new IrqChip(clock, { vcpus });
  const memory = new RecordingBuses() as unknown as VmOptions["memory"];
  const scheduler = new FakeScheduler();
  const vm = await Vm.create({ engine, memory, clock, interrupts: irqchip, vcpus, scheduler });
  vm.addPart("irqchip", irqchip);
  return { vm, irqchip, clock, cpus: engine.vcpus };
}

describe("vCPUs with their local APICs", () => {
  it("starts a processor by INIT and two start-up IPIs", async () => {
    const { vm, cpus } = await machine(2);
    const play = [0xc500, 0x8500, 0x0699, 0x0699].map((command) => ({ exit: store(0x300, command) }));
    cpus[0]!.play({ exit: store(0x310, 0x0100_0000) }, ...play, { exit: HLT });
    cpus[1]!.play({ exit: TRIPLE_FAULT });
    expect(await vm.run()).toMatchObject({ kind: "crash" });
    // Created waiting; INIT; the first start-up starts it, the second finds it running.
    expect(cpus[1]!.signals).toEqual(["init", "init", "startup 0x99"]);
    expect(cpus[1]!.entries).toHaveLength(1);
  });

  it("ends HLT by the TSC deadline, to the nanosecond in counted time", async () => {
    const { vm, cpus, clock } = await machine(1);
    let now = 0;
    cpus[0]!.play(
      { exit: store(0x320, 0x4_00ec) },
      { exit: wrmsr(0x6e0, 5_000_000n) },
      { exit: HLT },
      { exit: store(0xb0, 0), before: () => (now = clock.now()) },
      { exit: TRIPLE_FAULT },
    );
    await vm.run();
    expect(now).toBe(5_000_000);
    expect(cpus[0]!.entries.map(({ injected }) => injected)).toEqual([
      undefined,
      undefined,
      undefined,
      0xec,
      undefined,
    ]);
  });

  it("asks for an interrupt window while the guest takes none, and delivers in priority order", async () => {
    const { vm, cpus, irqchip } = await machine(1);
    const [cpu] = cpus;
    cpu!.interruptFlag = false;
    cpu!.play(
      {
        exit: { reason: ExitReason.Pause },
        before: () => {
          irqchip.send(0xfee0_0000, 0x41);
          irqchip.send(0xfee0_0000, 0x81);
        },
      },
      {
        exit: { reason: ExitReason.InterruptWindow },
        before: (vcpu) => {
          vcpu.interruptFlag = true;
        },
      },
      { exit: store(0xb0, 0) },
      { exit: store(0xb0, 0) },
      { exit: TRIPLE_FAULT },
    );
    await vm.run();
    expect(cpu!.entries.map((entry) => [entry.interruptWindow, entry.injected])).toEqual([
      [false, undefined],
      [true, undefined],
      // 0x41 waits for the EOI of 0x81: no window is needed.
      [false, 0x81],
      [false, 0x41],
      [false, undefined],
    ]);
  });

  it("wakes another processor by IPI and by NMI", async () => {
    const { vm, cpus } = await machine(2);
    cpus[0]!.play(
      { exit: store(0x310, 0x0100_0000) },
      { exit: store(0x300, 0xc500) },
      { exit: store(0x300, 0x0608) },
      { exit: { reason: ExitReason.Pause } },
      { exit: store(0x300, 0x00fd) },
      { exit: { reason: ExitReason.Pause } },
      { exit: store(0x300, 0x0400) },
      { exit: HLT },
    );
    cpus[1]!.play(
      { exit: store(0xf0, 0x1ff) },
      { exit: HLT },
      { exit: store(0xb0, 0) },
      { exit: HLT },
      { exit: TRIPLE_FAULT },
    );
    expect(await vm.run()).toMatchObject({ kind: "crash" });
    expect(cpus[1]!.entries.map(({ injected, nmi }) => [injected, nmi])).toEqual([
      [undefined, false],
      [undefined, false],
      [0xfd, false],
      [undefined, false],
      [undefined, true],
    ]);
  });

  it("is part of the VM's state", async () => {
    const { vm, irqchip, cpus } = await machine(2);
    cpus[0]!.play({ exit: store(0x80, 0x20) }, { exit: TRIPLE_FAULT });
    await vm.run();
    irqchip.send(0xfee0_0000, 0x91);
    const other = await machine(2);
    other.vm.restore(structuredClone(vm.save()));
    expect(other.irqchip.pending(0)).toBe(0x91);
    expect(other.irqchip.localApic(0).getTpr()).toBe(2);
    other.vm.reset();
    expect(other.irqchip.pending(0)).toBe(-1);
  });
});
