/** A VM whose guest does nothing but exit, on KVM's engine: what is measured of the engine itself. */
import { AddressSpace, RamArena } from "@skep/memory";
import { type Engine, RealClock, Vm } from "@skep/vcpu";
import { FakeInterrupts } from "@skep/vcpu/testing";

/** Guest RAM: code and parameters in the first page frames, samples from `SAMPLES` on. */
const RAM_BYTES = 0x10_0000;
const CODE = 0x1000;
export const SAMPLES = 0x1_0000;
/** What a real-mode segment at `SAMPLES` holds, in 32-bit words. */
export const SAMPLES_MAX = 0x4000;
/** Where a guest finds its parameters. */
export const PARAMETERS = 0x500;
/** The device that guests talk to, as in exit-loop.c; and where they end the run. */
export const PORT = 0xe9;
const STOP_PORT = 0xf4;
const ROM_BASE = 0xffff_f000;
const ROM_BYTES = 0x1000;

/** Which of the engine's ways to run a vCPU is measured. */
export type VcpuPlace =
  /** On the VM's thread, in slices: an exit is answered where it happens. */
  | "vm-thread"
  /** On the VM's thread with KVM's interrupt controller, until an exit or a kick. */
  | "vm-thread-irqchip"
  /** In a Worker of its own: exits cross to the VM's thread by the mailbox. */
  | "own-thread";

export interface ExitDevice {
  read(): number;
  write(): void;
}

export interface ExitMachine {
  readonly vm: Vm;
  readonly memory: AddressSpace;
}

/** A VM of one vCPU that runs real-mode `code` out of RESET, with `device` at `PORT`. */
export async function createExitMachine(
  engine: Engine,
  place: VcpuPlace,
  { code, device }: { readonly code: Uint8Array; readonly device: ExitDevice },
): Promise<ExitMachine> {
  const memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES }));
  memory.addRam(0, RAM_BYTES);
  const rom = new Uint8Array(ROM_BYTES);
  // At the reset vector: jmp far ptr 0x0000:CODE
  rom.set([0xea, CODE & 0xff, CODE >> 8, 0x00, 0x00], 0xff0);
  memory.addRom(ROM_BASE, rom, "ROM");
  memory.load(CODE, code);
  const vm = await Vm.create({
    engine,
    memory,
    clock: new RealClock({ tscHz: engine.tscHz! }),
    interrupts: place === "vm-thread" ? new FakeInterrupts(1) : engine.createIrqChip!({ vcpus: 1 }),
  });
  memory.ports.add(PORT, 1, device, "device");
  memory.ports.add(STOP_PORT, 1, { read: () => 0xff, write: () => vm.powerOff() }, "stop port");
  return { vm, memory };
}
