/**
 * Linux without firmware: from a kernel file to what has to be in memory and in the boot processor.
 *
 * ```text
 *   kernel file ── bzImage ── 64-bit ──▶ bzimage64   long mode, RSI = zero page
 *               │          └─ 32-bit ──▶ bzimage32   protected mode, ESI = zero page
 *               └─ ELF ────── PVH note ▶ pvh         protected mode, EBX = start info
 *                          └─ 64-bit ──▶ elf64       long mode, RSI = zero page
 * ```
 */
import type { VcpuStateV1 } from "@skep/vcpu";
import { alignUp } from "../bytes.ts";
import { checkMemoryMap, E820Type, isRam, type MemoryMap, overlaps, placeHigh, placeLow } from "../e820.ts";
import { BootError, hex } from "../errors.ts";
import { BootLayout, type MemoryRange, type MemoryWrite, PAGE_BYTES } from "../layout.ts";
import {
  type BzImage,
  describeBzImage,
  ENTRY_64_OFFSET,
  isBzImage,
  parseBzImage,
  XLoadFlags,
} from "./bzimage.ts";
import { type ElfKernel, elfRanges, isElf, isLoaded, parseElf } from "./elf.ts";
import { applyEntryState, type EntryState, entryTables } from "./entry-state.ts";
import { buildPvhStartInfo } from "./pvh.ts";
import { buildZeroPage, type SetupData, SetupDataType } from "./zero-page.ts";

/** The ways into a kernel, as drawn above. */
export type LinuxEntry = "bzimage64" | "bzimage32" | "pvh" | "elf64";

export interface LinuxBootOptions {
  /** bzImage or ELF file; not trusted. */
  readonly kernel: Uint8Array;
  /** Initial RAM disk or cpio archive; Linux takes several archives one behind the other. */
  readonly initrd?: Uint8Array;
  /** ASCII, without zero bytes. Default empty. */
  readonly commandLine?: string;
  /** Guest-physical memory, from `pcMemoryMap` or the embedder's own. */
  readonly memoryMap: MemoryMap;
  /** Default "auto": bzimage64 before bzimage32, pvh before elf64. */
  readonly entry?: "auto" | LinuxEntry;
  /** Guest-physical address of the ACPI root pointer. Default none: Linux searches the BIOS areas. */
  readonly rsdp?: number;
  /** 32 or more random bytes for the guest's generator (setup_data; Linux 6.0 and newer). Not with pvh. */
  readonly rngSeed?: Uint8Array;
  /** Further setup_data. Not with pvh. */
  readonly setupData?: readonly SetupData[];
}

/** A boot worked out to the last byte; nothing of it has been done. */
export interface LinuxBootPlan {
  readonly entry: LinuxEntry;
  /** For people: what was found and where it goes. */
  readonly description: string;
  /** Address of the first instruction. */
  readonly entryPoint: number;
  /** Bytes to be written: in RAM, free of overlaps. The kernel's and initrd's are views of what was given. */
  readonly writes: readonly MemoryWrite[];
  /** Ranges that must read zero beside the writes (bss): a new VM's RAM does; clear them before a second boot. */
  readonly zeroed: readonly MemoryRange[];
  /** Where the initrd went. */
  readonly initrd: MemoryRange | undefined;
  /** Puts the boot processor at the entry. The others wait for their start-up IPIs, as after RESET. */
  applyTo(state: VcpuStateV1): void;
}

/** Limits of kernels without a setup header; x86-64 Linux has 2047 characters in every build since 2.6.30. */
const ELF_COMMAND_LINE_MAX = 2047;
/** i386 maps only this much before it reads the memory map (MAXMEM with its default split). */
const ELF_INITRD_ADDRESS_MAX = { 32: 0x37ff_ffff, 64: 0x7fff_ffff } as const;
const FOUR_GIB = 2 ** 32;

/**
 * Works out a boot. Nothing is written; on an error there is nothing to undo.
 *
 * @throws BootError whose `code` says what is wrong with the kernel, the initrd or their fit.
 * @throws RangeError for a malformed memory map or command line.
 * @example
 * const map = pcMemoryMap(512 << 20);
 * const acpi = buildAcpi({ cpus: 1, region: map.acpi });
 * const plan = planLinuxBoot({ kernel, initrd, commandLine: "console=ttyS0", memoryMap: map.entries, rsdp: acpi.rsdp });
 * for (const { address, bytes } of [...acpi.writes, ...plan.writes]) memory.load(address, bytes);
 * const state = vcpu.save();
 * plan.applyTo(state);
 * vcpu.restore(state);
 */
export function planLinuxBoot(options: LinuxBootOptions): LinuxBootPlan {
  checkMemoryMap(options.memoryMap);
  const wanted = options.entry ?? "auto";
  if (isElf(options.kernel)) return planElf(options, parseElf(options.kernel), wanted);
  if (isBzImage(options.kernel)) return planBzImage(options, parseBzImage(options.kernel), wanted);
  throw new BootError("not-a-kernel", "kernel", "a bzImage or an ELF file", describeStart(options.kernel));
}

function planBzImage(options: LinuxBootOptions, image: BzImage, wanted: string): LinuxBootPlan {
  const has64 = (image.xLoadFlags & XLoadFlags.KERNEL_64) !== 0;
  const entry = wanted === "auto" ? (has64 ? "bzimage64" : "bzimage32") : wanted;
  if (entry !== "bzimage32" && entry !== "bzimage64")
    throw noEntry(entry, "a bzImage: bzimage64 or bzimage32");
  if (entry === "bzimage64" && !has64) throw noEntry(entry, "XLF_KERNEL_64 in xloadflags");

  const commandLine = encodeCommandLine(options.commandLine ?? "", image.commandLineMax);
  const kernel = placeBzImage(image, options.memoryMap);
  const initrd = placeInitrd(options, image.initrdAddressMax, [kernel.occupied, kernel.runtime]);
  const zeroPage = zeroPageWrites(options, image.setupHeader, kernel.occupied.base, initrd);
  const at: EntryState = {
    mode: entry === "bzimage64" ? "long" : "protected",
    entry: kernel.occupied.base + (entry === "bzimage64" ? ENTRY_64_OFFSET : 0),
    rsi: BootLayout.ZERO_PAGE,
  };
  return finish(options, entry, at, {
    description: describeBzImage(image),
    writes: [
      ...zeroPage,
      { name: "command line", address: BootLayout.COMMAND_LINE, bytes: commandLine },
      { name: "kernel", address: kernel.occupied.base, bytes: image.kernel },
    ],
    zeroed: [],
    initrd,
  });
}

/**
 * The load address by boot.rst ("pref_address", "init_size"): the preferred one, or for a relocatable kernel the
 * next aligned place above it. A fixed kernel is loaded at code32_start and moves itself to pref_address.
 */
function placeBzImage(image: BzImage, map: MemoryMap): { occupied: MemoryRange; runtime: MemoryRange } {
  const bytes = Math.max(image.initSize, image.kernel.length);
  const runtime = { base: image.preferredAddress, bytes };
  if (!image.relocatable) {
    const occupied = { base: image.code32Start, bytes: image.kernel.length };
    if (isRam(map, runtime) && isRam(map, occupied)) return { occupied, runtime };
    throw tooLittleMemory(runtime, map);
  }
  const floor = Math.max(image.preferredAddress, BootLayout.KERNEL);
  const base = placeLow(map, { bytes, alignment: image.kernelAlignment, floor, ceiling: FOUR_GIB });
  if (base === undefined) throw tooLittleMemory({ base: floor, bytes }, map);
  return { occupied: { base, bytes }, runtime: { base, bytes } };
}

function planElf(options: LinuxBootOptions, kernel: ElfKernel, wanted: string): LinuxBootPlan {
  const usual = kernel.pvhEntry === undefined ? "elf64" : "pvh";
  const entry = wanted === "auto" ? usual : wanted;
  if (entry !== "pvh" && entry !== "elf64") throw noEntry(entry, "an ELF kernel: pvh or elf64");
  if (entry === "elf64" && kernel.bits !== 64) throw noEntry(entry, "a 64-bit ELF file");
  const address = entry === "pvh" ? kernel.pvhEntry : kernel.entry;
  if (address === undefined) throw noEntry(entry, "a XEN_ELFNOTE_PHYS32_ENTRY note");
  if (!isLoaded(kernel, address)) {
    throw new BootError("invalid-value", `${entry} entry`, "an address inside a loaded segment", address);
  }

  const ranges = elfRanges(kernel);
  for (const range of ranges) {
    if (!isRam(options.memoryMap, range)) throw tooLittleMemory(range, options.memoryMap);
  }
  const initrd = placeInitrd(options, ELF_INITRD_ADDRESS_MAX[kernel.bits], ranges);
  const commandLine = encodeCommandLine(options.commandLine ?? "", ELF_COMMAND_LINE_MAX);
  const handover =
    entry === "pvh" ? pvhWrites(options, initrd) : zeroPageWrites(options, undefined, 0, initrd);
  const at: EntryState =
    entry === "pvh"
      ? { mode: "protected", entry: address, rbx: BootLayout.PVH_START_INFO }
      : { mode: "long", entry: address, rsi: BootLayout.ZERO_PAGE };
  return finish(options, entry, at, {
    description: `${kernel.bits}-bit ELF, ${kernel.segments.length} segments`,
    writes: [
      ...handover,
      { name: "command line", address: BootLayout.COMMAND_LINE, bytes: commandLine },
      ...kernel.segments
        .filter((segment) => segment.bytes.length > 0)
        .map(({ address, bytes }, i) => ({ name: `kernel segment ${i}`, address, bytes })),
    ],
    zeroed: kernel.segments
      .filter((segment) => segment.memoryBytes > segment.bytes.length)
      .map((s) => ({ base: s.address + s.bytes.length, bytes: s.memoryBytes - s.bytes.length })),
    initrd,
  });
}

function pvhWrites(options: LinuxBootOptions, initrd: MemoryRange | undefined): MemoryWrite[] {
  if (options.rngSeed || options.setupData?.length) {
    throw noEntry("pvh", "a boot protocol with setup_data (rngSeed, setupData)");
  }
  const { memoryMap, rsdp = 0 } = options;
  const bytes = buildPvhStartInfo({ memoryMap, initrd, rsdp });
  return [{ name: "PVH start info", address: BootLayout.PVH_START_INFO, bytes }];
}

function zeroPageWrites(
  options: LinuxBootOptions,
  setupHeader: Uint8Array | undefined,
  loadAddress: number,
  initrd: MemoryRange | undefined,
): MemoryWrite[] {
  const setupData = [...(options.setupData ?? [])];
  if (options.rngSeed) setupData.push({ type: SetupDataType.RNG_SEED, data: options.rngSeed });
  const { memoryMap, rsdp = 0 } = options;
  const plan = buildZeroPage({ setupHeader, loadAddress, memoryMap, initrd, rsdp, setupData });
  const writes: MemoryWrite[] = [{ name: "zero page", address: BootLayout.ZERO_PAGE, bytes: plan.zeroPage }];
  if (plan.setupData.length > 0) {
    writes.push({ name: "setup_data", address: BootLayout.SETUP_DATA, bytes: plan.setupData });
  }
  return writes;
}

function finish(
  options: LinuxBootOptions,
  entry: LinuxEntry,
  at: EntryState,
  parts: Pick<LinuxBootPlan, "description" | "writes" | "zeroed" | "initrd">,
): LinuxBootPlan {
  const { initrd } = parts;
  const writes = [...entryTables(at.mode), ...parts.writes];
  if (initrd && options.initrd) {
    writes.push({ name: "initrd", address: initrd.base, bytes: options.initrd });
  }
  checkFit(options.memoryMap, writes, parts.zeroed);
  const place = initrd ? `, initrd at ${hex(initrd.base)}` : "";
  return {
    entry,
    description: `${entry}: ${parts.description}; entry ${hex(at.entry)}${place}`,
    entryPoint: at.entry,
    writes,
    zeroed: parts.zeroed,
    initrd,
    applyTo: (state) => applyEntryState(state, at),
  };
}

/** Everything in RAM, nothing twice: a kernel's segments may lie anywhere, also on our tables. */
function checkFit(map: MemoryMap, writes: readonly MemoryWrite[], zeroed: readonly MemoryRange[]): void {
  const claims = [
    ...writes.map(({ name, address, bytes }) => ({ name, base: address, bytes: bytes.length })),
    ...zeroed.map((range) => ({ name: "bss", ...range })),
  ].sort((a, b) => a.base - b.base);
  for (const [i, claim] of claims.entries()) {
    if (!isRam(map, claim)) throw tooLittleMemory(claim, map);
    const next = claims[i + 1];
    if (next && overlaps(claim, next)) {
      throw new BootError("overlap", next.name, `a place clear of the ${claim.name}`, next.base);
    }
  }
}

function placeInitrd(
  options: LinuxBootOptions,
  addressMax: number,
  kernel: readonly MemoryRange[],
): MemoryRange | undefined {
  const bytes = options.initrd?.length ?? 0;
  if (bytes === 0) return undefined;
  const base = placeHigh(options.memoryMap, {
    bytes: alignUp(bytes, PAGE_BYTES),
    alignment: PAGE_BYTES,
    floor: BootLayout.KERNEL,
    ceiling: Math.min(addressMax + 1, FOUR_GIB),
    avoid: kernel,
  });
  if (base === undefined) {
    const expected = `free RAM for ${bytes} bytes from ${hex(BootLayout.KERNEL)} to ${hex(addressMax)}`;
    throw new BootError("initrd-does-not-fit", "initrd", expected, "none beside the kernel");
  }
  return { base, bytes };
}

function encodeCommandLine(text: string, most: number): Uint8Array {
  const room = BootLayout.COMMAND_LINE_END - BootLayout.COMMAND_LINE - 1;
  const limit = Math.min(most, room);
  if (text.length > limit) {
    throw new BootError(
      "command-line-too-long",
      "commandLine",
      `at most ${limit} characters`,
      `${text.length}`,
    );
  }
  const bytes = new Uint8Array(text.length + 1);
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code === 0 || code > 0x7e) {
      throw new RangeError(`commandLine[${i}]: expected ASCII other than zero, got ${hex(code)}`);
    }
    bytes[i] = code;
  }
  return bytes;
}

function noEntry(entry: string, expected: string): BootError {
  return new BootError("entry-unavailable", "entry", expected, entry);
}

function tooLittleMemory(range: MemoryRange, map: MemoryMap): BootError {
  const ram = map.reduce((sum, entry) => sum + (entry.type === E820Type.RAM ? entry.bytes : 0), 0);
  const expected = `RAM from ${hex(range.base)} to ${hex(range.base + range.bytes)}`;
  return new BootError("too-little-memory", "memoryMap", expected, `${Math.floor(ram / 1024)} KiB in all`);
}

function describeStart(file: Uint8Array): string {
  if (file.length === 0) return "an empty file";
  const start = Array.from(file.subarray(0, 4), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return `${file.length} bytes that start with ${start}`;
}
