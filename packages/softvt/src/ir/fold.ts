import type { Node } from "./ir.ts";
import { evaluateOp } from "./ops.ts";

const isZero = (node: Node | undefined): boolean => node?.k === "const" && Number(node.value) === 0;
const isOnes = (node: Node | undefined): boolean =>
  node?.k === "const" && (node.type === "i32" ? Number(node.value) === -1 : BigInt(node.value) === ONES);
const ONES = 0xffff_ffff_ffff_ffffn;
const ZERO_FIRST = /^i(32|64)\.(add|or|xor)$/;
const NEUTRAL_ZERO = /^i(32|64)\.(add|sub|or|xor|shl|shr_u|shr_s|rotl|rotr)$/;

/** Simplifies one operation whose operands are already simple: constants, and neutral elements. */
export function fold(node: Node & { k: "op" }): Node {
  if (node.type === "v128" || node.type === "f32" || node.type === "f64") return node;
  const [first, second] = node.args;
  if (NEUTRAL_ZERO.test(node.op) && isZero(second)) return first!;
  if (ZERO_FIRST.test(node.op) && isZero(first)) return second!;
  if (node.op.endsWith(".and")) {
    if (isZero(second)) return second!;
    if (isZero(first)) return first!;
    if (isOnes(second)) return first!;
    if (isOnes(first)) return second!;
  }
  if (
    node.args.every((arg) => arg.k === "const" && (arg.type === "i32" || arg.type === "i64")) &&
    !/div|rem/.test(node.op)
  ) {
    const value = evaluateOp(
      node.op,
      node.args.map((arg) => (arg as { value: number | bigint }).value),
      node.lanes,
    );
    return { k: "const", type: node.type, value };
  }
  return node;
}
