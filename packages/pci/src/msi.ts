/**
 * Message-signalled interrupts (PCI Local Bus 3.0, sec. 6.8.1): the capability with a 64-bit address and without masks.
 *
 * ```text
 * +0  identifier 05, link     +2  message control
 * +4  address, low half       +8  address, high half       +C  data
 * ```
 *
 * Deviations: a message to an address beyond 4 GiB, which is no interrupt on x86, is dropped; so is one while the
 * function may not master the bus.
 */
import type { MsiTarget } from "@skep/vcpu";
import type { PciFunction } from "./function.ts";

const CAPABILITY_ID = 0x05;
/** Offsets from the capability's start. */
const REG = {
  CONTROL: 0x2, // RW, see CONTROL
  ADDRESS: 0x4, // RW
  ADDRESS_HIGH: 0x8, // RW
  DATA: 0xc, // RW
} as const;
const BYTES = 14;
const CONTROL = {
  ENABLE: 0x0001, // RW
  /** Vectors that the function can use, as a power of two. */
  CAPABLE_SHIFT: 1, // RO
  /** Vectors that it may use, as a power of two. */
  ENABLED: 0x0070, // RW
  ENABLED_SHIFT: 4,
  ADDRESS_64: 0x0080, // RO
} as const;
const ADDRESS_WRITABLE = 0xffff_fffc;
const MAX_VECTORS = 32;

export interface MsiOptions {
  /** A power of two from 1 to 32. Default 1. */
  readonly vectors?: number;
}

/** A function's MSI capability; its state is the function's. */
export class Msi {
  readonly #fn: PciFunction;
  readonly #target: MsiTarget;
  readonly #offset: number;
  readonly #capable: number;

  /**
   * Adds the capability to `fn`'s list.
   *
   * @throws RangeError where the number of vectors is none, or the list has no room.
   */
  constructor(fn: PciFunction, target: MsiTarget, options: MsiOptions = {}) {
    const { vectors = 1 } = options;
    this.#capable = Math.log2(vectors);
    if (!Number.isInteger(this.#capable) || vectors < 1 || vectors > MAX_VECTORS) {
      throw new RangeError(`vectors: expected a power of two from 1 to ${MAX_VECTORS}, got ${vectors}`);
    }
    this.#fn = fn;
    this.#target = target;
    this.#offset = fn.addCapability(CAPABILITY_ID, BYTES);
    const control = CONTROL.ADDRESS_64 | (this.#capable << CONTROL.CAPABLE_SHIFT);
    fn.define(this.#offset + REG.CONTROL, 2, control, { writable: CONTROL.ENABLE | CONTROL.ENABLED });
    fn.define(this.#offset + REG.ADDRESS, 4, 0, { writable: ADDRESS_WRITABLE });
    fn.define(this.#offset + REG.ADDRESS_HIGH, 4, 0, { writable: 0xffff_ffff });
    fn.define(this.#offset + REG.DATA, 2, 0, { writable: 0xffff });
  }

  /** Whether the guest wants messages; the function leaves its interrupt pin alone then. */
  get isEnabled(): boolean {
    return (this.#read(REG.CONTROL, 2) & CONTROL.ENABLE) !== 0;
  }

  /** Sends `vector`'s message; where the guest gave fewer vectors, several of the function's share one. */
  send(vector = 0): void {
    if (!this.isEnabled || !this.#fn.isBusMaster || this.#read(REG.ADDRESS_HIGH, 4) !== 0) return;
    const enabled = (this.#read(REG.CONTROL, 2) & CONTROL.ENABLED) >>> CONTROL.ENABLED_SHIFT;
    const mask = 2 ** Math.min(enabled, this.#capable) - 1;
    this.#target.send(this.#read(REG.ADDRESS, 4), (this.#read(REG.DATA, 2) & ~mask) | (vector & mask));
  }

  #read(register: number, bytes: number): number {
    return this.#fn.peek(this.#offset + register, bytes);
  }
}
