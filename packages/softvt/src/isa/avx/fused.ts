import { FUSED, Negated } from "../../fpu/fused.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { avx } from "../sse-common.ts";
import { exactHalves, exactLanes, exactScalar } from "../sse-float/arithmetic.ts";
import { DOUBLE, type Lane, SINGLE, storeScalar } from "../sse-float/native.ts";

/**
 * FMA (SDM Vol. 1 sec. 14.5, Vol. 2C VFMADD132PD and on): products and sums rounded once, which WebAssembly has not. The
 * three digits of a name say which operands are multiplied and which is added: 132 is first · third + second.
 */
const ORDERS = [
  ["132", 0x90, [0, 2, 1]],
  ["213", 0xa0, [1, 0, 2]],
  ["231", 0xb0, [1, 2, 0]],
] as const;

interface Operation {
  readonly name: string;
  /** Low digit of the packed instruction's opcode; the scalar one's follows it. */
  readonly opcode: number;
  /** Signs in the even and in the odd lanes. */
  readonly signs: readonly [number, number];
}

const { PRODUCT, ADDEND } = Negated;
const OPERATIONS: readonly Operation[] = [
  { name: "VFMADDSUB", opcode: 0x6, signs: [ADDEND, 0] },
  { name: "VFMSUBADD", opcode: 0x7, signs: [0, ADDEND] },
  { name: "VFMADD", opcode: 0x8, signs: [0, 0] },
  { name: "VFMSUB", opcode: 0xa, signs: [ADDEND, ADDEND] },
  { name: "VFNMADD", opcode: 0xc, signs: [PRODUCT, PRODUCT] },
  { name: "VFNMSUB", opcode: 0xe, signs: [PRODUCT | ADDEND, PRODUCT | ADDEND] },
];

/** The soft operation with signs of its own: (a, b, c, env) → result. */
const signed =
  (lane: Lane, signs: number) =>
  (f: Builder, [a, b, c]: readonly I64[], env: I32): I64 =>
    f.call<I64>(FUSED[lane.name], a!, b!, c!, f.i32(signs), env);

const scalarOf = (name: string, lane: Lane, signs: number): Fn => {
  const soft = fn(`${name}_soft`, ["i64", "i64", "i64", "i32"], "i64", (f, a, b, c, env) =>
    f.return(signed(lane, signs)(f, [a, b, c], env)),
  );
  return exactScalar(`${name}_exact`, soft, 3);
};

for (const [lane, w, suffix] of [
  [SINGLE, "W0", "S"],
  [DOUBLE, "W1", "D"],
] as const)
  for (const { name, opcode, signs } of OPERATIONS) {
    const packed = exactLanes(`${name}P${suffix}_exact`, lane, 3, (f, operands, env, i) =>
      signed(lane, signs[i % 2 === 0 ? 0 : 1])(f, operands, env),
    );
    const alternates = signs[0] !== signs[1];
    const scalar = scalarOf(`${name}S${suffix}`, lane, signs[0]);
    const size = lane === SINGLE ? "d" : "q";
    for (const [digits, row, order] of ORDERS) {
      const encoding = (low: number): string => `66 ${w} 0F 38 ${(row + low).toString(16).toUpperCase()}`;
      for (const l of [0, 1] as const)
        avx(
          `${name}${digits}P${suffix}`,
          encoding(opcode),
          "Vx+,Hx,Wx",
          { feature: "fma", vex: { l } },
          (c: Insn) => {
            const operands = [c.readHalves(0), c.readHalves(1), c.readHalves(2)];
            const parts = (half: number): V128[] => order.map((i) => operands[i]![half]!);
            const exact = (half: number, env: I32): V128 => c.call<V128>(packed, ...parts(half), env);
            c.writeHalves(0, exactHalves(c, c.halves, exact));
          },
        );
      if (alternates) continue;
      avx(
        `${name}${digits}S${suffix}`,
        encoding(opcode + 1),
        `V${size}+,H${size},W${size}`,
        { feature: "fma", vex: {} },
        (c: Insn) => {
          const operands = [c.read(0), c.read(1), c.read(2)];
          const value = c.call<I64>(scalar, ...order.map((i) => operands[i]!));
          c.leaveOnEvent();
          storeScalar(c, lane, value);
        },
      );
    }
  }
