import { MsrModel, type MsrModelOptions, msrName } from "@skep/vcpu";
import { FakeInterrupts } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const options: MsrModelOptions = { vcpus: 2, physicalBits: 46, tscHz: 2_000_000_000 };
const make = (more: Partial<MsrModelOptions> = {}) =>
  new MsrModel(new FakeInterrupts(2), { ...options, ...more });

describe("MsrModel", () => {
  // Registers that Linux 6.1 reads with rdmsr that must not fault ("unchecked MSR access error"), on a
  // family 6 processor with the model's features, and the firmware's.
  it.each([
    [0x17, 0n],
    [0x8b, 0x107_0000_0000n],
    [0xfe, 0x508n],
    [0x179, 0x104n],
    [0x17a, 0n],
    [0x1a0, 0x1801n],
    [0x1d9, 0n],
    [0x277, 0x0007_0406_0007_0406n],
    [0x2ff, 0n],
    [0x3a, 1n],
    [0xce, 20n << 8n],
    [0x400, 0n],
    [0x40f, 0n],
    [0xc1, 0n],
    [0x186, 0n],
  ])("resets MSR 0x%s", (index, value) => {
    expect(make().read(0, index)).toBe(value);
  });

  it("says what the processor is not affected by", () => {
    // RDCL_NO 0, SKIP_L1DFL 3, SSB_NO 4, MDS_NO 5, PSCHANGE_MC_NO 6, TAA_NO 8, SBDR 13, FBSDP 14, PSDP 15,
    // BHI_NO 20, PBRSB_NO 24, GDS_NO 26, RFDS_NO 27, ITS_NO 62; IBRS_ALL 1 and RSBA 2 clear.
    const bits = [0, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62];
    expect(make().read(0, 0x10a)).toBe(bits.reduce((value, bit) => value | (1n << BigInt(bit)), 0n));
  });

  it("keeps MTRRs of each vCPU and refuses reserved types and bits", () => {
    const msrs = make();
    expect(msrs.write(0, 0x2ff, 0xc06n)).toBe(true);
    expect(msrs.read(0, 0x2ff)).toBe(0xc06n);
    expect(msrs.read(1, 0x2ff)).toBe(0n);
    expect(msrs.write(0, 0x2ff, 2n)).toBe(false);
    expect(msrs.write(0, 0x2ff, 0x1006n)).toBe(false);
    expect(msrs.write(0, 0x200, 0xc000_0000n)).toBe(true);
    expect(msrs.write(0, 0x200, 0xc000_0003n)).toBe(false);
    expect(msrs.write(0, 0x200, 0x100n)).toBe(false);
    expect(msrs.write(0, 0x201, 0x3fff_c000_0800n)).toBe(true);
    expect(msrs.write(0, 0x201, 1n << 46n)).toBe(false);
    expect(msrs.write(0, 0x201, 1n)).toBe(false);
    expect(msrs.write(0, 0x250, 0x0606_0606_0606_0606n)).toBe(true);
    expect(msrs.write(0, 0x268, 0x0606_0606_0606_0602n)).toBe(false);
    expect(msrs.write(0, 0xfe, 0n)).toBe(false);
    expect(msrs.write(0, 0x210, 0n)).toBe(false);
  });

  it.each([
    // Holes and the variable ranges that cover them: base and size.
    [0xc000_0000, [[0xc000_0000, 0x4000_0000]]],
    [0x8000_0000, [[0x8000_0000, 0x8000_0000]]],
    [
      0xe000_0000 - 0x1000_0000,
      [
        [0xd000_0000, 0x1000_0000],
        [0xe000_0000, 0x2000_0000],
      ],
    ],
  ])("presets MTRRs as firmware does, uncached from 0x%s on", (hole, ranges) => {
    const msrs = make();
    msrs.presetMtrrs(hole as number);
    expect(msrs.read(1, 0x2ff)).toBe(0xc06n);
    expect(msrs.read(0, 0x250)).toBe(0x0606_0606_0606_0606n);
    expect(msrs.read(0, 0x259)).toBe(0n);
    expect(msrs.read(0, 0x26f)).toBe(0x0505_0505_0505_0505n);
    (ranges as [number, number][]).forEach(([base, size], i) => {
      expect(msrs.read(0, 0x200 + 2 * i)).toBe(BigInt(base));
      expect(msrs.read(0, 0x201 + 2 * i)).toBe((0x3fff_ffff_ffffn - BigInt(size) + 1n) | 0x800n);
    });
    expect(msrs.read(0, 0x201 + 2 * (ranges as unknown[]).length)).toBe(0n);
    // What it sets, a guest could have set: it survives save and restore.
    const other = make();
    other.restore(structuredClone(msrs.save()));
    expect(other.save()).toEqual(msrs.save());
  });

  it("refuses a hole that eight ranges cannot cover", () => {
    expect(() => make().presetMtrrs(0x1010_1000)).toThrow(/holeStart/);
  });

  it("hands local APIC registers to the interrupt controller", () => {
    const interrupts = new FakeInterrupts(2);
    const msrs = new MsrModel(interrupts, options);
    interrupts.localApic(1).msrs.set(0x6e0, 7n).set(0x80b, 0n);
    expect(msrs.read(1, 0x6e0)).toBe(7n);
    expect(msrs.write(1, 0x80b, 0n)).toBe(true);
    expect(msrs.write(0, 0x80b, 0n)).toBe(false);
    expect(msrs.read(0, 0x8ff)).toBeUndefined();
    expect(new MsrModel(undefined, options).read(0, 0x1b)).toBeUndefined();
  });

  it("takes the microcode dance: write 0, CPUID, read", () => {
    const msrs = make({ microcode: 0x2b00_0639 });
    expect(msrs.write(0, 0x8b, 0n)).toBe(true);
    expect(msrs.read(0, 0x8b)).toBe(0x2b00_0639_0000_0000n);
  });

  it("lets machine-check banks be cleared, not filled", () => {
    const msrs = make();
    expect(msrs.write(0, 0x400, 0xffff_ffff_ffff_ffffn)).toBe(true);
    expect(msrs.write(0, 0x401, 0n)).toBe(true);
    expect(msrs.write(0, 0x401, 1n)).toBe(false);
    expect(msrs.read(0, 0x410)).toBeUndefined();
  });

  it("refuses reserved bits of MISC_ENABLE and PAT", () => {
    const msrs = make();
    expect(msrs.write(0, 0x1a0, 0x1801n | (1n << 22n))).toBe(true);
    expect(msrs.write(0, 0x1a0, 0x1801n | (1n << 11n))).toBe(true);
    expect(msrs.write(0, 0x1a0, 0n)).toBe(false);
    expect(msrs.write(0, 0x277, 0x0106_0007_0106_0007n)).toBe(true);
    expect(msrs.write(0, 0x277, 0x0206_0007_0106_0007n)).toBe(false);
  });

  it("faults on unknown registers and reports each once", () => {
    const seen: string[] = [];
    const msrs = make({ onUnknown: ({ index, direction }) => seen.push(`${direction} ${msrName(index)}`) });
    for (let i = 0; i < 3; i++) {
      expect(msrs.read(0, 0x9999)).toBeUndefined();
      expect(msrs.write(0, 0x9999, 1n)).toBe(false);
    }
    expect(seen).toEqual(["read 0x9999", "write 0x9999"]);
    expect(msrs.unknownAccesses).toBe(6);
  });

  it("does not report what guests only probe for", () => {
    const seen: unknown[] = [];
    const msrs = make({ onUnknown: (access) => seen.push(access) });
    for (const index of [0x140, 0x48, 0x4000_0000, 0x4b56_4d01, 0x606, 0xc001_0015]) {
      expect(msrs.read(0, index)).toBeUndefined();
    }
    expect(seen).toEqual([]);
    expect(msrs.unknownAccesses).toBe(0);
  });

  it("remembers a bounded number of a guest's attempts", () => {
    let reports = 0;
    const msrs = make({ onUnknown: () => reports++ });
    for (let i = 0; i < 5000; i++) msrs.read(0, 0x5000_0000 + i);
    expect(msrs.unknownAccesses).toBe(5000);
    expect(reports).toBeLessThanOrEqual(256);
  });

  it("has AMD's registers on AMD's processors", () => {
    const amd = make({ vendor: "AuthenticAMD" });
    expect(amd.read(0, 0xc001_0015)).toBe(0n);
    expect(amd.read(0, 0xc001_1029)).toBe(2n);
    expect(amd.write(0, 0xc001_001f, 1n << 46n)).toBe(true);
    expect(make().read(0, 0xc001_1029)).toBeUndefined();
  });

  it("resets, saves and restores", () => {
    const msrs = make();
    msrs.write(1, 0x2ff, 0xc00n);
    const state = structuredClone(msrs.save());
    msrs.reset();
    expect(msrs.read(1, 0x2ff)).toBe(0n);
    msrs.restore(state);
    expect(msrs.read(1, 0x2ff)).toBe(0xc00n);
    const broken = (change: (values: Record<string, unknown>) => void): unknown => {
      const copy = structuredClone(state);
      change(copy.vcpus[1]!.values);
      return copy;
    };
    for (const bad of [
      null,
      { ...state, version: 2 },
      { ...state, vcpus: [] },
      { ...state, vcpus: [{ values: {} }, null] },
      broken((values) => {
        values["2ff"] = 0xffffn;
      }),
      broken((values) => {
        values["2ff"] = 6;
      }),
      broken((values) => {
        values["9999"] = 0n;
      }),
      broken((values) => {
        values["10a"] = 0n;
      }),
    ]) {
      expect(() => msrs.restore(bad)).toThrow(/msrs/);
      expect(msrs.read(1, 0x2ff)).toBe(0xc00n);
    }
  });
});
