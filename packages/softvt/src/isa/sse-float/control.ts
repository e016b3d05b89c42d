import { Cpu } from "../../cpu/layout.ts";
import { get32, set32, Vector } from "../../cpu/state.ts";
import { sse } from "../sse-common.ts";

/** MXCSR's bits; the others are reserved (SDM Vol. 1 sec. 10.2.3). FXSAVE reports this as MXCSR_MASK. */
export const MXCSR_MASK = 0xffff;

sse("LDMXCSR", "NP 0F AE /2", "Md", { feature: "sse" }, (c) => {
  const value = c.let(c.read(0).wrap());
  c.faultIf(value.and(~MXCSR_MASK), Vector.GP);
  set32(c, Cpu.MXCSR, value);
});

sse("STMXCSR", "NP 0F AE /3", "Md=", { feature: "sse" }, (c) => c.write(0, get32(c, Cpu.MXCSR).u64()));
