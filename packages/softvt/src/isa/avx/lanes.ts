import type { I32, V128 } from "../../ir/builder.ts";
import { testBits } from "../sse/bitwise.ts";
import { immediateMask } from "../sse/blend.ts";
import { binaryHalves, imm8, immOfHalf } from "../sse/define.ts";
import { AVX, AVX_WIDE, AVX2, AVX2_WIDE, vexOnly } from "./define.ts";

/** Whole 128-bit lanes in and out, and what works on each lane alone. */

const select = (cond: I32, yes: V128, no: V128): V128 => cond.select(yes, no);

for (const [suffix, insert, extract, permute, lengths] of [
  ["F128", "18", "19", "06", AVX_WIDE],
  ["I128", "38", "39", "46", AVX2_WIDE],
] as const) {
  vexOnly(`VINSERT${suffix}`, `66 W0 0F 3A ${insert}`, "Vx=,Hx,Wdq,Ib", lengths, (c) => {
    const lane = c.readVector(2);
    const [low, high] = c.readHalves(1) as [V128, V128];
    const upper = imm8(c).and(1);
    c.writeHalves(0, [select(upper, low, lane), select(upper, lane, high)]);
  });
  vexOnly(`VEXTRACT${suffix}`, `66 W0 0F 3A ${extract}`, "Wdq=,Vx,Ib", lengths, (c) => {
    const [low, high] = c.readHalves(1) as [V128, V128];
    c.writeVector(0, select(imm8(c).and(1), high, low));
  });
  // Two bits for each lane of the result pick one of four; a third clears it.
  vexOnly(`VPERM2${suffix}`, `66 W0 0F 3A ${permute}`, "Vx=,Hx,Wx,Ib", lengths, (c) => {
    const second = c.readHalves(2);
    const lanes = [...c.readHalves(1), ...second] as [V128, V128, V128, V128];
    const pick = (half: number): V128 => {
      const imm = immOfHalf(c, half, 4);
      const of = (first: V128, other: V128): V128 => select(imm.and(1), other, first);
      const lane = select(imm.and(2), of(lanes[2], lanes[3]), of(lanes[0], lanes[1]));
      return select(imm.and(8), c.v128(0n), lane);
    };
    c.writeHalves(0, [pick(0), pick(1)]);
  });
}

const DOUBLEWORDS = [0, 0, 1, 1, 2, 2, 3, 3];
vexOnly(
  "VPBLENDD",
  "66 W0 0F 3A 02",
  "Vx=,Hx,Wx,Ib",
  AVX2,
  (c) =>
    binaryHalves(c, (_, dst, src, half) => {
      const mask = immediateMask(c, immOfHalf(c, half, 4), DOUBLEWORDS);
      return c.op("v128.bitselect", [src, dst, mask]);
    }),
  { vex: { threeOperand: true } },
);

// Only the lanes' top bits count.
for (const [name, opcode, mask] of [
  ["VTESTPS", "0E", 0x8000_0000_8000_0000_8000_0000_8000_0000n],
  ["VTESTPD", "0F", 0x8000_0000_0000_0000_8000_0000_0000_0000n],
] as const)
  vexOnly(name, `66 W0 0F 38 ${opcode}`, "Vx,Wx", AVX, (c) => testBits(c, c.v128(mask)), { flags: "set" });
