// one-processor-guest.ts WAY: runs, on the one processor that this process was given and with `vcpuThreads` as told, a guest that exits without a pause, computes until the event
// loop has had a turn, and exits again; it is paused and gone on with in both. Ends with status 7 where all came.
import { deepStrictEqual } from "node:assert";
import { availableParallelism } from "node:os";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { KvmMachine } from "@skep/vcpu/kvm/testing";

const EXITS = 2000;
/** 16 bits, at 0x8000. */
const CODE = Uint8Array.of(
  ...[0xb9, EXITS & 0xff, EXITS >> 8], // mov cx, EXITS
  ...[0x88, 0xc8], // first: mov al, cl
  ...[0xe6, 0xe9], // out 0xe9, al
  ...[0xe2, 0xfa], // loop first
  ...[0x66, 0xff, 0x06, 0x00, 0x30], // wait: inc dword ptr [0x3000]
  ...[0x80, 0x3e, 0x04, 0x30, 0x00], // cmp byte ptr [0x3004], 0
  ...[0x74, 0xf4], // je wait
  ...[0xb9, EXITS & 0xff, EXITS >> 8], // mov cx, EXITS
  ...[0x88, 0xc8], // second: mov al, cl
  ...[0xe6, 0xe9], // out 0xe9, al
  ...[0xe2, 0xfa], // loop second
  ...[0xe6, 0xf4], // out 0xf4, al
  0xf4, // hlt
);

deepStrictEqual(availableParallelism(), 1);
const machine = await KvmMachine.create(
  createKvmEngine({ vcpuThreads: process.argv[2] as "always" | "auto" }),
);
machine.start("real", CODE);

// By itself the engine spares the single vCPU a thread.
deepStrictEqual(machine.kvm.threads!.sharesThread ?? false, process.argv[2] === "auto");

const pauseAndGoOn = async (): Promise<void> => {
  await machine.vm.pause();
  const { rip } = machine.state;
  await new Promise((done) => setTimeout(done, 5));
  deepStrictEqual(machine.state.rip, rip);
  machine.vm.resume();
};
machine.onOutput = () => {
  if (machine.output.length === EXITS / 2) void pauseAndGoOn();
};
const outcome = machine.run();
await machine.changed(0x3000, 0);
await pauseAndGoOn();
await machine.changed(0x3000, machine.memory.dma.readU32(0x3000)!);
machine.memory.dma.writeU32(0x3004, 1);
deepStrictEqual(await outcome, { kind: "poweroff" });
const once = Array.from({ length: EXITS }, (_, i) => (EXITS - i) & 0xff);
deepStrictEqual(machine.output, [...once, ...once]);
await machine.close();
process.exit(7);
