import { condition } from "../../cpu/flags.ts";
import { Cpu } from "../../cpu/layout.ts";
import { Access, probe, wrapLinear } from "../../cpu/memory.ts";
import { get32, set32 } from "../../cpu/state.ts";
import { CONVERT, fromBcd, toBcd } from "../../fpu/convert.ts";
import { Flag, Rounding, roundingOf, withRounding } from "../../fpu/env.ts";
import { BIAS, pack80 } from "../../fpu/round.ts";
import { highHalf, lowHalf, pair } from "../../fpu/wide.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { popUnless, recordPointers, x87, x87Check } from "./common.ts";
import {
  beginX87,
  endX87,
  indefinite,
  isEmpty,
  physical,
  push,
  readSt,
  underflow,
  unmaskedNoted,
  writeAt,
  writeResult,
} from "./stack.ts";

// Loads.

for (const [digitAndOpcode, operand, format] of [
  ["D9 /0", "Md", "f32"],
  ["DD /0", "Mq", "f64"],
] as const)
  x87("FLD", digitAndOpcode, operand, (c) => {
    const bits = c.read(0);
    const env = beginX87(c);
    return c.call<I32>(push, c.call<V128>(CONVERT[format].to.f80!, bits, env));
  });

for (const [encoding, operand] of [
  ["DF /0", "Mw"],
  ["DB /0", "Md"],
  ["DF /5", "Mq"],
] as const)
  x87("FILD", encoding, operand, (c) => {
    const value = c.readSigned(0);
    const env = beginX87(c);
    return c.call<I32>(push, c.call<V128>(CONVERT.f80.fromInteger, value, env));
  });

/** Linear address of the ten bytes of an 80-bit operand. */
const address80 = (c: Insn, write: boolean): I64 => c.let(c.address(80, write));

/** Reads ten bytes: 64 bits and 16. */
function read80(c: Insn): [I64, I32] {
  const va = address80(c, false);
  const low = c.readAt(64, va, c.bySs());
  const high = c.readAt(16, c.let(wrapLinear(c, va.add(8))), c.bySs()).wrap();
  return [low, high];
}

/** Leaves with a fault unless each page of an operand may be written. */
function probeWrite(c: Insn, va: I64, bytes: number): void {
  const last = c.let(wrapLinear(c, va.add(bytes - 1)));
  const second = c.let(last.xor(va).shrU(12).ne(0).select(last.and(~0xfffn), va));
  const access = c.let(c.bySs().shl(3).or(Access.WRITE));
  for (const at of [va, second]) {
    const host = c.call<I32>(probe, at, access, get32(c, Cpu.TLB));
    c.unlikely(host.eqz(), () => c.leave());
  }
}

/** Writes ten bytes: that all of them may be written is made sure before the first is. */
function write80(c: Insn, low: I64, high: I64): void {
  const va = address80(c, true);
  probeWrite(c, va, 10);
  c.writeAt(64, va, low, c.bySs());
  c.writeAt(16, c.let(wrapLinear(c, va.add(8))), high, c.bySs());
}

x87("FLD", "DB /5", "M", (c) => {
  const [sig, se] = read80(c);
  set32(c, Cpu.FP_FLAGS, 0);
  return c.call<I32>(push, pair(c, sig, se.u64()));
});

x87("FBLD", "DF /4", "M", (c) => {
  const [low, high] = read80(c);
  set32(c, Cpu.FP_FLAGS, 0);
  return c.call<I32>(push, c.call<V128>(fromBcd, low, high));
});

const loadSt = fn("x87LoadSt", ["i32"], "i32", (f, index) => {
  set32(f, Cpu.FP_FLAGS, 0);
  const [sig, se] = readSt(f, index);
  const value = f.variable("v128", pair(f, sig, se.u64()));
  f.unlikely(isEmpty(f, index), () => {
    set32(f, Cpu.FP_FLAGS, Flag.IE | Flag.SF);
    value.set(indefinite(f));
  });
  f.return(f.call<I32>(push, value.get()));
});
x87("FLD", "D9 /0", "Nq", (c) => c.call<I32>(loadSt, c.field("b")));

/**
 * Constants, as significands cut off after 64 bits, and whether the nearest is the next one up (SDM Vol. 2,
 * FLD1 …: rounded as RC says, exactly, without PE).
 */
const CONSTANTS: readonly [string, string, number, bigint, 0 | 1][] = [
  ["FLD1", "E8", 0, 0x8000_0000_0000_0000n, 0],
  ["FLDL2T", "E9", 1, 0xd49a_784b_cd1b_8afen, 0],
  ["FLDL2E", "EA", 0, 0xb8aa_3b29_5c17_f0bbn, 1],
  ["FLDPI", "EB", 1, 0xc90f_daa2_2168_c234n, 1],
  ["FLDLG2", "EC", -2, 0x9a20_9a84_fbcf_f798n, 1],
  ["FLDLN2", "ED", -1, 0xb172_17f7_d1cf_79abn, 1],
];
for (const [name, modrm, exponent, truncated, nearestUp] of CONSTANTS)
  x87(name, `D9 =${modrm}`, "", (c) => {
    const mode = roundingOf(beginX87(c));
    const isExact = name === "FLD1";
    const up = mode.eqz().select(c.i32(nearestUp), mode.eq(Rounding.UP));
    const sig = isExact ? c.i64(truncated) : c.i64(truncated).add(up.u64());
    return c.call<I32>(push, pack80(c, c.i32(0), c.i32(BIAS + exponent), sig));
  });
x87("FLDZ", "D9 =EE", "", (c) => {
  set32(c, Cpu.FP_FLAGS, 0);
  return c.call<I32>(push, pack80(c, c.i32(0), c.i32(0), c.i64(0)));
});

// Stores.

/**
 * Stores ST(0) in memory: `convert` gives what to write and notes its exceptions, `empty` is the indefinite of
 * that format. Nothing changes before the memory is written; with an unmasked exception it is not.
 */
function store(
  name: string,
  encoding: string,
  operands: string,
  pops: number,
  convert: (c: Insn, sig: I64, se: I32, env: I32) => V128,
  empty: V128Bits,
  write: (c: Insn, low: I64, high: I64) => void,
): void {
  insn(name, encoding, operands, { feature: "fpu" }, (c) => {
    x87Check(c);
    const env = beginX87(c);
    const value = c.variable("v128", pair(c, c.i64(empty.low), c.i64(empty.high)));
    c.if(
      isEmpty(c, 0),
      () => set32(c, Cpu.FP_FLAGS, Flag.IE | Flag.SF),
      () => {
        const [sig, se] = readSt(c, 0);
        value.set(convert(c, sig, se, env));
      },
    );
    const forbidding = Flag.EARLY | Flag.OE | Flag.UE;
    c.if(
      unmaskedNoted(c).and(forbidding).eqz(),
      () => {
        const result = value.get();
        write(c, lowHalf(c, result), highHalf(c, result));
      },
      () => {
        // A fault of the memory operand comes first all the same.
        const width = c.bits(0) || 80;
        probeWrite(c, c.let(c.address(width, true)), width / 8);
      },
    );
    // Without a result there is no rounding to be told of.
    c.unlikely(unmaskedNoted(c).and(Flag.OE | Flag.UE), () =>
      set32(c, Cpu.FP_FLAGS, get32(c, Cpu.FP_FLAGS).and(~(Flag.PE | Flag.UP))),
    );
    const unmasked = c.call<I32>(endX87);
    popUnless(c, unmasked, forbidding, pops);
    recordPointers(c, unmasked);
  });
}

interface V128Bits {
  readonly low: bigint;
  readonly high: bigint;
}
const bits = (low: bigint, high = 0n): V128Bits => ({ low, high });
const widen = (c: Builder, x: I64): V128 => pair(c, x, c.i64(0));
const writeOperand = (c: Insn, low: I64): void => c.write(0, low);

for (const [name, digit, pops] of [
  ["FST", 2, 0],
  ["FSTP", 3, 1],
] as const) {
  for (const [opcode, operand, format, empty] of [
    ["D9", "Md=", "f32", 0xffc0_0000n],
    ["DD", "Mq=", "f64", 0xfff8_0000_0000_0000n],
  ] as const)
    store(
      name,
      `${opcode} /${digit}`,
      operand,
      pops,
      (c, sig, se, env) => widen(c, c.call<I64>(CONVERT.f80.to[format]!, sig, se, env)),
      bits(empty),
      writeOperand,
    );
}
store("FSTP", "DB /7", "M", 1, (c, sig, se) => pair(c, sig, se.u64()), bits(3n << 62n, 0xffffn), write80);
store(
  "FBSTP",
  "DF /6",
  "M",
  1,
  (c, sig, se, env) => c.call<V128>(toBcd, sig, se, env),
  bits(3n << 62n, 0xffffn),
  write80,
);
for (const [name, encoding, operand, width, pops] of [
  ["FIST", "DF /2", "Mw=", 16, 0],
  ["FISTP", "DF /3", "Mw=", 16, 1],
  ["FIST", "DB /2", "Md=", 32, 0],
  ["FISTP", "DB /3", "Md=", 32, 1],
  ["FISTP", "DF /7", "Mq=", 64, 1],
  ["FISTTP", "DF /1", "Mw=", 16, 1],
  ["FISTTP", "DB /1", "Md=", 32, 1],
  ["FISTTP", "DD /1", "Mq=", 64, 1],
] as const)
  store(
    name,
    encoding,
    operand,
    pops,
    (c, sig, se, env) => {
      const mode = name === "FISTTP" ? withRounding(env, c.i32(Rounding.ZERO)) : env;
      return widen(c, c.call<I64>(CONVERT.f80.toInteger, sig, se, c.i32(width), mode));
    },
    bits(1n << BigInt(width - 1)),
    writeOperand,
  );

// Moves among registers.

const storeSt = fn("x87StoreSt", ["i32"], "i32", (f, index) => {
  f.unlikely(isEmpty(f, 0), () => f.return(f.call<I32>(underflow, index)));
  set32(f, Cpu.FP_FLAGS, 0);
  const [sig, se] = readSt(f, 0);
  const unmasked = f.call<I32>(endX87);
  writeResult(f, unmasked, index, pair(f, sig, se.u64()));
  f.return(unmasked);
});
x87("FST", "DD /2", "Nq", (c) => c.call<I32>(storeSt, c.field("b")));
// The last two are not in the SDM, but in every processor.
for (const encoding of ["DD /3", "DF /2", "DF /3"])
  x87("FSTP", encoding, "Nq", (c) => c.call<I32>(storeSt, c.field("b")), 1);
// Nor is this one, which does not mind an empty ST(0).
x87(
  "FSTPNCE",
  "D9 /3",
  "Nq",
  (c) => {
    const unmasked = c.variable("i32", c.i32(0));
    c.if(
      isEmpty(c, 0),
      () => {
        beginX87(c);
        c.call<I32>(endX87);
      },
      () => unmasked.set(c.call<I32>(storeSt, c.field("b"))),
    );
    return unmasked.get();
  },
  1,
);

const exchange = fn("x87Exchange", ["i32"], "i32", (f, index) => {
  set32(f, Cpu.FP_FLAGS, 0);
  const [from, to] = [f.let(physical(f, 0)), f.let(physical(f, index))];
  const load = (offset: I32): V128 => f.load("v128.load", f.cpu.add(offset), Cpu.FPR);
  const first = f.variable("v128", load(from));
  const second = f.variable("v128", load(to));
  const [noFirst, noSecond] = [isEmpty(f, 0), isEmpty(f, index)];
  f.unlikely(noFirst.or(noSecond), () => {
    set32(f, Cpu.FP_FLAGS, Flag.IE | Flag.SF);
    f.if(noFirst, () => first.set(indefinite(f)));
    f.if(noSecond, () => second.set(indefinite(f)));
  });
  const unmasked = f.call<I32>(endX87);
  f.if(unmasked.eqz(), () => {
    writeAt(f, from, second.get());
    writeAt(f, to, first.get());
  });
  f.return(unmasked);
});
// DD /1 and DF /1 likewise.
for (const encoding of ["D9 /1", "DD /1", "DF /1"])
  x87("FXCH", encoding, "Nq", (c) => c.call<I32>(exchange, c.field("b")));

/** (index, condition): ST(0) = ST(index) where the condition holds; both must be there in any case. C1 stays. */
const moveIf = fn("x87MoveIf", ["i32", "i32"], "i32", (f, index, holds) => {
  f.unlikely(isEmpty(f, 0).or(isEmpty(f, index)), () => f.return(f.call<I32>(underflow, f.i32(0))));
  f.if(holds, () => {
    const [sig, se] = readSt(f, index);
    writeResult(f, f.i32(0), 0, pair(f, sig, se.u64()));
  });
  f.return(f.i32(0));
});
for (const [name, digit, cc] of [
  ["B", 0, 2],
  ["E", 1, 4],
  ["BE", 2, 6],
  ["U", 3, 10],
] as const)
  for (const [opcode, inverted] of [
    ["DA", 0],
    ["DB", 1],
  ] as const)
    x87(`FCMOV${inverted === 1 ? "N" : ""}${name}`, `${opcode} /${digit}`, "Nq", (c) =>
      c.call<I32>(moveIf, c.field("b"), condition(c, cc | inverted)),
    );
