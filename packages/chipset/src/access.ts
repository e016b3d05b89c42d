/**
 * Partial, wide, straddling and misaligned accesses, once for every chip of this package.
 *
 * Eight-bit chips sit behind the ISA bus, which turns a wide access into byte accesses at rising addresses;
 * chips with wide registers get aligned 32-bit accesses with a mask of the bytes that were really touched, so
 * that a byte write beside a write-one-to-clear register clears nothing there.
 */
import type { AccessSize } from "@skep/memory";

/** A chip whose registers are bytes. */
export interface ByteRegisters {
  /** The byte at `offset`; an offset that the chip does not decode gives 0xFF. */
  readByte(offset: number): number;
  writeByte(offset: number, value: number): void;
}

/** A chip whose registers are 32 bits wide or wider, at offsets that are multiples of four. */
export interface DwordRegisters {
  readDword(offset: number): number;
  /** Writes the bytes that `mask` (0xFF per byte) selects; `value` holds zeros elsewhere. */
  writeDword(offset: number, value: number, mask: number): void;
}

/** Reads `size` bytes at `offset`, byte by byte in rising order; unsigned. */
export function readBytes(chip: ByteRegisters, offset: number, size: AccessSize): number {
  if (size === 1) return chip.readByte(offset);
  let value = 0;
  for (let index = 0; index < size; index++) value |= chip.readByte(offset + index) << (8 * index);
  return value >>> 0;
}

/** Writes `size` bytes at `offset`, byte by byte in rising order. */
export function writeBytes(chip: ByteRegisters, offset: number, size: AccessSize, value: number): void {
  for (let index = 0; index < size; index++) chip.writeByte(offset + index, (value >>> (8 * index)) & 0xff);
}

/** Reads `size` bytes at any `offset` out of the one or two registers they lie in; unsigned. */
export function readDwords(chip: DwordRegisters, offset: number, size: AccessSize): number {
  const shift = 8 * (offset & 3);
  const first = offset - (offset & 3);
  let value = chip.readDword(first) >>> shift;
  if ((offset & 3) + size > 4) value |= chip.readDword(first + 4) << (32 - shift);
  return (value & widthMask(size)) >>> 0;
}

/** Writes `size` bytes at any `offset` into the one or two registers they lie in. */
export function writeDwords(chip: DwordRegisters, offset: number, size: AccessSize, value: number): void {
  const shift = 8 * (offset & 3);
  const first = offset - (offset & 3);
  const mask = widthMask(size);
  chip.writeDword(first, ((value & mask) << shift) >>> 0, (mask << shift) >>> 0);
  if ((offset & 3) + size > 4) {
    chip.writeDword(first + 4, (value & mask) >>> (32 - shift), mask >>> (32 - shift));
  }
}

function widthMask(size: AccessSize): number {
  return size === 4 ? 0xffff_ffff : size === 2 ? 0xffff : 0xff;
}
