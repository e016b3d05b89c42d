import type { GuestMemory } from "../guest-memory.ts";
import type { FakeRange } from "./fake-guest-memory.ts";

/**
 * Where the cases expect memory: two RAM ranges that touch, a gap, ROM, and RAM above 4 GiB. All of it is zero
 * but the ROM, which holds 0xA5 throughout.
 */
export const GUEST_MEMORY_LAYOUT = [
  { start: 0x1000, bytes: 0x1000 },
  { start: 0x2000, bytes: 0x1000 },
  { start: 0x8000, bytes: 0x1000, readOnly: true },
  { start: 0x1_0000_0000, bytes: 0x1000 },
] as const satisfies readonly FakeRange[];

/** One rule of the `GuestMemory` contract; `run` throws where it is broken. */
export interface GuestMemoryCase {
  readonly name: string;
  /** @param memory fresh, laid out as `GUEST_MEMORY_LAYOUT`. */
  run(memory: GuestMemory): void;
}

const HIGH = 0x1_0000_0000;

/** The contract of `GuestMemory`, for every implementation of it. */
export const guestMemoryCases: readonly GuestMemoryCase[] = [
  {
    name: "scalars are little-endian",
    run(memory) {
      expect("writeU32", memory.writeU32(0x1000, 0x89ab_cdef), true);
      expect("readU8", memory.readU8(0x1000), 0xef);
      expect("readU16", memory.readU16(0x1002), 0x89ab);
      expect("writeU64", memory.writeU64(HIGH, 0x8877_6655_4433_2211n), true);
      expect("readU32", memory.readU32(HIGH + 4), 0x8877_6655);
      expect("readU64", memory.readU64(HIGH), 0x8877_6655_4433_2211n);
    },
  },
  {
    name: "written scalars are cut to their width",
    run(memory) {
      memory.writeU8(0x1000, 0x1ff);
      memory.writeU16(0x1010, 0x1_2345);
      memory.writeU32(0x1020, -1);
      expect("readU16", memory.readU16(0x1000), 0x00ff);
      expect("readU32", memory.readU32(0x1010), 0x2345);
      expect("readU64", memory.readU64(0x1020), 0xffff_ffffn);
    },
  },
  {
    name: "accesses cross from one range into the next that touches it",
    run(memory) {
      expect("writeU64", memory.writeU64(0x1ffd, 0x8877_6655_4433_2211n), true);
      expect("readU64", memory.readU64(0x1ffd), 0x8877_6655_4433_2211n);
      expect("readU32", memory.readU32(0x1ffe), 0x5544_3322);
      expect("readU16", memory.readU16(0x1fff), 0x4433);
      expect("writeU16", memory.writeU16(0x1fff, 0xbbaa), true);
      expect("writeU32", memory.writeU32(0x1ffe, 0xddcc_bbaa), true);
      const bytes = new Uint8Array(8);
      expect("read", memory.read(0x1ffd, bytes), true);
      expect("bytes", String(bytes), String([0x11, 0xaa, 0xbb, 0xcc, 0xdd, 0x66, 0x77, 0x88]));
      expect("fill", memory.fill(0x1800, 0x5a, 0x1000), true);
      expect("last", memory.readU16(0x27ff), 0x005a);
    },
  },
  {
    name: "an access that ends in a gap is refused whole",
    run(memory) {
      const into = new Uint8Array(4).fill(0x77);
      expect("write", memory.write(0x2ffe, Uint8Array.of(1, 2, 3)), false);
      expect("fill", memory.fill(0x2ffe, 1, 3), false);
      expect("writeU16", memory.writeU16(0x2fff, 0x0101), false);
      expect("writeU32", memory.writeU32(0x2ffd, 0x0101_0101), false);
      expect("writeU64", memory.writeU64(0x2ff9, 0x0101_0101_0101_0101n), false);
      expect("memory", memory.readU32(0x2ffc), 0);
      expect("read", memory.read(0x2ffe, into), false);
      expect("into", into.join(), "119,119,119,119");
      expect("readU16", memory.readU16(0x2fff), undefined);
      expect("readU32", memory.readU32(0x2ffd), undefined);
      expect("readU64", memory.readU64(0x2ff9), undefined);
    },
  },
  {
    name: "an access in a gap is refused",
    run(memory) {
      for (const address of [0, 0xfff, 0x3000, 0x7fff, HIGH - 1, HIGH + 0x1000, 2 ** 52 - 1]) {
        expect("readU8", memory.readU8(address), undefined);
        expect("readU64", memory.readU64(address), undefined);
        expect("writeU8", memory.writeU8(address, 1), false);
        expect("writeU64", memory.writeU64(address, 1n), false);
        expect("read", memory.read(address, new Uint8Array(1)), false);
      }
    },
  },
  {
    name: "ROM is read and not written",
    run(memory) {
      expect("readU32", memory.readU32(0x8000), 0xa5a5_a5a5);
      expect("writeU8", memory.writeU8(0x8000, 1), false);
      expect("writeU16", memory.writeU16(0x8000, 1), false);
      expect("writeU32", memory.writeU32(0x8000, 1), false);
      expect("writeU64", memory.writeU64(0x8000, 1n), false);
      expect("write", memory.write(0x8000, Uint8Array.of(1)), false);
      expect("fill", memory.fill(0x8000, 1, 0x1000), false);
      expect("readU32", memory.readU32(0x8000), 0xa5a5_a5a5);
    },
  },
  {
    name: "nothing throws, whatever the address and length",
    run(memory) {
      for (const address of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 64]) {
        expect("read", memory.read(address, new Uint8Array(2)), false);
        expect("write", memory.write(address, new Uint8Array(2)), false);
        expect("readU32", memory.readU32(address), undefined);
        expect("writeU32", memory.writeU32(address, 1), false);
      }
      for (const length of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 32]) {
        expect("fill", memory.fill(0x1000, 1, length), false);
      }
      expect("memory", memory.readU64(0x1000), 0n);
    },
  },
  {
    name: "an access of no bytes succeeds",
    run(memory) {
      expect("read", memory.read(0x1000, new Uint8Array(0)), true);
      expect("write", memory.write(0x1000, new Uint8Array(0)), true);
      expect("fill", memory.fill(0x1000, 1, 0), true);
      expect("memory", memory.readU8(0x1000), 0);
    },
  },
];

function expect(what: string, actual: unknown, expected: unknown): void {
  if (actual === expected) return;
  throw new Error(`${what}: expected ${String(expected)}, got ${String(actual)}`);
}
