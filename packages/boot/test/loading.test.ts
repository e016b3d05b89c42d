/** A plan carried out on a real address space: everything it says lies in RAM, and reads back there. */
import { AddressSpace, RamArena } from "@skep/memory";
import { describe, expect, it } from "vitest";
import { buildAcpi, pcMemoryMap, planLinuxBoot } from "../src/index.ts";
import { makeBzImage } from "./images.ts";

const MIB = 0x10_0000;

describe("a boot plan", () => {
  it("loads into a PC's RAM without touching its holes", () => {
    const ramBytes = 64 * MIB;
    const memory = new AddressSpace(RamArena.create({ ramBytes }));
    memory.addRam(0, 0xa0000);
    memory.addRam(MIB, ramBytes - MIB);
    const map = pcMemoryMap(ramBytes);
    const acpi = buildAcpi({ cpus: 4, region: map.acpi });
    const plan = planLinuxBoot({
      kernel: makeBzImage(),
      initrd: new Uint8Array(12345).fill(0x5a),
      commandLine: "console=ttyS0",
      memoryMap: map.entries,
      rsdp: acpi.rsdp,
      rngSeed: new Uint8Array(32),
    });
    for (const { address, bytes } of [...acpi.writes, ...plan.writes]) memory.load(address, bytes);
    expect(memory.dma.readU32(0x7202)).toBe(0x53726448);
    expect(memory.dma.readU64(0x9fc10)).toBe(0x2052545020445352n); // "RSD PTR "
    expect(memory.dma.readU8((plan.initrd?.base ?? 0) + 12344)).toBe(0x5a);
    expect(memory.dma.readU8((plan.initrd?.base ?? 0) + 12345)).toBe(0);
  });
});
