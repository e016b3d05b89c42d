import { Cpu } from "../cpu/layout.ts";
import { CR4, get32, get64, raise, raiseException, set32, Vector } from "../cpu/state.ts";
import { Env, Flag } from "../fpu/env.ts";
import { fn, type I32 } from "../ir/builder.ts";
import type { Insn } from "./insn.ts";
import { type InsnOptions, insn, type VexCoding } from "./registry.ts";

/** Faults with the vector that a field of the vCPU block holds, unless that is 0. */
function faultIfOff(c: Insn, field: number): void {
  const vector = get32(c, field);
  c.unlikely(vector, () => {
    c.call(raiseException, vector, c.i32(0));
    c.leave();
  });
}

/** The first thing every SSE instruction does: #UD where CR0.EM or CR4.OSFXSR forbid it, #NM by CR0.TS. */
export const sseCheck = (c: Insn): void => faultIfOff(c, Cpu.SSE_OFF);

/** The same of every AVX instruction: #UD where CR4.OSXSAVE or XCR0 forbid it, #NM by CR0.TS. */
export const avxCheck = (c: Insn): void => faultIfOff(c, Cpu.AVX_OFF);

/** The VEX-encoded forms of an SSE instruction. Their opcode and description are the same. */
export interface VexForms {
  /** Operands of VEX.128, where they are not those that `vexOperands` gives. */
  readonly operands?: string;
  /** A scalar instruction: VEX.L is ignored. */
  readonly scalar?: boolean;
  /** The CPUID feature of VEX.256, where there is that form. */
  readonly wide?: "avx" | "avx2";
  /** Operands of VEX.256, where they are not VEX.128's. */
  readonly wideOperands?: string;
}

export interface VectorOptions extends InsnOptions {
  /** `undefined`: VEX.128 alone; null: no VEX form. */
  readonly vexForms?: VexForms | null;
}

/**
 * Operands of a VEX form from those of SSE: a destination that is read, too, or of which a part stays, gets a source of
 * its own; where that destination is in ModRM.rm, VEX.vvvv is the destination (shifts by immediate counts).
 */
function vexOperands(operands: string): string {
  const [first = "", ...rest] = operands.split(",");
  const [, kind, size] = /^([VU])(x|d|q)[+=]$/.exec(first) ?? [];
  const isMerged = first.endsWith("+") || (kind === "V" && size !== "x");
  if (kind === undefined || !isMerged) return operands;
  const pair = kind === "V" ? [`V${size}=`, `H${size}`] : [`H${size}=`, `U${size}`];
  return [...pair, ...rest].join(",");
}

/** A vector instruction with a VEX prefix. */
export function avx(
  name: string,
  encoding: string,
  operands: string,
  options: InsnOptions & { readonly vex: VexCoding },
  describe: (c: Insn) => void,
): void {
  // VEX.W stands for a size of 64 bits; there is none of 16.
  const sizes = /y/.test(operands) ? ({ sizes: [32, 64] } as const) : {};
  insn(name, encoding, operands, { ...sizes, ...options }, (c) => {
    avxCheck(c);
    describe(c);
  });
}

/** An instruction on XMM registers, with its VEX forms. */
export function sse(
  name: string,
  encoding: string,
  operands: string,
  { vexForms = {}, ...options }: VectorOptions,
  describe: (c: Insn) => void,
): void {
  insn(name, encoding, operands, options, (c) => {
    sseCheck(c);
    describe(c);
  });
  if (vexForms === null) return;
  const narrow = vexForms.operands ?? vexOperands(operands);
  const define = (text: string, feature: string, l: VexCoding): void => {
    const threeOperand = text.split(",").length > operands.split(",").length;
    const vex = threeOperand ? { ...l, threeOperand } : l;
    avx(`V${name}`, encoding, text, { ...options, feature, vex }, describe);
  };
  const isCrypto = options.feature === "aes" || options.feature === "pclmulqdq";
  define(narrow, isCrypto ? options.feature! : "avx", vexForms.scalar ? {} : { l: 0 });
  if (vexForms.wide !== undefined) define(vexForms.wideOperands ?? narrow, vexForms.wide, { l: 1 });
}

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
