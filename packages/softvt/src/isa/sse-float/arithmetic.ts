import { Cpu } from "../../cpu/layout.ts";
import { get32 } from "../../cpu/state.ts";
import { ARITHMETIC, type Arithmetic } from "../../fpu/arithmetic.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { beginSse, endSse, isPlain, sse, type VexForms } from "../sse-common.ts";
import {
  anyOf,
  anyTrue,
  DOUBLE,
  extract,
  isBounded,
  isSafeResult,
  type Lane,
  native,
  nativeCompare,
  notDenormal,
  packedBad,
  packedUnsafe,
  replace,
  SINGLE,
  storeScalar,
} from "./native.ts";

/** VEX forms of scalars, and of packed numbers. */
export const SCALAR: VexForms = { scalar: true };
export const WIDE: VexForms = { wide: "avx" };

/**
 * Wraps a soft-float function of one or two scalars and env as an operation of its own, exceptions raised.
 * `shortcut` may return a result before it is called.
 */
export const exactScalar = (
  name: string,
  soft: Fn,
  count: number,
  shortcut: (f: Builder, args: readonly I64[]) => void = () => {},
): Fn =>
  fn(
    name,
    Array.from({ length: count }, () => "i64" as const),
    "i64",
    (f, ...args) => {
      shortcut(f, args as readonly I64[]);
      const env = beginSse(f);
      const value = f.call<I64>(soft, ...(args as I64[]), env);
      f.call(endSse);
      f.return(value);
    },
  );

/** A soft-float function on every lane of `count` vectors, under an environment: (vectors, env) → vector. */
export const exactPacked = (name: string, lane: Lane, soft: Fn, count: number): Fn =>
  exactLanes(name, lane, count, (f, operands, env) => f.call<I64>(soft, ...operands, env));

/** The same of what `describe` says of one lane, which may look at the lane's number. */
export const exactLanes = (
  name: string,
  lane: Lane,
  count: number,
  describe: (f: Builder, operands: readonly I64[], env: I32, index: number) => I64,
): Fn =>
  fn(name, [...Array.from({ length: count }, () => "v128" as const), "i32"], "v128", (f, ...args) => {
    const env = args[count] as I32;
    const vectors = args.slice(0, count) as V128[];
    let value: V128 = f.v128(0n);
    for (let i = 0; i < lane.count; i++) {
      const operands = vectors.map((vector) => extract(f, lane, vector, i));
      value = f.let(replace(f, lane, value, i, describe(f, operands, env, i)));
    }
    f.return(value);
  });

/**
 * Native result or exact function, which raises its exceptions itself: `fast` where nothing but PE can have come up.
 */
export function choose(c: Insn, fast: I32, quick: I64, exact: () => I64): I64 {
  const result = c.variable("i64", quick);
  c.unlikely(fast.eqz(), () => {
    result.set(exact());
    c.leaveOnEvent();
  });
  return result.get();
}

/** The exact way of a whole vector: exceptions of all its parts are one instruction's. */
export function exactHalves(c: Insn, count: number, exact: (half: number, env: I32) => V128): V128[] {
  const env = c.let(beginSse(c));
  const parts = Array.from({ length: count }, (_, half) => exact(half, env));
  c.call(endSse);
  c.leaveOnEvent();
  return parts;
}

/** `choose` for vectors: the exact way is taken for all parts where it must be for one. */
export function chooseHalves(
  c: Insn,
  fast: I32,
  quick: readonly V128[],
  exact: (half: number, env: I32) => V128,
): V128[] {
  const results = quick.map((value) => c.variable("v128", value));
  c.unlikely(fast.eqz(), () => {
    exactHalves(c, quick.length, exact).forEach((value, half) => {
      results[half]!.set(value);
    });
  });
  return results.map((result) => result.get());
}

/**
 * Returns the native result where it is exact: nothing is raised then, and PE need not be set already. Whole
 * numbers in floating-point registers never set it.
 */
function returnIfExact(f: Builder, lane: Lane, operation: Operation, a: I64, b: I64): void {
  const result = f.let(native(f, lane, operation.native, a, b));
  const mxcsr = get32(f, Cpu.MXCSR);
  f.if(isPlain(mxcsr.or(PE)).and(isQuiet(lane, operation, a, b, result)), () => {
    const back = (op: string, x: I64, y: I64): I64 => f.let(native(f, lane, op, x, y));
    const equal = (x: I64, y: I64): I32 => nativeCompare(f, lane, "eq", x, y);
    // Significands with p bits in all, zeros at the end not counted, have an exact product.
    const zeros = (x: I64): I64 => x.or(1n << BigInt(lane.fraction)).ctz();
    const short = (x: I64, y: I64): I32 => zeros(x).add(zeros(y)).gtU(lane.fraction);
    let exact: I32;
    if (operation.native === "mul") exact = short(a, b);
    else if (operation.native === "div") exact = short(result, b).and(equal(back("mul", result, b), a));
    else {
      // What a sum has lost (Knuth, The Art of Computer Programming, vol. 2, sec. 4.2.2, theorem B).
      const second = operation.native === "sub" ? f.let(b.xor(lane.sign)) : b;
      const virtual = back("sub", result, a);
      const lost = back("sub", a, back("sub", result, virtual));
      const rest = back("sub", second, virtual);
      exact = equal(back("add", lost, rest), f.i64(0));
    }
    f.if(exact, () => f.return(result));
  });
}

/** MXCSR's PE flag. */
const PE = 0x20;

interface Operation {
  readonly name: string;
  readonly opcode: string;
  readonly soft: keyof Arithmetic;
  readonly native: string;
  /** A zero or denormal result may hide an underflow. */
  readonly underflows: boolean;
}

const OPERATIONS: readonly Operation[] = [
  { name: "ADD", opcode: "58", soft: "add", native: "add", underflows: false },
  { name: "MUL", opcode: "59", soft: "multiply", native: "mul", underflows: true },
  { name: "SUB", opcode: "5C", soft: "subtract", native: "sub", underflows: false },
  { name: "DIV", opcode: "5E", soft: "divide", native: "div", underflows: true },
];

/**
 * Whether operands and result can have raised nothing but PE. Sums of denormals are exact: only operands count
 * there (SDM Vol. 1 sec. 4.9.1.5: masked UE means inexact).
 */
function isQuiet(lane: Lane, operation: Operation, a: I64, b: I64, result: I64): I32 {
  const good = operation.underflows ? isSafeResult(lane, result) : isBounded(lane, result);
  return good.and(notDenormal(lane, a)).and(notDenormal(lane, b));
}

/** Whether vectors may be worked on natively: `bad` has a bit where a part must not. */
export const packedFast = (f: Builder, bad: readonly V128[]): I32 =>
  isPlain(get32(f, Cpu.MXCSR)).and(anyTrue(f, anyOf(f, bad)).eqz());

for (const [lane, scalarPrefix, packedPrefix, feature] of [
  [SINGLE, "F3", "NP", "sse"],
  [DOUBLE, "F2", "66", "sse2"],
] as const) {
  const suffix = lane === SINGLE ? "S" : "D";
  const size = lane === SINGLE ? "d" : "q";
  const soft = ARITHMETIC[lane.name];
  for (const operation of OPERATIONS) {
    const scalar = exactScalar(`${operation.name}S${suffix}_exact`, soft[operation.soft], 2, (f, [a, b]) =>
      returnIfExact(f, lane, operation, a!, b!),
    );
    const packed = exactPacked(`${operation.name}P${suffix}_exact`, lane, soft[operation.soft], 2);
    sse(
      `${operation.name}S${suffix}`,
      `${scalarPrefix} 0F ${operation.opcode}`,
      `V${size}+,W${size}`,
      { feature, vexForms: SCALAR },
      (c) => {
        const a = c.read(0);
        const b = c.read(1);
        const quick = c.let(native(c, lane, operation.native, a, b));
        const fast = isPlain(get32(c, Cpu.MXCSR)).and(isQuiet(lane, operation, a, b, quick));
        storeScalar(
          c,
          lane,
          choose(c, fast, quick, () => c.call<I64>(scalar, a, b)),
        );
      },
    );
    sse(
      `${operation.name}P${suffix}`,
      `${packedPrefix} 0F ${operation.opcode}`,
      "Vx+,Wx",
      { feature, vexForms: WIDE },
      (c) => {
        const b = c.readHalves(1);
        const a = c.readHalves(0);
        const quick = a.map((x, half) => c.let(c.op(`${lane.shape}.${operation.native}`, [x, b[half]!])));
        const bad = quick.map((result, half) =>
          c.op("v128.or", [
            packedUnsafe(c, lane, result, operation.underflows),
            packedBad(c, lane, [a[half]!, b[half]!]),
          ]),
        );
        const exact = (half: number, env: I32): V128 => c.call<V128>(packed, a[half]!, b[half]!, env);
        c.writeHalves(0, chooseHalves(c, packedFast(c, bad), quick, exact));
      },
    );
  }

  const scalar = exactScalar(`SQRTS${suffix}_exact`, soft.sqrt, 1);
  const packed = exactPacked(`SQRTP${suffix}_exact`, lane, soft.sqrt, 1);
  const operands = `V${size}=,W${size}`;
  sse(`SQRTS${suffix}`, `${scalarPrefix} 0F 51`, operands, { feature, vexForms: SCALAR }, (c) => {
    const a = c.read(1);
    const quick = c.let(native(c, lane, "sqrt", a));
    // A normal root means an operand that is neither negative nor special; denormal ones have normal roots.
    const fast = isPlain(get32(c, Cpu.MXCSR)).and(isSafeResult(lane, quick)).and(notDenormal(lane, a));
    storeScalar(
      c,
      lane,
      choose(c, fast, quick, () => c.call<I64>(scalar, a)),
    );
  });
  sse(`SQRTP${suffix}`, `${packedPrefix} 0F 51`, "Vx=,Wx", { feature, vexForms: WIDE }, (c) => {
    const a = c.readHalves(1);
    const quick = a.map((x) => c.let(c.op(`${lane.shape}.sqrt`, [x])));
    const bad = quick.map((result, half) =>
      c.op("v128.or", [packedUnsafe(c, lane, result, true), packedBad(c, lane, [a[half]!])]),
    );
    const exact = (half: number, env: I32): V128 => c.call<V128>(packed, a[half]!, env);
    c.writeHalves(0, chooseHalves(c, packedFast(c, bad), quick, exact));
  });
}
