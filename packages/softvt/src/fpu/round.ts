import { type Builder, fn, type I32, type I64, type V128 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Env, Flag, note, roundingOf } from "./env.ts";
import { pair, shiftRightSticky, sticky } from "./wide.ts";

/**
 * Inside the soft float a number is (sign, exp, sig): ±sig · 2^(exp − 16383 − 63), the 80-bit format's bias for
 * every format, with sig's bit 63 set. What lies below sig is in a second 64-bit word, `extra`, exact but for
 * its last bit, which stands for everything behind it.
 */
export const BIAS = 16383;
/** Exponent of infinities, NaNs and unsupported formats, unpacked and in the 80-bit format. */
export const SPECIAL = 0x7fff;
export const TOP_BIT = 1n << 63n;

/** A rounded 80-bit number as one value: significand in the lower half, sign and exponent in the upper. */
export const pack80 = (f: Builder, sign: I32, exp: I32, sig: I64): V128 =>
  pair(f, sig, sign.shl(15).or(exp).u64());

/** 1 where the magnitude has to be rounded up. `fraction`: what is cut off, its first bit in bit 63. */
export function roundsUp(f: Builder, env: I32, sign: I32, odd: I32, fraction: I64): I32 {
  const mode = f.let(roundingOf(env));
  const nearest = fraction.ltS(0).and(fraction.shl(1).ne(0).or(odd));
  const directed = fraction.ne(0).and(mode.eq(f.i32(2).sub(sign)));
  return f.let(mode.eqz().select(nearest, directed));
}

interface Target {
  /** Low bits of sig that are rounded away: 0, 11 or 40. */
  readonly discard: number | I32;
  /** Least and greatest exponent of a normal number. */
  readonly min: I32 | number;
  readonly max: I32 | number;
}

interface Rounded {
  readonly sig: I64;
  readonly carry: I32;
  readonly up: I32;
  readonly inexact: I32;
}

function roundSig(f: Builder, env: I32, sign: I32, sig: I64, extra: I64, discard: number | I32): Rounded {
  if (discard === 0) {
    const up = roundsUp(f, env, sign, sig.wrap().and(1), extra);
    const sum = f.let(sig.add(up.u64()));
    return { sig: sum, carry: up.and(sum.eqz()), up, inexact: extra.ne(0) };
  }
  const bits = I32like(f, discard).u64();
  const unit = f.let(f.i64(1).shl(bits));
  const kept = sig.and(f.i64(0).sub(unit));
  const fraction = f.let(sig.or(sticky(extra)).shl(f.i64(64).sub(bits)));
  const up = roundsUp(f, env, sign, sig.and(unit).ne(0), fraction);
  const sum = f.let(up.select(kept.add(unit), kept));
  return { sig: sum, carry: up.and(sum.eqz()), up, inexact: fraction.ne(0) };
}

const I32like = (f: Builder, x: number | I32): I32 => (typeof x === "number" ? f.i32(x) : x);

/**
 * Rounds to `target` and notes OE, UE, PE and UP. Unmasked overflow and underflow give the exponent wrapped by
 * 24576 (SDM Vol. 1 sec. 4.9.1.4 and 8.5.4), which only x87 registers receive; where that is still out of range
 * (FSCALE), infinity or zero. Tiny is what stays below the least normal number after rounding with an
 * unbounded exponent (sec. 4.9.1.5).
 */
function describeRound(
  f: Builder,
  sign: I32,
  exp: I32,
  sig: I64,
  extra: I64,
  env: I32,
  target: Target,
): void {
  const min = I32like(f, target.min);
  const max = I32like(f, target.max);
  const first = roundSig(f, env, sign, sig, extra, target.discard);
  const exact = f.let(exp.add(first.carry));
  const significand = f.let(first.carry.select(f.i64(TOP_BIT), first.sig));
  const noteInexact = (r: Rounded, more: I32 | number): void =>
    note(f, r.inexact.select(r.up.shl(9).or(Flag.PE), f.i32(0)).or(more));
  f.if(
    exact.geS(min).and(exact.leS(max)),
    () => {
      f.if(first.inexact, () => noteInexact(first, 0));
      f.return(pack80(f, sign, exact, significand));
    },
    undefined,
    true,
  );
  f.if(exact.gtS(max), () => {
    const wrapped = exact.sub(24576);
    f.if(env.and(Env.OM).eqz(), () => {
      f.if(wrapped.gtS(0x7ffe), () => {
        note(f, Flag.OE | Flag.PE | Flag.UP);
        f.return(pack80(f, sign, f.i32(SPECIAL), f.i64(TOP_BIT)));
      });
      noteInexact(first, Flag.OE);
      f.return(pack80(f, sign, wrapped, significand));
    });
    const mode = f.let(roundingOf(env));
    const toInfinity = f.let(mode.eqz().or(mode.eq(f.i32(2).sub(sign))));
    note(f, toInfinity.shl(9).or(Flag.OE | Flag.PE));
    const greatest = f.i64(-1).shl(I32like(f, target.discard).u64());
    f.return(
      pack80(f, sign, toInfinity.select(f.i32(SPECIAL), max), toInfinity.select(f.i64(TOP_BIT), greatest)),
    );
  });
  const wrapped = exact.add(24576);
  f.if(env.and(Env.UM).eqz(), () => {
    f.if(wrapped.leS(0), () => {
      note(f, Flag.UE | Flag.PE);
      f.return(pack80(f, sign, f.i32(0), f.i64(0)));
    });
    noteInexact(first, Flag.UE);
    f.return(pack80(f, sign, wrapped, significand));
  });
  f.if(env.and(Env.FTZ), () => {
    note(f, Flag.UE | Flag.PE);
    f.return(pack80(f, sign, f.i32(0), f.i64(0)));
  });
  const shifted = shiftRightSticky(f, { hi: sig, lo: extra }, min.sub(exp));
  const second = roundSig(f, env, sign, shifted.hi, shifted.lo, target.discard);
  f.if(second.inexact, () => noteInexact(second, Flag.UE));
  // Rounding up to the least normal number sets the top bit.
  f.return(pack80(f, sign, second.sig.ltS(0).select(min, f.i32(0)), second.sig));
}

/** (sign, exp, sig, extra, env) → the number rounded to 64 bits in the 80-bit format's range. */
export const roundExtended = fn(
  "roundExtended",
  ["i32", "i32", "i64", "i64", "i32"],
  "v128",
  (f, sign, exp, sig, extra, env) =>
    describeRound(f, sign, exp, sig, extra, env, { discard: 0, min: 1, max: 0x7ffe }),
);

/**
 * (sign, exp, sig with its last bit sticky, env, discard, min, max) → the number rounded to 64 − discard bits
 * with an exponent of `min` to `max`, still biased by 16383; below `min` the exponent is 0 and sig as it is
 * under the exponent `min`.
 */
export const roundNarrow = fn(
  "roundNarrow",
  ["i32", "i32", "i64", "i32", "i32", "i32", "i32"],
  "v128",
  (f, sign, exp, sig, env, discard, min, max) =>
    describeRound(f, sign, exp, sig, f.i64(0), env, { discard, min, max }),
);

/** Rounds an x87 result as precision control says (SDM Vol. 1 sec. 8.1.5.2). */
export const roundX87: Fn = fn(
  "roundX87",
  ["i32", "i32", "i64", "i64", "i32"],
  "v128",
  (f, sign, exp, sig, extra, env) => {
    const control = env.shrU(Env.PC_SHIFT).and(3);
    // 1 is reserved: 64 bits, like 3.
    f.if(control.and(1), () => f.return(f.call<V128>(roundExtended, sign, exp, sig, extra, env)));
    const discard = control.eqz().select(f.i32(40), f.i32(11));
    f.return(
      f.call<V128>(roundNarrow, sign, exp, sig.or(sticky(extra)), env, discard, f.i32(1), f.i32(0x7ffe)),
    );
  },
);
