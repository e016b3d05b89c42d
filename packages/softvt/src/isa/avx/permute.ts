import type { Builder, I32, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { constant, imm8, immOfHalf, range, unaryHalves } from "../sse/define.ts";
import { immediateIndices, swizzle } from "../sse/permute.ts";
import { DOUBLE_FIELDS, DOUBLEWORDS } from "../sse/shuffle.ts";
import { AVX, AVX2_WIDE, vexOnly } from "./define.ts";

/** VPERMILPS and VPERMILPD within each 128 bits; VPERMD, VPERMPS, VPERMQ and VPERMPD across all 256. */

/** PSHUFD's fields, for elements of 64 bits: one each. */
const WITHIN_DOUBLES = { ...DOUBLE_FIELDS, base: range(8).map((i) => 2 * (i % 4)) };

for (const [name, opcode, fields, immShift] of [
  ["VPERMILPS", "04", DOUBLEWORDS, 0],
  ["VPERMILPD", "05", WITHIN_DOUBLES, 2],
] as const)
  vexOnly(name, `66 W0 0F 3A ${opcode}`, "Vx=,Wx,Ib", AVX, (c) =>
    unaryHalves(c, (_, x, half) => swizzle(c, x, immediateIndices(c, fields, immOfHalf(c, half, immShift)))),
  );

/** Byte indices that pick elements of `bytes` bytes by their numbers, which stand in the elements of `numbers`. */
function byteIndices(c: Builder, numbers: V128, bytes: 4 | 8): V128 {
  const lowBytes = c.op(
    "i8x16.shuffle",
    [numbers, numbers],
    range(16).map((i) => i - (i % bytes)),
  );
  const first = c.op("i8x16.shl", [lowBytes, c.i32(bytes === 4 ? 2 : 3)]);
  return c.op("i8x16.add", [
    first,
    constant(
      c,
      8,
      range(16).map((i) => i % bytes),
    ),
  ]);
}

const and = (c: Builder, x: V128, mask: bigint): V128 => c.op("v128.and", [x, c.v128(mask)]);

// Element numbers in a register: of 32-bit elements the low two bits, of 64-bit ones bit 1.
for (const [name, opcode, bytes] of [
  ["VPERMILPS", "0C", 4],
  ["VPERMILPD", "0D", 8],
] as const)
  vexOnly(name, `66 W0 0F 38 ${opcode}`, "Vx=,Hx,Wx", AVX, (c) => {
    const numbers = c.readHalves(2);
    const picked = c.readHalves(1).map((x, half) => {
      const n = numbers[half]!;
      const masked =
        bytes === 4
          ? and(c, n, 0x3_0000_0003_0000_0003_0000_0003n)
          : c.op("i64x2.shr_u", [and(c, n, 0x2_0000_0000_0000_0002n), c.i32(1)]);
      return swizzle(c, x, byteIndices(c, masked, bytes));
    });
    c.writeHalves(0, picked);
  });

/** Bytes of 32 by their number (0 to 31): what lies beyond one half of the source is found in the other. */
function pickBytes(c: Insn, [low, high]: readonly V128[], indices: V128): V128 {
  const sixteen = c.op("i8x16.splat", [c.i32(16)]);
  const fromLow = swizzle(c, low!, indices);
  // Below 16 this wraps to numbers that give zero.
  const fromHigh = swizzle(c, high!, c.op("i8x16.sub", [indices, sixteen]));
  return c.op("v128.or", [fromLow, fromHigh]);
}

for (const [name, opcode] of [
  ["VPERMD", "36"],
  ["VPERMPS", "16"],
] as const)
  vexOnly(name, `66 W0 0F 38 ${opcode}`, "Vx=,Hx,Wx", AVX2_WIDE, (c) => {
    const source = c.readHalves(2);
    const indices = c
      .readHalves(1)
      .map((n) => c.let(byteIndices(c, and(c, n, 0x7_0000_0007_0000_0007_0000_0007n), 4)));
    c.writeHalves(
      0,
      indices.map((index) => pickBytes(c, source, index)),
    );
  });

for (const [name, opcode] of [
  ["VPERMQ", "00"],
  ["VPERMPD", "01"],
] as const)
  vexOnly(name, `66 W1 0F 3A ${opcode}`, "Vx=,Wx,Ib", AVX2_WIDE, (c) => {
    const source = c.readHalves(1);
    const number = (imm: I32, field: number): I32 => imm.shrU(2 * field).and(3);
    const half = (first: number): V128 => {
      const lanes = [first, first + 1].map((field) => number(imm8(c), field).u64());
      const numbers = c.op("i64x2.replace_lane", [c.op("i64x2.splat", [lanes[0]!]), lanes[1]!], [1]);
      return pickBytes(c, source, c.let(byteIndices(c, numbers, 8)));
    };
    c.writeHalves(0, [half(0), half(2)]);
  });
