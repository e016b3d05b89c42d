import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { Flag } from "../../fpu/env.ts";
import { exponential } from "../../fpu/exponential.ts";
import { logarithm, logarithm1p } from "../../fpu/logarithm.ts";
import { Condition } from "../../fpu/remainder.ts";
import { BIAS, pack80, SPECIAL, TOP_BIT } from "../../fpu/round.ts";
import { arctangent, Trig, trigonometric } from "../../fpu/trigonometric.ts";
import { highHalf } from "../../fpu/wide.ts";
import { type Builder, fn, type I32, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import { x87 } from "./common.ts";
import { checkForPush, replaceAndPush } from "./special.ts";
import { beginX87, endX87, isEmpty, readSt, underflow, writeResult } from "./stack.ts";

/*
 * Results are rounded once from some 100 bits, so that they are off by hardly more than half a unit in the last
 * place (the SDM promises one unit, Vol. 1 sec. 8.3.10). They are inexact (PE) unless the operand makes them a
 * number of its own, and precision control does not touch them.
 */

const exp2 = fn("x87Exp2", [], "i32", (f) => {
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
  const env = beginX87(f);
  const value = f.call<V128>(exponential, ...readSt(f, 0), env);
  const unmasked = f.call<I32>(endX87);
  writeResult(f, unmasked, 0, value);
  f.return(unmasked);
});
x87("F2XM1", "D9 =F0", "", (c) => c.call<I32>(exp2));

/** ST(1) = f(ST(0), ST(1)), to be popped. */
const onTwo = (name: string, soft: Fn): Fn =>
  fn(name, [], "i32", (f) => {
    f.unlikely(isEmpty(f, 0).or(isEmpty(f, 16)), () => f.return(f.call<I32>(underflow, f.i32(16))));
    const env = beginX87(f);
    const value = f.call<V128>(soft, ...readSt(f, 0), ...readSt(f, 16), env);
    const unmasked = f.call<I32>(endX87);
    writeResult(f, unmasked, 16, value);
    f.return(unmasked);
  });

for (const [name, modrm, soft] of [
  ["FYL2X", "F1", onTwo("x87Yl2x", logarithm)],
  ["FYL2XP1", "F9", onTwo("x87Yl2xp1", logarithm1p)],
  ["FPATAN", "F3", onTwo("x87Patan", arctangent)],
] as const)
  x87(name, `D9 =${modrm}`, "", (c) => c.call<I32>(soft), 1);

const clearC2 = (f: Builder): void => set32(f, Cpu.FSW, get32(f, Cpu.FSW).and(~Condition.C2));
/** The argument was too great: nothing but C2 changes. */
const isTooGreat = (f: Builder): I32 => get32(f, Cpu.FP_FLAGS).and(Condition.C2);

/** (Trig) */
const trig = fn("x87Trig", ["i32"], "i32", (f, which) => {
  clearC2(f);
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, f.i32(0))));
  const env = beginX87(f);
  const value = f.call<V128>(trigonometric, ...readSt(f, 0), which, env);
  const tooGreat = f.let(isTooGreat(f));
  const unmasked = f.call<I32>(endX87);
  f.if(tooGreat.eqz(), () => writeResult(f, unmasked, 0, value));
  f.return(unmasked);
});
x87("FSIN", "D9 =FE", "", (c) => c.call<I32>(trig, c.i32(Trig.SINE)));
x87("FCOS", "D9 =FF", "", (c) => c.call<I32>(trig, c.i32(Trig.COSINE)));

/** (1 for FPTAN: tangent and 1; 0 for FSINCOS: sine and cosine). */
const trigAndPush = fn("x87TrigAndPush", ["i32"], "i32", (f, isTangent) => {
  clearC2(f);
  checkForPush(f);
  const env = beginX87(f);
  const operand = readSt(f, 0);
  const first = f.variable("v128", pack80(f, f.i32(0), f.i32(BIAS), f.i64(TOP_BIT)));
  f.if(isTangent.eqz(), () => {
    first.set(f.call<V128>(trigonometric, ...operand, f.i32(Trig.COSINE), env));
    // C1 is the sine's.
    set32(f, Cpu.FP_FLAGS, get32(f, Cpu.FP_FLAGS).and(~Flag.UP));
  });
  const which = isTangent.select(f.i32(Trig.TANGENT), f.i32(Trig.SINE));
  const second = f.call<V128>(trigonometric, ...operand, which, env);
  const tooGreat = f.let(isTooGreat(f));
  const unmasked = f.call<I32>(endX87);
  f.if(tooGreat.eqz(), () => {
    // A NaN is pushed as it is, also behind a tangent.
    const isNan = highHalf(f, second).and(SPECIAL).eq(SPECIAL);
    const pushed = isTangent.and(isNan).select(second, first.get());
    replaceAndPush(f, unmasked, second, pushed);
  });
  f.return(unmasked);
});
x87("FPTAN", "D9 =F2", "", (c) => c.call<I32>(trigAndPush, c.i32(1)));
x87("FSINCOS", "D9 =FB", "", (c) => c.call<I32>(trigAndPush, c.i32(0)));
