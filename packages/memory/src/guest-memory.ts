/**
 * Guest memory as a device sees it: DMA by guest-physical address, every access checked against RAM's
 * bounds, every write noted for the dirty log and for whoever watches the page (compiled code).
 *
 * Addresses come from the guest and are hostile: an access that is not wholly in RAM (or, for reads, ROM)
 * is refused by `false` or `undefined`, with nothing transferred; it never throws. Addresses and lengths are
 * in bytes; an address is an integer in [0, 2^52).
 */
export interface GuestMemory {
  /** Fills `into` from `address`; false if any byte lies outside RAM and ROM. */
  read(address: number, into: Uint8Array): boolean;
  /** Writes `from` at `address`; false if any byte lies outside RAM. */
  write(address: number, from: Uint8Array): boolean;
  /** Fills `length` bytes at `address` with `value`; false if any byte lies outside RAM. */
  fill(address: number, value: number, length: number): boolean;
  /** Little-endian scalars; `undefined` or `false` outside RAM. */
  readU8(address: number): number | undefined;
  readU16(address: number): number | undefined;
  readU32(address: number): number | undefined;
  readU64(address: number): bigint | undefined;
  writeU8(address: number, value: number): boolean;
  writeU16(address: number, value: number): boolean;
  writeU32(address: number, value: number): boolean;
  writeU64(address: number, value: bigint): boolean;
}
