/**
 * What a PVH kernel is handed in EBX: hvm_start_info version 1, its list of modules (the initrd is the first) and
 * its memory map (Xen public/arch-x86/hvm/start_info.h, docs/misc/pvh.pandoc).
 *
 * ```text
 * 0x1000  hvm_start_info   56 bytes
 * 0x1040  modlist entry    32 bytes, where there is an initrd
 * 0x1080  memory map       24 bytes an entry
 * ```
 */
import { StructWriter } from "../bytes.ts";
import type { MemoryMap } from "../e820.ts";
import { BootError } from "../errors.ts";
import { BootLayout, type MemoryRange } from "../layout.ts";

const START_MAGIC = 0x336e_c578;
const START_VERSION = 1;

/** Offsets in hvm_start_info. */
const StartInfo = {
  MAGIC: 0, // 4
  VERSION: 4, // 4
  FLAGS: 8, // 4
  NR_MODULES: 12, // 4
  MODLIST_PADDR: 16, // 8
  CMDLINE_PADDR: 24, // 8
  RSDP_PADDR: 32, // 8
  MEMMAP_PADDR: 40, // 8
  MEMMAP_ENTRIES: 48, // 4
} as const;

const MODLIST_OFFSET = 0x40;
const MEMMAP_OFFSET = 0x80;
const MEMMAP_ENTRY_BYTES = 24;

export interface PvhStartOptions {
  readonly memoryMap: MemoryMap;
  readonly initrd: MemoryRange | undefined;
  /** Address of the RSDP; 0 where there is none. */
  readonly rsdp: number;
}

/**
 * The start info block for `BootLayout.PVH_START_INFO`.
 * @throws BootError `invalid-value` where the memory map does not fit (more than 1,018 entries).
 */
export function buildPvhStartInfo(options: PvhStartOptions): Uint8Array {
  const { memoryMap, initrd, rsdp } = options;
  const base = BootLayout.PVH_START_INFO;
  const bytes = MEMMAP_OFFSET + memoryMap.length * MEMMAP_ENTRY_BYTES;
  if (bytes > BootLayout.PVH_END - base) {
    throw new BootError("invalid-value", "memoryMap", "at most 1018 entries", `${memoryMap.length}`);
  }
  const info = new StructWriter(bytes);
  info
    .u32(StartInfo.MAGIC, START_MAGIC)
    .u32(StartInfo.VERSION, START_VERSION)
    .u64(StartInfo.CMDLINE_PADDR, BootLayout.COMMAND_LINE)
    .u64(StartInfo.RSDP_PADDR, rsdp)
    .u64(StartInfo.MEMMAP_PADDR, base + MEMMAP_OFFSET)
    .u32(StartInfo.MEMMAP_ENTRIES, memoryMap.length);
  if (initrd) {
    info
      .u32(StartInfo.NR_MODULES, 1)
      .u64(StartInfo.MODLIST_PADDR, base + MODLIST_OFFSET)
      .u64(MODLIST_OFFSET, initrd.base)
      .u64(MODLIST_OFFSET + 8, initrd.bytes);
  }
  for (const [i, entry] of memoryMap.entries()) {
    const at = MEMMAP_OFFSET + i * MEMMAP_ENTRY_BYTES;
    // The types are ACPI's address range types, as in the e820 map.
    info
      .u64(at, entry.base)
      .u64(at + 8, entry.bytes)
      .u32(at + 16, entry.type);
  }
  return info.bytes;
}
