/**
 * Wide accesses to eight-bit chips: the ISA bus turns them into byte accesses at rising addresses. (Chips with wide
 * registers have a `RegisterMap`.)
 */
import type { AccessSize } from "@skep/memory";

/** A chip whose registers are bytes. */
export interface ByteRegisters {
  /** The byte at `offset`; an offset that the chip does not decode gives 0xFF. */
  readByte(offset: number): number;
  writeByte(offset: number, value: number): void;
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
