import type { Insn } from "../insn.ts";
import type { InsnOptions, VexCoding } from "../registry.ts";
import { avx } from "../sse-common.ts";

/** An instruction in both lengths, or those of them that it has, each with the CPUID feature that it belongs to. */
export interface Lengths {
  readonly narrow?: "avx" | "avx2" | "fma" | "f16c";
  readonly wide?: "avx" | "avx2" | "fma" | "f16c";
}

export const AVX: Lengths = { narrow: "avx", wide: "avx" };
export const AVX_WIDE: Lengths = { wide: "avx" };
export const AVX2: Lengths = { narrow: "avx2", wide: "avx2" };
export const AVX2_WIDE: Lengths = { wide: "avx2" };

/** Declares an instruction that only VEX has, for each of its lengths. */
export function vexOnly(
  name: string,
  encoding: string,
  operands: string,
  { narrow, wide }: Lengths,
  describe: (c: Insn) => void,
  { vex, ...options }: InsnOptions = {},
): void {
  const define = (feature: string, coding: VexCoding): void =>
    avx(name, encoding, operands, { ...options, feature, vex: { ...vex, ...coding } }, describe);
  if (narrow !== undefined) define(narrow, { l: 0 });
  if (wide !== undefined) define(wide, { l: 1 });
}
