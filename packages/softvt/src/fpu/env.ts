import { Cpu } from "../cpu/layout.ts";
import { get32, set32 } from "../cpu/state.ts";
import type { Builder, I32 } from "../ir/builder.ts";

/**
 * Exceptions that an operation notes in `Cpu.FP_FLAGS`. The low six bits stand alike in FSW and MXCSR, the
 * others where FSW has them (SDM Vol. 1 fig. 8-4).
 */
export const Flag = {
  IE: 0x01,
  DE: 0x02,
  ZE: 0x04,
  OE: 0x08,
  UE: 0x10,
  PE: 0x20,
  /** Stack fault. */
  SF: 0x40,
  /** C1: the result was rounded away from zero. */
  UP: 0x200,
  /** The six that have masks. */
  ALL: 0x3f,
  /** Those found before the operation is carried out: unmasked, they hide the others. */
  EARLY: 0x07,
} as const;

/**
 * The environment that an operation runs in: MXCSR as it is (SDM Vol. 1 fig. 10-3), or the x87 control word
 * brought into that form by `x87Env`.
 */
export const Env = {
  DAZ: 0x40,
  /** Masks of IE to PE: bits 12:7. */
  MASK_SHIFT: 7,
  DM: 0x100,
  UM: 0x800,
  OM: 0x400,
  /** Rounding control: bits 14:13. */
  RC_SHIFT: 13,
  FTZ: 0x8000,
  /** x87 precision control: bits 17:16. */
  PC_SHIFT: 16,
  /** All masked, to nearest, 64 bits of precision. */
  DEFAULT: 0x3_1f80,
} as const;

/** Rounding control's values. */
export const Rounding = { NEAREST: 0, DOWN: 1, UP: 2, ZERO: 3 } as const;

/** Notes exceptions of the operation under way. */
export function note(f: Builder, flags: I32 | number): void {
  set32(f, Cpu.FP_FLAGS, get32(f, Cpu.FP_FLAGS).or(flags));
}

export const roundingOf = (env: I32): I32 => env.shrU(Env.RC_SHIFT).and(3);

/** `env` with another rounding mode. */
export const withRounding = (env: I32, mode: I32): I32 =>
  env.and(~(3 << Env.RC_SHIFT)).or(mode.shl(Env.RC_SHIFT));

/** The x87 control word as an environment. */
export function x87Env(f: Builder): I32 {
  const fcw = get32(f, Cpu.FCW);
  return fcw.and(0x3f).shl(Env.MASK_SHIFT).or(fcw.and(0xc00).shl(3)).or(fcw.and(0x300).shl(8));
}
