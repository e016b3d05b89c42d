import { AddressSpace, RamArena } from "@skep/memory";
import { CpuidModel } from "../../cpuid.ts";
import type { Engine, EngineVcpu, EngineVm, VcpuRunOptions } from "../../engine.ts";
import { type EptViolationExit, ExitReason, type IoExit, type VmExit } from "../../exit.ts";
import type { VcpuStateV1 } from "../../state.ts";
import type { Guest, StartMode, StartOptions, StopReason } from "./guest.ts";
import { startImage } from "./guest.ts";
import { Layout } from "./layout.ts";

/** TSC frequency that engines are given here, where they leave the choice: one tick a nanosecond. */
export const TSC_HZ = 1_000_000_000;

/** Instructions after which a guest that should have halted is given up. */
const RUN_LIMIT = 2_000_000;

/** An exit of the guest that the machine answered, in order. */
export type GuestEvent =
  | { kind: "in" | "out"; port: number; size: number; data: number }
  | { kind: "read" | "write"; address: number; size: number; data: number; dataHigh: number }
  | { kind: "rdmsr" | "wrmsr"; index: number; value: bigint }
  | { kind: "cpuid"; leaf: number; subleaf: number }
  | { kind: "cr8"; direction: "read" | "write"; value: number }
  | { kind: "vmcall"; number: bigint; args: readonly bigint[] };

/** A small machine around an engine's vCPUs: RAM, ROM, and exits that the case answers. */
export class Machine implements Guest {
  readonly engine: Engine;
  readonly memory: AddressSpace;
  readonly vcpus: readonly EngineVcpu[];
  readonly cpuid: CpuidModel;
  readonly events: GuestEvent[] = [];

  /** What IN gets. Default: all ones. */
  onIn: (port: number, size: number) => number = () => 0xffff_ffff;
  /** What a read from a hole gets: low and high half. Default: all ones. */
  onRead: (address: number, size: number) => readonly [low: number, high: number] = () => [
    0xffff_ffff, 0xffff_ffff,
  ];
  /** What RDMSR of a register that the engine does not keep gets; `undefined`: #GP. */
  onRdmsr: (index: number) => bigint | undefined = () => undefined;
  /** Whether WRMSR of such a register is taken. */
  onWrmsr: (index: number, value: bigint) => boolean = () => false;
  /** Task priority that CR8 reads and writes. */
  tpr = 0;
  vmcallResult = 0n;

  readonly options: VcpuRunOptions = {
    budget: 10_000,
    tsc: 0n,
    tscPerInstruction: 1,
    interruptWindow: false,
    singleStep: false,
  };
  readonly #vm: EngineVm;

  static async create(engine: Engine, vcpus = 1): Promise<Machine> {
    const arena = RamArena.create({ ramBytes: Layout.RAM_BYTES, privateBytes: engine.arenaBytes });
    const memory = new AddressSpace(arena);
    memory.addRam(0, Layout.RAM_BYTES);
    memory.addRom(Layout.ROM, new Uint8Array(Layout.ROM_BYTES).fill(0xcc), "ROM");
    const tscHz = engine.tscHz ?? TSC_HZ;
    const cpuid = new CpuidModel(engine.supportedCpuid, { model: "host", vcpus, tscHz });
    const vm = await engine.createVm({ memory, vcpus, tscHz, cpuid });
    return new Machine(engine, vm, memory, cpuid, vcpus);
  }

  private constructor(engine: Engine, vm: EngineVm, memory: AddressSpace, cpuid: CpuidModel, vcpus: number) {
    this.engine = engine;
    this.#vm = vm;
    this.memory = memory;
    this.cpuid = cpuid;
    this.vcpus = Array.from({ length: vcpus }, (_, index) => vm.createVcpu(index));
  }

  get vcpu(): EngineVcpu {
    return this.vcpus[0]!;
  }

  get state(): VcpuStateV1 {
    return this.vcpu.save();
  }

  /** Writes into RAM and ROM. */
  load(address: number, bytes: Uint8Array): void {
    this.memory.load(address, bytes);
  }

  enter(mode: StartMode, options: StartOptions = {}): void {
    const { state, memory } = startImage(mode, options);
    for (const [address, bytes] of memory) this.load(address, bytes);
    this.vcpu.restore(state);
  }

  /** One entry into vCPU `index`, its exit not answered. */
  step(index = 0, options: Partial<VcpuRunOptions> = {}): VmExit {
    return this.vcpus[index]!.run({ ...this.options, ...options });
  }

  /** Runs vCPU `index` until HLT or until an exit that `answer` leaves to the case. */
  run(index = 0): StopReason {
    const vcpu = this.vcpus[index]!;
    const end = vcpu.instructions + RUN_LIMIT;
    // An engine that does not count instructions is given up by the number of exits.
    for (let exits = 0; exits < RUN_LIMIT && vcpu.instructions < end; exits++) {
      const exit = vcpu.run(this.options);
      if (exit.reason === ExitReason.Hlt) return "halt";
      if (exit.reason === ExitReason.TripleFault) return "triple-fault";
      if (!this.answer(exit)) return { exit };
    }
    return "endless";
  }

  /** Records an exit and writes its answer; false where it has none. */
  answer(exit: VmExit): boolean {
    switch (exit.reason) {
      case ExitReason.PreemptionTimer:
      case ExitReason.Pause:
      case ExitReason.ExternalInterrupt:
        return true;
      case ExitReason.IoInstruction:
        this.#answerIo(exit);
        return true;
      case ExitReason.EptViolation:
        return this.#answerMmio(exit);
      case ExitReason.Rdmsr: {
        const value = this.onRdmsr(exit.index);
        exit.value = value ?? 0n;
        exit.fault = value === undefined;
        this.events.push({ kind: "rdmsr", index: exit.index, value: exit.value });
        return true;
      }
      case ExitReason.Wrmsr:
        this.events.push({ kind: "wrmsr", index: exit.index, value: exit.value });
        exit.fault = !this.onWrmsr(exit.index, exit.value);
        return true;
      case ExitReason.Cpuid: {
        this.events.push({ kind: "cpuid", leaf: exit.leaf, subleaf: exit.subleaf });
        const { eax, ebx, ecx, edx } = this.cpuid.query(0, exit.leaf, exit.subleaf);
        Object.assign(exit, { eax, ebx, ecx, edx });
        return true;
      }
      case ExitReason.CrAccess:
        if (exit.direction === "read") exit.value = this.tpr;
        else this.tpr = exit.value;
        this.events.push({ kind: "cr8", direction: exit.direction, value: exit.value });
        return true;
      case ExitReason.Vmcall:
        this.events.push({ kind: "vmcall", number: exit.number, args: [...exit.args] });
        exit.result = this.vmcallResult;
        return true;
      default:
        return false;
    }
  }

  u8(address: number): number {
    return this.memory.dma.readU8(address)!;
  }

  u16(address: number): number {
    return this.memory.dma.readU16(address)!;
  }

  u32(address: number): number {
    return this.memory.dma.readU32(address)!;
  }

  u64(address: number): bigint {
    return this.memory.dma.readU64(address)!;
  }

  close(): Promise<void> {
    return this.#vm.close();
  }

  #answerIo(exit: IoExit): void {
    if (exit.direction === "in") exit.data = cut(this.onIn(exit.port, exit.size), exit.size);
    this.events.push({ kind: exit.direction, port: exit.port, size: exit.size, data: exit.data });
  }

  #answerMmio(exit: EptViolationExit): boolean {
    const { access, address, size } = exit;
    if (access === "execute") return false;
    if (access === "read") {
      const [low, high] = this.onRead(address, size);
      exit.data = cut(low, size);
      exit.dataHigh = size === 8 ? high >>> 0 : 0;
    }
    const dataHigh = size === 8 ? exit.dataHigh : 0;
    this.events.push({ kind: access, address, size, data: exit.data, dataHigh });
    return true;
  }
}

function cut(value: number, size: number): number {
  return size === 1 ? value & 0xff : size === 2 ? value & 0xffff : value >>> 0;
}
