import { StateError } from "@skep/vcpu";

/**
 * Reads the fields of an untrusted saved state, one typed and bounded field at a time.
 *
 * Every method throws `StateError` (code `BAD_STATE`) naming the field, what was expected and what came; a
 * chip reads all its fields before it changes anything.
 */
export class StateReader {
  readonly #fields: Record<string, unknown>;
  readonly #kind: string;

  /** @throws StateError where `state` is not an object; of this kind and version, unless it is a nameless part. */
  constructor(state: unknown, kind: string, version?: number) {
    this.#kind = kind;
    if (typeof state !== "object" || state === null || Array.isArray(state))
      throw new StateError("BAD_STATE", `${kind} state: expected an object, got ${show(state)}`);
    this.#fields = state as Record<string, unknown>;
    if (version === undefined) return;
    this.#expect("kind", this.#get("kind") === kind, JSON.stringify(kind));
    this.#expect("version", this.#get("version") === version, `${version}`);
  }

  /** An integer in [0, max]. */
  uint(field: string, max: number): number {
    const value = this.#get(field);
    this.#expect(field, isUint(value, max), `an integer in [0, 0x${max.toString(16)}]`);
    return value as number;
  }

  /** An integer in [min, max]. */
  integer(field: string, min: number, max: number): number {
    const value = this.#get(field);
    const good = typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max;
    this.#expect(field, good, `an integer in [${min}, ${max}]`);
    return value as number;
  }

  /** An unsigned 32-bit integer with no bit set outside `mask`. */
  bits(field: string, mask: number): number {
    const value = this.uint(field, 0xffff_ffff);
    this.#expect(field, (value & ~mask) >>> 0 === 0, `no bits outside 0x${mask.toString(16)}`);
    return value;
  }

  /** Whether an optional field is there. */
  has(field: string): boolean {
    return this.#get(field) !== undefined;
  }

  /** A finite number in [0, max], fractions included. */
  number(field: string, max: number): number {
    const value = this.#get(field);
    const good = typeof value === "number" && value >= 0 && value <= max;
    this.#expect(field, good, `a number in [0, ${max}]`);
    return value as number;
  }

  bool(field: string): boolean {
    const value = this.#get(field);
    this.#expect(field, typeof value === "boolean", "a boolean");
    return value as boolean;
  }

  /** A bigint in [0, 2^64). */
  u64(field: string): bigint {
    const value = this.#get(field);
    this.#expect(
      field,
      typeof value === "bigint" && value >= 0n && value < 1n << 64n,
      "a bigint in [0, 2^64)",
    );
    return value as bigint;
  }

  /** An array of exactly `length` integers in [0, max], copied. */
  uints(field: string, length: number, max: number): number[] {
    const items = this.array(field, length);
    this.#expect(
      field,
      items.every((item) => isUint(item, max)),
      `integers in [0, 0x${max.toString(16)}]`,
    );
    return items as number[];
  }

  /** As `uints`, for a queue: `maxLength` integers at most. */
  queue(field: string, maxLength: number, max: number): number[] {
    const value = this.#get(field);
    const length = Array.isArray(value) ? value.length : 0;
    this.#expect(field, Array.isArray(value) && length <= maxLength, `an array of at most ${maxLength}`);
    return this.uints(field, length, max);
  }

  /** An array of exactly `length` parts, each for a reader of its own. */
  parts(field: string, length: number): StateReader[] {
    return this.array(field, length).map((part, i) => new StateReader(part, `${this.#kind}.${field}[${i}]`));
  }

  /** An array of exactly `length` items of any kind, copied. */
  array(field: string, length: number): unknown[] {
    const value = this.#get(field);
    this.#expect(field, Array.isArray(value) && value.length === length, `an array of ${length}`);
    return Array.from(value as unknown[]);
  }

  /** A nested state, for its own reader. */
  nested(field: string): unknown {
    return this.#get(field);
  }

  /** Fails with `expected` unless `good`: for what depends on more than one field. */
  check(field: string, good: boolean, expected: string): void {
    this.#expect(field, good, expected);
  }

  #get(field: string): unknown {
    return Object.hasOwn(this.#fields, field) ? this.#fields[field] : undefined;
  }

  #expect(field: string, good: boolean, expected: string): void {
    if (good) return;
    throw new StateError(
      "BAD_STATE",
      `${this.#kind} state: ${field}: expected ${expected}, got ${show(this.#get(field))}`,
    );
  }
}

function isUint(value: unknown, max: number): boolean {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= max;
}

/** A short, safe picture of a hostile value. */
function show(value: unknown): string {
  if (typeof value === "number") return `${value}`;
  if (typeof value === "bigint") return `0x${value.toString(16).slice(0, 40)}n`;
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (Array.isArray(value)) return `an array of ${value.length}`;
  return value === null ? "null" : typeof value;
}
