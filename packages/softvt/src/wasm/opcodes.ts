/**
 * The WebAssembly instructions that the generator uses (WebAssembly Core Specification 2.0, appendix A.3,
 * with fixed-width SIMD and threads): name → encoding and signature. The names are the specification's.
 */
export type WasmType = "i32" | "i64" | "f32" | "f64" | "v128";

export const VALUE_TYPE: Record<WasmType, number> = {
  i32: 0x7f,
  i64: 0x7e,
  f32: 0x7d,
  f64: 0x7c,
  v128: 0x7b,
};

export interface Op {
  readonly code: readonly number[];
  readonly args: readonly WasmType[];
  readonly result: WasmType;
  /** Lane immediates follow the opcode: 1 for extract and replace, 16 for shuffle. */
  readonly lanes?: 1 | 16;
}

const table: Record<string, Op> = {};
const TYPES: Record<string, WasmType> = { i: "i32", l: "i64", f: "f32", d: "f64", v: "v128" };

/** `signature` is the argument types' letters, a colon, the result's; `names` get consecutive opcodes; `_` skips one. */
function define(
  prefix: number | undefined,
  first: number,
  signature: string,
  names: string,
  lanes?: 1 | 16,
): void {
  const [args = "", result = ""] = signature.split(":");
  names.split(" ").forEach((name, index) => {
    if (name === "_") return;
    const op = first + index;
    const code =
      prefix === undefined ? [op] : op < 0x80 ? [prefix, op] : [prefix, (op & 0x7f) | 0x80, op >> 7];
    const entry: Op = { code, args: [...args].map((c) => TYPES[c]!), result: TYPES[result]! };
    table[name] = lanes === undefined ? entry : { ...entry, lanes };
  });
}
const mvp = (first: number, signature: string, names: string): void =>
  define(undefined, first, signature, names);
const simd = (first: number, signature: string, names: string, lanes?: 1 | 16): void =>
  define(0xfd, first, signature, names, lanes);

mvp(0x45, "i:i", "i32.eqz");
mvp(0x46, "ii:i", "i32.eq i32.ne i32.lt_s i32.lt_u i32.gt_s i32.gt_u i32.le_s i32.le_u i32.ge_s i32.ge_u");
mvp(0x50, "l:i", "i64.eqz");
mvp(0x51, "ll:i", "i64.eq i64.ne i64.lt_s i64.lt_u i64.gt_s i64.gt_u i64.le_s i64.le_u i64.ge_s i64.ge_u");
mvp(0x5b, "ff:i", "f32.eq f32.ne f32.lt f32.gt f32.le f32.ge");
mvp(0x61, "dd:i", "f64.eq f64.ne f64.lt f64.gt f64.le f64.ge");
mvp(0x67, "i:i", "i32.clz i32.ctz i32.popcnt");
mvp(
  0x6a,
  "ii:i",
  "i32.add i32.sub i32.mul i32.div_s i32.div_u i32.rem_s i32.rem_u i32.and i32.or i32.xor i32.shl i32.shr_s i32.shr_u i32.rotl i32.rotr",
);
mvp(0x79, "l:l", "i64.clz i64.ctz i64.popcnt");
mvp(
  0x7c,
  "ll:l",
  "i64.add i64.sub i64.mul i64.div_s i64.div_u i64.rem_s i64.rem_u i64.and i64.or i64.xor i64.shl i64.shr_s i64.shr_u i64.rotl i64.rotr",
);
mvp(0x8b, "f:f", "f32.abs f32.neg f32.ceil f32.floor f32.trunc f32.nearest f32.sqrt");
mvp(0x92, "ff:f", "f32.add f32.sub f32.mul f32.div f32.min f32.max f32.copysign");
mvp(0x99, "d:d", "f64.abs f64.neg f64.ceil f64.floor f64.trunc f64.nearest f64.sqrt");
mvp(0xa0, "dd:d", "f64.add f64.sub f64.mul f64.div f64.min f64.max f64.copysign");
mvp(0xa7, "l:i", "i32.wrap_i64");
mvp(0xac, "i:l", "i64.extend_i32_s i64.extend_i32_u");
mvp(0xb2, "i:f", "f32.convert_i32_s f32.convert_i32_u");
mvp(0xb4, "l:f", "f32.convert_i64_s f32.convert_i64_u");
mvp(0xb6, "d:f", "f32.demote_f64");
mvp(0xb7, "i:d", "f64.convert_i32_s f64.convert_i32_u");
mvp(0xb9, "l:d", "f64.convert_i64_s f64.convert_i64_u");
mvp(0xbb, "f:d", "f64.promote_f32");
mvp(0xbc, "f:i", "i32.reinterpret_f32");
mvp(0xbd, "d:l", "i64.reinterpret_f64");
mvp(0xbe, "i:f", "f32.reinterpret_i32");
mvp(0xbf, "l:d", "f64.reinterpret_i64");
mvp(0xc0, "i:i", "i32.extend8_s i32.extend16_s");
mvp(0xc2, "l:l", "i64.extend8_s i64.extend16_s i64.extend32_s");
define(0xfc, 0x00, "f:i", "i32.trunc_sat_f32_s i32.trunc_sat_f32_u");
define(0xfc, 0x02, "d:i", "i32.trunc_sat_f64_s i32.trunc_sat_f64_u");
define(0xfc, 0x04, "f:l", "i64.trunc_sat_f32_s i64.trunc_sat_f32_u");
define(0xfc, 0x06, "d:l", "i64.trunc_sat_f64_s i64.trunc_sat_f64_u");

simd(0x0d, "vv:v", "i8x16.shuffle", 16);
simd(0x0e, "vv:v", "i8x16.swizzle");
simd(0x0f, "i:v", "i8x16.splat i16x8.splat i32x4.splat");
simd(0x12, "l:v", "i64x2.splat");
simd(0x13, "f:v", "f32x4.splat");
simd(0x14, "d:v", "f64x2.splat");
simd(0x15, "v:i", "i8x16.extract_lane_s i8x16.extract_lane_u", 1);
simd(0x17, "vi:v", "i8x16.replace_lane", 1);
simd(0x18, "v:i", "i16x8.extract_lane_s i16x8.extract_lane_u", 1);
simd(0x1a, "vi:v", "i16x8.replace_lane", 1);
simd(0x1b, "v:i", "i32x4.extract_lane", 1);
simd(0x1c, "vi:v", "i32x4.replace_lane", 1);
simd(0x1d, "v:l", "i64x2.extract_lane", 1);
simd(0x1e, "vl:v", "i64x2.replace_lane", 1);
simd(0x1f, "v:f", "f32x4.extract_lane", 1);
simd(0x20, "vf:v", "f32x4.replace_lane", 1);
simd(0x21, "v:d", "f64x2.extract_lane", 1);
simd(0x22, "vd:v", "f64x2.replace_lane", 1);
for (const [first, shape] of [
  [0x23, "i8x16"],
  [0x2d, "i16x8"],
  [0x37, "i32x4"],
] as const)
  simd(first, "vv:v", "eq ne lt_s lt_u gt_s gt_u le_s le_u ge_s ge_u".replace(/\w+/g, `${shape}.$&`));
simd(0x41, "vv:v", "f32x4.eq f32x4.ne f32x4.lt f32x4.gt f32x4.le f32x4.ge");
simd(0x47, "vv:v", "f64x2.eq f64x2.ne f64x2.lt f64x2.gt f64x2.le f64x2.ge");
simd(0x4d, "v:v", "v128.not");
simd(0x4e, "vv:v", "v128.and v128.andnot v128.or v128.xor");
simd(0x52, "vvv:v", "v128.bitselect");
simd(0x53, "v:i", "v128.any_true");
simd(0x5e, "v:v", "f32x4.demote_f64x2_zero f64x2.promote_low_f32x4");
simd(0x60, "v:v", "i8x16.abs i8x16.neg i8x16.popcnt");
simd(0x63, "v:i", "i8x16.all_true i8x16.bitmask");
simd(0x65, "vv:v", "i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u");
simd(0x6b, "vi:v", "i8x16.shl i8x16.shr_s i8x16.shr_u");
simd(0x6e, "vv:v", "i8x16.add i8x16.add_sat_s i8x16.add_sat_u i8x16.sub i8x16.sub_sat_s i8x16.sub_sat_u");
simd(0x76, "vv:v", "i8x16.min_s i8x16.min_u i8x16.max_s i8x16.max_u _ i8x16.avgr_u");
simd(0x80, "v:v", "i16x8.abs i16x8.neg");
simd(0x82, "vv:v", "i16x8.q15mulr_sat_s");
simd(0x83, "v:i", "i16x8.all_true i16x8.bitmask");
simd(0x85, "vv:v", "i16x8.narrow_i32x4_s i16x8.narrow_i32x4_u");
simd(
  0x87,
  "v:v",
  "i16x8.extend_low_i8x16_s i16x8.extend_high_i8x16_s i16x8.extend_low_i8x16_u i16x8.extend_high_i8x16_u",
);
simd(0x8b, "vi:v", "i16x8.shl i16x8.shr_s i16x8.shr_u");
simd(0x8e, "vv:v", "i16x8.add i16x8.add_sat_s i16x8.add_sat_u i16x8.sub i16x8.sub_sat_s i16x8.sub_sat_u");
simd(0x95, "vv:v", "i16x8.mul i16x8.min_s i16x8.min_u i16x8.max_s i16x8.max_u _ i16x8.avgr_u");
simd(
  0x9c,
  "vv:v",
  "i16x8.extmul_low_i8x16_s i16x8.extmul_high_i8x16_s i16x8.extmul_low_i8x16_u i16x8.extmul_high_i8x16_u",
);
simd(0xa0, "v:v", "i32x4.abs i32x4.neg");
simd(0xa3, "v:i", "i32x4.all_true i32x4.bitmask");
simd(
  0xa7,
  "v:v",
  "i32x4.extend_low_i16x8_s i32x4.extend_high_i16x8_s i32x4.extend_low_i16x8_u i32x4.extend_high_i16x8_u",
);
simd(0xab, "vi:v", "i32x4.shl i32x4.shr_s i32x4.shr_u");
simd(0xae, "vv:v", "i32x4.add");
simd(0xb1, "vv:v", "i32x4.sub");
simd(0xb5, "vv:v", "i32x4.mul i32x4.min_s i32x4.min_u i32x4.max_s i32x4.max_u i32x4.dot_i16x8_s");
simd(
  0xbc,
  "vv:v",
  "i32x4.extmul_low_i16x8_s i32x4.extmul_high_i16x8_s i32x4.extmul_low_i16x8_u i32x4.extmul_high_i16x8_u",
);
simd(0xc0, "v:v", "i64x2.abs i64x2.neg");
simd(0xc3, "v:i", "i64x2.all_true i64x2.bitmask");
simd(
  0xc7,
  "v:v",
  "i64x2.extend_low_i32x4_s i64x2.extend_high_i32x4_s i64x2.extend_low_i32x4_u i64x2.extend_high_i32x4_u",
);
simd(0xcb, "vi:v", "i64x2.shl i64x2.shr_s i64x2.shr_u");
simd(0xce, "vv:v", "i64x2.add");
simd(0xd1, "vv:v", "i64x2.sub");
simd(0xd5, "vv:v", "i64x2.mul i64x2.eq i64x2.ne i64x2.lt_s i64x2.gt_s i64x2.le_s i64x2.ge_s");
simd(
  0xdc,
  "vv:v",
  "i64x2.extmul_low_i32x4_s i64x2.extmul_high_i32x4_s i64x2.extmul_low_i32x4_u i64x2.extmul_high_i32x4_u",
);
simd(0xe0, "v:v", "f32x4.abs f32x4.neg _ f32x4.sqrt");
simd(0xe4, "vv:v", "f32x4.add f32x4.sub f32x4.mul f32x4.div f32x4.min f32x4.max f32x4.pmin f32x4.pmax");
simd(0xec, "v:v", "f64x2.abs f64x2.neg _ f64x2.sqrt");
simd(0xf0, "vv:v", "f64x2.add f64x2.sub f64x2.mul f64x2.div f64x2.min f64x2.max f64x2.pmin f64x2.pmax");
simd(
  0xf8,
  "v:v",
  "i32x4.trunc_sat_f32x4_s i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_s f32x4.convert_i32x4_u",
);
simd(
  0xfc,
  "v:v",
  "i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero f64x2.convert_low_i32x4_s f64x2.convert_low_i32x4_u",
);

/** Every value instruction by its name. */
export const OPS: Readonly<Record<string, Op>> = table;

/** Loads: opcode, result type, bytes. */
export const LOADS = {
  "i32.load": { code: [0x28], type: "i32", bytes: 4 },
  "i64.load": { code: [0x29], type: "i64", bytes: 8 },
  "f32.load": { code: [0x2a], type: "f32", bytes: 4 },
  "f64.load": { code: [0x2b], type: "f64", bytes: 8 },
  "i32.load8_s": { code: [0x2c], type: "i32", bytes: 1 },
  "i32.load8_u": { code: [0x2d], type: "i32", bytes: 1 },
  "i32.load16_s": { code: [0x2e], type: "i32", bytes: 2 },
  "i32.load16_u": { code: [0x2f], type: "i32", bytes: 2 },
  "i64.load8_s": { code: [0x30], type: "i64", bytes: 1 },
  "i64.load8_u": { code: [0x31], type: "i64", bytes: 1 },
  "i64.load16_s": { code: [0x32], type: "i64", bytes: 2 },
  "i64.load16_u": { code: [0x33], type: "i64", bytes: 2 },
  "i64.load32_s": { code: [0x34], type: "i64", bytes: 4 },
  "i64.load32_u": { code: [0x35], type: "i64", bytes: 4 },
  "v128.load": { code: [0xfd, 0x00], type: "v128", bytes: 16 },
} as const;
export type LoadName = keyof typeof LOADS;

/** Stores: opcode, value type, bytes. */
export const STORES = {
  "i32.store": { code: [0x36], type: "i32", bytes: 4 },
  "i64.store": { code: [0x37], type: "i64", bytes: 8 },
  "f32.store": { code: [0x38], type: "f32", bytes: 4 },
  "f64.store": { code: [0x39], type: "f64", bytes: 8 },
  "i32.store8": { code: [0x3a], type: "i32", bytes: 1 },
  "i32.store16": { code: [0x3b], type: "i32", bytes: 2 },
  "i64.store8": { code: [0x3c], type: "i64", bytes: 1 },
  "i64.store16": { code: [0x3d], type: "i64", bytes: 2 },
  "i64.store32": { code: [0x3e], type: "i64", bytes: 4 },
  "v128.store": { code: [0xfd, 0x0b], type: "v128", bytes: 16 },
} as const;
export type StoreName = keyof typeof STORES;
