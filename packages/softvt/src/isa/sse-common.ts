import { Cpu } from "../cpu/layout.ts";
import { CR4, get32, get64, raise, set32, Vector } from "../cpu/state.ts";
import { Env, Flag } from "../fpu/env.ts";
import { fn, type I32 } from "../ir/builder.ts";
import type { Insn } from "./insn.ts";

/** Faults with the vector that a field of the vCPU block holds, unless that is 0. */
function faultIfOff(c: Insn, field: number): void {
  const vector = get32(c, field);
  c.unlikely(vector, () => {
    c.if(
      vector.eq(Vector.NM),
      () => raise(c, Vector.NM),
      () => raise(c, Vector.UD),
    );
    c.leave();
  });
}

/** The first thing every SSE instruction does: #UD where CR0.EM or CR4.OSFXSR forbid it, #NM by CR0.TS. */
export const sseCheck = (c: Insn): void => faultIfOff(c, Cpu.SSE_OFF);

/** A pending unmasked x87 exception, which waiting x87 and MMX instructions raise where CR0.NE is set. */
export function pendingX87(c: Insn): void {
  c.unlikely(get32(c, Cpu.FSW).and(0x80), () => c.faultIf(get64(c, Cpu.CR0).bit(5), Vector.MF));
}

/** The first thing every MMX instruction does: #UD by CR0.EM, #NM by CR0.TS, #MF. */
export function mmxCheck(c: Insn): void {
  faultIfOff(c, Cpu.MMX_OFF);
  pendingX87(c);
}

/** What every MMX instruction but EMMS does to the x87 state: TOP 0, no register empty (SDM Vol. 1 sec. 9.5). */
export function enterMmx(c: Insn): void {
  set32(c, Cpu.TOP, 0);
  set32(c, Cpu.FTW, 0);
}

/**
 * Whether native arithmetic gives what MXCSR asks for, whatever the result's precision: all exceptions masked,
 * to nearest, no DAZ, no FTZ, and PE, the one flag that ordinary results raise, set already.
 */
export const isPlain = (mxcsr: I32): I32 => mxcsr.and(0xffe0).eq(0x1fa0);

/**
 * Ends an operation: adds the exceptions that it noted to MXCSR, and raises #XM (without CR4.OSXMMEXCPT: #UD)
 * for one that is not masked. The caller looks at EVENT before it stores the result.
 */
export const endSse = fn("endSse", [], undefined, (f) => {
  const mxcsr = get32(f, Cpu.MXCSR);
  const flags = f.let(get32(f, Cpu.FP_FLAGS).and(Flag.ALL));
  f.if(flags.eqz(), () => f.return());
  const unmasked = f.let(flags.and(mxcsr.shrU(Env.MASK_SHIFT).xor(-1)));
  const kept = unmasked.and(Flag.EARLY).ne(0).select(flags.and(Flag.EARLY), flags);
  set32(f, Cpu.MXCSR, mxcsr.or(kept));
  f.if(unmasked, () =>
    f.if(
      get64(f, Cpu.CR4).wrap().and(CR4.OSXMMEXCPT),
      () => raise(f, Vector.XM),
      () => raise(f, Vector.UD),
    ),
  );
});

/** Starts an operation: nothing noted so far. Gives MXCSR as its environment. */
export function beginSse(f: Parameters<typeof get32>[0]): I32 {
  set32(f, Cpu.FP_FLAGS, 0);
  return get32(f, Cpu.MXCSR);
}
