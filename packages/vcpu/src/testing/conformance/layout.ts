/**
 * Where things lie in the small machine of the conformance suite: RAM from 0, the tables that the start modes
 * need in the first 64 KiB, a hole for devices, and ROM below 4 GiB.
 */
export const Layout = {
  RAM_BYTES: 0x100_0000,
  /** Real mode's interrupt vectors; all of them lead to the handlers. */
  IVT: 0x0,
  GDT: 0x1000,
  /** 256 gates of 8 bytes, or of 16 in long mode. */
  IDT: 0x2000,
  TSS: 0x3000,
  /** Where ring 3 leads on an interrupt: ESP0 or RSP0 of the TSS. */
  KERNEL_STACK: 0x6f00,
  /** IST1 of the 64-bit TSS. */
  IST1: 0x6800,
  USER_STACK: 0x6400,
  STACK: 0x7000,
  /** Guest code starts here. */
  CODE: 0x8000,
  /** Handler of vector v at HANDLERS + 4 v: `mov al, v` and `hlt`. */
  HANDLERS: 0x9000,
  /** Page tables of the long start mode. */
  PAGE_TABLES: 0x1_0000,
  DATA: 0x2_0000,
  /** Page tables that a case builds itself. */
  OWN_TABLES: 0x3_0000,
  /** Nothing there: accesses are exits. */
  MMIO: 0xd000_0000,
  ROM: 0xffff_0000,
  ROM_BYTES: 0x1_0000,
} as const;

/** Selectors of the machine's GDT. */
export const Selector = {
  CODE32: 0x08,
  DATA: 0x10,
  CODE16: 0x18,
  DATA16: 0x20,
  CODE64: 0x28,
  USER_CODE32: 0x33,
  USER_DATA: 0x3b,
  USER_CODE64: 0x43,
  TSS: 0x48,
  /** Free for a case to fill in: eight bytes each. */
  FREE: 0x58,
} as const;

/** The GDT in order: null, then what `Selector` names (SDM Vol. 3A figure 3-8). The TSS descriptor follows. */
export const GDT_ENTRIES: readonly bigint[] = [
  0n,
  0x00cf_9b00_0000_ffffn,
  0x00cf_9300_0000_ffffn,
  0x0000_9b00_0000_ffffn,
  0x0000_9300_0000_ffffn,
  0x00af_9b00_0000_ffffn,
  0x00cf_fb00_0000_ffffn,
  0x00cf_f300_0000_ffffn,
  0x00af_fb00_0000_ffffn,
];
export const GDT_LIMIT = 0xff;

/** Bytes of a segment or system descriptor with byte-granular limit. */
export function descriptor(base: number, limit: number, access: number, flags = 0): Uint8Array {
  const low = ((base & 0xffff) << 16) | (limit & 0xffff);
  const high =
    (base & 0xff00_0000) | (flags << 20) | (limit & 0xf_0000) | (access << 8) | ((base >>> 16) & 0xff);
  return u32s(low, high);
}

/** Bytes of a 32-bit call, interrupt, trap or task gate. */
export function gate(selector: number, offset: number, access: number, count = 0): Uint8Array {
  return u32s((selector << 16) | (offset & 0xffff), (offset & 0xffff_0000) | (access << 8) | count);
}

/** Bytes of a 64-bit interrupt or trap gate; `offset` below 2^32. */
export function gate64(selector: number, offset: number, access: number, ist = 0): Uint8Array {
  return u32s((selector << 16) | (offset & 0xffff), (offset & 0xffff_0000) | (access << 8) | ist, 0, 0);
}

/** Little-endian 32-bit words. */
export function u32s(...words: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * words.length);
  const view = new DataView(bytes.buffer);
  words.forEach((word, i) => {
    view.setUint32(4 * i, word >>> 0, true);
  });
  return bytes;
}

/** Little-endian 64-bit words. */
export function u64s(...words: bigint[]): Uint8Array {
  const bytes = new Uint8Array(8 * words.length);
  const view = new DataView(bytes.buffer);
  words.forEach((word, i) => {
    view.setBigUint64(8 * i, word, true);
  });
  return bytes;
}

/**
 * Machine code written as hex, one instruction a line with its assembly behind a semicolon:
 *
 * ```ts
 * hex`
 *   b8 34 12   ; mov ax, 0x1234
 *   f4         ; hlt
 * `
 * ```
 */
export function hex(source: TemplateStringsArray): Uint8Array {
  const digits = source
    .join("")
    .split("\n")
    .map((line) => line.split(";")[0]!)
    .join(" ")
    .trim();
  if (!/^([0-9a-f]{2}(\s+|$))*$/.test(digits)) throw new SyntaxError(`hex: expected bytes, got "${digits}"`);
  return Uint8Array.from(digits === "" ? [] : digits.split(/\s+/), (byte) => Number.parseInt(byte, 16));
}
