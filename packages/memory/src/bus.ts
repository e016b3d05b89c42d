/** Width of one bus access in bytes. Eight-byte accesses reach a device as two of four, low half first. */
export type AccessSize = 1 | 2 | 4;

/**
 * A device as the bus sees it: offsets from the start of its range, and values.
 *
 * Both methods are called on the VM's thread and must return at once; they never throw, whatever the guest
 * sends. `value` and the result are unsigned and fit `size` bytes; a device may return more bits, the bus
 * cuts them off.
 */
export interface BusDevice {
  /** Reads `size` bytes at `offset` (bytes from the start of the range). */
  read(offset: number, size: AccessSize): number;
  /** Writes the low `size` bytes of `value` at `offset` (bytes from the start of the range). */
  write(offset: number, size: AccessSize, value: number): void;
}

/** A claim on a bus, released by `release()`; releasing twice is harmless. */
export interface BusClaim {
  release(): void;
}
