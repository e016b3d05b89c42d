/**
 * Linux's boot_params, the "zero page" (Documentation/arch/x86/zero-page.rst): the setup header with what the
 * loader fills in, the memory map, the RSDP, and a list of setup_data for what has no field of its own.
 */
import { concat, StructWriter } from "../bytes.ts";
import type { MemoryMap } from "../e820.ts";
import { BootError } from "../errors.ts";
import { BootLayout, type MemoryRange, PAGE_BYTES } from "../layout.ts";
import {
  BOOT_FLAG,
  HEADER_MAGIC,
  LOADER_UNDEFINED,
  LoadFlags,
  SETUP_HEADER_START,
  SetupHeader,
} from "./bzimage.ts";

/** Offsets in the zero page outside the setup header. */
const ZeroPage = {
  ACPI_RSDP_ADDR: 0x070, // 8; kernels before 5.0 look for the RSDP themselves
  EXT_RAMDISK_IMAGE: 0x0c0, // 4
  EXT_RAMDISK_SIZE: 0x0c4, // 4
  EXT_CMD_LINE_PTR: 0x0c8, // 4
  E820_ENTRIES: 0x1e8, // 1
  E820_TABLE: 0x2d0, // 128 entries of 20 bytes
} as const;

const E820_MAX_ENTRIES = 128;
const E820_ENTRY_BYTES = 20;
const VID_MODE_NORMAL = 0xffff;

/** setup_data types (arch/x86/include/uapi/asm/setup_data.h). */
export const SetupDataType = { E820_EXT: 1, DTB: 2, RNG_SEED: 9 } as const;

export interface SetupData {
  readonly type: number;
  readonly data: Uint8Array;
}

export interface ZeroPageOptions {
  /** The header from a bzImage; undefined for a kernel without one (ELF), which gets a minimal one. */
  readonly setupHeader: Uint8Array | undefined;
  /** Address that a bzImage's protected-mode kernel was loaded at. */
  readonly loadAddress: number;
  readonly memoryMap: MemoryMap;
  readonly initrd: MemoryRange | undefined;
  /** Address of the RSDP; 0 where there is none. */
  readonly rsdp: number;
  readonly setupData: readonly SetupData[];
}

export interface ZeroPagePlan {
  /** One page for `BootLayout.ZERO_PAGE`. */
  readonly zeroPage: Uint8Array;
  /** The list for `BootLayout.SETUP_DATA`; empty where there is none. */
  readonly setupData: Uint8Array;
}

/**
 * Fills a zero page.
 * @throws BootError `invalid-value` where the setup_data list does not fit its 64 KiB.
 */
export function buildZeroPage(options: ZeroPageOptions): ZeroPagePlan {
  const { setupHeader, memoryMap, initrd, rsdp, loadAddress } = options;
  const page = new StructWriter(PAGE_BYTES);
  if (setupHeader) {
    page.raw(SETUP_HEADER_START, setupHeader);
    page.u32(SetupHeader.CODE32_START, loadAddress);
  } else {
    page
      .u16(SetupHeader.BOOT_FLAG, BOOT_FLAG)
      .u32(SetupHeader.HEADER, HEADER_MAGIC)
      .u16(SetupHeader.VERSION, 0x020f)
      .u8(SetupHeader.LOADFLAGS, LoadFlags.LOADED_HIGH)
      .u32(SetupHeader.KERNEL_ALIGNMENT, 0x100_0000);
  }
  page
    .u16(SetupHeader.VID_MODE, VID_MODE_NORMAL)
    .u8(SetupHeader.TYPE_OF_LOADER, LOADER_UNDEFINED)
    .u32(SetupHeader.CMD_LINE_PTR, BootLayout.COMMAND_LINE)
    .u64(ZeroPage.ACPI_RSDP_ADDR, rsdp);
  // No real-mode heap (CAN_USE_HEAP), and the kernel shall load its own segments (KEEP_SEGMENTS).
  const loadFlags = page.bytes[SetupHeader.LOADFLAGS] ?? 0;
  page.u8(SetupHeader.LOADFLAGS, loadFlags & ~(LoadFlags.CAN_USE_HEAP | LoadFlags.KEEP_SEGMENTS));
  if (initrd) {
    page
      .u32(SetupHeader.RAMDISK_IMAGE, initrd.base % 2 ** 32)
      .u32(SetupHeader.RAMDISK_SIZE, initrd.bytes % 2 ** 32)
      .u32(ZeroPage.EXT_RAMDISK_IMAGE, Math.floor(initrd.base / 2 ** 32))
      .u32(ZeroPage.EXT_RAMDISK_SIZE, Math.floor(initrd.bytes / 2 ** 32));
  }

  const first = memoryMap.slice(0, E820_MAX_ENTRIES);
  page.u8(ZeroPage.E820_ENTRIES, first.length).raw(ZeroPage.E820_TABLE, e820Table(first));
  const nodes = [...options.setupData];
  const rest = memoryMap.slice(E820_MAX_ENTRIES);
  if (rest.length > 0) nodes.unshift({ type: SetupDataType.E820_EXT, data: e820Table(rest) });
  const setupData = setupDataList(nodes);
  page.u64(SetupHeader.SETUP_DATA, nodes.length > 0 ? BootLayout.SETUP_DATA : 0);
  return { zeroPage: page.bytes, setupData };
}

/** struct boot_e820_entry: base, size, type, packed. */
function e820Table(map: MemoryMap): Uint8Array {
  const table = new StructWriter(map.length * E820_ENTRY_BYTES);
  for (const [i, entry] of map.entries()) {
    table
      .u64(i * E820_ENTRY_BYTES, entry.base)
      .u64(i * E820_ENTRY_BYTES + 8, entry.bytes)
      .u32(i * E820_ENTRY_BYTES + 16, entry.type);
  }
  return table.bytes;
}

/** struct setup_data: next (0 ends the list), type, length, data. */
function setupDataList(nodes: readonly SetupData[]): Uint8Array {
  const HEADER_BYTES = 16;
  const parts: Uint8Array[] = [];
  let address: number = BootLayout.SETUP_DATA;
  for (const [i, node] of nodes.entries()) {
    const part = new StructWriter(Math.ceil((HEADER_BYTES + node.data.length) / 16) * 16);
    const next = i + 1 < nodes.length ? address + part.bytes.length : 0;
    part.u64(0, next).u32(8, node.type).u32(12, node.data.length).raw(HEADER_BYTES, node.data);
    parts.push(part.bytes);
    address += part.bytes.length;
  }
  if (address > BootLayout.SETUP_DATA_END) {
    const bytes = address - BootLayout.SETUP_DATA;
    throw new BootError("invalid-value", "setupData", "a list of at most 64 KiB", `${bytes} bytes`);
  }
  return concat(parts);
}
