import {
  buildAcpi,
  COM1,
  COM2,
  isElf,
  type LinuxBootPlan,
  pciRoot,
  pcMemoryMap,
  planLinuxBoot,
} from "@skep/boot";
import { HIGH_RAM_BASE, LOW_RAM_END, Mmio } from "@skep/chipset";
import { AddressSpace, type MemoryPageV1, RamArena } from "@skep/memory";
import {
  type Engine,
  GuestCrashError,
  InstructionClock,
  RealClock,
  StateReader,
  Vm,
  type VmOptions,
  type VmOutcome,
  type VmStateV2,
} from "@skep/vcpu";
import type { Console } from "./console.ts";
import { type EngineName, selectEngine } from "./engines.ts";
import { VmOptionsError } from "./errors.ts";
import { Pc } from "./pc.ts";

export interface CreateVmOptions {
  /** Linux kernel: a bzImage or an ELF file. Not trusted. */
  readonly kernel: Uint8Array;
  /** Initial RAM disk: a cpio archive, compressed in a way that the kernel knows or not; or several in a row. */
  readonly initrd?: Uint8Array;
  /** Kernel command line, ASCII. Default `console=ttyS0`. */
  readonly commandLine?: string;
  /** Guest RAM in MiB, a whole number from 16 to 3584. Default 512. */
  readonly memoryMiB?: number;
  /** vCPUs, 1 to what the engine can do. Default 1. */
  readonly cpus?: number;
  /** What runs the guest: a name, or an engine of your own. Default "auto". */
  readonly engine?: EngineName | Engine;
  /**
   * "real": the host's time. "instructions": time passes with the instructions that the guest executes, and two
   * runs of the same inputs are the same to the last bit. Default "real".
   */
  readonly clock?: "real" | "instructions";
  /**
   * The processor that the guest sees: a model, flags to add and to remove, and the engines that it shall be able to go
   * on with. Default: the engine's model, else `x86-64-v2`.
   */
  readonly cpuid?: NonNullable<VmOptions["cpuid"]>;
  /**
   * Frequency of the guest's TSC in Hz, 1 MHz to 100 GHz. Default: what the engine's processor has, else 1 GHz. softvt
   * makes any; KVM its own, and others where the processor can scale.
   */
  readonly tscHz?: number;
  /** Told, in one line, why "auto" did not take an engine that is there. */
  readonly onNotice?: (notice: string) => void;
}

/** Everything that a machine is, RAM included; pages of zeros are left out. */
export interface MachineStateV1 {
  kind: "machine";
  version: 1;
  vm: VmStateV2;
  pages: MemoryPageV1[];
}

const MIB = 2 ** 20;
const MIN_MEMORY_MIB = 16;
/** What a 32-bit WebAssembly memory holds beside the engine's own structures. */
const MAX_MEMORY_MIB = 3584;
/**
 * Buses for bridges to be numbered. Linux looks for devices on each that ECAM has, with 64 port accesses: 12 buses more are 800
 * exits more in a boot of 1,000.
 */
const LAST_PCI_BUS = 3;
const MIN_TSC_HZ = 1_000_000;
const MAX_TSC_HZ = 100_000_000_000;
const DEFAULT_COMMAND_LINE = "console=ttyS0";
const RNG_SEED_BYTES = 32;
/** A panic's report is about 40 lines: what was wrong, the registers, the call trace. */
const PANIC_LINES = 100;
const KERNEL_LINE = /^\[ *\d+\.\d+\]/;
/** Lines of console output in a crash's message. */
const CRASH_LINES = 20;

/**
 * Makes a PC with a Linux kernel in its memory, ready to `run()`.
 *
 * @throws VmOptionsError where an option is out of its range.
 * @throws BootError where the kernel or the initrd cannot be booted.
 * @throws EngineUnavailableError where the engine cannot run on this machine.
 * @example
 * const machine = await createVm({ kernel, initrd, memoryMiB: 256 });
 * machine.console.on("data", (bytes) => process.stdout.write(bytes));
 * machine.console.write("uname -a\n");
 * const outcome = await machine.run();
 */
export async function createVm(options: CreateVmOptions): Promise<Machine> {
  const ramBytes = whole("memoryMiB", options.memoryMiB ?? 512, MIN_MEMORY_MIB, MAX_MEMORY_MIB) * MIB;
  const repeatable = options.clock === "instructions";
  let notice: string | undefined;
  const engine =
    typeof options.engine === "object"
      ? options.engine
      : await selectEngine(options.engine ?? "auto", {
          countsInstructions: repeatable,
          onNotice: (text) => {
            notice = text;
          },
        });
  const cpus = whole("cpus", options.cpus ?? 1, 1, Math.min(engine.maxVcpus, 255));

  const map = pcMemoryMap(ramBytes, { reserved: [Mmio.PCI_ECAM] });
  const acpi = buildAcpi({
    cpus,
    region: map.acpi,
    platform: { serialPorts: [COM1, COM2], ecam: { base: Mmio.PCI_ECAM.base, lastBus: LAST_PCI_BUS } },
    dsdtTerms: [pciRoot({ lastBus: LAST_PCI_BUS, express: true })],
  });
  const plan = planLinuxBoot({
    kernel: options.kernel,
    ...(options.initrd && { initrd: options.initrd }),
    commandLine: options.commandLine ?? DEFAULT_COMMAND_LINE,
    memoryMap: map.entries,
    rsdp: acpi.rsdp,
    // A run that shall repeat may not begin with chance; an ELF kernel has no setup_data to take it from.
    ...(!repeatable &&
      !isElf(options.kernel) && { rngSeed: crypto.getRandomValues(new Uint8Array(RNG_SEED_BYTES)) }),
  });

  const arena = RamArena.create({ ramBytes, privateBytes: engine.arenaBytes });
  const memory = new AddressSpace(arena);
  const lowBytes = Math.min(ramBytes, LOW_RAM_END);
  memory.addRam(0, Mmio.VGA.base, "RAM below the VGA window");
  memory.skipRam(Mmio.VGA.bytes);
  memory.addRam(Mmio.OPTION_ROM.base, lowBytes - Mmio.OPTION_ROM.base, "RAM");
  if (ramBytes > lowBytes) memory.addRam(HIGH_RAM_BASE, ramBytes - lowBytes, "RAM from 4 GiB");

  const tscHz = tscHzOf(options, engine);
  const clock = repeatable ? new InstructionClock(tscHz) : new RealClock(tscHz);
  const irqchip = engine.createIrqChip?.({ vcpus: cpus });
  const pc = new Pc(memory, clock, {
    cpus,
    ...(irqchip && { irqchip }),
    onPowerOff: () => vm.powerOff(),
    onReset: () => vm.requestReset(),
  });
  const vm: Vm = await Vm.create({
    engine,
    memory,
    clock,
    interrupts: pc.irqchip,
    vcpus: cpus,
    cpuid: cpuidOf(options, repeatable),
  });
  vm.addPart("memory", memory);
  for (const [name, part] of Object.entries(pc.parts())) vm.addPart(name, part);

  const boot = (): void => {
    for (const { base, bytes } of plan.zeroed) memory.dma.fill(base, 0, bytes);
    for (const { address, bytes } of [...acpi.writes, ...plan.writes]) memory.load(address, bytes);
    // Firmware's part: Linux takes no notice of PAT where it finds the MTRRs off.
    vm.msrs.presetMtrrs(LOW_RAM_END);
    enterKernel(vm, plan);
  };
  // All parts are in their reset states as they were made.
  boot();
  const machine = new Machine(vm, { memory, pc, engine }, boot);
  // Said once there is a machine: of what was asked for in vain, the error is all that counts.
  if (notice !== undefined) options.onNotice?.(notice);
  return machine;
}

function tscHzOf(options: CreateVmOptions, engine: Engine): { readonly tscHz?: number } {
  const tscHz =
    options.tscHz === undefined ? engine.tscHz : whole("tscHz", options.tscHz, MIN_TSC_HZ, MAX_TSC_HZ);
  return tscHz === undefined ? {} : { tscHz };
}

/** A run that shall repeat gets no entropy of the host's: it would make each run another. */
function cpuidOf({ cpuid = {} }: CreateVmOptions, repeatable: boolean): NonNullable<VmOptions["cpuid"]> {
  return repeatable ? { ...cpuid, remove: [...(cpuid.remove ?? []), "rdrand", "rdseed"] } : cpuid;
}

/** What a `Machine` is put together from. */
export interface MachineParts {
  readonly memory: AddressSpace;
  readonly pc: Pc;
  readonly engine: Engine;
}

/** A PC that `createVm()` made. */
export class Machine implements AsyncDisposable {
  readonly vm: Vm;
  readonly memory: AddressSpace;
  readonly pc: Pc;
  readonly engine: Engine;
  readonly #boot: () => void;

  /** @param boot puts what boots into memory and the boot processor at its entry. */
  constructor(vm: Vm, parts: MachineParts, boot: () => void) {
    this.vm = vm;
    this.memory = parts.memory;
    this.pc = parts.pc;
    this.engine = parts.engine;
    this.#boot = boot;
  }

  /** COM1, Linux's ttyS0. */
  get console(): Console {
    return this.pc.console;
  }

  /** COM2, Linux's ttyS1. */
  get channel(): Console {
    return this.pc.channel;
  }

  /**
   * Runs the guest until it ends. A kernel panic that ends in a reset (`panic=-1`) is a crash with code
   * `GUEST_PANIC`; every crash's message ends with the console's last lines.
   */
  async run(): Promise<VmOutcome> {
    const outcome = await this.vm.run();
    const { console } = this;
    if (outcome.kind === "crash") {
      const { code, message } = outcome.error;
      return { kind: "crash", error: withConsole(code, message, console, outcome.error) };
    }
    const panic = outcome.kind === "reset" || outcome.kind === "halted" ? findPanic(console) : undefined;
    if (panic === undefined) return outcome;
    return { kind: "crash", error: withConsole("GUEST_PANIC", panic.trim(), console) };
  }

  /** Resets the machine and loads the kernel again; `run()` then boots it. For after an outcome of `reset`. */
  reboot(): void {
    this.vm.reset();
    this.#boot();
  }

  /** @throws VmStateError while the VM runs. */
  save(): MachineStateV1 {
    const pages = Array.from(this.memory.pages(), ({ address, bytes }) => ({
      address,
      bytes: bytes.slice(),
    }));
    return { kind: "machine", version: 1, vm: this.vm.save(), pages };
  }

  /**
   * Takes over what `save()` gave on a machine of the same options, on whichever engine: `cpuid` and `tscHz` have to be
   * such that both engines can offer them.
   *
   * @throws VmStateError while the VM runs.
   * @throws StateError where the state does not belong to such a machine; the machine is as it was before.
   * @throws MemoryStateError where a page is not valid: the machine must not run then.
   */
  restore(state: unknown): void {
    const reader = new StateReader(state, "machine", 1);
    const { vm, pages } = state as MachineStateV1;
    if (!Array.isArray(pages)) throw reader.error("pages", "an array", pages);
    this.vm.restore(vm);
    this.memory.restorePages(pages);
  }

  close(): Promise<void> {
    return this.vm.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

function enterKernel(vm: Vm, plan: LinuxBootPlan): void {
  const boot = vm.vcpus[0]!;
  const state = boot.save();
  plan.applyTo(state);
  boot.restore(state);
}

/** The kernel's words if a panic was the last thing that happened: only the kernel's own lines follow them. */
function findPanic(console: Console): string | undefined {
  const lines = console.tail(PANIC_LINES);
  const at = lines.findLastIndex((line) => line.includes("Kernel panic - not syncing"));
  const isLast = lines.slice(at + 1).every((line) => line === "" || KERNEL_LINE.test(line));
  return at >= 0 && isLast ? lines[at] : undefined;
}

function withConsole(code: string, message: string, console: Console, cause?: Error): GuestCrashError {
  const lines = console.tail(CRASH_LINES).map((line) => `  ${line}`);
  const said = lines.length > 0 ? `\nlast lines of its console:\n${lines.join("\n")}` : "";
  return new GuestCrashError(code, `${message}${said}`, { cause });
}

function whole(field: string, value: number, min: number, max: number): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new VmOptionsError(field, `a whole number from ${min} to ${max}`, String(value));
}
