import type { I32 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Flag, note } from "./env.ts";
import { type ArithmeticName, FORMATS, type Format, formatFn, isNan } from "./formats.ts";

/**
 * How two operands compare, as CF, PF and ZF show it (SDM Vol. 2, COMISD, FCOMI); shifted left by 8 these are
 * C0, C2 and C3 of the x87 status word.
 */
export const Relation = { GREATER: 0, LESS: 0x01, EQUAL: 0x40, UNORDERED: 0x45 } as const;

/** (a, b, quiet, env) → Relation. Any NaN is invalid, or with `quiet` 1 only a signaling one. */
const describeCompare = (format: Format): Fn =>
  formatFn("compare", format, 2, ["i32", "i32"], "i32", (f, [rawA, rawB], [quiet, env]) => {
    const a = format.unpack(f, rawA!, env!);
    const b = format.unpack(f, rawB!, env!);
    f.unlikely(isNan(a).or(isNan(b)), () => {
      const signaling = format.isSignaling(rawA!).or(format.isSignaling(rawB!));
      f.if(quiet!.eqz().or(signaling), () => note(f, Flag.IE));
      f.return(f.i32(Relation.UNORDERED));
    });
    f.if(a.denormal.or(b.denormal), () => note(f, Flag.DE));
    const equalMagnitude = a.exp.eq(b.exp).and(a.sig.eq(b.sig));
    const bothZero = a.sig.eqz().and(b.sig.eqz());
    f.if(bothZero.or(equalMagnitude.and(a.sign.eq(b.sign))), () => f.return(f.i32(Relation.EQUAL)));
    const smaller: I32 = a.exp.ltS(b.exp).or(a.exp.eq(b.exp).and(a.sig.ltU(b.sig)));
    f.return(a.sign.ne(b.sign).select(a.sign, smaller.xor(a.sign)));
  });

export const COMPARE: Readonly<Record<ArithmeticName, Fn>> = {
  f32: describeCompare(FORMATS.f32),
  f64: describeCompare(FORMATS.f64),
  f80: describeCompare(FORMATS.f80),
};
