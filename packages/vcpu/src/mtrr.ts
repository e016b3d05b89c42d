import { Msr } from "./msr-index.ts";

/**
 * Memory-type range registers (SDM Vol. 3A sec. 12.11), as values: guests program and compare them, no engine
 * here caches memory by them. Every reserved combination is refused, so that a guest gets the #GP it expects.
 */

/** Memory types (SDM Vol. 3A table 12-8). */
export const MemoryType = { UC: 0, WC: 1, WT: 4, WP: 5, WB: 6 } as const;

export const VARIABLE_RANGES = 8;
const MTRRCAP_WC = 1n << 10n;
const MTRRCAP_FIX = 1n << 8n;
export const MTRRCAP_VALUE = MTRRCAP_WC | MTRRCAP_FIX | BigInt(VARIABLE_RANGES);

const DEF_TYPE = { TYPE: 0xffn, FE: 1n << 10n, E: 1n << 11n } as const;
const PHYSMASK_V = 1n << 11n;

/** Fixed-range registers in order of address, with the first address of each and bytes per field. */
const FIXED: readonly (readonly [msr: number, start: number, granule: number])[] = [
  [Msr.IA32_MTRR_FIX64K_00000, 0x0_0000, 0x1_0000],
  [Msr.IA32_MTRR_FIX16K_80000, 0x8_0000, 0x4000],
  [Msr.IA32_MTRR_FIX16K_A0000, 0xa_0000, 0x4000],
  ...Array.from(
    { length: 8 },
    (_, i) => [Msr.IA32_MTRR_FIX4K_C0000 + i, 0xc_0000 + i * 0x8000, 0x1000] as const,
  ),
];

/** Indices of all MTRRs that can be written, IA32_MTRRCAP not among them. */
export const MTRR_INDICES: readonly number[] = [
  Msr.IA32_MTRR_DEF_TYPE,
  ...FIXED.map(([msr]) => msr),
  ...Array.from({ length: 2 * VARIABLE_RANGES }, (_, i) => Msr.IA32_MTRR_PHYSBASE0 + i),
];

/** Whether `value` has no reserved bit and no reserved memory type for the MTRR with this index. */
export function isValidMtrr(index: number, value: bigint, physicalBits: number): boolean {
  if (index === Msr.IA32_MTRR_DEF_TYPE) {
    return (value & ~(DEF_TYPE.TYPE | DEF_TYPE.FE | DEF_TYPE.E)) === 0n && isType(Number(value & 0xffn));
  }
  if (index < Msr.IA32_MTRR_FIX64K_00000) {
    if (value >> BigInt(physicalBits) !== 0n) return false;
    const isBase = ((index - Msr.IA32_MTRR_PHYSBASE0) & 1) === 0;
    if (isBase) return (value & 0xf00n) === 0n && isType(Number(value & 0xffn));
    return (value & (PHYSMASK_V - 1n)) === 0n;
  }
  for (let byte = 0n; byte < 8n; byte++) {
    if (!isType(Number((value >> (8n * byte)) & 0xffn))) return false;
  }
  return true;
}

/** Values after RESET: all ranges off (SDM Vol. 3A table 10-1 leaves them undefined, firmware expects zeros). */
export function resetMtrrs(): Map<number, bigint> {
  return new Map(MTRR_INDICES.map((index) => [index, 0n]));
}

/**
 * Values as a PC's firmware leaves them, for guests that are started without one: write-back everywhere but
 * the video memory, the option ROMs and [`holeStart`, 4 GiB). Linux turns PAT off where it finds MTRRs off.
 *
 * @param holeStart first guest-physical address above low RAM, a power of two's multiple that one to
 *   four naturally aligned blocks fill up to 4 GiB, such as 0xC000_0000 or 0x8000_0000.
 */
export function firmwareMtrrs(holeStart: number, physicalBits: number): Map<number, bigint> {
  const values = resetMtrrs();
  for (const [msr, start] of FIXED) {
    const type = start < 0xa_0000 ? MemoryType.WB : start < 0xc_0000 ? MemoryType.UC : MemoryType.WP;
    values.set(msr, 0x0101_0101_0101_0101n * BigInt(type));
  }
  const top = 2 ** 32;
  const addressMask = (1n << BigInt(physicalBits)) - 1n;
  let start = holeStart;
  for (let range = 0; start < top; range++) {
    if (range === VARIABLE_RANGES) {
      throw new RangeError(
        `holeStart: expected an address whose distance to 4 GiB ${VARIABLE_RANGES} aligned blocks cover, ` +
          `got 0x${holeStart.toString(16)}`,
      );
    }
    // The largest naturally aligned block that starts here.
    let size = 0x1000;
    while (start % (2 * size) === 0 && start + 2 * size <= top) size *= 2;
    values.set(Msr.IA32_MTRR_PHYSBASE0 + 2 * range, BigInt(start) | BigInt(MemoryType.UC));
    values.set(Msr.IA32_MTRR_PHYSBASE0 + 2 * range + 1, (addressMask & -BigInt(size)) | PHYSMASK_V);
    start += size;
  }
  values.set(Msr.IA32_MTRR_DEF_TYPE, DEF_TYPE.E | DEF_TYPE.FE | BigInt(MemoryType.WB));
  return values;
}

function isType(type: number): boolean {
  return type === 0 || type === 1 || (type >= 4 && type <= 6);
}
