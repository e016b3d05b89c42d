import { StateError } from "./errors.ts";

/** Checks of values that come from outside: options (caller's mistakes) and saved states (hostile). */

/** @throws RangeError naming `field` where `value` is not an integer in [`min`, `max`]. */
export function checkInteger(field: string, value: number, min: number, max: number): number {
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw new RangeError(`${field}: expected an integer from ${min} to ${max}, got ${String(value)}`);
  }
  return value;
}

/** @throws TypeError naming `field` where `value` is not one of `choices`. */
export function checkChoice<T extends string>(field: string, value: T, choices: readonly T[]): T {
  if (!choices.includes(value)) {
    throw new TypeError(`${field}: expected one of ${choices.join(", ")}, got ${String(value)}`);
  }
  return value;
}

/** A saved state under inspection: reads fields and names the one that is wrong. */
export class StateReader {
  readonly #path: string;
  readonly #fields: Record<string, unknown>;

  /** @throws StateError where `state` is not an object with this kind and version. */
  constructor(state: unknown, kind: string, version: number) {
    this.#path = kind;
    if (typeof state !== "object" || state === null || Array.isArray(state)) {
      throw this.#error("", "an object", state);
    }
    this.#fields = state as Record<string, unknown>;
    if (this.#fields.kind !== kind) throw this.#error("kind", `"${kind}"`, this.#fields.kind);
    if (this.#fields.version !== version) throw this.#error("version", `${version}`, this.#fields.version);
  }

  /** An integer in [`min`, `max`]. */
  integer(field: string, min: number, max: number): number {
    const value = this.#fields[field];
    if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
      throw this.#error(field, `an integer from ${min} to ${max}`, value);
    }
    return value;
  }

  /** A finite number. */
  finite(field: string): number {
    const value = this.#fields[field];
    if (typeof value !== "number" || !Number.isFinite(value)) throw this.#error(field, "a number", value);
    return value;
  }

  boolean(field: string): boolean {
    const value = this.#fields[field];
    if (typeof value !== "boolean") throw this.#error(field, "a boolean", value);
    return value;
  }

  /** An array with exactly `length` elements. */
  array(field: string, length: number): readonly unknown[] {
    const value = this.#fields[field];
    if (!Array.isArray(value) || value.length !== length) {
      throw this.#error(field, `an array of ${length}`, value);
    }
    return value;
  }

  /** An object used as a dictionary. */
  record(field: string): Readonly<Record<string, unknown>> {
    const value = this.#fields[field];
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw this.#error(field, "an object", value);
    }
    return value as Record<string, unknown>;
  }

  unknown(field: string): unknown {
    return this.#fields[field];
  }

  /** The error for a field that the caller found wrong itself. */
  error(field: string, expectation: string, actual: unknown): StateError {
    return this.#error(field, expectation, actual);
  }

  #error(field: string, expectation: string, actual: unknown): StateError {
    const name = field === "" ? this.#path : `${this.#path}.${field}`;
    return new StateError("STATE_INVALID", `${name}: expected ${expectation}, got ${describe(actual)}`);
  }
}

function describe(value: unknown): string {
  if (typeof value === "bigint") return `0x${BigInt.asUintN(64, value).toString(16)}`;
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "string" ? JSON.stringify(value.slice(0, 40)) : String(value);
}
