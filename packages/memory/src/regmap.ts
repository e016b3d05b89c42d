import type { AccessSize } from "./bus.ts";
import { checkInteger } from "./check.ts";

/** A device's registers, as a `RegisterMap` reads and writes them. Numbers are unsigned. */
export interface RegisterFile<R> {
  /** The whole register. Called once for each register that an access touches, so side effects happen once. */
  readRegister(register: R): number;
  /**
   * The bytes of `register` that `mask` covers become `value`'s; bits outside the mask are 0 in `value`. A plain
   * register stores `mergeBits(old, value, mask)`, a write-one-to-clear one `old & ~value`.
   */
  writeRegister(register: R, value: number, mask: number): void;
}

/** One row: a register and its width in bytes, or null for a gap of any length. */
export type RegisterRow<R> = readonly [register: R, bytes: AccessSize] | readonly [gap: null, bytes: number];

/** Enough for any device; a bound, because the map keeps an entry a byte. */
const MAX_MAP_BYTES = 0x1_0000;

/**
 * A register map as data: the registers in the order in which they lie, and the one place where partial,
 * straddling and misaligned accesses are resolved.
 *
 * An access is resolved as on a bus with byte enables: every register that it touches is read or written once,
 * in order of address, and a write says which of its bytes were enabled. No write reads a register, so
 * a byte written beside a write-one-to-clear or read-to-clear register leaves that one alone. Bytes in
 * gaps and past the end read as 0 and swallow writes.
 *
 * @example
 * const MAP = new RegisterMap([["PM1_STS", 2], ["PM1_EN", 2], ["PM1_CNT", 4], [null, 8], ["PM_TMR", 4]]);
 * MAP.read(offset, size, registers); // registers: RegisterFile<"PM1_STS" | "PM1_EN" | …>
 */
export class RegisterMap<const R extends string | number> {
  /** Bytes from the first register to the end of the last row. */
  readonly bytes: number;
  readonly #registers: readonly { readonly register: R; readonly start: number; readonly bytes: number }[];
  /** Index into #registers for each byte, or -1. */
  readonly #at: Int16Array;

  /** @throws RangeError where a width is not 1, 2 or 4, a gap is not positive, or the map exceeds 64 KiB. */
  constructor(rows: readonly RegisterRow<R>[]) {
    let end = 0;
    const registers: { register: R; start: number; bytes: number }[] = [];
    for (const [register, bytes] of rows) {
      checkInteger(`width of ${register ?? "a gap"}`, bytes, 1, register === null ? MAX_MAP_BYTES : 4);
      if (register !== null) {
        if (bytes === 3) throw new RangeError(`width of ${register}: expected 1, 2 or 4, got 3`);
        registers.push({ register, start: end, bytes });
      }
      end += bytes;
    }
    checkInteger("bytes of the map", end, 1, MAX_MAP_BYTES);
    this.bytes = end;
    this.#registers = registers;
    this.#at = new Int16Array(end).fill(-1);
    registers.forEach(({ start, bytes }, index) => {
      this.#at.fill(index, start, start + bytes);
    });
  }

  /** Offset of `register` in bytes. @throws RangeError where the map has no such register. */
  offsetOf(register: R): number {
    const found = this.#registers.find((row) => row.register === register);
    if (found === undefined) throw new RangeError(`register: expected one of the map's, got ${register}`);
    return found.start;
  }

  /** Reads `size` bytes at `offset`, unsigned. */
  read(offset: number, size: AccessSize, file: RegisterFile<R>): number {
    let value = 0;
    for (let i = 0; i < size; ) {
      const row = this.#registers[this.#at[offset + i] ?? -1];
      if (row === undefined) {
        i++;
        continue;
      }
      const skipped = offset + i - row.start;
      const taken = Math.min(row.bytes - skipped, size - i);
      value |= ((file.readRegister(row.register) >>> (8 * skipped)) & byteMask(taken)) << (8 * i);
      i += taken;
    }
    return value >>> 0;
  }

  /** Writes the low `size` bytes of `value` at `offset`. */
  write(offset: number, size: AccessSize, value: number, file: RegisterFile<R>): void {
    for (let i = 0; i < size; ) {
      const row = this.#registers[this.#at[offset + i] ?? -1];
      if (row === undefined) {
        i++;
        continue;
      }
      const skipped = offset + i - row.start;
      const taken = Math.min(row.bytes - skipped, size - i);
      const mask = (byteMask(taken) << (8 * skipped)) >>> 0;
      file.writeRegister(row.register, (((value >>> (8 * i)) << (8 * skipped)) & mask) >>> 0, mask);
      i += taken;
    }
  }
}

/** `old` with the bits of `mask` taken from `value`, unsigned. */
export function mergeBits(old: number, value: number, mask: number): number {
  return ((old & ~mask) | (value & mask)) >>> 0;
}

/** The lowest `bytes` bytes as ones; 1 to 4. */
function byteMask(bytes: number): number {
  return 0xffff_ffff >>> (32 - 8 * bytes);
}
