import { Cpu } from "../../cpu/layout.ts";
import { get32 } from "../../cpu/state.ts";
import { ARITHMETIC } from "../../fpu/arithmetic.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { beginSse, endSse, isPlain, sseCheck } from "../sse-common.ts";
import { choose, exactPacked } from "./arithmetic.ts";
import { anyTrue, DOUBLE, extract, type Lane, packedBad, packedUnsafe, replace, SINGLE } from "./native.ts";

/* SSE3's sums within a vector, and SSE4.1's dot products. */

/** Every second lane of a then b, from lane `first` on. */
function gather(c: Builder, lane: Lane, a: V128, b: V128, first: 0 | 1): V128 {
  const bytes = lane.bits / 8;
  const lanes: number[] = [];
  for (let i = first; i < 2 * lane.count; i += 2)
    for (let byte = 0; byte < bytes; byte++) lanes.push(i * bytes + byte);
  return c.op("i8x16.shuffle", [a, b], lanes);
}

/** `quick` where sums of a and b cannot have noted more than PE. */
function sum(c: Insn, lane: Lane, a: V128, b: V128, quick: V128, exact: Fn): V128 {
  const bad = c.op("v128.or", [packedUnsafe(c, lane, quick, false), packedBad(c, lane, [a, b])]);
  const fast = isPlain(get32(c, Cpu.MXCSR)).and(anyTrue(c, bad).eqz());
  return choose(c, "v128", fast, quick, () => c.call<V128>(exact, a, b));
}

/** Differences in the even lanes, sums in the odd ones. */
const addSub = (lane: Lane): Fn =>
  fn(`ADDSUB_${lane.name}_exact`, ["v128", "v128"], "v128", (f, a, b) => {
    const env = beginSse(f);
    let result: V128 = f.v128(0n);
    for (let i = 0; i < lane.count; i++) {
      const { add, subtract } = ARITHMETIC[lane.name];
      const operands = [extract(f, lane, a, i), extract(f, lane, b, i), env];
      result = replace(f, lane, result, i, f.call<I64>(i % 2 === 0 ? subtract : add, ...operands));
    }
    f.call(endSse);
    f.return(result);
  });

for (const [lane, prefix] of [
  [SINGLE, "F2"],
  [DOUBLE, "66"],
] as const) {
  const suffix = lane === SINGLE ? "PS" : "PD";
  for (const [name, opcode, op, soft] of [
    ["HADD", "7C", "add", "add"],
    ["HSUB", "7D", "sub", "subtract"],
  ] as const) {
    const exact = exactPacked(`${name}${suffix}_exact`, lane, ARITHMETIC[lane.name][soft], 2);
    insn(`${name}${suffix}`, `${prefix} 0F ${opcode}`, "Vx+,Wx", { feature: "sse3" }, (c) => {
      sseCheck(c);
      const b = c.readVector(1);
      const a = c.readVector(0);
      const even = c.let(gather(c, lane, a, b, 0));
      const odd = c.let(gather(c, lane, a, b, 1));
      const quick = c.let(c.op(`${lane.shape}.${op}`, [even, odd]));
      c.writeVector(0, sum(c, lane, even, odd, quick, exact));
    });
  }
  const exact = addSub(lane);
  let evenSigns = 0n;
  for (let i = 0; i < lane.count; i += 2) evenSigns |= lane.sign << BigInt(i * lane.bits);
  insn(`ADDSUB${suffix}`, `${prefix} 0F D0`, "Vx+,Wx", { feature: "sse3" }, (c) => {
    sseCheck(c);
    const b = c.readVector(1);
    const a = c.readVector(0);
    const quick = c.let(c.op(`${lane.shape}.add`, [a, c.op("v128.xor", [b, c.v128(evenSigns)])]));
    c.writeVector(0, sum(c, lane, a, b, quick, exact));
  });
}

/**
 * (a, b, imm) → the sum of the products that imm's upper half selects, in the lanes that its lower half selects,
 * zero elsewhere. Exceptions of the products come before the sums are made.
 */
const dotProduct = (lane: Lane): Fn =>
  fn(`DP_${lane.name}_exact`, ["v128", "v128", "i32"], "v128", (f, a, b, imm) => {
    const { add, multiply } = ARITHMETIC[lane.name];
    const env = beginSse(f);
    const products: I64[] = [];
    for (let i = 0; i < lane.count; i++) {
      const product = f.variable("i64", f.i64(0));
      f.if(imm.shrU(4 + i).and(1), () =>
        product.set(f.call<I64>(multiply, extract(f, lane, a, i), extract(f, lane, b, i), env)),
      );
      products.push(product.get());
    }
    f.call(endSse);
    f.if(get32(f, Cpu.EVENT), () => f.return(f.v128(0n)));
    beginSse(f);
    let sums = products;
    while (sums.length > 1)
      sums = sums.flatMap((x, i) => (i % 2 === 0 ? [f.call<I64>(add, x, sums[i + 1]!, env)] : []));
    f.call(endSse);
    let result: V128 = f.v128(0n);
    for (let i = 0; i < lane.count; i++) {
      const chosen: I32 = imm.shrU(i).and(1);
      result = replace(f, lane, result, i, chosen.select(sums[0]!, f.i64(0)));
    }
    f.return(result);
  });

for (const [name, opcode, lane] of [
  ["DPPS", "40", SINGLE],
  ["DPPD", "41", DOUBLE],
] as const) {
  const exact = dotProduct(lane);
  insn(name, `66 0F 3A ${opcode}`, "Vx+,Wx,Ib", { feature: "sse4.1" }, (c) => {
    sseCheck(c);
    const b = c.readVector(1);
    const value = c.call<V128>(exact, c.readVector(0), b, c.immediateField().and(0xff));
    c.leaveOnEvent();
    c.writeVector(0, value);
  });
}
