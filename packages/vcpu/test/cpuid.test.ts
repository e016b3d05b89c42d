import {
  CPUID_MODELS,
  CpuidModel,
  type CpuidTable,
  cpuidFeature,
  cpuidFeatureNames,
  StateError,
} from "@skep/vcpu";
import { everyFeature } from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const tscHz = 2_500_000_000;
const nothing: CpuidTable = { query: () => ({ eax: 0, ebx: 0, ecx: 0, edx: 0 }) };

const chars = (...words: number[]): string =>
  words
    .flatMap((word) => [0, 8, 16, 24].map((shift) => String.fromCharCode((word >>> shift) & 0xff)))
    .join("");

describe("feature table", () => {
  // SDM Vol. 2A, CPUID, tables 3-8 (leaf 7), 3-10, 3-11 (leaf 1); APM Vol. 3 app. E for 0x8000_0001.
  it.each([
    ["sse2", 1, "edx", 26],
    ["cx16", 1, "ecx", 13],
    ["popcnt", 1, "ecx", 23],
    ["tsc_deadline_timer", 1, "ecx", 24],
    ["hypervisor", 1, "ecx", 31],
    ["smep", 7, "ebx", 7],
    ["erms", 7, "ebx", 9],
    ["smap", 7, "ebx", 20],
    ["arch_capabilities", 7, "edx", 29],
    ["syscall", 0x8000_0001, "edx", 11],
    ["nx", 0x8000_0001, "edx", 20],
    ["pdpe1gb", 0x8000_0001, "edx", 26],
    ["rdtscp", 0x8000_0001, "edx", 27],
    ["lm", 0x8000_0001, "edx", 29],
    ["lahf_lm", 0x8000_0001, "ecx", 0],
    ["invariant_tsc", 0x8000_0007, "edx", 8],
  ] as const)("has %s at leaf %i %s bit %i", (name, leaf, register, bit) => {
    expect(cpuidFeature(name)).toEqual({ leaf, subleaf: 0, register, bit });
  });

  it("names every flag once", () => {
    const names = cpuidFeatureNames();
    const places = names.map((name) => JSON.stringify(cpuidFeature(name)));
    expect(new Set(places).size).toBe(names.length);
    expect(names.length).toBeGreaterThan(200);
  });
});

describe("CpuidModel", () => {
  it("is a processor that Linux knows not to speculate", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz });
    const leaf0 = model.query(0, 0, 0);
    expect(chars(leaf0.ebx, leaf0.edx, leaf0.ecx)).toBe("GenuineIntel");
    // Family 6, model 0x36 (INTEL_FAM6_ATOM_SALTWELL), stepping 1.
    expect(model.query(0, 1, 0).eax).toBe(0x0003_0661);
  });

  it("offers the psABI's level 2, what 64-bit kernels need, and of level 3 what needs no AVX", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz });
    for (const name of [
      "cx16",
      "lahf_lm",
      "popcnt",
      "sse4_1",
      "sse4_2",
      "ssse3",
      "lm",
      "nx",
      "pae",
      "aes",
      "bmi2",
      "movbe",
      "xsave",
    ] as const) {
      expect(model.has(name), name).toBe(true);
    }
    for (const name of ["avx", "avx2", "fma", "xsaveopt", "vmx", "monitor", "rtm"] as const) {
      expect(model.has(name), name).toBe(false);
    }
    // x87 and SSE: the legacy region and the header (SDM Vol. 1 sec. 13.4).
    expect(model.query(0, 0xd, 0)).toEqual({ eax: 3, ebx: 576, ecx: 576, edx: 0 });
  });

  it("offers of the engine's flags only what the engine has, and always what the platform backs", () => {
    const model = new CpuidModel(nothing, { vcpus: 1, tscHz });
    expect(model.features()).toEqual(
      [
        "apic",
        "mtrr",
        "mce",
        "mca",
        "pat",
        "x2apic",
        "tsc_deadline_timer",
        "hypervisor",
        "arat",
        "arch_capabilities",
        "invariant_tsc",
      ].sort((a, b) => order(a) - order(b)),
    );
    function order(name: string): number {
      return cpuidFeatureNames().indexOf(name);
    }
  });

  it("offers OSXSAVE exactly where it offers XSAVE", () => {
    const v3 = new CpuidModel(everyFeature(), { vcpus: 1, tscHz, model: "x86-64-v3" });
    expect([v3.has("xsave"), v3.has("osxsave"), v3.has("avx2")]).toEqual([true, true, true]);
    expect(v3.query(0, 0xd, 0)).toMatchObject({ eax: 7, ebx: 832, ecx: 832 });
    expect(v3.query(0, 0xd, 2)).toMatchObject({ eax: 256, ebx: 576 });
    const without = new CpuidModel(everyFeature(), { vcpus: 1, tscHz, add: ["osxsave"], remove: ["xsave"] });
    expect([without.has("xsave"), without.has("osxsave")]).toEqual([false, false]);
    expect(without.query(0, 0xd, 0)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it("adds and removes flags by name", () => {
    const options = { vcpus: 1, tscHz, add: ["aes"], remove: ["sse4_2", "hypervisor"] } as const;
    const model = new CpuidModel(everyFeature(), options);
    expect(model.has("aes")).toBe(true);
    expect(model.has("sse4_2")).toBe(false);
    expect(model.query(0, 0x4000_0000, 0).eax).toBe(0);
    expect(() => new CpuidModel(nothing, { vcpus: 1, tscHz, add: ["nonsense" as never] })).toThrow(
      /nonsense/,
    );
    expect(() => new CpuidModel(nothing, { vcpus: 1, tscHz, model: "z80" as never })).toThrow(/x86-64-v2/);
    expect(() => new CpuidModel(nothing, { vcpus: 0, tscHz })).toThrow(/vcpus/);
  });

  it("shows the topology: one package, one thread a core", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 3, tscHz });
    for (const id of [0, 1, 2]) {
      const { ebx, edx } = model.query(id, 1, 0);
      expect(ebx >>> 24).toBe(id);
      expect((ebx >>> 16) & 0xff).toBe(3);
      expect((ebx >>> 8) & 0xff).toBe(8);
      expect((edx >>> 28) & 1).toBe(1);
      // Leaf 0xB: SMT level (type 1) with one processor, core level (type 2) with three, then the end.
      expect(model.query(id, 0xb, 0)).toEqual({ eax: 0, ebx: 1, ecx: 0x100, edx: id });
      expect(model.query(id, 0xb, 1)).toEqual({ eax: 2, ebx: 3, ecx: 0x201, edx: id });
      expect(model.query(id, 0xb, 2)).toEqual({ eax: 0, ebx: 0, ecx: 2, edx: id });
    }
    expect(new CpuidModel(everyFeature(), { vcpus: 1, tscHz }).query(0, 1, 0).edx & (1 << 28)).toBe(0);
  });

  it("ends the list of caches with a null type", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz });
    const types = [0, 1, 2, 3].map((subleaf) => model.query(0, 4, subleaf).eax & 0x1f);
    expect(types).toEqual([1, 2, 3, 0]);
    const { ebx, ecx } = model.query(0, 4, 2);
    const bytes = ((ebx >>> 22) + 1) * ((ebx & 0xfff) + 1) * (ecx + 1);
    expect(bytes).toBe(1024 * 1024);
  });

  it("tells the clocks, so that nobody has to measure them", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz });
    const { eax, ebx, ecx } = model.query(0, 0x15, 0);
    expect((ecx * ebx) / eax).toBe(tscHz);
    expect(ecx).toBe(1_000_000_000);
    expect(model.query(0, 0x16, 0).eax).toBe(2500);
    const signature = model.query(0, 0x4000_0000, 0);
    expect(chars(signature.ebx, signature.ecx, signature.edx)).toBe("skepskepskep");
    expect(model.query(0, 0x4000_0010, 0)).toMatchObject({ eax: 2_500_000, ebx: 1_000_000 });
  });

  it.each([2_596_132_000, 2_596_118_431, 3_500_000_000, 24_000_000, 1_000_000_000])(
    "tells a TSC of %i Hz by a fraction that Linux's 32 bits can work with",
    (hz) => {
      const { eax, ebx, ecx } = new CpuidModel(everyFeature(), { vcpus: 1, tscHz: hz }).query(0, 0x15, 0);
      expect(ecx).toBe(1_000_000_000);
      // native_calibrate_tsc: kHz of the crystal times the numerator, in an unsigned int.
      expect((ecx / 1000) * ebx).toBeLessThan(2 ** 32);
      expect(Math.abs((ecx * ebx) / eax / hz - 1)).toBeLessThan(2e-6);
    },
  );

  it("leaves the TSC to be measured where no such fraction comes near", () => {
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz: 2_000_200_000 });
    expect(model.query(0, 0x15, 0)).toEqual({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
  });

  it("limits address sizes to the engine's", () => {
    const size = (eax: number): number => {
      const supported: CpuidTable = {
        query: (_, leaf) => ({ eax: leaf === 0x8000_0008 ? eax : 0, ebx: 0, ecx: 0, edx: 0 }),
      };
      return new CpuidModel(supported, { vcpus: 1, tscHz }).query(0, 0x8000_0008, 0).eax;
    };
    expect(size((48 << 8) | 39)).toBe((48 << 8) | 39);
    expect(size((48 << 8) | 52)).toBe((48 << 8) | 46);
    expect(size(0)).toBe((48 << 8) | 36);
  });

  it("gives a brand of at most 47 characters", () => {
    const data = { ...CPUID_MODELS["x86-64-v2"], brand: "x".repeat(60) };
    const model = new CpuidModel(everyFeature(), { vcpus: 1, tscHz, model: data });
    const brand = [2, 3, 4].map((n) => {
      const { eax, ebx, ecx, edx } = model.query(0, 0x8000_0000 + n, 0);
      return chars(eax, ebx, ecx, edx);
    });
    expect(brand.join("")).toBe(`${"x".repeat(47)}\0`);
  });

  it("repeats leaf 1's flags on AMD, as AMD does", () => {
    const data = { ...CPUID_MODELS["x86-64-v2"], vendor: "AuthenticAMD", family: 0x19, model: 1 } as const;
    const model = new CpuidModel(everyFeature(), { vcpus: 2, tscHz, model: data });
    expect(model.query(0, 1, 0).eax).toBe(0x00a0_0f11);
    expect(model.query(0, 0x8000_0001, 0).edx & 1).toBe(1);
    const { ebx, ecx, edx } = model.query(0, 0x8000_0000, 0);
    expect(chars(ebx, edx, ecx)).toBe("AuthenticAMD");
  });

  it("offers all that the engine has as model host", () => {
    const host: CpuidTable = {
      query: (_, leaf) => {
        if (leaf === 0) return { eax: 0x20, ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 };
        if (leaf === 1) return { eax: 0x00a2_0f12, ebx: 0, ecx: 1 << 25, edx: 0x0781_abfd };
        if (leaf === 0x8000_0008) return { eax: (48 << 8) | 48, ebx: 0, ecx: 0, edx: 0 };
        return { eax: 0, ebx: 0, ecx: 0, edx: 0 };
      },
    };
    const model = new CpuidModel(host, { vcpus: 1, tscHz, model: "host", remove: ["sse2"] });
    expect(model.model).toMatchObject({ vendor: "AuthenticAMD", family: 0x19, model: 0x21, stepping: 2 });
    expect(model.query(0, 1, 0).eax).toBe(0x00a2_0f12);
    expect([model.has("aes"), model.has("fxsr"), model.has("sse2")]).toEqual([true, true, false]);
    expect(model.physicalBits).toBe(48);
  });
});

describe("on KVM", () => {
  const ones = 0xffff_ffff;
  /** As KVM_GET_SUPPORTED_CPUID has it: KVM's leaves from 0x40000000, AVX-512's components where Intel has them. */
  const kvm: CpuidTable = {
    query: (_index, leaf, subleaf) => {
      if (leaf === 0x4000_0000) return { eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d };
      if (leaf === 0x4000_0001) return { eax: ones, ebx: 0, ecx: 0, edx: 0 };
      if (leaf !== 0xd) return everyFeature().query(0, leaf, subleaf);
      const [eax, ebx] = [
        [0xe7, 2688],
        [0xf, 0],
        [256, 576],
        [0, 0],
        [0, 0],
        [64, 1088],
        [512, 1152],
        [1024, 1664],
      ][subleaf] ?? [0, 0];
      return { eax: eax!, ebx: ebx!, ecx: 0, edx: 0 };
    },
  };

  it("kvmclock is offered at 0x40000100, below the hypervisor's own leaves", () => {
    const cpuid = new CpuidModel(kvm, { vcpus: 1, tscHz });
    const { eax, ebx, ecx, edx } = cpuid.query(0, 0x4000_0100, 0);
    expect([eax, chars(ebx, ecx, edx)]).toEqual([0x4000_0101, "KVMKVMKVM\0\0\0"]);
    // Clock by old and new MSRs, no I/O delay, stable clock (Documentation/virt/kvm/x86/cpuid.rst).
    expect(cpuid.query(0, 0x4000_0101, 0)).toEqual({ eax: 0x0100_000b, ebx: 0, ecx: 0, edx: 0 });
    expect(new CpuidModel(everyFeature(), { vcpus: 1, tscHz }).query(0, 0x4000_0100, 0).eax).toBe(0);
  });

  it("leaf 0xD describes the components whose flags are offered, where the processor has them", () => {
    const host = new CpuidModel(kvm, { model: "host", vcpus: 1, tscHz });
    expect(host.query(0, 0xd, 0)).toMatchObject({ eax: 0xe7, ebx: 2688, ecx: 2688 });
    expect(host.query(0, 0xd, 7)).toMatchObject({ eax: 1024, ebx: 1664 });
    const without = new CpuidModel(kvm, { model: "host", remove: ["avx512f"], vcpus: 1, tscHz });
    expect(without.query(0, 0xd, 0)).toMatchObject({ eax: 7, ebx: 832, ecx: 832 });
    expect(without.query(0, 0xd, 7)).toMatchObject({ eax: 0, ebx: 0 });
  });
});

describe("several engines", () => {
  const without = (leaf: number, register: "ebx" | "ecx", bit: number, size = 0x3028): CpuidTable => ({
    query: (index, at, subleaf) => {
      const all = { ...everyFeature().query(index, at, subleaf) };
      if (at === 0x8000_0008) all.eax = size;
      if (at === leaf) all[register] = (all[register] & ~(1 << bit)) >>> 0;
      return all;
    },
  });
  const [one, other] = [without(1, "ecx", 30), without(7, "ebx", 18, 0x3930)];

  it("show the same within each other's limits: flags and address sizes", () => {
    const first = new CpuidModel(one, { vcpus: 2, tscHz, within: [other] });
    const second = new CpuidModel(other, { vcpus: 2, tscHz, within: [one, other] });
    expect([first.has("rdrand"), first.has("rdseed"), first.has("aes")]).toEqual([false, false, true]);
    expect(first.query(0, 0x8000_0008, 0).eax).toBe(0x3028);
    expect(second.save()).toEqual(first.save());
    second.check(structuredClone(first.save()));
  });

  it("hide KVM's own leaves where one has none", () => {
    const kvm: CpuidTable = {
      query: (_index, leaf, subleaf) => {
        if (leaf === 0x4000_0000) return { eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d };
        return one.query(0, leaf, subleaf);
      },
    };
    const highest = (within: CpuidTable[]): number =>
      new CpuidModel(kvm, { vcpus: 1, tscHz, within }).query(0, 0x4000_0100, 0).eax;
    expect(highest([])).toBe(0x4000_0101);
    expect(highest([kvm])).toBe(0x4000_0101);
    expect(highest([one])).toBe(0);
  });

  it("are told apart by what a guest has seen: the register and its flags", () => {
    const saved = new CpuidModel(one, { vcpus: 1, tscHz }).save();
    const check = (state: unknown) => () => new CpuidModel(other, { vcpus: 1, tscHz }).check(state);
    expect(check(saved)).toThrow(StateError);
    expect(check(saved)).toThrow(
      /cpuid\.leaves\[0x1\.0\]\.ecx: expected 0x\w+, which this VM has \(they differ in rdrand\)/,
    );
    expect(check({ ...saved, leaves: undefined })).toThrow("cpuid.leaves: expected an array");
    expect(check({ ...saved, leaves: [null, { leaf: 1 }] })).toThrow(StateError);
  });
});
