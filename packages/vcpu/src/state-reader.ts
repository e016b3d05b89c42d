import { StateError } from "./errors.ts";

/**
 * Reads the fields of an untrusted saved state, one typed and bounded field at a time.
 *
 * Every method throws `StateError` (code `BAD_STATE`) naming the field, what was expected and what came; whoever
 * restores reads all fields before changing anything.
 */
export class StateReader {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #path: string;

  /** @throws StateError where `state` is not an object; of this kind and version, unless it is a nameless part. */
  constructor(state: unknown, kind: string, version?: number) {
    this.#path = kind;
    if (!isRecord(state)) throw this.error("", "an object", state);
    this.#fields = state;
    if (version === undefined) return;
    this.#expect("kind", this.unknown("kind") === kind, JSON.stringify(kind));
    this.#expect("version", this.unknown("version") === version, `${version}`);
  }

  /** An integer in [0, max]. */
  uint(field: string, max: number): number {
    const value = this.unknown(field);
    this.#expect(field, isUint(value, max), `an integer from 0 to 0x${max.toString(16)}`);
    return value as number;
  }

  /** An integer in [min, max]. */
  integer(field: string, min: number, max: number): number {
    const value = this.unknown(field);
    const good = typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max;
    this.#expect(field, good, `an integer from ${min} to ${max}`);
    return value as number;
  }

  /** An unsigned 32-bit integer with no bit set outside `mask`. */
  bits(field: string, mask: number): number {
    const value = this.uint(field, 0xffff_ffff);
    this.#expect(field, (value & ~mask) >>> 0 === 0, `no bits outside 0x${mask.toString(16)}`);
    return value;
  }

  /** A number in [0, max], fractions included; finite where there is no `max`. */
  number(field: string, max?: number): number {
    const value = this.unknown(field);
    const good =
      Number.isFinite(value) && (max === undefined || ((value as number) >= 0 && (value as number) <= max));
    this.#expect(field, good, max === undefined ? "a finite number" : `a number from 0 to ${max}`);
    return value as number;
  }

  boolean(field: string): boolean {
    const value = this.unknown(field);
    this.#expect(field, typeof value === "boolean", "a boolean");
    return value as boolean;
  }

  /** A bigint in [0, 2^64). */
  u64(field: string): bigint {
    const value = this.unknown(field);
    const good = typeof value === "bigint" && value >= 0n && value < 1n << 64n;
    this.#expect(field, good, "a bigint below 2^64");
    return value as bigint;
  }

  /** An array of exactly `length` items of any kind, copied. */
  array(field: string, length: number): unknown[] {
    const value = this.unknown(field);
    this.#expect(field, Array.isArray(value) && value.length === length, `an array of ${length}`);
    return Array.from(value as unknown[]);
  }

  /** An array of exactly `length` integers in [0, max], copied. */
  uints(field: string, length: number, max: number): number[] {
    const items = this.array(field, length);
    const good = items.every((item) => isUint(item, max));
    this.#expect(field, good, `integers from 0 to 0x${max.toString(16)}`);
    return items as number[];
  }

  /** As `uints`, for a queue: `maxLength` integers at most. */
  queue(field: string, maxLength: number, max: number): number[] {
    const value = this.unknown(field);
    const length = Array.isArray(value) ? value.length : 0;
    this.#expect(field, Array.isArray(value) && length <= maxLength, `an array of at most ${maxLength}`);
    return this.uints(field, length, max);
  }

  /** An array of exactly `length` parts, each for a reader of its own. */
  parts(field: string, length: number): StateReader[] {
    return this.array(field, length).map((part, i) => new StateReader(part, `${this.#path}.${field}[${i}]`));
  }

  /** An object used as a dictionary. */
  record(field: string): Readonly<Record<string, unknown>> {
    const value = this.unknown(field);
    this.#expect(field, isRecord(value), "an object");
    return value as Record<string, unknown>;
  }

  /** Whether an optional field is there. */
  has(field: string): boolean {
    return this.unknown(field) !== undefined;
  }

  /** A nested state for its own reader, or a field that the caller checks. Never an inherited one. */
  unknown(field: string): unknown {
    return Object.hasOwn(this.#fields, field) ? this.#fields[field] : undefined;
  }

  /** Fails with `expected` unless `good`: for what depends on more than one field. */
  check(field: string, good: boolean, expected: string): void {
    this.#expect(field, good, expected);
  }

  /** The error for a field, or something in it, that the caller found wrong. */
  error(field: string, expected: string, actual: unknown): StateError {
    const name = field === "" ? this.#path : `${this.#path}.${field}`;
    return new StateError("BAD_STATE", `${name}: expected ${expected}, got ${show(actual)}`);
  }

  #expect(field: string, good: boolean, expected: string): void {
    if (!good) throw this.error(field, expected, this.unknown(field));
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isUint(value: unknown, max: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= max;
}

/** A short, safe picture of a hostile value. */
function show(value: unknown): string {
  if (typeof value === "bigint") return `0x${BigInt.asUintN(64, value).toString(16)}`;
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : String(value);
}
