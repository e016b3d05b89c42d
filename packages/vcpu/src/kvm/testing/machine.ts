import { AddressSpace, RamArena } from "@skep/memory";
import { RealClock } from "../../clocks.ts";
import type { CpuidModelOptions } from "../../cpuid.ts";
import type { Engine, EngineVm } from "../../engine.ts";
import type { VcpuStateV1 } from "../../state.ts";
import {
  ConformanceError,
  type StartMode,
  type StartOptions,
  startImage,
} from "../../testing/conformance/guest.ts";
import { Vm, type VmOutcome } from "../../vm.ts";
import { KvmIrqChip } from "../irqchip.ts";
import type { KvmVm } from "../vm.ts";

/** Guest RAM of the cases' machines. */
export const RAM_BYTES = 0x40_0000;
export const ROM_BASE = 0xffff_f000;
const ROM_BYTES = 0x1000;
/** A device of 64 KiB. */
export const DEVICE_BASE = 0xd000_0000;
const DEVICE_BYTES = 0x1_0000;
/** What is written here is collected, with a callback; reads give 0x5A. */
export const DEBUG_PORT = 0xe9;
/** A write here powers the machine off. */
export const STOP_PORT = 0xf4;

export interface KvmMachineOptions {
  readonly vcpus?: number;
  readonly cpuid?: Omit<CpuidModelOptions, "vcpus" | "tscHz">;
  readonly haltedForever?: "end" | "wait";
  /** KVM's 8254. */
  readonly pit?: boolean;
}

/** A VM with KVM's own interrupt controller, threads, and devices that a case looks into. */
export class KvmMachine {
  readonly vm: Vm;
  readonly memory: AddressSpace;
  readonly irqchip: KvmIrqChip;
  readonly kvm: KvmVm;
  /** Bytes written to the debug port. */
  readonly output: number[] = [];
  /** Called for each of them, on the VM's thread. */
  onOutput: (value: number) => void = () => {};
  /** Accesses to the device. */
  readonly accesses: { kind: "read" | "write"; offset: number; size: number; value: number }[] = [];
  /** What the device answers. */
  onRead: (offset: number, size: number) => number = () => 0xffff_ffff;

  static async create(engine: Engine, options: KvmMachineOptions = {}): Promise<KvmMachine> {
    const { vcpus = 1 } = options;
    const memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES }));
    memory.addRam(0, RAM_BYTES);
    const rom = new Uint8Array(ROM_BYTES).fill(0xcc);
    // jmp far ptr 0x0000:0x8000
    rom.set([0xea, 0x00, 0x80, 0x00, 0x00], 0xff0);
    memory.addRom(ROM_BASE, rom, "ROM");
    const irqchip = new KvmIrqChip({ vcpus, pit: options.pit ?? false });
    let kvm: EngineVm | undefined;
    const watched: Engine = {
      name: "kvm",
      maxVcpus: engine.maxVcpus,
      hasIrqchip: true,
      countsInstructions: false,
      arenaBytes: 0,
      supportedCpuid: engine.supportedCpuid,
      tscHz: engine.tscHz!,
      probe: () => engine.probe(),
      createVm: async (vmOptions) => {
        kvm = await engine.createVm(vmOptions);
        return kvm;
      },
    };
    const vm = await Vm.create({
      engine: watched,
      memory,
      clock: new RealClock({ tscHz: engine.tscHz! }),
      interrupts: irqchip,
      vcpus,
      cpuid: options.cpuid ?? { model: "host" },
      ...(options.haltedForever && { haltedForever: options.haltedForever }),
    });
    return new KvmMachine(vm, memory, irqchip, kvm as KvmVm);
  }

  private constructor(vm: Vm, memory: AddressSpace, irqchip: KvmIrqChip, kvm: KvmVm) {
    this.vm = vm;
    this.memory = memory;
    this.irqchip = irqchip;
    this.kvm = kvm;
    vm.addPart("memory", memory);
    vm.addPart("interrupts", irqchip);
    const write = (value: number): void => {
      this.output.push(value);
      this.onOutput(value);
    };
    memory.ports.add(
      DEBUG_PORT,
      1,
      { read: () => 0x5a, write: (_offset, _size, value) => write(value) },
      "debug port",
    );
    memory.ports.add(STOP_PORT, 1, { read: () => 0, write: () => vm.powerOff() }, "stop port");
    memory.addMmio(
      DEVICE_BASE,
      DEVICE_BYTES,
      {
        read: (offset, size) => {
          const value = this.onRead(offset, size);
          this.accesses.push({ kind: "read", offset, size, value });
          return value;
        },
        write: (offset, size, value) => void this.accesses.push({ kind: "write", offset, size, value }),
      },
      "device",
    );
  }

  /** Puts vCPU 0 into a start mode, with `code` at 0x8000. */
  start(mode: StartMode, code: Uint8Array, options: StartOptions = {}): void {
    const { state, memory } = startImage(mode, options);
    for (const [address, bytes] of memory) this.memory.load(address, bytes);
    this.vm.vcpus[0]!.restore(state);
    this.memory.load(0x8000, code);
  }

  get state(): VcpuStateV1 {
    return this.vm.vcpus[0]!.save();
  }

  /** Runs to the end, which must come within `ms`. */
  async run(ms = 20_000): Promise<VmOutcome> {
    const timer = setTimeout(() => void this.vm.stop(), ms);
    try {
      return await this.vm.run();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Waits until the 32-bit word at `address` is another than `value`, and gives it. @throws ConformanceError */
  async changed(address: number, value: number): Promise<number> {
    for (let ms = 0; ms < 20_000; ms += 2) {
      const now = this.memory.dma.readU32(address)!;
      if (now !== value) return now;
      await new Promise((done) => setTimeout(done, 2));
    }
    throw new ConformanceError(`the guest did not change what is at 0x${address.toString(16)}`);
  }

  close(): Promise<void> {
    return this.vm.close();
  }
}

/** Makes a machine, hands it to `body` and closes it, whatever happens. */
export async function withMachine(
  engine: Engine,
  options: KvmMachineOptions,
  body: (machine: KvmMachine) => Promise<void>,
): Promise<void> {
  const machine = await KvmMachine.create(engine, options);
  try {
    await body(machine);
  } finally {
    await machine.close();
  }
}
