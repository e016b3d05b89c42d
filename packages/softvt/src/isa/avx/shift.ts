import type { I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { binaryHalves, range } from "../sse/define.ts";
import { AVX2, vexOnly } from "./define.ts";

/**
 * Shifts of each element by a count of its own (SDM Vol. 2C, VPSLLVD and on). WebAssembly has none of vectors: elements
 * one by one. A count of the width or more gives zeros, or copies of the sign.
 */
function shiftLanes(c: Insn, x: V128, counts: V128, bits: 32 | 64, op: "shl" | "shr_u" | "shr_s"): V128 {
  const shape = bits === 32 ? "i32x4" : "i64x2";
  const type = bits === 32 ? "i32" : "i64";
  const zero = bits === 32 ? c.i32(0) : c.i64(0);
  return range(128 / bits).reduce((result, i) => {
    const value = c.op<I32 | I64>(`${shape}.extract_lane`, [x], [i]);
    const count = c.let(c.op<I32 | I64>(`${shape}.extract_lane`, [counts], [i]));
    const isAll = count.geU(bits);
    const shifted =
      op === "shr_s"
        ? c.op<I32>("i32.shr_s", [value, isAll.select(c.i32(31), count as I32)])
        : isAll.select(zero, c.op<I32 | I64>(`${type}.${op}`, [value, count]));
    return c.op(`${shape}.replace_lane`, [result, shifted], [i]);
  }, c.v128(0n));
}

for (const [name, opcode, w, bits, op] of [
  ["VPSLLVD", "47", "W0", 32, "shl"],
  ["VPSLLVQ", "47", "W1", 64, "shl"],
  ["VPSRLVD", "45", "W0", 32, "shr_u"],
  ["VPSRLVQ", "45", "W1", 64, "shr_u"],
  ["VPSRAVD", "46", "W0", 32, "shr_s"],
] as const)
  vexOnly(
    name,
    `66 ${w} 0F 38 ${opcode}`,
    "Vx=,Hx,Wx",
    AVX2,
    (c) => binaryHalves(c, (_, x, counts) => shiftLanes(c, x, counts, bits, op)),
    { vex: { threeOperand: true } },
  );
