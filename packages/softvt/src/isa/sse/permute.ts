import { type Builder, I32, type V128 } from "../../ir/builder.ts";
import { constant, range } from "./define.ts";

/** Byte permutations whose indices are known only when the instruction runs. */

/** Byte i of the result is byte `indices[i]` of `x`, 0 where that is over 15. */
export const swizzle = (c: Builder, x: V128, indices: V128): V128 => c.op("i8x16.swizzle", [x, indices]);

/** `0, 1, … 15` plus `offset` (-128 to 112) in each byte. */
export const consecutive = (c: Builder, offset: I32): V128 =>
  c.op("i8x16.add", [constant(c, 8, range(16)), c.op("i8x16.splat", [offset])]);

/** `x` moved down by `bytes` (0 to 112) bytes, zeros from above. */
export const bytesDown = (c: Builder, x: V128, bytes: I32): V128 => swizzle(c, x, consecutive(c, bytes));

/** `x` moved up by `bytes` (0 to 128) bytes, zeros from below. */
export const bytesUp = (c: Builder, x: V128, bytes: I32): V128 =>
  swizzle(c, x, consecutive(c, c.i32(0).sub(bytes)));

/** The lesser of an unsigned value and a constant. */
export const atMost = (x: I32, limit: number): I32 => x.gtU(limit).select(I32.of(limit), x);

/** How fields of an immediate become byte indices: one entry for each of eight words of the result. */
export interface ImmediateFields {
  /** Bits of a field. */
  readonly bits: 1 | 2;
  /** Which field a word takes; `undefined`: none, the word has index `base`. */
  readonly field: readonly (number | undefined)[];
  /** What a field's value is multiplied by, in bytes. */
  readonly scale: number;
  /** Byte index for value 0; the word's second byte is the one behind it. */
  readonly base: readonly number[];
}

/**
 * Byte indices for `swizzle` from an immediate. WebAssembly shifts all lanes by the same count: a
 * multiplication brings each word's field to one place instead.
 */
export function immediateIndices(c: Builder, { bits, field, scale, base }: ImmediateFields, imm: I32): V128 {
  const fields = Math.max(...field.map((f) => f ?? 0)) + 1;
  const place = bits * (fields - 1);
  const splat = c.op("i16x8.splat", [imm]);
  const weights = field.map((f) => (f === undefined ? 0 : 1 << (place - bits * f)));
  const value = c.op("v128.and", [
    c.op("i16x8.shr_u", [c.op("i16x8.mul", [splat, constant(c, 16, weights)]), c.i32(place)]),
    c.op("i16x8.splat", [c.i32((1 << bits) - 1)]),
  ]);
  return c.op("i16x8.add", [
    c.op("i16x8.mul", [value, c.op("i16x8.splat", [c.i32(scale * 0x0101)])]),
    constant(
      c,
      16,
      base.map((b) => b | ((b + 1) << 8)),
    ),
  ]);
}
