/**
 * Nanoseconds to oscillator ticks and back, exactly: `floor(ns × hz / 1e9)` without the product's overflow
 * past 2^53, so that a counter read years into a run has not drifted by one tick.
 *
 * Valid for `hz` below 9,000,000 (a remainder below one second times `hz` stays within 2^53) and any integer
 * time within 2^53, negative ones included.
 */
const SECOND_NS = 1_000_000_000;

/** Whole ticks of an oscillator of `hz` that have passed at `ns`. */
export function ticksAt(ns: number, hz: number): number {
  const seconds = Math.floor(ns / SECOND_NS);
  return seconds * hz + Math.floor(((ns - seconds * SECOND_NS) * hz) / SECOND_NS);
}

/** First nanosecond at which `ticksAt` gives `tick`. */
export function nsOfTick(tick: number, hz: number): number {
  const seconds = Math.floor(tick / hz);
  return seconds * SECOND_NS + Math.ceil(((tick - seconds * hz) * SECOND_NS) / hz);
}
