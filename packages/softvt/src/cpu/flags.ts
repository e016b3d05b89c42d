import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Cpu } from "./layout.ts";
import { ARITHMETIC, get32, get64, RFLAGS, set32, set64 } from "./state.ts";

/**
 * Lazy arithmetic flags. An instruction keeps what they follow from, and whoever wants them computes them.
 * A and R are the first operand and the result shifted up so that their top bit is bit 63: one set of
 * formulas then serves every operand size. With B the second operand, likewise shifted:
 *
 * | kind | CF | OF | AF | ZF SF PF |
 * | --- | --- | --- | --- | --- |
 * | EXPLICIT | AUX | AUX | AUX | AUX |
 * | ADD, B = R − A | R < A | (A^R)&(B^R) | A^B^R | R |
 * | ADC (carry was 1), B = R − A − 1 | R ≤ A | same | same | R |
 * | SUB, B = A − R | R > A | (A^B)&(A^R) | A^B^R | R |
 * | SBB (borrow was 1), B = A − R − 1 | R ≥ A | same | same | R |
 * | LOGIC | 0 | 0 | 0 | R |
 * | INC | AUX | R is the least | low nibble 0 | R |
 * | DEC | AUX | R + 1 is the least | low nibble F | R |
 * | MIXED | AUX | AUX | AUX | R |
 *
 * The kind's bits 13:8 hold the shift (64 − size): PF and AF want the low byte.
 */
export const FlagKind = {
  EXPLICIT: 0,
  ADD: 1,
  ADC: 2,
  SUB: 3,
  SBB: 4,
  LOGIC: 5,
  INC: 6,
  DEC: 7,
  MIXED: 8,
} as const;
export type FlagKind = (typeof FlagKind)[keyof typeof FlagKind];

const kindOf = (f: Builder): I32 => get32(f, Cpu.FLAG_KIND);
/** One in the lowest place of the shifted operands. */
const unit = (f: Builder, kind: I32): I64 => f.i64(1).shl(kind.shrU(8).u64());

/** Stores lazy flags; `a` and `r` are operands of `bits` bits, not yet shifted. */
export function setLazy(f: Builder, kind: FlagKind, bits: number, a: I64 | undefined, r: I64): void {
  const shift = 64 - bits;
  set32(f, Cpu.FLAG_KIND, kind | (shift << 8));
  if (a !== undefined) set64(f, Cpu.FLAG_A, a.shl(shift));
  set64(f, Cpu.FLAG_R, r.shl(shift));
}

/** Stores ZF, SF, PF by result and CF, OF, AF as given (`aux`: RFLAGS positions; other bits are ignored). */
export function setMixed(f: Builder, bits: number, r: I64, aux: I32): void {
  set32(f, Cpu.FLAG_AUX, aux);
  setLazy(f, FlagKind.MIXED, bits, undefined, r);
}

/** Stores all six flags. `flags` at RFLAGS positions, other bits ignored. */
export function setExplicit(f: Builder, flags: I32): void {
  set32(f, Cpu.FLAG_AUX, flags);
  set32(f, Cpu.FLAG_KIND, FlagKind.EXPLICIT);
}

/** CF as 0 or 1. */
export const carryFlag = fn("carryFlag", [], "i32", (f) => {
  const kind = kindOf(f);
  const a = get64(f, Cpu.FLAG_A);
  const r = get64(f, Cpu.FLAG_R);
  const aux = (): void => f.return(get32(f, Cpu.FLAG_AUX).and(1));
  f.switch(
    kind.and(0xff),
    [
      aux,
      () => f.return(r.ltU(a)),
      () => f.return(r.leU(a)),
      () => f.return(r.gtU(a)),
      () => f.return(r.geU(a)),
      () => f.return(f.i32(0)),
    ],
    aux,
  );
  f.return(f.i32(0));
});

/** The second operand as it follows from A and R (shifted), for kinds that have one. */
const second = fn("flagSecond", [], "i64", (f) => {
  const kind = kindOf(f);
  const a = get64(f, Cpu.FLAG_A);
  const r = get64(f, Cpu.FLAG_R);
  f.switch(
    kind.and(0xff).sub(1),
    [
      () => f.return(r.sub(a)),
      () => f.return(r.sub(a).sub(unit(f, kind))),
      () => f.return(a.sub(r)),
      () => f.return(a.sub(r).sub(unit(f, kind))),
    ],
    () => f.return(f.i64(0)),
  );
  f.return(f.i64(0));
});

/** OF as 0 or 1. */
export const overflowFlag = fn("overflowFlag", [], "i32", (f) => {
  const kind = kindOf(f);
  const a = get64(f, Cpu.FLAG_A);
  const r = get64(f, Cpu.FLAG_R);
  const added = (): void => {
    const b = f.call<I64>(second);
    f.return(a.xor(r).and(b.xor(r)).shrU(63).wrap());
  };
  const subtracted = (): void => {
    const b = f.call<I64>(second);
    f.return(a.xor(b).and(a.xor(r)).shrU(63).wrap());
  };
  const aux = (): void => f.return(get32(f, Cpu.FLAG_AUX).shrU(11).and(1));
  f.switch(
    kind.and(0xff),
    [
      aux,
      added,
      added,
      subtracted,
      subtracted,
      () => f.return(f.i32(0)),
      () => f.return(r.eq(1n << 63n)),
      () => f.return(r.add(unit(f, kind)).eq(1n << 63n)),
    ],
    aux,
  );
  f.return(f.i32(0));
});

/** AF as 0 or 1. */
export const adjustFlag = fn("adjustFlag", [], "i32", (f) => {
  const kind = kindOf(f);
  const a = get64(f, Cpu.FLAG_A);
  const r = get64(f, Cpu.FLAG_R);
  const shift = kind.shrU(8).u64();
  const low = r.shrU(shift).and(0xf);
  const aux = (): void => f.return(get32(f, Cpu.FLAG_AUX).shrU(4).and(1));
  const both = (): void => {
    const b = f.call<I64>(second);
    f.return(a.xor(b).xor(r).shrU(shift).shrU(4).wrap().and(1));
  };
  f.switch(
    kind.and(0xff),
    [
      aux,
      both,
      both,
      both,
      both,
      () => f.return(f.i32(0)),
      () => f.return(low.eqz()),
      () => f.return(low.eq(0xf)),
    ],
    aux,
  );
  f.return(f.i32(0));
});

/** ZF as 0 or 1. */
export const zeroFlag = fn("zeroFlag", [], "i32", (f) => {
  f.if(kindOf(f).and(0xff).eqz(), () => f.return(get32(f, Cpu.FLAG_AUX).shrU(6).and(1)));
  f.return(get64(f, Cpu.FLAG_R).eqz());
});

/** SF as 0 or 1. */
export const signFlag = fn("signFlag", [], "i32", (f) => {
  f.if(kindOf(f).and(0xff).eqz(), () => f.return(get32(f, Cpu.FLAG_AUX).shrU(7).and(1)));
  f.return(get64(f, Cpu.FLAG_R).ltS(0));
});

/** PF as 0 or 1. */
export const parityFlag = fn("parityFlag", [], "i32", (f) => {
  const kind = kindOf(f);
  f.if(kind.and(0xff).eqz(), () => f.return(get32(f, Cpu.FLAG_AUX).shrU(2).and(1)));
  const low = get64(f, Cpu.FLAG_R).shrU(kind.shrU(8).u64()).wrap().and(0xff);
  f.return(low.popcnt().and(1).xor(1));
});

/** SF ≠ OF as 0 or 1. */
export const lessFlag = fn("lessFlag", [], "i32", (f) => {
  const kind = kindOf(f);
  f.if(kind.and(0xff).eq(FlagKind.SUB), () => {
    const a = get64(f, Cpu.FLAG_A);
    f.return(a.ltS(a.sub(get64(f, Cpu.FLAG_R))));
  });
  f.if(kind.and(0xff).eq(FlagKind.LOGIC), () => f.return(get64(f, Cpu.FLAG_R).ltS(0)));
  const sign = f.call<I32>(signFlag);
  const overflow = f.call<I32>(overflowFlag);
  f.return(sign.xor(overflow));
});

/** All six flags at their RFLAGS positions. */
export const arithmeticFlags = fn("arithmeticFlags", [], "i32", (f) => {
  f.if(kindOf(f).and(0xff).eqz(), () => f.return(get32(f, Cpu.FLAG_AUX).and(ARITHMETIC)));
  const cf = f.call(carryFlag);
  const pf = f.call(parityFlag);
  const af = f.call(adjustFlag);
  const zf = f.call(zeroFlag);
  const sf = f.call(signFlag);
  const of = f.call(overflowFlag);
  f.return(cf.or(pf.shl(2)).or(af.shl(4)).or(zf.shl(6)).or(sf.shl(7)).or(of.shl(11)));
});

/** RFLAGS whole, 32 bits. */
export const readFlags = fn("readFlags", [], "i32", (f) => {
  f.return(f.call(arithmeticFlags).or(get32(f, Cpu.RFLAGS)));
});

/** Stores RFLAGS whole; reserved bits are the caller's to check. Does not act on what changed. */
export const writeFlags = fn("writeFlags", ["i32"], undefined, (f, flags) => {
  setExplicit(f, flags.and(ARITHMETIC));
  set32(f, Cpu.RFLAGS, flags.and(~ARITHMETIC).or(RFLAGS.ONE));
});

/** Sets CF to `carry` (0 or 1) and leaves ZF; SF and PF stay, OF and AF may become 0 (undefined after BT). */
export function setCarryKeepZero(f: Builder, carry: I32): void {
  const kind = kindOf(f);
  f.if(
    kind.and(0xff).eqz(),
    () => set32(f, Cpu.FLAG_AUX, get32(f, Cpu.FLAG_AUX).and(~1).or(carry)),
    () => {
      set32(f, Cpu.FLAG_KIND, kind.and(0xff00).or(FlagKind.MIXED));
      set32(f, Cpu.FLAG_AUX, carry);
    },
  );
}

/** Sets CF and OF to those bits of `flags` (RFLAGS positions, all others 0), and leaves SF, ZF, AF and PF. */
export function setCarryOverflow(f: Builder, flags: I32): void {
  const kind = kindOf(f);
  f.if(
    kind.and(0xff).eqz(),
    () =>
      set32(
        f,
        Cpu.FLAG_AUX,
        get32(f, Cpu.FLAG_AUX)
          .and(~(RFLAGS.CF | RFLAGS.OF))
          .or(flags),
      ),
    () => {
      set32(f, Cpu.FLAG_AUX, f.call<I32>(adjustFlag).shl(4).or(flags));
      set32(f, Cpu.FLAG_KIND, kind.and(0xff00).or(FlagKind.MIXED));
    },
  );
}

/**
 * Condition `cc` (the low four bits of Jcc's opcode, SDM Vol. 1 app. B) as 0 or 1. What nearly every guest
 * tests, ZF and SF of any operation and an order after CMP or SUB, is worked out in place.
 */
export function condition(f: Builder, cc: number): I32 {
  const value = f.variable("i32", f.i32(0));
  const kind = kindOf(f);
  const r = get64(f, Cpu.FLAG_R);
  const explicit = kind.and(0xff).eqz();
  const bit = (shift: number): I32 => get32(f, Cpu.FLAG_AUX).shrU(shift).and(1);
  const called = (...flags: readonly Fn[]): I32 =>
    flags.map((flag): I32 => f.call<I32>(flag)).reduce((a, b) => a.or(b));
  /** After a subtraction of any size by `direct`, of A and R; else by the flags themselves. */
  const ordered = (direct: (a: I64) => I32, ...flags: readonly Fn[]): void =>
    f.if(
      kind.and(0xff).eq(FlagKind.SUB),
      () => value.set(direct(get64(f, Cpu.FLAG_A))),
      () => value.set(called(...flags)),
      true,
    );
  switch (cc >> 1) {
    case 0:
      value.set(called(overflowFlag));
      break;
    case 1:
      ordered((a) => r.gtU(a), carryFlag);
      break;
    case 2:
      value.set(explicit.select(bit(6), r.eqz()));
      break;
    case 3:
      ordered((a) => r.gtU(a).or(r.eqz()), carryFlag, zeroFlag);
      break;
    case 4:
      value.set(explicit.select(bit(7), r.ltS(0)));
      break;
    case 5:
      value.set(called(parityFlag));
      break;
    case 6:
      ordered((a) => a.ltS(a.sub(r)), lessFlag);
      break;
    default:
      ordered((a) => a.leS(a.sub(r)), zeroFlag, lessFlag);
  }
  return (cc & 1) === 1 ? value.get().eqz() : value.get();
}
