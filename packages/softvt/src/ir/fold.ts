import type { Node } from "./ir.ts";
import { evaluateOp } from "./ops.ts";

type Op = Node & { readonly k: "op" };
/** What an operation is instead, given its operands; `undefined`: itself. */
type Rule = (op: Op, first: Node, second: Node, fits32: Fits32) => Node | undefined;
/** Whether an i64 is known to have its upper half clear. */
export type Fits32 = (node: Node) => boolean;

const ONES = 0xffff_ffff_ffff_ffffn;
const LOW32 = 0xffff_ffffn;
const NOT_KNOWN: Fits32 = () => false;

const isZero = (node: Node): boolean => node.k === "const" && (node.value === 0 || node.value === 0n);
const isOnes = (node: Node): boolean => node.k === "const" && (node.value === -1 || node.value === ONES);
const i64 = (value: bigint): Node => ({ k: "const", type: "i64", value: BigInt.asUintN(64, value) });

/** Whether an i64's upper half is clear by what it is made of; `known` answers for temps. */
export function fits32(node: Node, known: Fits32): boolean {
  if (node.k === "const")
    return typeof node.value === "bigint" && BigInt.asUintN(32, node.value) === node.value;
  if (node.k === "temp") return known(node);
  if (node.k === "select") return fits32(node.yes, known) && fits32(node.no, known);
  if (node.k !== "op") return false;
  const [first, second] = node.args as [Node, Node];
  switch (node.op) {
    case "i64.extend_i32_u":
      return true;
    case "i64.and":
      return fits32(first, known) || fits32(second, known);
    case "i64.or":
    case "i64.xor":
      return fits32(first, known) && fits32(second, known);
    case "i64.shr_u":
      return fits32(first, known) || (second.k === "const" && ((second.value as bigint) & 63n) >= 32n);
    default:
      return false;
  }
}

const second0: Rule = (_op, first, second) => (isZero(second) ? first : undefined);
const either0: Rule = (_op, first, second) => (isZero(second) ? first : isZero(first) ? second : undefined);
/** (x + a) + b. */
const add: Rule = (op, first, second) => {
  if (isZero(second)) return first;
  if (isZero(first)) return second;
  if (second.k !== "const" || first.k !== "op" || first.op !== op.op) return;
  const [x, inner] = first.args as readonly [Node, Node];
  if (inner.k !== "const") return;
  const sum = evaluateOp(op.op, [inner.value, second.value]);
  return isZero({ ...inner, value: sum }) ? x : { ...op, args: [x, { ...inner, value: sum }] };
};
const and32: Rule = (_op, first, second) => {
  if (isZero(second) || isOnes(first)) return second;
  return isZero(first) || isOnes(second) ? first : undefined;
};
const and64: Rule = (op, first, second, known) => {
  const simple = and32(op, first, second, known);
  if (simple !== undefined || second.k !== "const") return simple;
  const mask = second.value as bigint;
  if (first.k === "op" && first.op === "i64.and") {
    const [x, inner] = first.args as readonly [Node, Node];
    if (inner.k === "const") {
      const both = i64(mask & (inner.value as bigint));
      return and64(op, x, both, known) ?? { ...op, args: [x, both] };
    }
  }
  if (!fits32(first, known)) return;
  return (mask & LOW32) === LOW32 ? first : (mask & LOW32) === 0n ? i64(0n) : undefined;
};
const wrap: Rule = (op, first) => {
  if (first.k !== "op") return;
  if (first.op === "i64.extend_i32_u" || first.op === "i64.extend_i32_s") return first.args[0];
  const mask = first.args[1];
  if (first.op !== "i64.and" || mask?.k !== "const" || ((mask.value as bigint) & LOW32) !== LOW32) return;
  const [inner] = first.args as readonly [Node, Node];
  return wrap(op, inner, inner, NOT_KNOWN) ?? { ...op, args: [inner] };
};
/** An i32 that was an i64 with a clear upper half. */
const extend: Rule = (_op, first, _second, known) =>
  first.k === "op" && first.op === "i32.wrap_i64" && fits32(first.args[0]!, known)
    ? first.args[0]
    : undefined;

const RULES: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ["i32.add", add],
  ["i64.add", add],
  ["i32.and", and32],
  ["i64.and", and64],
  ["i32.wrap_i64", wrap],
  ["i64.extend_i32_u", extend],
  ...["or", "xor"].flatMap((op): [string, Rule][] => [
    [`i32.${op}`, either0],
    [`i64.${op}`, either0],
  ]),
  ...["sub", "shl", "shr_u", "shr_s", "rotl", "rotr"].flatMap((op): [string, Rule][] => [
    [`i32.${op}`, second0],
    [`i64.${op}`, second0],
  ]),
]);

/** The commonest operations on two i32 constants, without a detour by `evaluateOp`. */
function constant32(op: string, a: number, b: number): number | undefined {
  switch (op) {
    case "i32.add":
      return (a + b) | 0;
    case "i32.sub":
      return (a - b) | 0;
    case "i32.and":
      return a & b;
    case "i32.or":
      return a | b;
    case "i32.shl":
      return a << b;
    case "i32.shr_u":
      return (a >>> b) | 0;
    case "i32.eq":
      return a === b ? 1 : 0;
    case "i32.ne":
      return a !== b ? 1 : 0;
    case "i32.lt_u":
      return a >>> 0 < b >>> 0 ? 1 : 0;
    default:
      return undefined;
  }
}

const isInteger = (node: Node): node is Node & { k: "const" } =>
  node.k === "const" && (node.type === "i32" || node.type === "i64");
const isTrapping = (op: string): boolean => op.includes(".div") || op.includes(".rem");

/**
 * Simplifies one operation whose operands are already simple: constants, neutral elements, masks that change nothing.
 *
 * @param known says of temps whether their upper half is clear.
 */
export function fold(node: Op, known: Fits32 = NOT_KNOWN): Node {
  const { args, type, op } = node;
  if (type !== "i32" && type !== "i64") return node;
  const first = args[0]!;
  const second = args[1] ?? first;
  if (isInteger(first) && isInteger(second) && args.length <= 2 && !isTrapping(op)) {
    const quick =
      type === "i32" && first.type === "i32" && args.length === 2
        ? constant32(op, first.value as number, second.value as number)
        : undefined;
    const value =
      quick ??
      evaluateOp(
        op,
        args.map((arg) => (arg as { value: number | bigint }).value),
        node.lanes,
      );
    return { k: "const", type, value };
  }
  return RULES.get(op)?.(node, first, second, known) ?? node;
}
