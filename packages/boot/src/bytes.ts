/**
 * Little-endian reading of hostile files and writing of guest structures: the only places in this package
 * where an offset is checked against a length.
 */
import { BootError, hex } from "./errors.ts";

/** Reads little-endian fields of an image; what lies beyond its end is a `truncated` error. */
export class ImageReader {
  readonly bytes: Uint8Array;
  readonly #what: string;
  readonly #view: DataView;

  /** `what` names the image in errors: "kernel". */
  constructor(bytes: Uint8Array, what: string) {
    this.bytes = bytes;
    this.#what = what;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get length(): number {
    return this.bytes.length;
  }

  /**
   * The bytes [offset, offset + length) as a view, not a copy.
   * @throws BootError `truncated` where the image does not hold them all.
   */
  slice(offset: number, length: number, field: string): Uint8Array {
    this.#check(offset, length, field);
    return this.bytes.subarray(offset, offset + length);
  }

  u8(offset: number, field: string): number {
    this.#check(offset, 1, field);
    return this.#view.getUint8(offset);
  }

  u16(offset: number, field: string): number {
    this.#check(offset, 2, field);
    return this.#view.getUint16(offset, true);
  }

  u32(offset: number, field: string): number {
    this.#check(offset, 4, field);
    return this.#view.getUint32(offset, true);
  }

  /**
   * A 64-bit field that has to be usable as an address, offset or length: an integer below 2^52.
   * @throws BootError `invalid-value` where it is 2^52 or more.
   */
  u52(offset: number, field: string): number {
    this.#check(offset, 8, field);
    const high = this.#view.getUint32(offset + 4, true);
    const low = this.#view.getUint32(offset, true);
    if (high >= 0x10_0000) {
      const value = (BigInt(high) << 32n) | BigInt(low);
      throw new BootError("invalid-value", field, "less than 2^52", value);
    }
    return high * 0x1_0000_0000 + low;
  }

  #check(offset: number, length: number, field: string): void {
    if (offset >= 0 && length >= 0 && offset + length <= this.bytes.length) return;
    throw new BootError(
      "truncated",
      field,
      `${length} bytes at offset ${hex(offset)} of the ${this.#what}`,
      `a file of ${this.bytes.length} bytes`,
    );
  }
}

/** A structure of fixed size for the guest, filled by offset; zero where nothing is written. */
export class StructWriter {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(length: number) {
    this.bytes = new Uint8Array(length);
    this.#view = new DataView(this.bytes.buffer);
  }

  u8(offset: number, value: number): this {
    this.#view.setUint8(offset, value);
    return this;
  }

  u16(offset: number, value: number): this {
    this.#view.setUint16(offset, value, true);
    return this;
  }

  u32(offset: number, value: number): this {
    this.#view.setUint32(offset, value, true);
    return this;
  }

  /** `value` is an integer in [0, 2^53). */
  u64(offset: number, value: number): this {
    this.#view.setUint32(offset, value % 0x1_0000_0000, true);
    this.#view.setUint32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
    return this;
  }

  /** ASCII, padded with `pad` to `length` bytes; longer text is a RangeError. */
  text(offset: number, value: string, length = value.length, pad = 0): this {
    if (value.length > length) throw new RangeError(`"${value}": expected at most ${length} characters`);
    this.bytes.fill(pad, offset, offset + length);
    for (let i = 0; i < value.length; i++) this.bytes[offset + i] = value.charCodeAt(i);
    return this;
  }

  raw(offset: number, bytes: Uint8Array): this {
    this.bytes.set(bytes, offset);
    return this;
  }
}

/** Concatenates byte arrays. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** `value` rounded up to a multiple of `unit` (any positive integers within 2^53). */
export function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** `value` rounded down to a multiple of `unit`. */
export function alignDown(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}
