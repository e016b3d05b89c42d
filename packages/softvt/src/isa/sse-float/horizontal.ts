import { ARITHMETIC } from "../../fpu/arithmetic.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { sse } from "../sse-common.ts";
import { chooseHalves, exactHalves, exactLanes, exactPacked, packedFast, WIDE } from "./arithmetic.ts";
import { DOUBLE, extract, type Lane, packedBad, packedUnsafe, replace, SINGLE } from "./native.ts";

/* SSE3's sums within a vector, and SSE4.1's dot products. */

/** Every second lane of a then b, from lane `first` on. */
function gather(c: Builder, lane: Lane, a: V128, b: V128, first: 0 | 1): V128 {
  const bytes = lane.bits / 8;
  const lanes: number[] = [];
  for (let i = first; i < 2 * lane.count; i += 2)
    for (let byte = 0; byte < bytes; byte++) lanes.push(i * bytes + byte);
  return c.op("i8x16.shuffle", [a, b], lanes);
}

/** Native where sums of a and b cannot have noted more than PE. */
function sums(
  c: Insn,
  lane: Lane,
  operands: readonly (readonly [V128, V128])[],
  quickly: (a: V128, b: V128) => V128,
  exact: Fn,
): void {
  const quick = operands.map(([a, b]) => c.let(quickly(a, b)));
  const bad = quick.flatMap((result, half) => [
    packedUnsafe(c, lane, result, false),
    packedBad(c, lane, operands[half]!),
  ]);
  const exactly = (half: number, env: I32): V128 => c.call<V128>(exact, ...operands[half]!, env);
  c.writeHalves(0, chooseHalves(c, packedFast(c, bad), quick, exactly));
}

/** Differences in the even lanes, sums in the odd ones. */
const addSub = (lane: Lane): Fn => {
  const { add, subtract } = ARITHMETIC[lane.name];
  return exactLanes(`ADDSUB_${lane.name}_exact`, lane, 2, (f, operands, env, i) =>
    f.call<I64>(i % 2 === 0 ? subtract : add, ...operands, env),
  );
};

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
    sse(`${name}${suffix}`, `${prefix} 0F ${opcode}`, "Vx+,Wx", { feature: "sse3", vexForms: WIDE }, (c) => {
      const b = c.readHalves(1);
      const neighbours = c.readHalves(0).map((a, half): [V128, V128] => {
        const lanes = (first: 0 | 1): V128 => c.let(gather(c, lane, a, b[half]!, first));
        return [lanes(0), lanes(1)];
      });
      sums(c, lane, neighbours, (even, odd) => c.op(`${lane.shape}.${op}`, [even, odd]), exact);
    });
  }
  const exact = addSub(lane);
  let evenSigns = 0n;
  for (let i = 0; i < lane.count; i += 2) evenSigns |= lane.sign << BigInt(i * lane.bits);
  sse(`ADDSUB${suffix}`, `${prefix} 0F D0`, "Vx+,Wx", { feature: "sse3", vexForms: WIDE }, (c) => {
    const b = c.readHalves(1);
    const operands = c.readHalves(0).map((a, half): [V128, V128] => [a, b[half]!]);
    const quickly = (x: V128, y: V128): V128 =>
      c.op(`${lane.shape}.add`, [x, c.op("v128.xor", [y, c.v128(evenSigns)])]);
    sums(c, lane, operands, quickly, exact);
  });
}

/** (a, b, imm, env) → the products that imm's upper half selects, zero in the other lanes. */
const selectedProducts = (lane: Lane): Fn =>
  fn(`DP_${lane.name}_products`, ["v128", "v128", "i32", "i32"], "v128", (f, a, b, imm, env) => {
    const { multiply } = ARITHMETIC[lane.name];
    const products = f.variable("v128", f.v128(0n));
    for (let i = 0; i < lane.count; i++)
      f.if(imm.shrU(4 + i).and(1), () => {
        const product = f.call<I64>(multiply, extract(f, lane, a, i), extract(f, lane, b, i), env);
        products.set(replace(f, lane, products.get(), i, product));
      });
    f.return(products.get());
  });

/** (products, imm, env) → their sum in the lanes that imm's lower half selects, zero elsewhere. */
const sumWhereSelected = (lane: Lane): Fn =>
  fn(`DP_${lane.name}_sum`, ["v128", "i32", "i32"], "v128", (f, products, imm, env) => {
    const { add } = ARITHMETIC[lane.name];
    let terms: I64[] = Array.from({ length: lane.count }, (_, i) => extract(f, lane, products, i));
    while (terms.length > 1)
      terms = terms.flatMap((x, i) => (i % 2 === 0 ? [f.call<I64>(add, x, terms[i + 1]!, env)] : []));
    let result: V128 = f.v128(0n);
    for (let i = 0; i < lane.count; i++) {
      const chosen: I32 = imm.shrU(i).and(1);
      result = replace(f, lane, result, i, chosen.select(terms[0]!, f.i64(0)));
    }
    f.return(result);
  });

// Exceptions of the products come before the sums are made.
for (const [name, opcode, lane, vexForms] of [
  ["DPPS", "40", SINGLE, WIDE],
  ["DPPD", "41", DOUBLE, {}],
] as const) {
  const multiply = selectedProducts(lane);
  const add = sumWhereSelected(lane);
  sse(name, `66 0F 3A ${opcode}`, "Vx+,Wx,Ib", { feature: "sse4.1", vexForms }, (c) => {
    const b = c.readHalves(1);
    const a = c.readHalves(0);
    const imm = c.let(c.immediateField().and(0xff));
    const products = exactHalves(c, a.length, (half, env) =>
      c.call<V128>(multiply, a[half]!, b[half]!, imm, env),
    );
    const sums = exactHalves(c, a.length, (half, env) => c.call<V128>(add, products[half]!, imm, env));
    c.writeHalves(0, sums);
  });
}
