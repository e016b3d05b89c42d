// Makes the softvt engine, a vCPU and one page of code whose first instruction exits, and says so: the parent times
// it from the start of this process. From dist, as an embedder's program would.
import { AddressSpace, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import { CpuidModel } from "@skep/vcpu";

const RAM_BYTES = Number(process.argv[2]);
const LOAD_ADDRESS = 0x1000;
const OUT_80_AL = [0xe6, 0x80];

const engine = createSoftvtEngine();
const memory = new AddressSpace(RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes }));
memory.addRam(0, RAM_BYTES);
memory.load(LOAD_ADDRESS, Uint8Array.from(OUT_80_AL));
const tscHz = 1_000_000_000;
const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus: 1, tscHz });
const vm = await engine.createVm({ memory, vcpus: 1, tscHz, cpuid });
const vcpu = vm.createVcpu(0);
const state = vcpu.save();
state.cs.selector = 0;
state.cs.base = 0n;
state.rip = BigInt(LOAD_ADDRESS);
vcpu.restore(state);
const exit = vcpu.run({
  budget: 10,
  tsc: 0n,
  tscPerInstruction: 1,
  interruptWindow: false,
  singleStep: false,
});
process.stdout.write(`port ${exit.port}\n`);
await vm.close();
