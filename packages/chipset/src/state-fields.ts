import { StateError } from "@skep/vcpu";

/**
 * Reads a saved state that may be anything: every field is checked where it is first read, and the first that
 * is not what it should be ends the restore before anything has changed.
 */
export class StateFields {
  readonly #fields: Record<string, unknown>;
  readonly #path: string;

  /**
   * @param path what to call the state in errors, e.g. "pit8254" or "pit8254.counters[1]".
   * @throws StateError where `state` is not an object.
   */
  constructor(state: unknown, path: string) {
    if (typeof state !== "object" || state === null || Array.isArray(state)) {
      throw new StateError("BAD_STATE", `${path}: expected an object, got ${describe(state)}`);
    }
    this.#fields = state as Record<string, unknown>;
    this.#path = path;
  }

  /**
   * Opens a state that carries its kind and version.
   * @throws StateError where either is not the expected one.
   */
  static of(state: unknown, kind: string, version: number): StateFields {
    const fields = new StateFields(state, kind);
    const given = fields.#fields;
    if (given.kind !== kind) fields.#fail("kind", `"${kind}"`);
    if (given.version !== version) fields.#fail("version", `${version}`);
    return fields;
  }

  /** An integer from `min` to `max`, both included. */
  integer(name: string, min: number, max: number): number {
    const value = this.#fields[name];
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
      return this.#fail(name, `an integer from ${min} to ${max}`);
    }
    return value;
  }

  /** An unsigned integer with no bits beyond `mask`. */
  bits(name: string, mask: number): number {
    const value = this.integer(name, 0, 0xffff_ffff);
    if ((value & ~mask) >>> 0 !== 0) this.#fail(name, `no bits beyond 0x${mask.toString(16)}`);
    return value;
  }

  flag(name: string): boolean {
    const value = this.#fields[name];
    return typeof value === "boolean" ? value : this.#fail(name, "a boolean");
  }

  /** An unsigned 64-bit integer. */
  u64(name: string): bigint {
    const value = this.#fields[name];
    if (typeof value !== "bigint" || value !== BigInt.asUintN(64, value)) {
      return this.#fail(name, "a bigint from 0 to 2^64 - 1");
    }
    return value;
  }

  /** Integers from 0 to `max`, `minLength` to `maxLength` of them. */
  integers(name: string, minLength: number, maxLength: number, max: number): number[] {
    const value = this.#array(name, minLength, maxLength);
    for (const item of value) {
      if (typeof item !== "number" || !Number.isInteger(item) || item < 0 || item > max) {
        return this.#fail(name, `integers from 0 to ${max}`);
      }
    }
    return [...value] as number[];
  }

  /** A list of `minLength` to `maxLength` nested states. */
  list(name: string, minLength: number, maxLength = minLength): StateFields[] {
    return this.#array(name, minLength, maxLength).map(
      (item, index) => new StateFields(item, `${this.#path}.${name}[${index}]`),
    );
  }

  /** Whether an optional field is there. */
  has(name: string): boolean {
    return this.#fields[name] !== undefined;
  }

  #array(name: string, minLength: number, maxLength: number): readonly unknown[] {
    const value = this.#fields[name];
    if (!Array.isArray(value) || value.length < minLength || value.length > maxLength) {
      const wanted = minLength === maxLength ? `${minLength}` : `${minLength} to ${maxLength}`;
      return this.#fail(name, `an array of ${wanted}`);
    }
    return value;
  }

  #fail(name: string, expected: string): never {
    throw new StateError(
      "BAD_STATE",
      `${this.#path}: field "${name}": expected ${expected}, got ${describe(this.#fields[name])}`,
    );
  }
}

/** A value in an error message: short, whatever it is. */
function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
  if (typeof value === "bigint") return `${value}n`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return String(value);
}
