import { IoApic } from "@skep/chipset";
import { AddressSpace, RamArena } from "@skep/memory";
import { RealClock, Vm } from "@skep/vcpu";
import { createKvmEngine, KvmLocalApics } from "@skep/vcpu/kvm";
import { startImage } from "@skep/vcpu/testing";
import { expect, it } from "vitest";

const engine = createKvmEngine();
const { usable, evidence } = await engine.probe();
const isHere = usable || evidence.includes("this KVM emulates");

/**
 * 32-bit: sets I/O APIC input 20 to vector 0x45, level-triggered; says 1 when it is ready. The handler says 2, lowers
 * the line by port 0x501, and ends the interrupt; after the third the machine is turned off.
 */
const GUEST = Uint8Array.from([
  ...[0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00], // mov dword ptr [0xfee000f0], 0x1ff
  ...[0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x39, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00000], 0x39
  ...[0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x00, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00010], 0
  ...[0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x38, 0x00, 0x00, 0x00], // mov dword ptr [0xfec00000], 0x38
  ...[0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x45, 0x80, 0x00, 0x00], // mov dword ptr [0xfec00010], 0x8045
  ...[0xb0, 0x01, 0xe6, 0xe9], // mov al, 1; out 0xe9, al
  ...[0xfb, 0xf4, 0xeb, 0xfd], // sti; again: hlt; jmp again
]);
const HANDLER = Uint8Array.from([
  ...[0xb0, 0x02, 0xe6, 0xe9], // mov al, 2; out 0xe9, al
  ...[0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x00], // mov dword ptr [0xfee000b0], 0
  ...[0xfb, 0xf4, 0xeb, 0xfd], // sti; again: hlt; jmp again
]);

it("KVM's local APICs with our I/O APIC: a line that stays up interrupts again at each end of interrupt", async (test) => {
  if (!isHere) test.skip(evidence);
  const memory = new AddressSpace(RamArena.create({ ramBytes: 0x10_0000 }));
  memory.addRam(0, 0x10_0000);
  const apics = new KvmLocalApics({ vcpus: 1 });
  const ioapic = new IoApic((message) => apics.deliver(message));
  const ends: number[] = [];
  apics.onEndOfInterrupt = (vector) => {
    ends.push(vector);
    ioapic.endOfInterrupt(vector);
  };
  memory.addMmio(0xfec0_0000, 0x1000, ioapic, "I/O APIC");
  const vm = await Vm.create({
    engine,
    memory,
    clock: new RealClock({ tscHz: engine.tscHz! }),
    interrupts: apics,
  });
  vm.addPart("local APICs", apics);
  const output: number[] = [];
  const write = (_offset: number, _size: number, value: number): void => {
    output.push(value);
    if (output.length === 1) ioapic.setPin(20, true);
    if (output.length === 4) vm.powerOff();
  };
  memory.ports.add(0xe9, 1, { read: () => 0, write }, "debug port");
  const { state, memory: image } = startImage("protected");
  for (const [address, bytes] of image) memory.load(address, bytes);
  memory.load(0x8000, GUEST);
  memory.load(0xa000, HANDLER);
  // Gate 0x45 of the IDT at 0x2000: selector 8, offset 0xA000, 32-bit interrupt gate.
  memory.load(0x2000 + 8 * 0x45, Uint8Array.of(0x00, 0xa0, 0x08, 0x00, 0x00, 0x8e, 0x00, 0x00));
  vm.vcpus[0]!.restore(state);
  const timer = setTimeout(() => void vm.stop(), 20_000);
  expect(await vm.run()).toEqual({ kind: "poweroff" });
  clearTimeout(timer);
  expect(output).toEqual([1, 2, 2, 2]);
  expect(ends.slice(0, 2)).toEqual([0x45, 0x45]);
  const saved = vm.save();
  vm.restore(structuredClone(saved));
  expect(vm.save().parts).toEqual(saved.parts);
  await vm.close();
});
