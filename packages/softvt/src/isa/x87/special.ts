import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { Flag } from "../../fpu/env.ts";
import { Condition, REMAINDER } from "../../fpu/remainder.ts";
import { exponent, scale, significand } from "../../fpu/scale.ts";
import { type Builder, fn, type I32, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import { x87 } from "./common.ts";
import {
  beginX87,
  endX87,
  indefinite,
  isEmpty,
  isEmptyAt,
  physical,
  readSt,
  underflow,
  writeAt,
  writeResult,
} from "./stack.ts";

/** ST(0) = f(ST(0), ST(1)). `isRemainder`: C2 is cleared in any case. */
const onTwo = (name: string, soft: Fn, isRemainder = false): Fn =>
  fn(name, [], "i32", (f) => {
    if (isRemainder) set32(f, Cpu.FSW, get32(f, Cpu.FSW).and(~Condition.C2));
    f.unlikely(isEmpty(f, 0).or(isEmpty(f, 16)), () => f.return(f.call<I32>(underflow, f.i32(0))));
    const env = beginX87(f);
    const value = f.call<V128>(soft, ...readSt(f, 0), ...readSt(f, 16), env);
    const unmasked = f.call<I32>(endX87);
    writeResult(f, unmasked, 0, value);
    f.return(unmasked);
  });

const truncated = onTwo("x87Prem", REMAINDER.truncated, true);
const nearest = onTwo("x87Prem1", REMAINDER.nearest, true);
const scaled = onTwo("x87Scale", scale);
x87("FPREM", "D9 =F8", "", (c) => c.call<I32>(truncated));
x87("FPREM1", "D9 =F5", "", (c) => c.call<I32>(nearest));
x87("FSCALE", "D9 =FD", "", (c) => c.call<I32>(scaled));

/**
 * Ends an operation with two results: `first` into ST(0), `second` pushed. Gives the unmasked exceptions.
 * Room for the push was made sure of.
 */
export function replaceAndPush(f: Builder, unmasked: I32, first: V128, second: V128): void {
  f.if(unmasked.and(Flag.EARLY).eqz(), () => {
    writeAt(f, f.let(physical(f, 0)), first);
    set32(f, Cpu.TOP, get32(f, Cpu.TOP).sub(1).and(7));
    writeAt(f, f.let(physical(f, 0)), second);
  });
}

/** Stack underflow of ST(0), or overflow of the push to come, for such an operation; returns in either case. */
export function checkForPush(f: Builder): void {
  const below = f.let(get32(f, Cpu.TOP).sub(1).and(7).shl(4));
  const none = f.let(isEmpty(f, 0));
  f.unlikely(none.or(isEmptyAt(f, below).eqz()), () => {
    set32(f, Cpu.FP_FLAGS, none.select(f.i32(Flag.IE | Flag.SF), f.i32(Flag.IE | Flag.SF | Flag.UP)));
    const unmasked = f.call<I32>(endX87);
    replaceAndPush(f, unmasked, indefinite(f), indefinite(f));
    f.return(unmasked);
  });
}

const extract = fn("x87Extract", [], "i32", (f) => {
  checkForPush(f);
  const env = beginX87(f);
  const operand = readSt(f, 0);
  const first = f.call<V128>(exponent, ...operand, env);
  const noted = get32(f, Cpu.FP_FLAGS);
  const second = f.call<V128>(significand, ...operand, env);
  set32(f, Cpu.FP_FLAGS, noted);
  const unmasked = f.call<I32>(endX87);
  replaceAndPush(f, unmasked, first, second);
  f.return(unmasked);
});
x87("FXTRACT", "D9 =F4", "", (c) => c.call<I32>(extract));
