import { COMPARE, Relation } from "../../fpu/compare.ts";
import { Env } from "../../fpu/env.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { beginSse, endSse, sse } from "../sse-common.ts";
import { choose, chooseHalves, exactPacked, SCALAR, WIDE } from "./arithmetic.ts";
import {
  anyOf,
  anyTrue,
  DOUBLE,
  extract,
  type Lane,
  nativeCompare,
  notDenormal,
  packedBad,
  replace,
  SINGLE,
  storeScalar,
} from "./native.ts";

/*
 * Comparisons round nothing: where no operand is a NaN or denormal, the native ones are right whatever MXCSR
 * says.
 */

const orderedAndNormal = (c: Insn, lane: Lane, a: I64, b: I64): I32 =>
  nativeCompare(c, lane, "eq", a, a)
    .and(nativeCompare(c, lane, "eq", b, b))
    .and(notDenormal(lane, a))
    .and(notDenormal(lane, b));

function packedOrderedAndNormal(c: Insn, lane: Lane, a: readonly V128[], b: readonly V128[]): I32 {
  const unordered = [...a, ...b].map((x) => c.op(`${lane.shape}.ne`, [x, x]));
  return anyTrue(c, anyOf(c, [...unordered, packedBad(c, lane, [...a, ...b])])).eqz();
}

/** An operand as MXCSR.DAZ lets it be seen. */
const flushed = (f: Builder, lane: Lane, x: I64, env: I32): I64 =>
  f.let(env.and(Env.DAZ).eqz().or(notDenormal(lane, x)).select(x, x.and(lane.sign)));

/** MIN and MAX: the second operand unless the first is truly less (greater): for NaNs and for zeros. */
const minMax = (lane: Lane, isMin: boolean) =>
  fn(`${isMin ? "min" : "max"}_${lane.name}`, ["i64", "i64", "i32"], "i64", (f, a, b, env) => {
    const relation = f.call<I32>(COMPARE[lane.name], a, b, f.i32(0), env);
    const takeFirst = relation.eq(isMin ? Relation.LESS : Relation.GREATER);
    f.return(takeFirst.select(flushed(f, lane, a, env), flushed(f, lane, b, env)));
  });

/**
 * What CMPxx's predicates say (SDM Vol. 2A table 3-1): four bits each, for greater, less, equal, unordered. 0 to 7 are EQ
 * LT LE UNORD NEQ NLT NLE ORD; 8 to 15, which VEX has, EQ_UQ NGE NGT FALSE NEQ_OQ GE GT TRUE.
 */
const PREDICATES = 0x79db_8624;
const VEX_PREDICATES = 0xf153_0eacn;
const ALL_PREDICATES = (VEX_PREDICATES << 32n) | BigInt(PREDICATES);

/** 1 where predicate `imm` (0 to 31) holds for greater 0, less 1, equal 2, unordered 3. From 16 on they come again. */
const holds = (f: Builder, imm: I32, kind: I32): I32 =>
  f.i64(ALL_PREDICATES).shrU(imm.and(15).shl(2).add(kind).u64()).wrap().and(1);

/** EQ, UNORD, NEQ and ORD are invalid for signaling NaNs only; from 16 on it is the others that are. */
const isQuiet = (imm: I32): I32 => {
  const isEquality = imm.and(3).eqz().or(imm.and(3).eq(3));
  return isEquality.xor(imm.shrU(4).and(1));
};

/** The predicate's number: three bits, with VEX five. */
const predicate = (c: Insn): I32 => c.let(c.immediateField().and(c.isVex ? 31 : 7));

/** (a, b, imm, env) → all ones or zero, in 64 bits. */
const compareMask = (lane: Lane) =>
  fn(`compareMask_${lane.name}`, ["i64", "i64", "i32", "i32"], "i64", (f, a, b, imm, env) => {
    const relation = f.call<I32>(COMPARE[lane.name], a, b, isQuiet(imm), env);
    const kind = relation.and(1).or(relation.shrU(5).and(2));
    f.return(f.i64(0).sub(holds(f, imm, kind).u64()));
  });

for (const [lane, scalarPrefix, packedPrefix, feature] of [
  [SINGLE, "F3", "NP", "sse"],
  [DOUBLE, "F2", "66", "sse2"],
] as const) {
  const suffix = lane === SINGLE ? "S" : "D";
  const size = lane === SINGLE ? "d" : "q";
  const ones = (1n << BigInt(lane.bits)) - 1n;

  for (const [name, opcode, isMin] of [
    ["MIN", "5D", true],
    ["MAX", "5F", false],
  ] as const) {
    const soft = minMax(lane, isMin);
    const relation = isMin ? "lt" : "gt";
    const scalar = fn(`${name}S${suffix}_exact`, ["i64", "i64"], "i64", (f, a, b) => {
      const env = beginSse(f);
      const value = f.call<I64>(soft, a, b, env);
      f.call(endSse);
      f.return(value);
    });
    const packed = exactPacked(`${name}P${suffix}_exact`, lane, soft, 2);
    const operands = `V${size}+,W${size}`;
    sse(`${name}S${suffix}`, `${scalarPrefix} 0F ${opcode}`, operands, { feature, vexForms: SCALAR }, (c) => {
      const a = c.read(0);
      const b = c.read(1);
      const quick = nativeCompare(c, lane, relation, a, b).select(a, b);
      const fast = orderedAndNormal(c, lane, a, b);
      storeScalar(
        c,
        lane,
        choose(c, fast, quick, () => c.call<I64>(scalar, a, b)),
      );
    });
    sse(`${name}P${suffix}`, `${packedPrefix} 0F ${opcode}`, "Vx+,Wx", { feature, vexForms: WIDE }, (c) => {
      const b = c.readHalves(1);
      const a = c.readHalves(0);
      const quick = a.map((x, half) =>
        c.op("v128.bitselect", [x, b[half]!, c.op(`${lane.shape}.${relation}`, [x, b[half]!])]),
      );
      const fast = packedOrderedAndNormal(c, lane, a, b);
      const exact = (half: number, env: I32): V128 => c.call<V128>(packed, a[half]!, b[half]!, env);
      c.writeHalves(0, chooseHalves(c, fast, quick, exact));
    });
  }

  const soft = compareMask(lane);
  const scalar = fn(`CMPS${suffix}_exact`, ["i64", "i64", "i32"], "i64", (f, a, b, imm) => {
    const env = beginSse(f);
    const value = f.call<I64>(soft, a, b, imm, env);
    f.call(endSse);
    f.return(value);
  });
  const packed = fn(`CMPP${suffix}_exact`, ["v128", "v128", "i32", "i32"], "v128", (f, a, b, imm, env) => {
    let value = f.v128(0n);
    for (let i = 0; i < lane.count; i++) {
      const mask = f.call<I64>(soft, extract(f, lane, a, i), extract(f, lane, b, i), imm, env);
      value = replace(f, lane, value, i, mask);
    }
    f.return(value);
  });
  const operands = `V${size}+,W${size},Ib`;
  sse(`CMPS${suffix}`, `${scalarPrefix} 0F C2`, operands, { feature, vexForms: SCALAR }, (c) => {
    const a = c.read(0);
    const b = c.read(1);
    const imm = predicate(c);
    const kind = nativeCompare(c, lane, "lt", a, b).or(nativeCompare(c, lane, "eq", a, b).shl(1));
    const quick = c.i64(0).sub(holds(c, imm, kind).u64());
    const fast = orderedAndNormal(c, lane, a, b);
    const mask = choose(c, fast, quick, () => c.call<I64>(scalar, a, b, imm));
    storeScalar(c, lane, mask.and(ones));
  });
  sse(`CMPP${suffix}`, `${packedPrefix} 0F C2`, "Vx+,Wx,Ib", { feature, vexForms: WIDE }, (c) => {
    const b = c.readHalves(1);
    const a = c.readHalves(0);
    const imm = predicate(c);
    const all = (bit: I32): V128 => c.op("i32x4.splat", [c.i32(0).sub(bit)]);
    // One bit a relation; without NaNs one of three holds.
    const relations = (["gt", "lt", "eq"] as const).map((relation, kind) => {
      return { relation, wanted: c.let(all(holds(c, imm, c.i32(kind)))) };
    });
    const quick = a.map((x, half) =>
      anyOf(
        c,
        relations.map(({ relation, wanted }) =>
          c.op("v128.and", [c.op(`${lane.shape}.${relation}`, [x, b[half]!]), wanted]),
        ),
      ),
    );
    const fast = packedOrderedAndNormal(c, lane, a, b);
    const exact = (half: number, env: I32): V128 => c.call<V128>(packed, a[half]!, b[half]!, imm, env);
    c.writeHalves(0, chooseHalves(c, fast, quick, exact));
  });

  const relate = fn(`COMIS${suffix}_exact`, ["i64", "i64", "i32"], "i64", (f, a, b, quiet) => {
    const env = beginSse(f);
    const relation = f.call<I32>(COMPARE[lane.name], a, b, quiet, env);
    f.call(endSse);
    f.return(relation.u64());
  });
  for (const [name, opcode, quiet] of [
    ["UCOMIS", "2E", 1],
    ["COMIS", "2F", 0],
  ] as const)
    sse(
      `${name}${suffix}`,
      `${packedPrefix} 0F ${opcode}`,
      `V${size},W${size}`,
      { feature, flags: "set", vexForms: SCALAR },
      (c) => {
        const a = c.read(0);
        const b = c.read(1);
        const equal = nativeCompare(c, lane, "eq", a, b).shl(6);
        const quick = nativeCompare(c, lane, "lt", a, b).or(equal).u64();
        const fast = orderedAndNormal(c, lane, a, b);
        const flags = choose(c, fast, quick, () => c.call<I64>(relate, a, b, c.i32(quiet)));
        c.explicitFlags(flags.wrap());
      },
    );
}
