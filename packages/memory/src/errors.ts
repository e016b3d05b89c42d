/** Base of the failures that this package reports; `code` is stable, `cause` holds what lay beneath. */
export class MemoryError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** A host access to guest-physical addresses with nothing behind them. Code `ADDRESS_NOT_MAPPED`. */
export class GuestAddressError extends MemoryError {
  /** Guest-physical address of the access. */
  readonly address: number;
  /** Length of the access in bytes. */
  readonly length: number;
  constructor(action: string, address: number, length: number) {
    super(
      "ADDRESS_NOT_MAPPED",
      `${action}: ${hex(address)}..${hex(address + length)} is not wholly in RAM or ROM`,
    );
    this.address = address;
    this.length = length;
  }
}

/** Two claims on the same addresses or ports; the message names both. Code `RANGE_OVERLAP`. */
export class OverlapError extends MemoryError {
  /** Name of the claim that was refused. */
  readonly refused: string;
  /** Name of the claim that is in its way. */
  readonly existing: string;
  constructor(space: string, refused: NamedRange, existing: NamedRange) {
    super(
      "RANGE_OVERLAP",
      `${space}: ${describeRange(refused)} overlaps ${describeRange(existing)}; release one, or move it`,
    );
    this.refused = refused.name;
    this.existing = existing.name;
  }
}

/**
 * The arena cannot be made or is used up. Codes: `ARENA_TOO_LARGE` (the sizes do not fit 4 GiB),
 * `ARENA_HOST_MEMORY` (the host refused it), `ARENA_FULL` (nothing left to allocate).
 */
export class ArenaError extends MemoryError {}

/** A saved state that `restore()` does not take: names the field, what was expected and what came. Code `BAD_STATE`. */
export class MemoryStateError extends MemoryError {
  constructor(field: string, expected: string, actual: unknown) {
    super("BAD_STATE", `${field}: expected ${expected}, got ${show(actual)}`);
  }
}

/** A half-open range [start, end) and who claims it. */
export interface NamedRange {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

/** `0x…` for messages; what is not a number is shown as it is. */
export function hex(value: number): string {
  return Number.isInteger(value) ? `0x${value.toString(16)}` : String(value);
}

function describeRange(range: NamedRange): string {
  return `${range.name} at ${hex(range.start)}..${hex(range.end)}`;
}

function show(value: unknown): string {
  if (typeof value === "number") return hex(value);
  if (typeof value === "string") return JSON.stringify(value.slice(0, 80));
  if (value === null || typeof value !== "object") return String(value);
  return Object.prototype.toString.call(value);
}
