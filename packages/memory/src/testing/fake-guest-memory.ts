import type { GuestMemory } from "../guest-memory.ts";

/** One range of a `FakeGuestMemory`; whatever no range covers is a gap. */
export interface FakeRange {
  /** Guest-physical address. */
  readonly start: number;
  /** Length in bytes. */
  readonly bytes: number;
  /** ROM: readable by DMA, not writable. Default false. */
  readonly readOnly?: boolean;
}

/**
 * Guest memory for testing a device: small ranges anywhere in the address space, gaps between them, and a
 * record of every write. Slow and simple on purpose: it shares no code with the real one.
 */
export class FakeGuestMemory implements GuestMemory {
  /** Every successful write and fill by the device, oldest first. */
  readonly writes: { readonly address: number; readonly length: number }[] = [];
  readonly #ranges: readonly (FakeRange & { readonly contents: Uint8Array })[];

  constructor(ranges: readonly FakeRange[] = [{ start: 0, bytes: 0x1_0000 }]) {
    this.#ranges = ranges.map((range) => ({ ...range, contents: new Uint8Array(range.bytes) }));
  }

  /** The test's own write, into ROM too; not recorded. @throws RangeError in a gap. */
  load(address: number, bytes: Uint8Array | readonly number[]): void {
    bytes.forEach((byte, i) => {
      const range = this.#find(address + i);
      if (range === undefined) throw new RangeError(`load: no memory at 0x${(address + i).toString(16)}`);
      range.contents[address + i - range.start] = byte;
    });
  }

  /** The test's own read. @throws RangeError in a gap. */
  dump(address: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    if (!this.read(address, bytes)) {
      throw new RangeError(`dump: no memory at 0x${address.toString(16)} for ${length} bytes`);
    }
    return bytes;
  }

  read(address: number, into: Uint8Array): boolean {
    if (!this.#covers(address, into.length, false)) return false;
    for (let i = 0; i < into.length; i++) {
      const range = this.#find(address + i)!;
      into[i] = range.contents[address + i - range.start]!;
    }
    return true;
  }

  write(address: number, from: Uint8Array): boolean {
    if (!this.#covers(address, from.length, true)) return false;
    this.load(address, from);
    this.writes.push({ address, length: from.length });
    return true;
  }

  fill(address: number, value: number, length: number): boolean {
    if (!this.#covers(address, length, true)) return false;
    return this.write(address, new Uint8Array(length).fill(value));
  }

  readU8(address: number): number | undefined {
    return this.#scalar(address, 1)?.getUint8(0);
  }

  readU16(address: number): number | undefined {
    return this.#scalar(address, 2)?.getUint16(0, true);
  }

  readU32(address: number): number | undefined {
    return this.#scalar(address, 4)?.getUint32(0, true);
  }

  readU64(address: number): bigint | undefined {
    return this.#scalar(address, 8)?.getBigUint64(0, true);
  }

  writeU8(address: number, value: number): boolean {
    return this.write(address, Uint8Array.of(value));
  }

  writeU16(address: number, value: number): boolean {
    return this.write(address, Uint8Array.of(value, value >>> 8));
  }

  writeU32(address: number, value: number): boolean {
    return this.write(address, Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24));
  }

  writeU64(address: number, value: bigint): boolean {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    return this.write(address, bytes);
  }

  #scalar(address: number, size: number): DataView | undefined {
    const bytes = new Uint8Array(size);
    return this.read(address, bytes) ? new DataView(bytes.buffer) : undefined;
  }

  #find(address: number) {
    return this.#ranges.find((range) => address >= range.start && address < range.start + range.bytes);
  }

  /** Walks range by range, not byte by byte: a hostile length must not keep a test busy. */
  #covers(address: number, length: number, write: boolean): boolean {
    if (!Number.isSafeInteger(address) || !Number.isSafeInteger(length) || length < 0) return false;
    let at = address;
    while (at < address + length) {
      const range = this.#find(at);
      if (range === undefined || (write && range.readOnly === true)) return false;
      at = range.start + range.bytes;
    }
    return true;
  }
}
