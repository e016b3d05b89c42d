import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { CONVERT } from "../../fpu/convert.ts";
import { Flag, roundingOf, withRounding } from "../../fpu/env.ts";
import { fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { beginSse, endSse, sseCheck } from "../sse-common.ts";
import { choose } from "./arithmetic.ts";
import {
  DOUBLE,
  extract,
  isOrdinary,
  type Lane,
  native,
  nativeCompare,
  replace,
  SINGLE,
  storeScalar,
} from "./native.ts";

/** The immediate (SDM Vol. 2B fig. 4-24): rounding mode, MXCSR's instead, and no PE. */
const FROM_MXCSR = 4;
const QUIET = 8;
/** PE and its mask. */
const PRECISION = 0x1020;

const modeOf = (imm: I32, mxcsr: I32): I32 => imm.and(FROM_MXCSR).select(roundingOf(mxcsr), imm.and(3));

/** (a, imm) → a rounded, on the first `count` lanes of a vector. */
const exactRound = (lane: Lane, count: number): Fn =>
  fn(`ROUND_${lane.name}x${count}_exact`, ["v128", "i32"], "v128", (f, a, imm) => {
    const mxcsr = beginSse(f);
    const env = f.let(withRounding(mxcsr, modeOf(imm, mxcsr)));
    let result: V128 = a;
    for (let i = 0; i < count; i++) {
      const value = f.call<I64>(CONVERT[lane.name].roundToInteger, extract(f, lane, a, i), env);
      result = replace(f, lane, result, i, value);
    }
    f.if(imm.and(QUIET), () => set32(f, Cpu.FP_FLAGS, get32(f, Cpu.FP_FLAGS).and(~Flag.PE)));
    f.call(endSse);
    f.return(result);
  });

const immediate = (c: Insn): I32 => c.let(c.immediateField().and(0xff));

for (const [lane, suffix, packedOpcode, scalarOpcode] of [
  [SINGLE, "S", "08", "0A"],
  [DOUBLE, "D", "09", "0B"],
] as const) {
  const packed = exactRound(lane, lane.count);
  insn(`ROUNDP${suffix}`, `66 0F 3A ${packedOpcode}`, "Vx=,Wx,Ib", { feature: "sse4.1" }, (c) => {
    sseCheck(c);
    const value = c.call<V128>(packed, c.readVector(1), immediate(c));
    c.leaveOnEvent();
    c.writeVector(0, value);
  });

  const scalar = exactRound(lane, 1);
  const operands = `V${lane === SINGLE ? "d" : "q"}=,W${lane === SINGLE ? "d" : "q"},Ib`;
  insn(`ROUNDS${suffix}`, `66 0F 3A ${scalarOpcode}`, operands, { feature: "sse4.1" }, (c) => {
    sseCheck(c);
    const x = c.read(1);
    const imm = immediate(c);
    const mxcsr = get32(c, Cpu.MXCSR);
    const mode = c.let(modeOf(imm, mxcsr));
    const [nearest, down, up, zero] = (["nearest", "floor", "ceil", "trunc"] as const).map((op) =>
      native(c, lane, op, x),
    );
    const directed = mode.eq(1).select(down!, mode.eq(2).select(up!, zero!));
    const quick = c.let(mode.eqz().select(nearest!, directed));
    // PE is all that an ordinary operand can raise.
    const silent = imm.and(QUIET).ne(0).or(mxcsr.and(PRECISION).eq(PRECISION));
    const fast = isOrdinary(lane, x).and(silent.or(nativeCompare(c, lane, "eq", quick, x)));
    const exact = (): I64 => {
      const vector = replace(c, lane, c.v128(0n), 0, x);
      return extract(c, lane, c.call<V128>(scalar, vector, imm), 0);
    };
    storeScalar(c, lane, choose(c, "i64", fast, quick, exact));
  });
}
