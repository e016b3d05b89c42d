/**
 * Base address registers (PCI Local Bus 3.0, sec. 6.2.5.1): the bits that a range's size leaves free are writable, the
 * others read as zero, which is all that there is to sizing.
 *
 * ```text
 * memory  31 … 4       3             2–1            0     a 64-bit BAR has its high half in the next register
 *         address      prefetchable  00: 32, 10: 64  0
 * I/O     31 … 2       1             0
 *         address      reserved      1
 * ```
 */
import type { BusDevice } from "@skep/memory";
import type { ConfigSpace } from "./config-space.ts";
import { BAR_COUNT, HEADER } from "./header.ts";

const IO = { SPACE: 0x1, FLAGS: 0x3 } as const;
const MEMORY = { TYPE_64: 0x4, PREFETCHABLE: 0x8, FLAGS: 0xf } as const;

/** Ports that x86 has; a BAR's upper half is there for other machines. */
const PORT_END = 0x1_0000;
/** High half of the first address that is none (52 bits). */
const ADDRESS_HIGH_END = 0x10_0000;
const MAX_IO_BYTES = 0x100;
const MAX_MEMORY32_BYTES = 0x8000_0000;
const MAX_MEMORY64_BYTES = 2 ** 40;

/** A range of addresses or ports that a function answers at, wherever the guest puts it. */
export interface BarOptions {
  /** Number of the register, 0 to 5; a 64-bit one takes the next too. */
  readonly index: number;
  readonly space: "memory32" | "memory64" | "io";
  /** A power of two: 16 bytes to 2 GiB of memory (1 TiB with 64 bits), 4 to 256 ports. */
  readonly bytes: number;
  /** Reads have no side effects. Default false. */
  readonly prefetchable?: boolean;
  /** Answers there, by offsets from the range's start. */
  readonly device: BusDevice;
}

/** One BAR of a function, in its configuration space. */
export class Bar {
  readonly index: number;
  readonly space: BarOptions["space"];
  readonly bytes: number;
  readonly device: BusDevice;
  readonly #config: ConfigSpace;

  /** @throws RangeError where the index or the size is none. */
  constructor(config: ConfigSpace, options: BarOptions) {
    const { index, space, bytes } = options;
    const last = space === "memory64" ? BAR_COUNT - 2 : BAR_COUNT - 1;
    if (!Number.isInteger(index) || index < 0 || index > last) {
      throw new RangeError(`bars.index: expected 0 to ${last}, got ${index}`);
    }
    const [least, most] = {
      io: [4, MAX_IO_BYTES],
      memory32: [16, MAX_MEMORY32_BYTES],
      memory64: [16, MAX_MEMORY64_BYTES],
    }[space] as [number, number];
    if (!(bytes >= least && bytes <= most) || !Number.isInteger(Math.log2(bytes))) {
      throw new RangeError(
        `bars[${index}].bytes: expected a power of two from ${least} to ${most}, got ${bytes}`,
      );
    }
    this.index = index;
    this.space = space;
    this.bytes = bytes;
    this.device = options.device;
    this.#config = config;

    const offset = HEADER.BAR + 4 * index;
    if (space === "io") {
      config.define(offset, 4, IO.SPACE, { writable: -bytes & ~IO.FLAGS });
      return;
    }
    const flags =
      (space === "memory64" ? MEMORY.TYPE_64 : 0) | (options.prefetchable ? MEMORY.PREFETCHABLE : 0);
    const lowMask = bytes >= 2 ** 32 ? 0 : -bytes & ~MEMORY.FLAGS;
    config.define(offset, 4, flags, { writable: lowMask });
    if (space === "memory64") config.define(offset + 4, 4, 0, { writable: -Math.ceil(bytes / 2 ** 32) });
  }

  /** Whether the register, or its high half, is at dword `index` of the header's six. */
  covers(index: number): boolean {
    return index === this.index || (this.space === "memory64" && index === this.index + 1);
  }

  /** The address or port that the guest put the range at, or undefined where it would not fit the space. */
  get base(): number | undefined {
    const offset = HEADER.BAR + 4 * this.index;
    const low = this.#config.read(offset, 4);
    if (this.space === "io") {
      const port = (low & ~IO.FLAGS) >>> 0;
      return port + this.bytes <= PORT_END ? port : undefined;
    }
    const high = this.space === "memory64" ? this.#config.read(offset + 4, 4) : 0;
    return high < ADDRESS_HIGH_END ? high * 2 ** 32 + ((low & ~MEMORY.FLAGS) >>> 0) : undefined;
  }
}
