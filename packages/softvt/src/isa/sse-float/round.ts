import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { CONVERT } from "../../fpu/convert.ts";
import { Flag, roundingOf, withRounding } from "../../fpu/env.ts";
import { fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { sse } from "../sse-common.ts";
import { choose, exactHalves, SCALAR, WIDE } from "./arithmetic.ts";
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

/** (a, imm, mxcsr) → a rounded, on the first `count` lanes of a vector; exceptions noted. */
const exactRound = (lane: Lane, count: number): Fn =>
  fn(`ROUND_${lane.name}x${count}_exact`, ["v128", "i32", "i32"], "v128", (f, a, imm, mxcsr) => {
    const env = f.let(withRounding(mxcsr, modeOf(imm, mxcsr)));
    let result: V128 = a;
    for (let i = 0; i < count; i++) {
      const value = f.call<I64>(CONVERT[lane.name].roundToInteger, extract(f, lane, a, i), env);
      result = replace(f, lane, result, i, value);
    }
    f.if(imm.and(QUIET), () => set32(f, Cpu.FP_FLAGS, get32(f, Cpu.FP_FLAGS).and(~Flag.PE)));
    f.return(result);
  });

const immediate = (c: Insn): I32 => c.let(c.immediateField().and(0xff));

for (const [lane, suffix, packedOpcode, scalarOpcode] of [
  [SINGLE, "S", "08", "0A"],
  [DOUBLE, "D", "09", "0B"],
] as const) {
  const packed = exactRound(lane, lane.count);
  const options = { feature: "sse4.1", vexForms: WIDE };
  sse(`ROUNDP${suffix}`, `66 0F 3A ${packedOpcode}`, "Vx=,Wx,Ib", options, (c) => {
    const src = c.readHalves(1);
    const imm = immediate(c);
    const exact = (half: number, env: I32): V128 => c.call<V128>(packed, src[half]!, imm, env);
    c.writeHalves(0, exactHalves(c, src.length, exact));
  });

  const scalar = exactRound(lane, 1);
  const operands = `V${lane === SINGLE ? "d" : "q"}=,W${lane === SINGLE ? "d" : "q"},Ib`;
  const scalarOptions = { feature: "sse4.1", vexForms: SCALAR };
  sse(`ROUNDS${suffix}`, `66 0F 3A ${scalarOpcode}`, operands, scalarOptions, (c) => {
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
      const [rounded] = exactHalves(c, 1, (_, env) => c.call<V128>(scalar, vector, imm, env));
      return extract(c, lane, rounded!, 0);
    };
    storeScalar(c, lane, choose(c, fast, quick, exact));
  });
}
