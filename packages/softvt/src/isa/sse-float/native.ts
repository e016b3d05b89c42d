import { Cpu } from "../../cpu/layout.ts";
import type { Builder, I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";

/** One of SSE's two number formats, scalar operands being I64 of bits (single zero-extended). */
export interface Lane {
  readonly name: "f32" | "f64";
  readonly bits: 32 | 64;
  /** Bits of the fraction. */
  readonly fraction: 23 | 52;
  readonly count: 4 | 2;
  /** wasm's names for the packed type and for its lanes as integers. */
  readonly shape: "f32x4" | "f64x2";
  readonly integers: "i32x4" | "i64x2";
  readonly infinity: bigint;
  /** The least normal number. */
  readonly normal: bigint;
  readonly sign: bigint;
}

export const SINGLE: Lane = {
  name: "f32",
  bits: 32,
  fraction: 23,
  count: 4,
  shape: "f32x4",
  integers: "i32x4",
  infinity: 0x7f80_0000n,
  normal: 0x80_0000n,
  sign: 0x8000_0000n,
};
export const DOUBLE: Lane = {
  name: "f64",
  bits: 64,
  fraction: 52,
  count: 2,
  shape: "f64x2",
  integers: "i64x2",
  infinity: 0x7ff0_0000_0000_0000n,
  normal: 0x10_0000_0000_0000n,
  sign: 0x8000_0000_0000_0000n,
};

/** A native operation on bits. */
export function native(f: Builder, lane: Lane, name: string, ...args: I64[]): I64 {
  if (lane.bits === 64) {
    const values = args.map((arg) => f.op("f64.reinterpret_i64", [arg]));
    return f.op<I64>("i64.reinterpret_f64", [f.op(`f64.${name}`, values)]);
  }
  const values = args.map((arg) => f.op("f32.reinterpret_i32", [arg.wrap()]));
  return f.op<I32>("i32.reinterpret_f32", [f.op(`f32.${name}`, values)]).u64();
}

/** A native comparison of bits. */
export function nativeCompare(f: Builder, lane: Lane, name: string, a: I64, b: I64): I32 {
  const cast = (x: I64): I64 | I32 => (lane.bits === 64 ? x : x.wrap());
  const reinterpret = lane.bits === 64 ? "f64.reinterpret_i64" : "f32.reinterpret_i32";
  return f.op<I32>(
    `${lane.name}.${name}`,
    [a, b].map((x) => f.op(reinterpret, [cast(x)])),
  );
}

const twice = (lane: Lane, x: I64): I64 => x.shl(65 - lane.bits);
const shifted = (lane: Lane, x: bigint): bigint => x << BigInt(65 - lane.bits);

/** Neither infinity nor NaN. */
export const isBounded = (lane: Lane, x: I64): I32 => twice(lane, x).ltU(shifted(lane, lane.infinity));
/** Not a denormal number (zero, infinities and NaNs are none). */
export const notDenormal = (lane: Lane, x: I64): I32 =>
  twice(lane, x)
    .sub(1)
    .geU(shifted(lane, lane.normal) - 1n);
/** Finite and neither zero, denormal, nor the least normal number, which may have been rounded up to. */
export const isSafeResult = (lane: Lane, x: I64): I32 =>
  twice(lane, x)
    .sub(shifted(lane, lane.normal) + 1n)
    .ltU(shifted(lane, lane.infinity) - shifted(lane, lane.normal) - 1n);
/** Zero, or a normal number: what every operation may have as operand without noting anything. */
export const isOrdinary = (lane: Lane, x: I64): I32 => isBounded(lane, x).and(notDenormal(lane, x));

/** Lane-wise masks of the same. */
export function packedBad(f: Builder, lane: Lane, operands: readonly V128[]): V128 {
  const splat = (value: bigint): V128 => {
    let all = 0n;
    for (let i = 0; i < lane.count; i++) all = (all << BigInt(lane.bits)) | value;
    return f.v128(all);
  };
  const denormals = operands.map((x) => {
    const magnitude = f.op(`${lane.shape}.abs`, [x]);
    const small = f.op(`${lane.shape}.lt`, [magnitude, splat(lane.normal)]);
    return f.op("v128.and", [small, f.op(`${lane.shape}.ne`, [x, f.v128(0n)])]);
  });
  return denormals.reduce((x, y) => f.op("v128.or", [x, y]));
}

/** Lanes of `x` that are not below infinity in magnitude or, with `above`, not above the least normal number. */
export function packedUnsafe(f: Builder, lane: Lane, x: V128, above: boolean): V128 {
  const splat = (value: bigint): V128 => {
    let all = 0n;
    for (let i = 0; i < lane.count; i++) all = (all << BigInt(lane.bits)) | value;
    return f.v128(all);
  };
  const magnitude = f.op(`${lane.shape}.abs`, [x]);
  const finite = f.op(`${lane.shape}.lt`, [magnitude, splat(lane.infinity)]);
  if (!above) return f.op("v128.not", [finite]);
  const normal = f.op(`${lane.shape}.gt`, [magnitude, splat(lane.normal)]);
  return f.op("v128.not", [f.op("v128.and", [finite, normal])]);
}

/** All of a vector's parts as one, for what holds anywhere in it. */
export const anyOf = (f: Builder, parts: readonly V128[]): V128 =>
  parts.reduce((x, y) => f.op("v128.or", [x, y]));

export const anyTrue = (f: Builder, x: V128): I32 => f.op<I32>("v128.any_true", [x]);

/** Lane `index` of a vector as bits. */
export const extract = (f: Builder, lane: Lane, v: V128, index: number): I64 =>
  lane.bits === 64
    ? f.op<I64>("i64x2.extract_lane", [v], [index])
    : f.op<I32>("i32x4.extract_lane", [v], [index]).u64();

export const replace = (f: Builder, lane: Lane, v: V128, index: number, value: I64): V128 =>
  f.op(`${lane.integers}.replace_lane`, [v, lane.bits === 64 ? value : value.wrap()], [index]);

/**
 * Stores a scalar result into the lowest lane of the register that ModRM.reg names. The rest stays; with VEX it comes from
 * the first source, and the upper half is cleared.
 */
export function storeScalar(c: Insn, lane: Lane, value: I64): void {
  if (c.isVex) c.writeVector(0, replace(c, lane, c.readVector(0), 0, value));
  else c.store(lane.bits === 64 ? "i64.store" : "i64.store32", c.cpu.add(c.field("a")), value, Cpu.XMM);
}
