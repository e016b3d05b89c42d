import { fn, type I64 } from "../ir/builder.ts";
import { Cpu, Event } from "./layout.ts";
import { get32, get64, set32, set64 } from "./state.ts";
import { returnOnEvent } from "./system.ts";

/**
 * The time-stamp counter: TSC_BASE at instruction ICOUNT_BASE, TSC_STEP ticks an instruction from there, and
 * TSC_OFFSET, which holds everything that the guest wrote (IA32_TIME_STAMP_COUNTER and IA32_TSC_ADJUST alike;
 * SDM Vol. 3B sec. 18.17.3).
 */

/**
 * The counter now. Where ICOUNT is not exact it sets EVENT to SYNC and gives 0: the dispatcher makes it so
 * and executes the instruction again.
 */
export const readTsc = fn("readTsc", [], "i64", (f) => {
  f.if(get32(f, Cpu.SYNCED).eqz(), () => {
    set32(f, Cpu.EVENT, Event.SYNC);
    f.return(f.i64(0));
  });
  set32(f, Cpu.SYNCED, 0);
  const elapsed = get64(f, Cpu.ICOUNT).sub(get64(f, Cpu.ICOUNT_BASE));
  const ticks = f.op<I64>("i64.trunc_sat_f64_u", [
    f.op("f64.mul", [f.op("f64.convert_i64_u", [elapsed]), f.load("f64.load", f.cpu, Cpu.TSC_STEP)]),
  ]);
  f.return(get64(f, Cpu.TSC_BASE).add(ticks).add(get64(f, Cpu.TSC_OFFSET)));
});

/** WRMSR of IA32_TIME_STAMP_COUNTER. */
export const writeTsc = fn("writeTsc", ["i64"], undefined, (f, value) => {
  const change = value.sub(f.call<I64>(readTsc));
  returnOnEvent(f);
  set64(f, Cpu.TSC_OFFSET, get64(f, Cpu.TSC_OFFSET).add(change));
  set64(f, Cpu.TSC_ADJUST, get64(f, Cpu.TSC_ADJUST).add(change));
});

/** WRMSR of IA32_TSC_ADJUST: the counter moves by as much as the adjustment does. */
export const writeTscAdjust = fn("writeTscAdjust", ["i64"], undefined, (f, value) => {
  const change = value.sub(get64(f, Cpu.TSC_ADJUST));
  set64(f, Cpu.TSC_OFFSET, get64(f, Cpu.TSC_OFFSET).add(change));
  set64(f, Cpu.TSC_ADJUST, value);
});
