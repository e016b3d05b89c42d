/** Resource descriptors for _CRS and _PRS (ACPI 6.5 sec. 6.4): each function gives one, `resources` the template. */
import { concat, StructWriter } from "../bytes.ts";
import { type Aml, buffer } from "./aml.ts";

/** Descriptor tags: small items carry their length in the low three bits. */
const Tag = {
  IRQ_NO_FLAGS: 0x22,
  IO: 0x47,
  END: 0x79,
  MEMORY32_FIXED: 0x86,
  DWORD_SPACE: 0x87,
  WORD_SPACE: 0x88,
  EXTENDED_INTERRUPT: 0x89,
  QWORD_SPACE: 0x8a,
} as const;

/** A resource template around descriptors. */
export function resources(...descriptors: Uint8Array[]): Aml {
  // A checksum of zero means that there is none to check (sec. 6.4.2.9).
  return buffer(concat([...descriptors, Uint8Array.of(Tag.END, 0)]));
}

/** Ports from `base`, decoded with 16 bits. `bytes` 1 to 255. */
export function io(base: number, bytes: number): Uint8Array {
  checkRange("port", base, bytes, 0x1_0000);
  if (bytes > 0xff) throw new RangeError(`io: expected at most 255 ports, got ${bytes}`);
  const DECODE_16 = 0x01;
  return new StructWriter(8).u8(0, Tag.IO).u8(1, DECODE_16).u16(2, base).u16(4, base).u8(6, 1).u8(7, bytes)
    .bytes;
}

/** An edge-triggered, active-high, exclusive ISA interrupt, 0 to 15. */
export function irq(line: number): Uint8Array {
  if (line < 0 || line > 15) throw new RangeError(`irq: expected 0 to 15, got ${line}`);
  return new StructWriter(3).u8(0, Tag.IRQ_NO_FLAGS).u16(1, 1 << line).bytes;
}

/** Addresses from `base`, both below 4 GiB. */
export function memory32(base: number, bytes: number, writable = true): Uint8Array {
  checkRange("address", base, bytes, 2 ** 32);
  const descriptor = new StructWriter(12)
    .u8(0, Tag.MEMORY32_FIXED)
    .u16(1, 9)
    .u8(3, writable ? 1 : 0);
  return descriptor.u32(4, base).u32(8, bytes).bytes;
}

/** A global system interrupt for a device. */
export function interrupt(gsi: number, trigger: "level" | "edge", polarity: "high" | "low"): Uint8Array {
  const CONSUMER = 0x01;
  const flags = CONSUMER | (trigger === "edge" ? 0x02 : 0) | (polarity === "low" ? 0x04 : 0);
  return new StructWriter(9).u8(0, Tag.EXTENDED_INTERRUPT).u16(1, 6).u8(3, flags).u8(4, 1).u32(5, gsi).bytes;
}

/** Kinds of window that a bridge passes on (sec. 6.4.3.5). */
const Space = { MEMORY: 0, IO: 1, BUS: 2 } as const;
/** Minimum and maximum are both fixed; the device produces the range for those behind it. */
const FIXED_PRODUCER = 0x0c;
const MEMORY_READ_WRITE = 0x01;
const IO_ENTIRE_RANGE = 0x03;

/** Bus numbers `first` to `last` of a PCI host bridge. */
export function busNumbers(first: number, last: number): Uint8Array {
  return window([Tag.WORD_SPACE, Space.BUS, 0], 2, first, last - first + 1);
}

/** Ports that a host bridge passes on. */
export function ioWindow(base: number, bytes: number): Uint8Array {
  return window([Tag.WORD_SPACE, Space.IO, IO_ENTIRE_RANGE], 2, base, bytes);
}

/** Addresses below 4 GiB that a host bridge passes on, not cached. */
export function memoryWindow32(base: number, bytes: number): Uint8Array {
  return window([Tag.DWORD_SPACE, Space.MEMORY, MEMORY_READ_WRITE], 4, base, bytes);
}

/** Addresses anywhere that a host bridge passes on, not cached. */
export function memoryWindow64(base: number, bytes: number): Uint8Array {
  return window([Tag.QWORD_SPACE, Space.MEMORY, MEMORY_READ_WRITE], 8, base, bytes);
}

/** Address space descriptor: tag, length, kind, two flag bytes, then granularity, min, max, translation, length. */
function window(
  [tag, kind, typeFlags]: readonly [number, number, number],
  width: 2 | 4 | 8,
  base: number,
  bytes: number,
): Uint8Array {
  checkRange("window", base, bytes, width === 8 ? 2 ** 52 : 2 ** (8 * width));
  const descriptor = new StructWriter(6 + 5 * width).u8(0, tag).u16(1, 3 + 5 * width);
  descriptor.u8(3, kind).u8(4, FIXED_PRODUCER).u8(5, typeFlags);
  for (const [i, value] of [0, base, base + bytes - 1, 0, bytes].entries()) {
    const at = 6 + i * width;
    if (width === 2) descriptor.u16(at, value);
    else if (width === 4) descriptor.u32(at, value);
    else descriptor.u64(at, value);
  }
  return descriptor.bytes;
}

function checkRange(what: string, base: number, bytes: number, end: number): void {
  if (Number.isSafeInteger(base) && base >= 0 && bytes > 0 && base + bytes <= end) return;
  throw new RangeError(`${what}: expected a range below 0x${end.toString(16)}, got ${bytes} at ${base}`);
}
