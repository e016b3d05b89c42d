/**
 * What each value instruction computes, in BigInt and plain numbers: the evaluator's arithmetic, written
 * from the WebAssembly Core Specification 2.0 sec. 4.3 and independent of any WebAssembly engine.
 *
 * Representation of values: i32 as a signed `number`; i64 as an unsigned `bigint`; v128 as an unsigned
 * 128-bit `bigint`; f32 and f64 as their bit patterns (as i32 and i64), so that NaN payloads survive moves.
 */
export type Value = number | bigint;

const scratch = new DataView(new ArrayBuffer(16));
const U64 = (x: bigint): bigint => BigInt.asUintN(64, x);
const S64 = (x: bigint): bigint => BigInt.asIntN(64, x);

export function f64bits(value: number): bigint {
  scratch.setFloat64(0, value);
  return scratch.getBigUint64(0);
}
export function f64value(bits: bigint): number {
  scratch.setBigUint64(0, bits);
  return scratch.getFloat64(0);
}
export function f32bits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getInt32(0);
}
export function f32value(bits: number): number {
  scratch.setInt32(0, bits);
  return scratch.getFloat32(0);
}

function popcount(x: bigint): number {
  let count = 0;
  for (let rest = x; rest !== 0n; rest &= rest - 1n) count++;
  return count;
}

/** One integer operation on `bits`-wide operands given as unsigned bigints; comparisons give 0n or 1n. */
function integer(name: string, bits: number, a: bigint, b: bigint): bigint {
  const sa = BigInt.asIntN(bits, a);
  const sb = BigInt.asIntN(bits, b);
  const count = b % BigInt(bits);
  const width = BigInt(bits);
  const flag = (x: boolean): bigint => (x ? 1n : 0n);
  switch (name) {
    case "add":
      return BigInt.asUintN(bits, a + b);
    case "sub":
      return BigInt.asUintN(bits, a - b);
    case "mul":
      return BigInt.asUintN(bits, a * b);
    case "div_s":
      return BigInt.asUintN(bits, sa / sb);
    case "div_u":
      return a / b;
    case "rem_s":
      return BigInt.asUintN(bits, sa % sb);
    case "rem_u":
      return a % b;
    case "and":
      return a & b;
    case "or":
      return a | b;
    case "xor":
      return a ^ b;
    case "shl":
      return BigInt.asUintN(bits, a << count);
    case "shr_s":
      return BigInt.asUintN(bits, sa >> count);
    case "shr_u":
      return a >> count;
    case "rotl":
      return BigInt.asUintN(bits, (a << count) | (a >> (width - count)));
    case "rotr":
      return BigInt.asUintN(bits, (a >> count) | (a << (width - count)));
    case "eq":
      return flag(a === b);
    case "ne":
      return flag(a !== b);
    case "lt_s":
      return flag(sa < sb);
    case "lt_u":
      return flag(a < b);
    case "gt_s":
      return flag(sa > sb);
    case "gt_u":
      return flag(a > b);
    case "le_s":
      return flag(sa <= sb);
    case "le_u":
      return flag(a <= b);
    case "ge_s":
      return flag(sa >= sb);
    case "ge_u":
      return flag(a >= b);
    case "eqz":
      return flag(a === 0n);
    case "clz":
      return a === 0n ? width : width - BigInt(a.toString(2).length);
    case "ctz":
      return a === 0n ? width : BigInt((a & -a).toString(2).length - 1);
    case "popcnt":
      return BigInt(popcount(a));
    case "neg":
      return BigInt.asUintN(bits, -a);
    case "abs":
      return BigInt.asUintN(bits, sa < 0n ? -sa : sa);
    case "min_s":
      return sa < sb ? a : b;
    case "min_u":
      return a < b ? a : b;
    case "max_s":
      return sa > sb ? a : b;
    case "max_u":
      return a > b ? a : b;
    case "avgr_u":
      return (a + b + 1n) >> 1n;
    case "add_sat_s":
      return BigInt.asUintN(bits, clampSigned(sa + sb, bits));
    case "add_sat_u":
      return clampUnsigned(a + b, bits);
    case "sub_sat_s":
      return BigInt.asUintN(bits, clampSigned(sa - sb, bits));
    case "sub_sat_u":
      return clampUnsigned(a - b, bits);
    case "q15mulr_sat_s":
      return BigInt.asUintN(bits, clampSigned((sa * sb + 0x4000n) >> 15n, bits));
    default:
      throw new Error(`no such integer operation: ${name}`);
  }
}

function clampSigned(x: bigint, bits: number): bigint {
  const max = (1n << BigInt(bits - 1)) - 1n;
  return x > max ? max : x < -max - 1n ? -max - 1n : x;
}

function clampUnsigned(x: bigint, bits: number): bigint {
  const max = (1n << BigInt(bits)) - 1n;
  return x > max ? max : x < 0n ? 0n : x;
}

function float(name: string, a: number, b: number): number {
  switch (name) {
    case "add":
      return a + b;
    case "sub":
      return a - b;
    case "mul":
      return a * b;
    case "div":
      return a / b;
    case "min":
      return Math.min(a, b);
    case "max":
      return Math.max(a, b);
    case "pmin":
      // Not Math.min: of zeros and NaNs the first operand stands.
      if (b < a) return b;
      return a;
    case "pmax":
      if (a < b) return b;
      return a;
    case "sqrt":
      return Math.sqrt(a);
    case "ceil":
      return Math.ceil(a);
    case "floor":
      return Math.floor(a);
    case "trunc":
      return Math.trunc(a);
    case "nearest": {
      const floor = Math.floor(a);
      if (!Number.isFinite(a) || floor === a) return a;
      const rest = a - floor;
      const rounded = rest < 0.5 ? floor : rest > 0.5 ? floor + 1 : floor % 2 === 0 ? floor : floor + 1;
      return rounded === 0 && a < 0 ? -0 : rounded;
    }
    default:
      throw new Error(`no such float operation: ${name}`);
  }
}

function floatCompare(name: string, a: number, b: number): boolean | undefined {
  switch (name) {
    case "eq":
      return a === b;
    case "ne":
      return a !== b;
    case "lt":
      return a < b;
    case "gt":
      return a > b;
    case "le":
      return a <= b;
    case "ge":
      return a >= b;
    default:
      return undefined;
  }
}

function truncSat(value: number, bits: number, signed: boolean): bigint {
  if (Number.isNaN(value)) return 0n;
  const low = signed ? -(1n << BigInt(bits - 1)) : 0n;
  const high = signed ? (1n << BigInt(bits - 1)) - 1n : (1n << BigInt(bits)) - 1n;
  if (value <= Number(low)) return BigInt.asUintN(bits, low);
  if (value >= Number(high)) return high;
  return BigInt.asUintN(bits, BigInt(Math.trunc(value)));
}

/** Correctly rounded conversion of an integer to f32: through f64 alone it would be rounded twice. */
function toF32(value: bigint): number {
  const magnitude = value < 0n ? -value : value;
  const extra = magnitude.toString(2).length - 40;
  if (extra <= 0) return f32bits(Number(value));
  const sticky = (magnitude & ((1n << BigInt(extra)) - 1n)) === 0n ? 0n : 1n;
  const rounded = Number(
    (((magnitude >> BigInt(extra)) | sticky) << BigInt(extra)) * (value < 0n ? -1n : 1n),
  );
  return f32bits(rounded);
}

const lane = (v: bigint, bits: number, index: number): bigint =>
  BigInt.asUintN(bits, v >> BigInt(bits * index));

function vector(bits: number, count: number, make: (index: number) => bigint): bigint {
  let out = 0n;
  for (let i = 0; i < count; i++) out |= BigInt.asUintN(bits, make(i)) << BigInt(bits * i);
  return out;
}

function floatLane(v: bigint, bits: number, index: number): number {
  const raw = lane(v, bits, index);
  return bits === 32 ? f32value(Number(BigInt.asIntN(32, raw))) : f64value(raw);
}

const floatBits = (value: number, bits: number): bigint =>
  bits === 32 ? BigInt.asUintN(32, BigInt(f32bits(value))) : f64bits(value);

const asBig = (v: Value): bigint => (typeof v === "bigint" ? v : BigInt.asUintN(32, BigInt(v)));

function simd(shape: string, name: string, args: readonly Value[], lanes: readonly number[]): Value {
  const a = asBig(args[0]!);
  const b = args.length > 1 ? asBig(args[1]!) : 0n;
  if (shape === "v128")
    switch (name) {
      case "not":
        return BigInt.asUintN(128, ~a);
      case "and":
        return a & b;
      case "andnot":
        return a & BigInt.asUintN(128, ~b);
      case "or":
        return a | b;
      case "xor":
        return a ^ b;
      case "bitselect": {
        const mask = asBig(args[2]!);
        return (a & mask) | (b & BigInt.asUintN(128, ~mask));
      }
      case "any_true":
        return a === 0n ? 0 : 1;
    }
  const isFloat = shape.startsWith("f");
  const [laneBits, count] = shape.slice(1).split("x").map(Number) as [number, number];
  const first = lanes[0] ?? 0;
  const parts = /^(extend|extmul)_(low|high)_i\d+x\d+_([su])$/.exec(name);
  if (parts !== null) {
    const half = laneBits / 2;
    const from = parts[2] === "high" ? count : 0;
    const get = (v: bigint, i: number): bigint =>
      parts[3] === "s" ? BigInt.asIntN(half, lane(v, half, from + i)) : lane(v, half, from + i);
    return vector(laneBits, count, (i) => (parts[1] === "extend" ? get(a, i) : get(a, i) * get(b, i)));
  }
  if (name.startsWith("narrow")) {
    const wide = laneBits * 2;
    const clamp = name.endsWith("_s") ? clampSigned : clampUnsigned;
    return vector(laneBits, count, (i) =>
      clamp(BigInt.asIntN(wide, lane(i < count / 2 ? a : b, wide, i % (count / 2))), laneBits),
    );
  }
  switch (name) {
    case "shuffle":
      return vector(8, 16, (i) => (lanes[i]! < 16 ? lane(a, 8, lanes[i]!) : lane(b, 8, lanes[i]! - 16)));
    case "swizzle":
      return vector(8, 16, (i) => {
        const index = Number(lane(b, 8, i));
        return index < 16 ? lane(a, 8, index) : 0n;
      });
    case "splat":
      return vector(laneBits, count, () => a);
    case "extract_lane_s":
      return Number(BigInt.asIntN(laneBits, lane(a, laneBits, first)));
    case "extract_lane_u":
      return Number(lane(a, laneBits, first));
    case "extract_lane":
      return laneBits === 64 ? lane(a, 64, first) : Number(BigInt.asIntN(32, lane(a, 32, first)));
    case "replace_lane":
      return vector(laneBits, count, (i) => (i === first ? b : lane(a, laneBits, i)));
    case "all_true":
      for (let i = 0; i < count; i++) if (lane(a, laneBits, i) === 0n) return 0;
      return 1;
    case "bitmask": {
      let mask = 0;
      for (let i = 0; i < count; i++) mask |= Number(lane(a, laneBits, i) >> BigInt(laneBits - 1)) << i;
      return mask;
    }
    case "dot_i16x8_s":
      return vector(32, 4, (i) => {
        const term = (j: number): bigint =>
          BigInt.asIntN(16, lane(a, 16, j)) * BigInt.asIntN(16, lane(b, 16, j));
        return term(2 * i) + term(2 * i + 1);
      });
    case "demote_f64x2_zero":
      return vector(32, 2, (i) => floatBits(floatLane(a, 64, i), 32));
    case "promote_low_f32x4":
      return vector(64, 2, (i) => floatBits(floatLane(a, 32, i), 64));
    case "trunc_sat_f32x4_s":
    case "trunc_sat_f32x4_u":
      return vector(32, 4, (i) => truncSat(floatLane(a, 32, i), 32, name.endsWith("_s")));
    case "trunc_sat_f64x2_s_zero":
    case "trunc_sat_f64x2_u_zero":
      return vector(32, 2, (i) => truncSat(floatLane(a, 64, i), 32, name.includes("_s_")));
    case "convert_i32x4_s":
    case "convert_i32x4_u":
      return vector(32, 4, (i) => {
        const raw = lane(a, 32, i);
        return BigInt(toF32(name.endsWith("_s") ? BigInt.asIntN(32, raw) : raw));
      });
    case "convert_low_i32x4_s":
    case "convert_low_i32x4_u":
      return vector(64, 2, (i) => {
        const raw = lane(a, 32, i);
        return f64bits(Number(name.endsWith("_s") ? BigInt.asIntN(32, raw) : raw));
      });
  }
  if (isFloat) {
    if (name === "neg" || name === "abs") {
      const sign = 1n << BigInt(laneBits - 1);
      return vector(laneBits, count, (i) =>
        name === "neg" ? lane(a, laneBits, i) ^ sign : lane(a, laneBits, i) & ~sign,
      );
    }
    return vector(laneBits, count, (i) => {
      const x = floatLane(a, laneBits, i);
      const y = floatLane(b, laneBits, i);
      const compared = floatCompare(name, x, y);
      if (compared !== undefined) return compared ? -1n : 0n;
      return floatBits(float(name, x, y), laneBits);
    });
  }
  if (name === "shl" || name === "shr_s" || name === "shr_u")
    return vector(laneBits, count, (i) => integer(name, laneBits, lane(a, laneBits, i), b));
  const compares = /^(eq|ne|[lg][te]_[su])$/.test(name);
  return vector(laneBits, count, (i) => {
    const value = integer(name, laneBits, lane(a, laneBits, i), lane(b, laneBits, i));
    return compares ? -value : value;
  });
}

function scalarFloat(bits: 32 | 64, name: string, args: readonly Value[]): Value {
  const toBits = (x: number): Value => (bits === 32 ? f32bits(x) : f64bits(x));
  const value = (v: Value): number => (bits === 32 ? f32value(v as number) : f64value(v as bigint));
  switch (name) {
    case "reinterpret_i32":
    case "reinterpret_i64":
      return args[0]!;
    case "demote_f64":
      return f32bits(f64value(args[0] as bigint));
    case "promote_f32":
      return f64bits(f32value(args[0] as number));
    case "convert_i32_s":
      return toBits(args[0] as number);
    case "convert_i32_u":
      return toBits((args[0] as number) >>> 0);
    case "convert_i64_s":
      return bits === 32 ? toF32(S64(args[0] as bigint)) : f64bits(Number(S64(args[0] as bigint)));
    case "convert_i64_u":
      return bits === 32 ? toF32(args[0] as bigint) : f64bits(Number(args[0] as bigint));
    case "abs":
      return bits === 32 ? (args[0] as number) & 0x7fff_ffff : (args[0] as bigint) & 0x7fff_ffff_ffff_ffffn;
    case "neg":
      return bits === 32 ? (args[0] as number) ^ -0x8000_0000 : (args[0] as bigint) ^ 0x8000_0000_0000_0000n;
    case "copysign": {
      if (bits === 32) return ((args[0] as number) & 0x7fff_ffff) | ((args[1] as number) & -0x8000_0000);
      const sign = 1n << 63n;
      return ((args[0] as bigint) & (sign - 1n)) | ((args[1] as bigint) & sign);
    }
  }
  const a = value(args[0]!);
  const b = args.length > 1 ? value(args[1]!) : 0;
  const compared = floatCompare(name, a, b);
  if (compared !== undefined) return compared ? 1 : 0;
  return toBits(float(name, a, b));
}

/** The result of value instruction `name` (wasm/opcodes.ts) on `args`. */
export function evaluateOp(name: string, args: readonly Value[], lanes: readonly number[] = []): Value {
  const dot = name.indexOf(".");
  const type = name.slice(0, dot);
  const rest = name.slice(dot + 1);
  if (type.includes("x") || type === "v128") return simd(type, rest, args, lanes);
  if (type === "f32") return scalarFloat(32, rest, args);
  if (type === "f64") return scalarFloat(64, rest, args);
  const saturating = /^trunc_sat_f(32|64)_([su])$/.exec(rest);
  if (saturating !== null) {
    const value = saturating[1] === "32" ? f32value(args[0] as number) : f64value(args[0] as bigint);
    const result = truncSat(value, type === "i32" ? 32 : 64, saturating[2] === "s");
    return type === "i32" ? Number(BigInt.asIntN(32, result)) : result;
  }
  switch (name) {
    case "i32.wrap_i64":
      return Number(BigInt.asIntN(32, args[0] as bigint));
    case "i64.extend_i32_s":
      return U64(BigInt(args[0] as number));
    case "i64.extend_i32_u":
      return BigInt((args[0] as number) >>> 0);
    case "i32.reinterpret_f32":
    case "i64.reinterpret_f64":
      return args[0]!;
    case "i32.extend8_s":
      return ((args[0] as number) << 24) >> 24;
    case "i32.extend16_s":
      return ((args[0] as number) << 16) >> 16;
    case "i64.extend8_s":
      return U64(BigInt.asIntN(8, args[0] as bigint));
    case "i64.extend16_s":
      return U64(BigInt.asIntN(16, args[0] as bigint));
    case "i64.extend32_s":
      return U64(BigInt.asIntN(32, args[0] as bigint));
  }
  const bits = type === "i32" ? 32 : 64;
  const result = integer(rest, bits, asBig(args[0]!), args.length > 1 ? asBig(args[1]!) : 0n);
  const comparison = /^(eqz?|ne|[lg][te]_[su])$/.test(rest);
  return type === "i32" || comparison ? Number(BigInt.asIntN(32, result)) : result;
}
