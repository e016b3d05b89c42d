import { describe, expect, it } from "vitest";
import {
  BootError,
  type LinuxBootOptions,
  type LinuxBootPlan,
  parseElf,
  pcMemoryMap,
  planLinuxBoot,
} from "../src/index.ts";
import { randomBytes, resetState, WrittenMemory } from "./guest.ts";
import { type ElfFields, makeElf, makeNote, makePvhNote } from "./images.ts";

const MIB = 0x10_0000;
const memoryMap = pcMemoryMap(64 * MIB).entries;
const text = { paddr: 0x1000000n, data: Uint8Array.from({ length: 64 }, (_, i) => i), memsz: 0x100n };
const note = (data: Uint8Array) => ({ type: 4, paddr: 0n, data });

function plan(elf: ElfFields, options: Partial<LinuxBootOptions> = {}): LinuxBootPlan {
  return planLinuxBoot({ kernel: makeElf(elf), memoryMap, ...options });
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

describe("a PVH kernel (docs/misc/pvh.pandoc)", () => {
  const boot = plan(
    { entry: 0xffffffff81000000n & 0xfffffffffffffn, segments: [text, note(makePvhNote(0x1000010))] },
    { commandLine: "console=ttyS0", rsdp: 0x9fc10, initrd: new Uint8Array(10).fill(3) },
  );
  const memory = new WrittenMemory(boot.writes);

  it("is entered at its note's address, EBX pointing at the start info", () => {
    expect(boot.entry).toBe("pvh");
    const state = resetState();
    boot.applyTo(state);
    expect(state.rip).toBe(0x1000010n);
    expect(state.gpr[3]).toBe(0x1000n);
    expect([state.cr0, state.cr4, state.rflags]).toEqual([0x11n, 0n, 2n]);
    expect(state.cs).toEqual({ selector: 0x10, base: 0n, limit: 0xffffffff, access: 0xc09b });
    expect(state.tr).toEqual({ selector: 0x20, base: 0n, limit: 0x67, access: 0x8b });
  });

  it("finds hvm_start_info with command line, RSDP, module and memory map", () => {
    const info = 0x1000;
    expect(memory.u32(info)).toBe(0x336ec578);
    expect(memory.u32(info + 4)).toBe(1);
    expect(memory.u32(info + 12)).toBe(1);
    const module = Number(memory.u64(info + 16));
    expect(memory.u8(Number(memory.u64(module)))).toBe(3);
    expect(memory.u64(module + 8)).toBe(10n);
    expect(memory.cString(Number(memory.u64(info + 24)))).toBe("console=ttyS0");
    expect(memory.u64(info + 32)).toBe(0x9fc10n);
    expect(memory.u32(info + 48)).toBe(memoryMap.length);
    for (const [i, entry] of memoryMap.entries()) {
      const at = Number(memory.u64(info + 40)) + i * 24;
      expect([memory.u64(at), memory.u64(at + 8), memory.u32(at + 16)]).toEqual([
        BigInt(entry.base),
        BigInt(entry.bytes),
        entry.type,
      ]);
    }
  });

  it("has its segments loaded and its bss named", () => {
    expect(memory.u8(0x100003f)).toBe(63);
    expect(boot.zeroed).toEqual([{ base: 0x1000040, bytes: 0xc0 }]);
  });

  it("may be a 32-bit file, or have an eight-byte note behind others", () => {
    const notes = new Uint8Array([...makeNote("GNU", 3, new Uint8Array(20)), ...makePvhNote(0x1000020, 8)]);
    expect(plan({ segments: [text, note(notes)] }).entryPoint).toBe(0x1000020);
    expect(plan({ bits: 32, segments: [text, note(makePvhNote(0x1000004))] }).entry).toBe("pvh");
  });

  it("gets its initrd where 32-bit code reaches it", () => {
    const map = pcMemoryMap(2048 * MIB).entries;
    const initrd = new Uint8Array(4096);
    const pvh = { segments: [text, note(makePvhNote(0x1000000))] };
    expect(plan({ ...pvh, bits: 32 }, { memoryMap: map, initrd }).initrd?.base).toBe(0x37fff000);
    expect(plan(pvh, { memoryMap: map, initrd }).initrd?.base).toBe(0x7ffdf000);
  });

  it("has no place for setup_data", () => {
    const pvh = { segments: [text, note(makePvhNote(0x1000000))] };
    expect(codeOf(() => plan(pvh, { rngSeed: new Uint8Array(32) }))).toBe("entry-unavailable");
  });
});

describe("a 64-bit ELF kernel without a PVH note", () => {
  it("is entered in long mode with a zero page", () => {
    const boot = plan({ segments: [text] }, { initrd: new Uint8Array(5) });
    const memory = new WrittenMemory(boot.writes);
    const state = resetState();
    boot.applyTo(state);
    expect(boot.entry).toBe("elf64");
    expect([state.rip, state.gpr[6], state.cs.access]).toEqual([0x1000000n, 0x7000n, 0xa09b]);
    expect(memory.text(0x7202, 4)).toBe("HdrS");
    expect(memory.u16(0x71fe)).toBe(0xaa55);
    expect(memory.u8(0x7210)).toBe(0xff);
    expect(memory.u32(0x721c)).toBe(5);
  });

  it("is preferred where it is asked for", () => {
    const elf = { entry: 0x1000002n, segments: [text, note(makePvhNote(0x1000010))] };
    expect(plan(elf, { entry: "elf64" }).entryPoint).toBe(0x1000002);
  });
});

describe("refusals", () => {
  const code = (elf: ElfFields, options: Partial<LinuxBootOptions> = {}) => codeOf(() => plan(elf, options));

  it("other machines, classes, byte orders and types", () => {
    expect(code({ machine: 183, segments: [text] })).toBe("unsupported-elf"); // AArch64
    expect(code({ machine: 3, segments: [text] })).toBe("unsupported-elf"); // i386 in a 64-bit file
    expect(code({ endian: 2, segments: [text] })).toBe("unsupported-elf");
    expect(code({ type: 1, segments: [text] })).toBe("unsupported-elf");
    const file = makeElf({ segments: [text] });
    file[4] = 3;
    expect(codeOf(() => parseElf(file))).toBe("unsupported-elf");
  });

  it("files without anything to load", () => {
    expect(code({ segments: [note(makePvhNote(1))] })).toBe("not-a-kernel");
    expect(code({ phnum: 0, segments: [text] })).toBe("invalid-value");
    expect(code({ phnum: 0xffff, segments: [text] })).toBe("invalid-value");
    expect(code({ phentsize: 8, segments: [text] })).toBe("invalid-value");
  });

  it("segments that the file does not hold", () => {
    expect(code({ segments: [{ ...text, filesz: 1n << 40n, memsz: 1n << 41n }] })).toBe("truncated");
    expect(code({ segments: [{ ...text, offset: 0xf_ffff_ffff_ffffn }] })).toBe("truncated");
    expect(code({ segments: [{ ...text, offset: 1n << 63n }] })).toBe("invalid-value");
    expect(code({ segments: [{ ...text, memsz: 1n }] })).toBe("invalid-value");
  });

  it("segments outside RAM, however large", () => {
    expect(code({ segments: [{ ...text, memsz: 1n << 51n }] })).toBe("too-little-memory");
    expect(code({ segments: [{ ...text, paddr: 0xa0000n }] })).toBe("too-little-memory");
  });

  it("segments on top of each other or of our tables", () => {
    expect(code({ segments: [text, { ...text, paddr: 0x1000080n }] })).toBe("overlap");
    expect(code({ segments: [text, { ...text, paddr: 0x7ff0n }] })).toBe("overlap");
    expect(code({ segments: [text, { ...text, paddr: 0x4ffn }] })).toBe("overlap");
  });

  it("entries outside what is loaded", () => {
    expect(code({ entry: 0x1000040n, segments: [text] })).toBe("invalid-value"); // first byte of bss
    expect(code({ segments: [text, note(makePvhNote(0x2000000))] })).toBe("invalid-value");
  });

  it("entries that are not there", () => {
    expect(code({ segments: [text] }, { entry: "pvh" })).toBe("entry-unavailable");
    expect(code({ segments: [text] }, { entry: "bzimage64" })).toBe("entry-unavailable");
    expect(code({ bits: 32, segments: [text] })).toBe("entry-unavailable");
  });

  it("no note that runs over its segment, but boots without it", () => {
    const long = makePvhNote(0x1000000);
    new DataView(long.buffer).setUint32(4, 0xffffffff, true);
    expect(plan({ segments: [text, note(long)] }).entry).toBe("elf64");
    const name = makePvhNote(0x1000000);
    new DataView(name.buffer).setUint32(0, 0xfffffffe, true);
    expect(plan({ segments: [text, note(name)] }).entry).toBe("elf64");
  });

  it("any soiled file, without another kind of error", () => {
    const random = randomBytes(7);
    const outcomes = new Set<string>();
    for (let round = 0; round < 3000; round++) {
      const bits = round % 2 ? 32 : 64;
      const kernel = makeElf({ bits, segments: [text, note(makePvhNote(0x1000000))] });
      for (let i = 0; i < 1 + (round % 3); i++)
        kernel[4 + (random() % (kernel.length - 4))] = random() & 0xff;
      const cut = round % 7 === 0 ? kernel.slice(0, random() % kernel.length) : kernel;
      outcomes.add(codeOf(() => planLinuxBoot({ kernel: cut, memoryMap })));
    }
    expect(outcomes).toContain("no error");
    expect(outcomes).toContain("truncated");
    expect(outcomes).toContain("too-little-memory");
  });
});
