/** Values of options as more than one part of the bench has them. */

/** The names of a list by commas. @throws RangeError where one is not known. */
export function names<T extends string>(option: string, text: string, known: readonly T[]): Set<T> {
  const wanted = text.split(",");
  const unknown = wanted.find((name) => !known.some((one) => one === name));
  if (unknown === undefined) return new Set(wanted as T[]);
  throw new RangeError(`${option}: expected one of ${known.join(", ")}, got "${unknown}"`);
}

/** @throws RangeError where it is no whole number of at least 1. */
export function positive(option: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new RangeError(`${option}: expected a whole number of at least 1, got "${text}"`);
}
