import { setExplicit } from "../../cpu/flags.ts";
import { Cpu } from "../../cpu/layout.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { COMPARE, Relation } from "../../fpu/compare.ts";
import { Flag } from "../../fpu/env.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import { readFloat, readInteger } from "./arithmetic.ts";
import { x87 } from "./common.ts";
import { beginX87, endX87, exponentAt, isEmpty, physical, readSt, significandAt } from "./stack.ts";

/** C0, C2 and C3 of the status word; a relation's flags shifted by 8. */
const CONDITION = 0x4500;

/** Ends a comparison: the condition codes show it, unless it is an unmasked invalid operation. */
function endCompare(f: Builder, relation: I32): I32 {
  const unmasked = f.call<I32>(endX87);
  set32(f, Cpu.FSW, get32(f, Cpu.FSW).and(~CONDITION).or(relation.shl(8)));
  return unmasked;
}

/** Notes a stack underflow and gives what a comparison then shows. */
function stackFault(f: Builder): I32 {
  set32(f, Cpu.FP_FLAGS, Flag.IE | Flag.SF);
  return f.i32(Relation.UNORDERED);
}

/** (index, quiet): compares ST(0) with ST(index). */
const compareSt = fn("x87Compare", ["i32", "i32"], "i32", (f, index, quiet) => {
  f.unlikely(isEmpty(f, 0).or(isEmpty(f, index)), () => f.return(endCompare(f, stackFault(f))));
  const env = beginX87(f);
  f.return(endCompare(f, f.call<I32>(COMPARE.f80, ...readSt(f, 0), ...readSt(f, index), quiet, env)));
});

/** (significand, sign | exponent): compares ST(0) with an operand. */
const compareOperand = fn("x87CompareOperand", ["i64", "i32"], "i32", (f, sig, se) => {
  f.unlikely(isEmpty(f, 0), () => f.return(endCompare(f, stackFault(f))));
  const env = beginX87(f);
  f.return(endCompare(f, f.call<I32>(COMPARE.f80, ...readSt(f, 0), sig, se, f.i32(0), env)));
});

/**
 * (index, quiet): the same with the result in RFLAGS, unless it is an unmasked invalid operation (SDM Vol. 2,
 * FCOMI). C1 is cleared; there are processors of another vendor that differ in both.
 */
const compareFlags = fn("x87CompareFlags", ["i32", "i32"], "i32", (f, index, quiet) => {
  const relation = f.variable("i32", f.i32(Relation.UNORDERED));
  f.if(
    isEmpty(f, 0).or(isEmpty(f, index)),
    () => relation.set(stackFault(f)),
    () => {
      const env = beginX87(f);
      relation.set(f.call<I32>(COMPARE.f80, ...readSt(f, 0), ...readSt(f, index), quiet, env));
    },
  );
  const unmasked = f.call<I32>(endX87);
  f.if(unmasked.and(Flag.IE).eqz(), () => setExplicit(f, relation.get()));
  f.return(unmasked);
});

for (const [name, digit, pops] of [
  ["FCOM", 2, 0],
  ["FCOMP", 3, 1],
] as const) {
  const operand = (parts: [I64, I32]): [I64, I32] => parts;
  x87(name, `D8 /${digit}`, "Md", (c) => c.call<I32>(compareOperand, ...operand(readFloat(c, 32))), pops);
  x87(name, `DC /${digit}`, "Mq", (c) => c.call<I32>(compareOperand, ...operand(readFloat(c, 64))), pops);
  x87(
    name.replace("F", "FI"),
    `DE /${digit}`,
    "Mw",
    (c) => c.call<I32>(compareOperand, ...operand(readInteger(c))),
    pops,
  );
  x87(
    name.replace("F", "FI"),
    `DA /${digit}`,
    "Md",
    (c) => c.call<I32>(compareOperand, ...operand(readInteger(c))),
    pops,
  );
}
// DC and DE repeat D8's: not in the SDM, but in every processor.
for (const [name, encoding, quiet, pops] of [
  ["FCOM", "D8 /2", 0, 0],
  ["FCOM", "DC /2", 0, 0],
  ["FCOMP", "D8 /3", 0, 1],
  ["FCOMP", "DC /3", 0, 1],
  ["FCOMP", "DE /2", 0, 1],
  ["FUCOM", "DD /4", 1, 0],
  ["FUCOMP", "DD /5", 1, 1],
] as const)
  x87(name, encoding, "Nq", (c) => c.call<I32>(compareSt, c.field("b"), c.i32(quiet)), pops);
x87("FCOMPP", "DE =D9", "", (c) => c.call<I32>(compareSt, c.i32(16), c.i32(0)), 2);
x87("FUCOMPP", "DA =E9", "", (c) => c.call<I32>(compareSt, c.i32(16), c.i32(1)), 2);
for (const [name, encoding, quiet, pops] of [
  ["FCOMI", "DB /6", 0, 0],
  ["FCOMIP", "DF /6", 0, 1],
  ["FUCOMI", "DB /5", 1, 0],
  ["FUCOMIP", "DF /5", 1, 1],
] as const)
  x87(name, encoding, "Nq", (c) => c.call<I32>(compareFlags, c.field("b"), c.i32(quiet)), pops);

x87("FTST", "D9 =E4", "", (c) => c.call<I32>(compareOperand, c.i64(0), c.i32(0)));

/** C3, C2 and C0 by class (SDM Vol. 2, FXAM), C1 the sign, of ST(0) as it is, empty or not. */
const examine = fn("x87Examine", [], "i32", (f) => {
  const offset = f.let(physical(f, 0));
  const sig = significandAt(f, offset);
  const se = exponentAt(f, offset);
  const exp = f.let(se.and(0x7fff));
  const [C0, C2, C3] = [0x100, 0x400, 0x4000];
  const kind = f.variable("i32", f.i32(C2));
  f.if(exp.eqz(), () => kind.set(sig.eqz().select(f.i32(C3), f.i32(C3 | C2))));
  f.if(exp.eq(0x7fff), () =>
    kind.set(
      sig
        .shl(1)
        .eqz()
        .select(f.i32(C2 | C0), f.i32(C0)),
    ),
  );
  f.if(exp.ne(0).and(sig.geS(0)), () => kind.set(f.i32(0)));
  f.if(isEmpty(f, 0), () => kind.set(f.i32(C3 | C0)));
  const status = get32(f, Cpu.FSW).and(~(CONDITION | Flag.UP));
  set32(f, Cpu.FSW, status.or(kind.get()).or(se.shrU(15).shl(9)));
  f.return(f.i32(0));
});
x87("FXAM", "D9 =E5", "", (c) => c.call<I32>(examine));
