import { type Builder, fn, type I32, type V128 } from "../../ir/builder.ts";
import { FIELD, INV_SUB_BYTES, SUB_BYTES, type Substitution } from "./aes-field.ts";
import { type Binary, constant, imm8, range, sse, sseBinary, sseUnary } from "./define.ts";
import { swizzle } from "./permute.ts";

/** AES-NI (SDM Vol. 2A, AESENC and on; FIPS 197). Byte 4c + r of a vector is row r, column c of the state. */

const xor = (f: Builder, a: V128, b: V128): V128 => f.op("v128.xor", [a, b]);

/** All sixteen bytes through the S-box or its inverse; see aes-field.ts. */
const substituteBy = (name: string, tables: Substitution) =>
  fn(name, ["v128"], "v128", (f, x) => {
    const look = (table: readonly number[], index: V128): V128 => swizzle(f, constant(f, 8, table), index);
    const low = (v: V128): V128 => f.op("v128.and", [v, f.op("i8x16.splat", [f.i32(15)])]);
    const high = (v: V128): V128 => f.op("i8x16.shr_u", [v, f.i32(4)]);
    /** Product from logarithms: their sum modulo 15, or something over 15 where a factor is 0. */
    const product = (a: V128, b: V128): V128 => {
      const sum = f.op("i8x16.add", [a, b]);
      const less = f.op("i8x16.sub", [sum, f.op("i8x16.splat", [f.i32(15)])]);
      return look(FIELD.EXP, f.op("i8x16.min_u", [sum, less]));
    };
    const tower = f.let(xor(f, look(tables.inLow, low(x)), look(tables.inHigh, high(x))));
    const h = f.let(high(tower));
    const l = f.let(low(tower));
    const logH = look(FIELD.LOG, h);
    // The norm of hY + l is νh² + hl + l²; the inverse is (hY + h + l) / norm.
    const squares = xor(f, look(FIELD.NU_SQUARE, h), look(FIELD.SQUARE, l));
    const norm = xor(f, squares, product(logH, look(FIELD.LOG, l)));
    const logInverse = f.let(look(FIELD.LOG_INVERSE, norm));
    const inverseH = product(logH, logInverse);
    const inverseL = product(look(FIELD.LOG, xor(f, h, l)), logInverse);
    f.return(xor(f, look(tables.outLow, inverseL), look(tables.outHigh, inverseH)));
  });
const subBytes = substituteBy("aesSubBytes", SUB_BYTES);
const invSubBytes = substituteBy("aesInvSubBytes", INV_SUB_BYTES);

/** Row r moves by r columns. */
const shiftRows = (f: Builder, x: V128, direction: 1 | -1): V128 =>
  f.op(
    "i8x16.shuffle",
    [x, x],
    range(16).map((i) => {
      const row = i & 3;
      const column = (i >> 2) + direction * row;
      return 4 * (column & 3) + row;
    }),
  );

/** Every byte times x. */
function doubled(f: Builder, x: V128): V128 {
  const overflow = f.op("v128.and", [f.op("i8x16.shr_s", [x, f.i32(7)]), f.op("i8x16.splat", [f.i32(0x1b)])]);
  return xor(f, f.op("i8x16.shl", [x, f.i32(1)]), overflow);
}

/** Within each column, row r takes row r + `by`. */
const rotated = (f: Builder, x: V128, by: number): V128 =>
  f.op(
    "i8x16.shuffle",
    [x, x],
    range(16).map((i) => (i & ~3) | ((i + by) & 3)),
  );

/** Row r becomes 2·r + 3·(r+1) + (r+2) + (r+3). */
function mixColumns(f: Builder, x: V128): V128 {
  const next = rotated(f, x, 1);
  const rest = xor(f, next, rotated(f, xor(f, x, next), 2));
  return xor(f, doubled(f, xor(f, x, next)), rest);
}

/** MixColumns after r + 4·(r + (r+2)): the two matrices' product is the inverse. */
function invMixColumns(f: Builder, x: V128): V128 {
  const four = doubled(f, doubled(f, xor(f, x, rotated(f, x, 2))));
  return mixColumns(f, xor(f, x, four));
}

type Round = (f: Builder, state: V128) => V128;
const encrypt: Round = (f, state) => f.call<V128>(subBytes, shiftRows(f, state, 1));
const decrypt: Round = (f, state) => f.call<V128>(invSubBytes, shiftRows(f, state, -1));
const withKey =
  (round: Round): Binary =>
  (c, state, key) =>
    xor(c, round(c, state), key);

// VAES and its 256-bit forms are a feature of their own.
const narrow = {};
sseUnary("AESIMC", "66 0F 38 DB", "aes", invMixColumns, narrow);
sseBinary(
  "AESENC",
  "66 0F 38 DC",
  "aes",
  withKey((f, x) => mixColumns(f, encrypt(f, x))),
  narrow,
);
sseBinary("AESENCLAST", "66 0F 38 DD", "aes", withKey(encrypt), narrow);
sseBinary(
  "AESDEC",
  "66 0F 38 DE",
  "aes",
  withKey((f, x) => invMixColumns(f, decrypt(f, x))),
  narrow,
);
sseBinary("AESDECLAST", "66 0F 38 DF", "aes", withKey(decrypt), narrow);

/** Words 1 and 3 substituted, and these again rotated by a byte with the round constant added. */
sse("AESKEYGENASSIST", "66 0F 3A DF", "Vx=,Wx,Ib", "aes", (c) => {
  const words = c.call<V128>(subBytes, c.readVector(1));
  const placed = c.op(
    "i8x16.shuffle",
    [words, words],
    [4, 5, 6, 7, 5, 6, 7, 4, 12, 13, 14, 15, 13, 14, 15, 12],
  );
  const round: I32 = imm8(c);
  const constants = c.op("v128.and", [c.op("i32x4.splat", [round]), constant(c, 32, [0, -1, 0, -1])]);
  c.writeVector(0, xor(c, placed, constants));
});
