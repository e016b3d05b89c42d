import { describe, expect, it } from "vitest";
import {
  BootError,
  type E820Entry,
  type LinuxBootOptions,
  type LinuxBootPlan,
  pcMemoryMap,
  planLinuxBoot,
} from "../src/index.ts";
import { randomBytes, resetState, WrittenMemory } from "./guest.ts";
import { makeBzImage } from "./images.ts";

const MIB = 0x10_0000;
const memoryMap = pcMemoryMap(256 * MIB).entries;

function plan(options: Partial<LinuxBootOptions> = {}): LinuxBootPlan {
  return planLinuxBoot({ kernel: makeBzImage(), memoryMap, ...options });
}

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof BootError) return error.code;
    throw error;
  }
  return "no error";
}

describe("64-bit entry of a bzImage", () => {
  const boot = plan({
    commandLine: "console=ttyS0 quiet",
    rsdp: 0x9fc10,
    initrd: new Uint8Array(5000).fill(9),
  });
  const memory = new WrittenMemory(boot.writes);

  it("loads the protected-mode kernel at the preferred address", () => {
    expect(boot.entry).toBe("bzimage64");
    expect(boot.entryPoint).toBe(0x1000200);
    expect(memory.u8(0x1000001)).toBe(7);
    expect(memory.u8(0x10003ff)).toBe((0x3ff * 7) & 0xff);
  });

  it("fills the zero page (zero-page.rst)", () => {
    const zero = 0x7000;
    expect(memory.u16(zero + 0x1fe)).toBe(0xaa55);
    expect(memory.text(zero + 0x202, 4)).toBe("HdrS");
    expect(memory.u8(zero + 0x1ef)).toBe(0); // sentinel
    expect(memory.u8(zero + 0x210)).toBe(0xff); // type_of_loader
    expect(memory.u8(zero + 0x211)).toBe(0x01); // LOADED_HIGH, no heap
    expect(memory.u16(zero + 0x1fa)).toBe(0xffff); // vid_mode
    expect(memory.u32(zero + 0x214)).toBe(0x1000000); // code32_start
    expect(memory.u64(zero + 0x070)).toBe(0x9fc10n); // acpi_rsdp_addr
    expect(memory.cString(memory.u32(zero + 0x228))).toBe("console=ttyS0 quiet");
    expect(memory.u64(zero + 0x250)).toBe(0n); // no setup_data
  });

  it("passes the memory map on", () => {
    expect(memory.u8(0x71e8)).toBe(memoryMap.length);
    for (const [i, entry] of memoryMap.entries()) {
      const at = 0x72d0 + i * 20;
      expect([memory.u64(at), memory.u64(at + 8), memory.u32(at + 16)]).toEqual([
        BigInt(entry.base),
        BigInt(entry.bytes),
        entry.type,
      ]);
    }
  });

  it("puts the initrd at the end of low RAM, on a page", () => {
    const address = memory.u32(0x7218);
    expect(address).toBe(256 * MIB - 0x20000 - 0x2000);
    expect(memory.u32(0x721c)).toBe(5000);
    expect(memory.u8(address + 4999)).toBe(9);
    expect(boot.initrd).toEqual({ base: address, bytes: 5000 });
  });

  it("enters long mode as boot.rst's 64-bit protocol asks", () => {
    const state = resetState();
    boot.applyTo(state);
    expect(state.rip).toBe(0x1000200n);
    expect(state.gpr[6]).toBe(0x7000n); // RSI
    expect(state.rflags).toBe(2n);
    expect(state.cs).toEqual({ selector: 0x10, base: 0n, limit: 0xffffffff, access: 0xa09b });
    for (const name of ["ds", "es", "ss"] as const) {
      expect(state[name]).toEqual({ selector: 0x18, base: 0n, limit: 0xffffffff, access: 0xc093 });
    }
    expect(state.tr.access).toBe(0x8b);
    expect(state.ldtr.access & 0x10000).not.toBe(0);
    expect(state.cr0).toBe(0x80000011n);
    expect(state.cr4).toBe(0x20n);
    expect(state.msrs).toEqual({ "10": 5n, c0000080: 0x500n });
    expect(state.activity).toBe("active");
    expect(state.pendingNmi).toBe(false);
    expect(state.interruptibility).toEqual({ sti: false, movSs: false, nmiBlocked: false });
    expect(state.tscOffset).toBe(7n);
  });

  it("has page tables that map 4 GiB to themselves", () => {
    const state = resetState();
    boot.applyTo(state);
    const walk = (address: number): bigint => {
      const pml4e = memory.u64(Number(state.cr3));
      const pdpte = memory.u64(Number(pml4e & ~0xfffn) + Math.floor(address / 2 ** 30) * 8);
      const pde = memory.u64(Number(pdpte & ~0xfffn) + (Math.floor(address / 2 ** 21) % 512) * 8);
      expect([pml4e & 3n, pdpte & 3n, pde & 0x83n]).toEqual([3n, 3n, 0x83n]);
      return (pde & ~0xfffn) + BigInt(address % 2 ** 21);
    };
    for (const address of [0, 0x7000, 0x1000200, 0x3fffffff, 0x40000000, 0xfee00000, 0xffffffff]) {
      expect(walk(address)).toBe(BigInt(address));
    }
    expect(memory.u64(Number(state.cr3) + 8)).toBe(0n);
  });

  it("has a GDT that agrees with the segment registers (SDM Vol. 3A fig. 3-8)", () => {
    const state = resetState();
    boot.applyTo(state);
    expect(state.gdtr.base).toBe(0x500n);
    expect(memory.u64(0x510)).toBe(0x00af9b000000ffffn);
    expect(memory.u64(0x518)).toBe(0x00cf93000000ffffn);
    expect(memory.u64(0x520)).toBe(0x00008b0000000067n);
    expect(state.gdtr.limit).toBeGreaterThanOrEqual(0x2f);
  });
});

describe("32-bit entry of a bzImage", () => {
  it("is taken for kernels without a 64-bit one", () => {
    const boot = plan({ kernel: makeBzImage({ xloadflags: 0 }) });
    expect(boot.entry).toBe("bzimage32");
    const old = plan({ kernel: makeBzImage({ version: 0x020a, xloadflags: 0xff, jump: 0x62 }) });
    expect(old.entry).toBe("bzimage32"); // xloadflags means nothing before 2.12
  });

  it("enters flat protected mode without paging", () => {
    const boot = plan({ entry: "bzimage32" });
    const state = resetState();
    boot.applyTo(state);
    expect(state.rip).toBe(0x1000000n);
    expect(state.gpr[6]).toBe(0x7000n);
    expect([state.gpr[3], state.gpr[5], state.gpr[7]]).toEqual([0n, 0n, 0n]); // EBX, EBP, EDI
    expect(state.cs).toEqual({ selector: 0x10, base: 0n, limit: 0xffffffff, access: 0xc09b });
    expect([state.cr0, state.cr3, state.cr4, state.msrs.c0000080]).toEqual([0x11n, 0n, 0n, 0n]);
    expect(new WrittenMemory(boot.writes).u64(0x510)).toBe(0x00cf9b000000ffffn);
    expect(boot.writes.some((write) => write.name === "page tables")).toBe(false);
  });
});

describe("placement", () => {
  it("moves a relocatable kernel above its preferred address where that is taken", () => {
    const map: E820Entry[] = [
      { base: 0, bytes: 0x9fc00, type: 1 },
      { base: MIB, bytes: 16 * MIB, type: 1 },
      { base: 32 * MIB + 1, bytes: 64 * MIB, type: 1 },
    ];
    expect(plan({ memoryMap: map, kernel: makeBzImage({ initSize: 2 * MIB }) }).entryPoint).toBe(
      34 * MIB + 0x200,
    );
  });

  it("loads a fixed kernel at code32_start, with its own place free", () => {
    const kernel = makeBzImage({ relocatable: 0 });
    expect(plan({ kernel }).entryPoint).toBe(0x100200);
    const small = pcMemoryMap(16 * MIB).entries;
    expect(codeOf(() => plan({ kernel, memoryMap: small }))).toBe("too-little-memory");
  });

  it("respects initrd_addr_max", () => {
    const boot = plan({ kernel: makeBzImage({ initrdMax: 0x37fffff }), initrd: new Uint8Array(MIB) });
    expect(boot.initrd?.base).toBe(0x3700000);
  });

  it("keeps the initrd off the memory that the kernel runs in", () => {
    const initrdMax = 0x12fffff; // the kernel has 0x1000000 to 0x12fffff
    const boot = plan({ kernel: makeBzImage({ initrdMax }), initrd: new Uint8Array(MIB) });
    expect(boot.initrd?.base).toBe(0xf00000);
    const big = new Uint8Array(16 * MIB);
    expect(codeOf(() => plan({ kernel: makeBzImage({ initrdMax }), initrd: big }))).toBe(
      "initrd-does-not-fit",
    );
  });

  it("fits no kernel into too little RAM", () => {
    expect(codeOf(() => plan({ memoryMap: pcMemoryMap(16 * MIB).entries }))).toBe("too-little-memory");
    expect(codeOf(() => plan({ kernel: makeBzImage({ initSize: 0xffffffff }) }))).toBe("too-little-memory");
  });

  it("writes nothing outside RAM and nothing twice", () => {
    const { writes } = plan({ initrd: new Uint8Array(100), rngSeed: new Uint8Array(32) });
    const sorted = [...writes].sort((a, b) => a.address - b.address);
    for (const [i, write] of sorted.entries()) {
      const end = write.address + write.bytes.length;
      const ram = memoryMap.find((e) => e.type === 1 && e.base <= write.address && end <= e.base + e.bytes);
      expect(ram, write.name).toBeDefined();
      expect(end).toBeLessThanOrEqual(sorted[i + 1]?.address ?? Number.POSITIVE_INFINITY);
    }
  });

  it("refuses a map without RAM under its tables", () => {
    const map: E820Entry[] = [{ base: MIB, bytes: 128 * MIB, type: 1 }];
    expect(codeOf(() => plan({ memoryMap: map }))).toBe("too-little-memory");
  });
});

describe("setup_data", () => {
  it("lists a seed for the random number generator (type 9)", () => {
    const seed = Uint8Array.from({ length: 32 }, (_, i) => i + 1);
    const memory = new WrittenMemory(plan({ rngSeed: seed }).writes);
    const node = Number(memory.u64(0x7250));
    expect([memory.u64(node), memory.u32(node + 8), memory.u32(node + 12)]).toEqual([0n, 9, 32]);
    expect(memory.bytes(node + 16, 32)).toEqual(seed);
  });

  it("carries the map's entries beyond 128 (type 1), in front of the others", () => {
    const map: E820Entry[] = Array.from({ length: 200 }, (_, i) => ({ base: i * MIB, bytes: MIB, type: 1 }));
    const memory = new WrittenMemory(plan({ memoryMap: map, rngSeed: new Uint8Array(32) }).writes);
    expect(memory.u8(0x71e8)).toBe(128);
    const node = Number(memory.u64(0x7250));
    expect([memory.u32(node + 8), memory.u32(node + 12)]).toEqual([1, 72 * 20]);
    expect(memory.u64(node + 16)).toBe(BigInt(128 * MIB));
    expect(memory.u32(Number(memory.u64(node)) + 8)).toBe(9);
  });

  it("is limited to 64 KiB", () => {
    expect(codeOf(() => plan({ rngSeed: new Uint8Array(0x10000) }))).toBe("invalid-value");
  });
});

describe("refusals", () => {
  it.each([
    ["an empty file", new Uint8Array(0), "not-a-kernel"],
    ["zeroes", new Uint8Array(4096), "not-a-kernel"],
    ["protocol 2.09", makeBzImage({ version: 0x0209 }), "protocol-too-old"],
    ["a zImage", makeBzImage({ loadflags: 0 }), "not-a-kernel"],
    ["a short header", makeBzImage({ jump: 0x10 }), "invalid-value"],
    ["no kernel behind the setup", makeBzImage({ kernel: new Uint8Array(0), syssize: 100 }), "truncated"],
    ["a kernel of size 0", makeBzImage({ syssize: 0 }), "invalid-value"],
    ["a kernel longer than the file", makeBzImage({ syssize: 0xffffffff }), "truncated"],
    ["setup sectors beyond the file", makeBzImage({ setupSects: 3 }).slice(0, 0x300), "truncated"],
    ["alignment 0", makeBzImage({ alignment: 0 }), "invalid-value"],
    ["alignment 3", makeBzImage({ alignment: 3 }), "invalid-value"],
    ["alignment 2 GiB", makeBzImage({ alignment: 0x80000000 }), "invalid-value"],
    ["a preferred address beyond 52 bits", makeBzImage({ prefAddress: 1n << 52n }), "invalid-value"],
    ["a preferred address beyond RAM", makeBzImage({ prefAddress: 1n << 40n }), "too-little-memory"],
  ])("%s", (_, kernel, code) => {
    expect(codeOf(() => plan({ kernel }))).toBe(code);
  });

  it("a command line longer than the kernel takes", () => {
    const kernel = makeBzImage({ cmdlineSize: 10 });
    expect(plan({ kernel, commandLine: "0123456789" }).entry).toBe("bzimage64");
    expect(codeOf(() => plan({ kernel, commandLine: "0123456789x" }))).toBe("command-line-too-long");
  });

  it("a command line that is not ASCII", () => {
    expect(() => plan({ commandLine: "root=\u00fc" })).toThrow(RangeError);
    expect(() => plan({ commandLine: "a\0b" })).toThrow(RangeError);
  });

  it("entries that a bzImage has not", () => {
    expect(codeOf(() => plan({ entry: "pvh" }))).toBe("entry-unavailable");
    expect(codeOf(() => plan({ entry: "bzimage64", kernel: makeBzImage({ xloadflags: 0 }) }))).toBe(
      "entry-unavailable",
    );
  });

  it("says which field, what was expected and what came", () => {
    const error = new BootError("truncated", "syssize", "64 bytes", 0x1f);
    expect(error).toMatchObject({
      name: "BootError",
      field: "syssize",
      expected: "64 bytes",
      actual: "0x1f",
    });
    expect(error.message).toBe("syssize: expected 64 bytes, got 0x1f");
  });

  it("a memory map that overlaps itself", () => {
    const twice: E820Entry = { base: 0, bytes: 4096, type: 1 };
    expect(() => plan({ memoryMap: [twice, twice] })).toThrow(RangeError);
  });

  it("any soiled header, without another kind of error", () => {
    const random = randomBytes(42);
    const outcomes = new Set<string>();
    for (let round = 0; round < 3000; round++) {
      const kernel = makeBzImage();
      for (let i = 0; i < 1 + (round % 4); i++) kernel[0x1f1 + (random() % 0x7f)] = random() & 0xff;
      const cut = round % 5 === 0 ? kernel.slice(0, random() % kernel.length) : kernel;
      outcomes.add(codeOf(() => plan({ kernel: cut, initrd: new Uint8Array(100) })));
    }
    expect(outcomes).toContain("no error");
    expect(outcomes).toContain("truncated");
    expect(outcomes).toContain("not-a-kernel");
  });
});
