/**
 * The Linux/x86 boot protocol's image: a real-mode part whose first sectors hold the setup header, and behind it
 * the protected-mode kernel, which unpacks itself (Linux Documentation/arch/x86/boot.rst).
 *
 * ```text
 * file offset
 * 0x0000  legacy boot sector         0x1F1 ┐
 * 0x0200  jump, "HdrS", header             ├ setup header: copied into the zero page
 *         real-mode setup code             ┘
 * (setup_sects + 1) * 512            protected-mode kernel: 32-bit entry at +0, 64-bit entry at +0x200
 * ```
 *
 * Taken: protocol 2.10 (Linux 2.6.31) and newer, loaded high. Not taken: zImage, the 16-bit entry, the EFI
 * handover entry.
 */
import { ImageReader } from "../bytes.ts";
import { BootError, hex } from "../errors.ts";

/** Offsets in the file, and from the zero page's start; widths in bytes behind each. */
export const SetupHeader = {
  SETUP_SECTS: 0x1f1, // 1
  SYSSIZE: 0x1f4, // 4, in 16-byte units
  VID_MODE: 0x1fa, // 2
  BOOT_FLAG: 0x1fe, // 2
  JUMP: 0x200, // 2
  HEADER: 0x202, // 4
  VERSION: 0x206, // 2
  TYPE_OF_LOADER: 0x210, // 1
  LOADFLAGS: 0x211, // 1
  CODE32_START: 0x214, // 4
  RAMDISK_IMAGE: 0x218, // 4
  RAMDISK_SIZE: 0x21c, // 4
  CMD_LINE_PTR: 0x228, // 4
  INITRD_ADDR_MAX: 0x22c, // 4
  KERNEL_ALIGNMENT: 0x230, // 4
  RELOCATABLE_KERNEL: 0x234, // 1
  XLOADFLAGS: 0x236, // 2, from 2.12
  CMDLINE_SIZE: 0x238, // 4
  SETUP_DATA: 0x250, // 8
  PREF_ADDRESS: 0x258, // 8
  INIT_SIZE: 0x260, // 4
} as const;

/** Start and longest extent of the header in the zero page. */
export const SETUP_HEADER_START = 0x1f1;
export const SETUP_HEADER_MAX_END = 0x290;

export const BOOT_FLAG = 0xaa55;
/** "HdrS". */
export const HEADER_MAGIC = 0x5372_6448;
/** "Undefined" in the table of boot loaders: we have no number of our own. */
export const LOADER_UNDEFINED = 0xff;
/** The 64-bit entry's distance from the protected-mode kernel's start. */
export const ENTRY_64_OFFSET = 0x200;

export const LoadFlags = { LOADED_HIGH: 0x01, QUIET: 0x20, KEEP_SEGMENTS: 0x40, CAN_USE_HEAP: 0x80 } as const;
export const XLoadFlags = { KERNEL_64: 0x01, CAN_BE_LOADED_ABOVE_4G: 0x02 } as const;

const SECTOR_BYTES = 512;
const MIN_VERSION = 0x020a;
const XLOADFLAGS_VERSION = 0x020c;

/** A parsed bzImage; the byte arrays are views of the file. */
export interface BzImage {
  /** Boot protocol version, 0x020F for 2.15. */
  readonly version: number;
  /** The setup header as it stands in the file, to be copied to `SETUP_HEADER_START` of the zero page. */
  readonly setupHeader: Uint8Array;
  /** The protected-mode kernel. */
  readonly kernel: Uint8Array;
  readonly loadFlags: number;
  readonly xLoadFlags: number;
  /** Where a kernel that cannot be moved is loaded. */
  readonly code32Start: number;
  /** Last address that the initrd may occupy. */
  readonly initrdAddressMax: number;
  /** Bytes, a power of two. */
  readonly kernelAlignment: number;
  readonly relocatable: boolean;
  /** Characters of command line, without the terminating zero. */
  readonly commandLineMax: number;
  readonly preferredAddress: number;
  /** Bytes from its start that the kernel uses before it reads the memory map. */
  readonly initSize: number;
}

/** Whether `file` carries the setup header's two magic numbers. */
export function isBzImage(file: Uint8Array): boolean {
  if (file.length < SetupHeader.VERSION + 2) return false;
  const image = new ImageReader(file, "kernel");
  return (
    image.u16(SetupHeader.BOOT_FLAG, "boot_flag") === BOOT_FLAG &&
    image.u32(SetupHeader.HEADER, "header") === HEADER_MAGIC
  );
}

/**
 * Parses and checks a bzImage. Nothing is copied.
 *
 * @throws BootError `not-a-kernel`, `protocol-too-old`, `truncated` or `invalid-value`.
 */
export function parseBzImage(file: Uint8Array): BzImage {
  const image = new ImageReader(file, "kernel");
  if (!isBzImage(file)) {
    throw new BootError("not-a-kernel", "header", 'boot_flag 0xaa55 and "HdrS" at 0x202', "something else");
  }
  const version = image.u16(SetupHeader.VERSION, "version");
  if (version < MIN_VERSION) {
    throw new BootError("protocol-too-old", "version", "boot protocol 2.10 (0x20a) or newer", version);
  }
  // The jump's displacement is where the header ends (boot.rst, "details of header fields": jump).
  const headerEnd = SetupHeader.HEADER + image.u8(SetupHeader.JUMP + 1, "jump");
  if (headerEnd < SetupHeader.INIT_SIZE + 4) {
    throw new BootError("invalid-value", "jump", "a header that ends past init_size (0x264)", headerEnd);
  }
  const setupHeader = image.slice(
    SETUP_HEADER_START,
    Math.min(headerEnd, SETUP_HEADER_MAX_END) - SETUP_HEADER_START,
    "setup header",
  );

  const loadFlags = image.u8(SetupHeader.LOADFLAGS, "loadflags");
  if ((loadFlags & LoadFlags.LOADED_HIGH) === 0) {
    throw new BootError("not-a-kernel", "loadflags", "LOADED_HIGH: a bzImage, not a zImage", loadFlags);
  }
  const kernelAlignment = image.u32(SetupHeader.KERNEL_ALIGNMENT, "kernel_alignment");
  if (kernelAlignment === 0 || kernelAlignment > 0x4000_0000 || !isPowerOfTwo(kernelAlignment)) {
    throw new BootError("invalid-value", "kernel_alignment", "a power of two up to 1 GiB", kernelAlignment);
  }

  // A count of 0 means 4, as on kernels of 1993.
  const setupSectors = image.u8(SetupHeader.SETUP_SECTS, "setup_sects") || 4;
  const kernelOffset = (setupSectors + 1) * SECTOR_BYTES;
  const kernelBytes = image.u32(SetupHeader.SYSSIZE, "syssize") * 16;
  if (kernelBytes === 0) throw new BootError("invalid-value", "syssize", "at least 1", 0);
  // syssize rounds up to 16 bytes; a file may end at the last byte that counts.
  const present = Math.min(kernelBytes, file.length - kernelOffset);
  const kernel = image.slice(kernelOffset, present > kernelBytes - 16 ? present : kernelBytes, "syssize");

  return {
    version,
    setupHeader,
    kernel,
    loadFlags,
    xLoadFlags: version >= XLOADFLAGS_VERSION ? image.u16(SetupHeader.XLOADFLAGS, "xloadflags") : 0,
    code32Start: image.u32(SetupHeader.CODE32_START, "code32_start"),
    initrdAddressMax: image.u32(SetupHeader.INITRD_ADDR_MAX, "initrd_addr_max"),
    kernelAlignment,
    relocatable: image.u8(SetupHeader.RELOCATABLE_KERNEL, "relocatable_kernel") !== 0,
    commandLineMax: image.u32(SetupHeader.CMDLINE_SIZE, "cmdline_size"),
    preferredAddress: image.u52(SetupHeader.PREF_ADDRESS, "pref_address"),
    initSize: image.u32(SetupHeader.INIT_SIZE, "init_size"),
  };
}

/** A line for people: `boot protocol 2.15, 64-bit, relocatable, prefers 0x1000000`. */
export function describeBzImage(image: BzImage): string {
  const bits = image.xLoadFlags & XLoadFlags.KERNEL_64 ? "64-bit" : "32-bit";
  const place = `${image.relocatable ? "relocatable, prefers" : "fixed at"} ${hex(image.preferredAddress)}`;
  return `boot protocol ${image.version >> 8}.${image.version & 0xff}, ${bits}, ${place}`;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(Math.log2(value));
}
