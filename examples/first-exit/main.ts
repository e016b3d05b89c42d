// A bare vCPU: ten bytes of guest code, and every VM exit that they cause.
import { AddressSpace, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import { CpuidModel, ExitReason, type VmExit } from "@skep/vcpu";

// 16-bit code: the processor comes out of reset in real mode.
const CODE = Uint8Array.from([
  ...[0xe4, 0x60], //             in   al, 0x60
  ...[0xfe, 0xc0], //             inc  al
  ...[0xe6, 0x80], //             out  0x80, al
  ...[0xa2, 0x00, 0x90], //       mov  [0x9000], al    nothing is mapped there
  0xf4, //                        hlt
]);
const LOAD_ADDRESS = 0x1000;
const RAM_BYTES = 0x8000;

const engine = createSoftvtEngine();
const memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes }));
memory.addRam(0, RAM_BYTES);
memory.load(LOAD_ADDRESS, CODE);

const tscHz = 1_000_000_000;
const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus: 1, tscHz });
const vm = await engine.createVm({ memory, vcpus: 1, tscHz, cpuid });
const vcpu = vm.createVcpu(0);
const state = vcpu.save();
state.cs.selector = 0;
state.cs.base = 0n;
state.rip = BigInt(LOAD_ADDRESS);
vcpu.restore(state);

let exit: VmExit;
do {
  exit = vcpu.run({ budget: 1000, tsc: 0n, tscPerInstruction: 1, interruptWindow: false, singleStep: false });
  const name = Object.entries(ExitReason).find(([, reason]) => reason === exit.reason)?.[0];
  console.log(name, JSON.stringify(exit));
  if (exit.reason === ExitReason.IoInstruction && exit.direction === "in") exit.data = 41;
} while (exit.reason !== ExitReason.Hlt);
await vm.close();
