/** Checks of options: a caller's mistakes. Saved states, which are hostile, have `StateReader`. */

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
