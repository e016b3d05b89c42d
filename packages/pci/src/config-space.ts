import type { AccessSize } from "@skep/memory";
import type { StateReader } from "@skep/vcpu";
import { CONFIG_BYTES } from "./header.ts";

/** What a guest's write does to a register's bits; those in neither mask are read-only. */
export interface RegisterMasks {
  /** Bits that take what is written. */
  readonly writable?: number;
  /** Bits that a written one clears. */
  readonly clearable?: number;
}

/**
 * The 4 KiB of one function's configuration space: a value and two masks for every bit, so that each access, whatever
 * its width and alignment, is resolved in one place. Undefined registers read as zero.
 */
export class ConfigSpace {
  readonly #value = new Uint8Array(CONFIG_BYTES);
  readonly #reset = new Uint8Array(CONFIG_BYTES);
  readonly #writable = new Uint8Array(CONFIG_BYTES);
  readonly #clearable = new Uint8Array(CONFIG_BYTES);

  /**
   * Lays out `bytes` (1 to 4) at `offset`: value after reset, and what a guest may do to it. Replaces what was there.
   *
   * @throws RangeError where the register does not lie in configuration space.
   */
  define(offset: number, bytes: number, value: number, masks: RegisterMasks = {}): void {
    if (!Number.isInteger(offset) || offset < 0 || bytes < 1 || bytes > 4 || offset + bytes > CONFIG_BYTES) {
      throw new RangeError(
        `offset: expected ${bytes} bytes within 0x${CONFIG_BYTES.toString(16)}, got ${offset}`,
      );
    }
    for (let i = 0; i < bytes; i++) {
      const shift = 8 * i;
      this.#value[offset + i] = this.#reset[offset + i] = value >>> shift;
      this.#writable[offset + i] = (masks.writable ?? 0) >>> shift;
      this.#clearable[offset + i] = (masks.clearable ?? 0) >>> shift;
    }
  }

  /** Reads `bytes` (1 to 4) at `offset`, unsigned; bytes past the end are zero. */
  read(offset: number, bytes: number): number {
    let value = 0;
    for (let i = 0; i < bytes; i++) value |= (this.#value[offset + i] ?? 0) << (8 * i);
    return value >>> 0;
  }

  /** A guest's write: changes what the masks allow. */
  write(offset: number, size: AccessSize, value: number): void {
    for (let i = 0; i < size && offset + i < CONFIG_BYTES; i++) {
      const at = offset + i;
      const written = (value >>> (8 * i)) & 0xff;
      const writable = this.#writable[at]!;
      this.#value[at] =
        (this.#value[at]! & ~writable & ~(this.#clearable[at]! & written)) | (written & writable);
    }
  }

  /** The function's own side: makes `bytes` at `offset` `value`, whatever the masks say. */
  set(offset: number, bytes: number, value: number): void {
    for (let i = 0; i < bytes; i++) this.#value[offset + i] = value >>> (8 * i);
  }

  /** Every register as it was defined. */
  reset(): void {
    this.#value.set(this.#reset);
  }

  /** The dwords that hold a bit which a guest can change, in order of offset. */
  save(): number[] {
    return this.#stateful().map((offset) => (this.read(offset, 4) & this.#changeable(offset)) >>> 0);
  }

  /** Checks what `save` gave, in `field` of a saved state, without taking it. @throws StateError */
  parse(from: StateReader, field: string): readonly number[] {
    const offsets = this.#stateful();
    const dwords = from.uints(field, offsets.length, 0xffff_ffff);
    const good = dwords.every((dword, i) => (dword & ~this.#changeable(offsets[i]!)) >>> 0 === 0);
    from.check(field, good, "no bits that a guest cannot change");
    return dwords;
  }

  /** Takes what `parse` gave. */
  restore(dwords: readonly number[]): void {
    for (const [i, offset] of this.#stateful().entries()) {
      const fixed = this.read(offset, 4) & ~this.#changeable(offset);
      this.set(offset, 4, (fixed | dwords[i]!) >>> 0);
    }
  }

  #stateful(): number[] {
    const offsets: number[] = [];
    for (let offset = 0; offset < CONFIG_BYTES; offset += 4) {
      if (this.#changeable(offset) !== 0) offsets.push(offset);
    }
    return offsets;
  }

  /** The bits of the dword at `offset` that a guest can change, as a signed number. */
  #changeable(offset: number): number {
    let mask = 0;
    for (let i = 0; i < 4; i++)
      mask |= (this.#writable[offset + i]! | this.#clearable[offset + i]!) << (8 * i);
    return mask;
  }
}
