// A device of one's own: it squares numbers. The guest writes one into its register and prints what it reads back.
import { IrqChip } from "@skep/chipset";
import { type AccessSize, AddressSpace, type BusDevice, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import { InstructionClock, Vm } from "@skep/vcpu";

/** Registers, by offset. */
const REG = {
  /** RW: the number, 32 bits. */
  NUMBER: 0,
  /** RO: its square, modulo 2^32. */
  SQUARE: 4,
} as const;

/** What a device is: reads and writes at offsets from the start of its range. It knows nothing else of the VM. */
class Squarer implements BusDevice {
  #number = 0;

  read(offset: number, size: AccessSize): number {
    // The guest may read with any width anywhere: what is no whole register reads as ones.
    if (size !== 4) return 0xffff_ffff;
    if (offset === REG.NUMBER) return this.#number;
    return offset === REG.SQUARE ? Math.imul(this.#number, this.#number) >>> 0 : 0xffff_ffff;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset === REG.NUMBER && size === 4) this.#number = value;
  }

  save() {
    return { kind: "squarer", version: 1, number: this.#number };
  }

  restore(state: unknown): void {
    const { number } = state as ReturnType<Squarer["save"]>;
    if (!Number.isInteger(number)) throw new TypeError(`number: expected an integer, got ${number}`);
    this.#number = number >>> 0;
  }
}

/** A port that prints: the other bus, the smallest device. */
const printer: BusDevice = {
  read: () => 0xffff_ffff,
  write: (_offset, _size, value) => console.log(`the guest says ${value}`),
};

const DEVICE_ADDRESS = 0xd_0000;
const PRINTER_PORT = 0xe9;
const LOAD_ADDRESS = 0x1000;
const RAM_BYTES = 0x8000;
// 16-bit code: the processor comes out of reset in real mode.
const CODE = Uint8Array.from([
  ...[0xb8, 0x00, 0xd0], //                                      mov  ax, 0xD000
  ...[0x8e, 0xd8], //                                            mov  ds, ax
  ...[0x66, 0xc7, 0x06, 0x00, 0x00, 0x39, 0x30, 0x00, 0x00], //  mov  dword [0], 12345
  ...[0x66, 0xa1, 0x04, 0x00], //                                mov  eax, [4]
  ...[0x66, 0xe7, PRINTER_PORT], //                              out  0xE9, eax
  0xf4, //                                                       hlt
]);

const engine = createSoftvtEngine();
const memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes }));
memory.addRam(0, RAM_BYTES);
memory.load(LOAD_ADDRESS, CODE);

const squarer = new Squarer();
memory.addMmio(DEVICE_ADDRESS, 8, squarer, "squarer");
memory.ports.add(PRINTER_PORT, 4, printer, "printer");

const clock = new InstructionClock();
await using vm = await Vm.create({ engine, memory, clock, interrupts: new IrqChip(clock, { vcpus: 1 }) });
vm.addPart("squarer", squarer);

const vcpu = vm.vcpus[0]!;
const state = vcpu.save();
state.cs.selector = 0;
state.cs.base = 0n;
state.rip = BigInt(LOAD_ADDRESS);
vcpu.restore(state);

// HLT with interrupts off: nothing could ever wake this guest, so the run ends.
const { kind } = await vm.run();
console.log(`the guest ${kind}`);
