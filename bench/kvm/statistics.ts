/** The middle one of the values, or between the two in the middle. @throws RangeError where there are none. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/**
 * The value below which `part` (0 to 1) of the values lie, between two neighbours in proportion.
 *
 * @throws RangeError where there are none, or `part` is out of range.
 */
export function quantile(values: readonly number[], part: number): number {
  if (values.length === 0) throw new RangeError("values: expected at least one");
  if (!(part >= 0 && part <= 1)) throw new RangeError(`part: expected 0 to 1, got ${part}`);
  const sorted = Float64Array.from(values).sort();
  const at = part * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (at - below) * (sorted[above]! - sorted[below]!);
}

/** The median of what each of `values` is to the one of `others` at the same place: neighbours had the same host. */
export function medianRatio(values: readonly number[], others: readonly number[]): number {
  if (values.length !== others.length) {
    throw new RangeError(`others: expected ${values.length} values, got ${others.length}`);
  }
  return median(values.map((value, i) => value / others[i]!));
}
