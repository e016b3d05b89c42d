import { hex } from "./errors.ts";

/** Bytes of the smallest page, and of a page-flag byte's reach. */
export const PAGE_BYTES = 4096;

/** First guest-physical address that a four-level EPT cannot translate (SDM Vol. 3C sec. 29.3.2). */
export const EPT_ADDRESS_END = 2 ** 48;

/** First number that is no guest-physical address (MAXPHYADDR is at most 52). */
export const PHYSICAL_ADDRESS_END = 2 ** 52;

/** @throws RangeError unless `value` is an integer in [min, max]. */
export function checkInteger(field: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new RangeError(`${field}: expected an integer in ${hex(min)}..=${hex(max)}, got ${hex(value)}`);
}

/** @throws RangeError unless `value` is a multiple of 4096 in [min, max]. */
export function checkPages(field: string, value: number, min: number, max: number): void {
  checkInteger(field, value, min, max);
  if (value % PAGE_BYTES === 0) return;
  throw new RangeError(`${field}: expected a multiple of 0x1000, got ${hex(value)}`);
}

export function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

export function roundDown(value: number, unit: number): number {
  return value - (value % unit);
}
