/** Kernels small enough to read: a bzImage and ELF files made field by field. */

export interface BzImageFields {
  version?: number;
  loadflags?: number;
  xloadflags?: number;
  relocatable?: number;
  alignment?: number;
  prefAddress?: bigint;
  initSize?: number;
  initrdMax?: number;
  cmdlineSize?: number;
  code32Start?: number;
  setupSects?: number;
  syssize?: number;
  jump?: number;
  kernel?: Uint8Array;
}

/** Offsets from Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header". */
export function makeBzImage(fields: BzImageFields = {}): Uint8Array {
  const kernel = fields.kernel ?? Uint8Array.from({ length: 0x400 }, (_, i) => (i * 7) & 0xff);
  const setupSects = fields.setupSects ?? 3;
  const file = new Uint8Array((setupSects + 1) * 512 + kernel.length);
  const view = new DataView(file.buffer);
  view.setUint8(0x1f1, setupSects);
  view.setUint32(0x1f4, fields.syssize ?? Math.ceil(kernel.length / 16), true);
  view.setUint16(0x1fe, 0xaa55, true);
  view.setUint8(0x200, 0xeb);
  view.setUint8(0x201, fields.jump ?? 0x6a);
  view.setUint32(0x202, 0x53726448, true);
  view.setUint16(0x206, fields.version ?? 0x020f, true);
  view.setUint8(0x211, fields.loadflags ?? 0x81);
  view.setUint32(0x214, fields.code32Start ?? 0x100000, true);
  view.setUint32(0x22c, fields.initrdMax ?? 0x7fffffff, true);
  view.setUint32(0x230, fields.alignment ?? 0x200000, true);
  view.setUint8(0x234, fields.relocatable ?? 1);
  view.setUint8(0x235, 21);
  view.setUint16(0x236, fields.xloadflags ?? 0x7f, true);
  view.setUint32(0x238, fields.cmdlineSize ?? 2047, true);
  view.setBigUint64(0x258, fields.prefAddress ?? 0x1000000n, true);
  view.setUint32(0x260, fields.initSize ?? 0x300000, true);
  file.set(kernel, (setupSects + 1) * 512);
  return file;
}

export interface ElfSegmentFields {
  type?: number;
  paddr: bigint;
  data: Uint8Array;
  memsz?: bigint;
  filesz?: bigint;
  offset?: bigint;
}

export interface ElfFields {
  bits?: 32 | 64;
  machine?: number;
  type?: number;
  endian?: number;
  entry?: bigint;
  phentsize?: number;
  phnum?: number;
  segments: ElfSegmentFields[];
}

/** ELF header and program headers (gABI ch. 4 and 5), the segments' bytes behind them. */
export function makeElf(fields: ElfFields): Uint8Array {
  const wide = (fields.bits ?? 64) === 64;
  const [ehsize, phsize] = wide ? [64, 56] : [52, 32];
  let offset = ehsize + fields.segments.length * phsize;
  const file = new Uint8Array(offset + fields.segments.reduce((sum, s) => sum + s.data.length, 0));
  const view = new DataView(file.buffer);
  const put = (at: number, value: bigint): void =>
    wide ? view.setBigUint64(at, value, true) : view.setUint32(at, Number(value), true);
  file.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, fields.endian ?? 1, 1]);
  view.setUint16(0x10, fields.type ?? 2, true);
  view.setUint16(0x12, fields.machine ?? (wide ? 62 : 3), true);
  put(0x18, fields.entry ?? fields.segments[0]?.paddr ?? 0n);
  put(wide ? 0x20 : 0x1c, BigInt(ehsize));
  view.setUint16(wide ? 0x36 : 0x2a, fields.phentsize ?? phsize, true);
  view.setUint16(wide ? 0x38 : 0x2c, fields.phnum ?? fields.segments.length, true);
  for (const [i, segment] of fields.segments.entries()) {
    const at = ehsize + i * phsize;
    view.setUint32(at, segment.type ?? 1, true);
    put(at + (wide ? 8 : 4), segment.offset ?? BigInt(offset));
    put(at + (wide ? 24 : 12), segment.paddr);
    put(at + (wide ? 32 : 16), segment.filesz ?? BigInt(segment.data.length));
    put(at + (wide ? 40 : 20), segment.memsz ?? BigInt(segment.data.length));
    file.set(segment.data, offset);
    offset += segment.data.length;
  }
  return file;
}

/** An ELF note: name and descriptor padded to 4 bytes. */
export function makeNote(name: string, type: number, descriptor: Uint8Array): Uint8Array {
  const padded = (length: number): number => Math.ceil(length / 4) * 4;
  const nameBytes = name.length + 1;
  const note = new Uint8Array(12 + padded(nameBytes) + padded(descriptor.length));
  const view = new DataView(note.buffer);
  view.setUint32(0, nameBytes, true);
  view.setUint32(4, descriptor.length, true);
  view.setUint32(8, type, true);
  for (let i = 0; i < name.length; i++) note[12 + i] = name.charCodeAt(i);
  note.set(descriptor, 12 + padded(nameBytes));
  return note;
}

/** A PVH note naming `entry`, with a descriptor of 4 or 8 bytes. */
export function makePvhNote(entry: number, bytes: 4 | 8 = 4): Uint8Array {
  const descriptor = new Uint8Array(bytes);
  new DataView(descriptor.buffer).setUint32(0, entry, true);
  return makeNote("Xen", 18, descriptor);
}
