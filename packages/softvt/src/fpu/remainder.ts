import { Cpu } from "../cpu/layout.ts";
import { get32, set32 } from "../cpu/state.ts";
import type { Builder, I32, I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Env, Flag, note } from "./env.ts";
import { FORMATS, formatFn, isNan } from "./formats.ts";
import { SPECIAL } from "./round.ts";

/** Condition codes in the status word, which a remainder notes along with its exceptions. */
export const Condition = { C0: 0x100, C1: 0x200, C2: 0x400, C3: 0x4000, ALL: 0x4700 } as const;

export interface Reduced {
  /** Remainder, below the divisor; not normalized. */
  readonly rest: I64;
  /** The quotient's low bits. */
  readonly quotient: I64;
}

/** a · 2^steps modulo b, for normalized significands: one bit of quotient a step, and one at the start. */
export function reduce(f: Builder, a: I64, b: I64, steps: I32): Reduced {
  const rest = f.variable("i64", a);
  const quotient = f.variable("i64", f.i64(0));
  const left = f.variable("i32", steps);
  // Shifted out of the rest: it is then greater than the divisor whatever the lower bits are.
  const carry = f.variable("i32", f.i32(0));
  f.loop((label) => {
    const r = rest.get();
    const fits = f.let(carry.get().or(r.geU(b)));
    const next = f.let(fits.select(r.sub(b), r));
    quotient.set(quotient.get().shl(1).or(fits.u64()));
    rest.set(next);
    f.if(left.get().eqz(), () => f.break(label));
    left.set(left.get().sub(1));
    carry.set(next.ltS(0));
    rest.set(next.shl(1));
  });
  return { rest: rest.get(), quotient: quotient.get() };
}

/**
 * (a, b, env) → a modulo b, with the quotient truncated (FPREM) or to nearest (FPREM1). Notes the quotient's
 * low three bits in C0, C3 and C1, of which it clears the first two in the status word; or C2 where exponents lie 64 or more apart: then a has come nearer to b by 32 to
 * 63 bits, and the instruction has to be repeated (SDM Vol. 2, FPREM; the step is what processors do).
 */
const describe = (name: string, toNearest: boolean): Fn => {
  const format = FORMATS.f80;
  return formatFn(name, format, 2, ["i32"], "v128", (f, [rawA, rawB], [env]) => {
    const a = format.unpack(f, rawA!, env!);
    const b = format.unpack(f, rawB!, env!);
    const exact = env!.or(3 << Env.PC_SHIFT);
    f.unlikely(a.exp.eq(SPECIAL).or(b.exp.eq(SPECIAL)), () => {
      f.if(isNan(a).or(isNan(b)), () => format.returnNaN(f, rawA!, rawB!));
      f.if(a.exp.eq(SPECIAL), () => format.returnInvalid(f));
    });
    f.if(b.sig.eqz(), () => format.returnInvalid(f));
    const denormal = f.let(a.denormal.or(b.denormal));
    f.if(denormal, () => note(f, Flag.DE));
    // Unmasked, the denormal operand stops it before the condition codes change.
    f.if(denormal.eqz().or(env!.and(Env.DM).ne(0)), () =>
      set32(f, Cpu.FSW, get32(f, Cpu.FSW).and(~(Condition.C0 | Condition.C3))),
    );
    const unchanged = (): void => format.finish(f, a.sign, a.exp, a.sig, f.i64(0), exact);
    f.if(a.sig.eqz(), () => format.returnZero(f, a.sign));
    f.if(b.exp.eq(SPECIAL), unchanged);
    const distance = f.let(a.exp.sub(b.exp));
    f.if(distance.ltS(toNearest ? -1 : 0), unchanged);

    f.if(distance.geS(64), () => {
      note(f, Condition.C2);
      const steps = f.let(distance.and(31).or(32));
      const { rest } = reduce(f, a.sig, b.sig, steps);
      f.if(rest.eqz(), () => format.returnZero(f, a.sign));
      const shift = f.let(rest.clz());
      const exp = a.exp.sub(steps).sub(shift.wrap());
      format.finish(f, a.sign, exp, rest.shl(shift), f.i64(0), exact);
    });

    const rest = f.variable("i64", a.sig);
    const quotient = f.variable("i64", f.i64(0));
    const sign = f.variable("i32", a.sign);
    const exp = f.variable("i32", b.exp);
    const whole = (): void => {
      const reduced = reduce(f, a.sig, b.sig, distance);
      rest.set(reduced.rest);
      quotient.set(reduced.quotient);
    };
    if (!toNearest) whole();
    else {
      const flip = (): void => {
        quotient.set(quotient.get().add(1));
        sign.set(a.sign.xor(1));
      };
      f.if(
        distance.ltS(0),
        () => {
          // Between a quarter of b and b: above the half the nearest multiple is b itself.
          exp.set(a.exp);
          f.if(a.sig.gtU(b.sig), () => {
            rest.set(f.i64(0).sub(a.sig).add(b.sig.shl(1)));
            flip();
          });
        },
        () => {
          whole();
          const r = rest.get();
          const other = f.let(b.sig.sub(r));
          const odd = quotient.get().wrap().and(1);
          f.if(r.gtU(other).or(r.eq(other).and(odd)), () => {
            rest.set(other);
            flip();
          });
        },
      );
    }
    const q = quotient.get().wrap();
    note(f, q.and(4).shl(6).or(q.and(2).shl(13)).or(q.and(1).shl(9)));
    const r = rest.get();
    f.if(r.eqz(), () => format.returnZero(f, a.sign));
    const shift = f.let(r.clz());
    format.finish(f, sign.get(), exp.get().sub(shift.wrap()), r.shl(shift), f.i64(0), exact);
  });
};

export const REMAINDER = {
  truncated: describe("remainder", false),
  nearest: describe("remainderNearest", true),
};
