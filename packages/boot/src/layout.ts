/**
 * Where this package puts what a booting kernel reads. All of it is ordinary RAM that the kernel may reuse once
 * it has copied what it needs, except the two tables' regions that the memory map marks.
 *
 * ```text
 * guest-physical address           what
 * 0x0000_040E                      BIOS data area: segment of the extended BIOS data area (with ACPI)
 * 0x0000_0413                      BIOS data area: KiB of RAM below it
 * 0x0000_0500 – 0x0000_052F        GDT of the entry state
 * 0x0000_1000 – 0x0000_6FFF        PVH start info, its module list and memory map
 * 0x0000_7000 – 0x0000_7FFF        Linux boot_params, the "zero page"
 * 0x0000_8000 – 0x0000_8FFF        stack; Linux sets its own before it uses one
 * 0x0000_9000 – 0x0000_EFFF        page tables: 4 GiB mapped to themselves by 2 MiB pages
 * 0x0001_0000 – 0x0001_FFFF        Linux setup_data list
 * 0x0002_0000 – 0x0002_FFFF        command line, zero-terminated
 * 0x0009_FC00 – 0x0009_FFFF        extended BIOS data area; RSDP at 0x0009_FC10
 * 0x0010_0000 –                    kernels that name no place of their own
 * 0x0100_0000 –                    where x86-64 Linux prefers to be (its header says so)
 * – end of low RAM − 128 KiB       initrd, as high as the kernel reaches
 * end of low RAM − 128 KiB –       ACPI tables (memory map type 3), the last page of them FACS (type 4)
 * ```
 *
 * The RSDP lies in the extended BIOS data area rather than in the BIOS area at 0xE0000: whether that is RAM,
 * ROM or nothing is the machine's choice, and both places are searched (ACPI 6.5 sec. 5.2.5.1).
 */

/** Fixed guest-physical addresses. */
export const BootLayout = {
  BDA_EBDA_SEGMENT: 0x40e,
  BDA_BASE_MEMORY_KIB: 0x413,
  GDT: 0x500,
  PVH_START_INFO: 0x1000,
  PVH_END: 0x7000,
  ZERO_PAGE: 0x7000,
  STACK_TOP: 0x9000,
  PAGE_TABLES: 0x9000,
  SETUP_DATA: 0x1_0000,
  SETUP_DATA_END: 0x2_0000,
  COMMAND_LINE: 0x2_0000,
  COMMAND_LINE_END: 0x3_0000,
  RSDP: 0x9_fc10,
  KERNEL: 0x10_0000,
} as const;

/** Bytes at the end of low RAM that the memory map keeps for ACPI tables. */
export const ACPI_REGION_BYTES = 0x2_0000;

export const PAGE_BYTES = 0x1000;

/** Bytes for the guest, at a guest-physical address. */
export interface MemoryWrite {
  /** What it is, for messages and logs: "zero page". */
  readonly name: string;
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** A half-open range of guest-physical addresses: `bytes` from `base`. */
export interface MemoryRange {
  readonly base: number;
  readonly bytes: number;
}
