/** Guest memory outside the arena: anonymous mappings, for guests larger than a WebAssembly memory. */
import { MapFlag, type Native } from "./native.ts";

/** A view's length at most: what an ArrayBuffer holds on every supported Node. */
const MAX_VIEW_BYTES = 2 ** 31;

/** A region of host memory behind a memory slot. Nothing is committed before it is touched. */
export class HostMemory {
  /** Address in this process, a multiple of 4096. */
  readonly address: bigint;
  /** Length in bytes. */
  readonly bytes: number;
  readonly #native: Native;
  readonly #views = new Map<number, Uint8Array>();
  #isOpen = true;

  /** @throws KvmError where the host refuses the memory. */
  constructor(native: Native, bytes: number) {
    this.#native = native;
    this.bytes = bytes;
    this.address = native.reserve(bytes, MapFlag.PRIVATE | MapFlag.ANONYMOUS | MapFlag.NORESERVE);
  }

  /**
   * Bytes [offset, offset + length), which change under the reader's eyes; they must not be used after `close()`.
   *
   * @throws RangeError where they do not lie in the region, or in one window of 2 GiB.
   */
  view(offset: number, length: number): Uint8Array {
    const window = Math.floor(offset / MAX_VIEW_BYTES);
    const start = offset - window * MAX_VIEW_BYTES;
    const isInside = offset >= 0 && length >= 0 && offset + length <= this.bytes;
    if (!this.#isOpen || !isInside || start + length > MAX_VIEW_BYTES) {
      throw new RangeError(
        `view: expected a range of open memory of 0x${this.bytes.toString(16)} bytes, got 0x${offset.toString(16)}, ` +
          `0x${length.toString(16)} bytes`,
      );
    }
    // One buffer an address: engines of JavaScript do not like two.
    let bytes = this.#views.get(window);
    if (bytes === undefined) {
      const base = window * MAX_VIEW_BYTES;
      const size = Math.min(MAX_VIEW_BYTES, this.bytes - base);
      bytes = this.#native.bytesAt(this.address + BigInt(base), size);
      this.#views.set(window, bytes);
    }
    return bytes.subarray(start, start + length);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#views.clear();
    this.#native.release(this.address, this.bytes);
  }
}
