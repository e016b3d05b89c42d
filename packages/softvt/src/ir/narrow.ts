import type { Node, Stmt } from "./ir.ts";
import { mapParts, parts } from "./normalize.ts";

/**
 * 32-bit operations done in 32 bits. Descriptions are written for all operand sizes alike, in i64: an ADD of 32 bits adds
 * 64 and cuts the result off. Where nobody asks for an upper half, i32 operations give the same lower half, and a
 * processor clears the upper one with them for nothing.
 */

const LOW32 = 0xffff_ffffn;
/** Of these the low 32 bits depend on the operands' low 32 bits alone. */
const MODULAR = new Set(["i64.add", "i64.sub", "i64.mul", "i64.and", "i64.or", "i64.xor"]);

/** What is asked of an i64. */
const Demand = { NONE: 0, LOW: 1, ALL: 2 } as const;
type Demand = (typeof Demand)[keyof typeof Demand];

type Op = Node & { readonly k: "op" };

/** The same statements, for temps numbered below `temps`; `sets`: how often each is assigned. */
export function narrow(stmts: readonly Stmt[], temps: number, sets: Uint8Array): Stmt[] {
  return new Narrower(stmts, temps, sets).rewrite(stmts);
}

class Narrower {
  readonly #sets: Uint8Array;
  readonly #demands: Uint8Array;
  /** By temp that is assigned once: its value. */
  readonly #values: (Node | undefined)[] = [];

  constructor(stmts: readonly Stmt[], temps: number, sets: Uint8Array) {
    this.#sets = sets;
    this.#demands = new Uint8Array(temps);
    // A temp's demand is that of its uses, which mostly come later: again until nothing changes, for loops.
    for (let before = -1, now = 0; now !== before; now = this.#demands.reduce((a, b) => a + b, 0)) {
      before = now;
      this.#collect(stmts);
    }
  }

  rewrite(stmts: readonly Stmt[]): Stmt[] {
    return stmts.map((stmt) => this.#statement(stmt));
  }

  // ---- what is asked of whom

  #collect(stmts: readonly Stmt[]): void {
    for (let i = stmts.length - 1; i >= 0; i--) {
      const stmt = stmts[i]!;
      if (stmt.s === "set") {
        if (this.#sets[stmt.id] === 1) this.#values[stmt.id] = stmt.value;
        this.#ask(stmt.value, stmt.type === "i64" ? (this.#demands[stmt.id] as Demand) : Demand.ALL);
        continue;
      }
      if (stmt.s === "store") {
        this.#ask(stmt.address, Demand.ALL);
        this.#ask(stmt.value, stmt.op === "i64.store" ? Demand.ALL : Demand.LOW);
        continue;
      }
      const { nodes, lists } = parts(stmt);
      for (const list of lists) this.#collect(list);
      for (const node of nodes) this.#ask(node, Demand.ALL);
    }
  }

  #ask(node: Node, demand: Demand): void {
    if (demand === Demand.NONE) return;
    if (node.k === "temp") this.#demands[node.id] = Math.max(this.#demands[node.id]!, demand);
    else if (node.k === "select") {
      this.#ask(node.cond, Demand.ALL);
      this.#ask(node.yes, demand);
      this.#ask(node.no, demand);
    } else if (node.k === "op") {
      const [first, second] = node.args as [Node, Node | undefined];
      this.#ask(first, this.#ofFirst(node, demand));
      if (second !== undefined) this.#ask(second, MODULAR.has(node.op) ? demand : Demand.ALL);
      for (const arg of node.args.slice(2)) this.#ask(arg, Demand.ALL);
    }
  }

  /** What an operation asks of its first operand. */
  #ofFirst(node: Op, demand: Demand): Demand {
    const second = node.args[1];
    switch (node.op) {
      case "i32.wrap_i64":
      case "i64.extend8_s":
      case "i64.extend16_s":
      case "i64.extend32_s":
        return Demand.LOW;
      case "i64.and":
        return isMask(second!) ? Demand.LOW : demand;
      case "i64.shl":
        return second!.k === "const" && unsigned(second!) >= 32n ? Demand.LOW : demand;
      default:
        return MODULAR.has(node.op) ? demand : Demand.ALL;
    }
  }

  // ---- what is done about it

  #statement(stmt: Stmt): Stmt {
    if (stmt.s === "set" && stmt.type === "i64" && this.#demands[stmt.id] === Demand.LOW)
      return { ...stmt, value: this.#extended(stmt.value) };
    return mapParts(
      stmt,
      (node) => this.#node(node),
      (list) => this.rewrite(list),
    );
  }

  #node(node: Node): Node {
    if (node.k === "select")
      return { ...node, cond: this.#node(node.cond), yes: this.#node(node.yes), no: this.#node(node.no) };
    if (node.k !== "op") return node;
    if (node.op === "i32.wrap_i64") return this.#low(node.args[0]!);
    if (node.op === "i64.and" && isMask(node.args[1]!) && this.#isNarrowable(node.args[0]!))
      return extend(this.#low(node));
    return { ...node, args: node.args.map((arg) => this.#node(arg)) };
  }

  /** An i64 whose lower half is `node`'s. */
  #extended(node: Node): Node {
    return this.#isNarrowable(node) ? extend(this.#low(node)) : this.#node(node);
  }

  /** Whether the low 32 bits can be worked out in 32 bits. */
  #isNarrowable(node: Node): boolean {
    if (node.k === "select") return this.#isNarrowable(node.yes) || this.#isNarrowable(node.no);
    if (node.k !== "op") return false;
    const [first, second] = node.args as [Node, Node];
    switch (node.op) {
      case "i64.shl":
        return this.#isBelow32(second);
      case "i64.shr_u":
        return this.#isBelow32(second) && isZeroExtended(first);
      case "i64.shr_s":
        return this.#isBelow32(second) && first.k === "op" && first.op === "i64.extend32_s";
      default:
        return MODULAR.has(node.op);
    }
  }

  /** The low 32 bits as an i32. */
  #low(node: Node): Node {
    if (node.k === "const")
      return { k: "const", type: "i32", value: Number(BigInt.asIntN(32, node.value as bigint)) };
    if (node.k === "select" && this.#isNarrowable(node)) {
      const { cond, yes, no } = node;
      return { k: "select", type: "i32", cond: this.#node(cond), yes: this.#low(yes), no: this.#low(no) };
    }
    if (node.k === "op") {
      const [first, second] = node.args as [Node, Node];
      if (node.op === "i64.extend_i32_u" || node.op === "i64.extend_i32_s") return this.#node(first);
      if (node.op === "i64.and" && second.k === "const" && (unsigned(second) & LOW32) === LOW32)
        return this.#low(first);
      if (this.#isNarrowable(node)) {
        const left = node.op === "i64.shr_s" ? (first as Op).args[0]! : first;
        return op32(node.op.replace("i64", "i32"), this.#low(left), this.#low(second));
      }
    }
    return op32("i32.wrap_i64", this.#node(node));
  }

  /** Whether an i64 is known to be below 32, as masked counts are. */
  #isBelow32(node: Node): boolean {
    if (node.k === "const") return unsigned(node) < 32n;
    if (node.k === "temp") {
      const value = this.#values[node.id];
      return value !== undefined && this.#isBelow32(value);
    }
    if (node.k !== "op" || node.op !== "i64.and") return false;
    const mask = node.args[1]!;
    return mask.k === "const" && unsigned(mask) < 32n;
  }
}

/** An i64 constant's value, unsigned. */
const unsigned = (node: Node & { k: "const" }): bigint => BigInt.asUintN(64, node.value as bigint);

const isMask = (node: Node): boolean => node.k === "const" && unsigned(node) <= LOW32;

/** Whether an i64's upper half is clear, by its outermost operation. */
const isZeroExtended = (node: Node): boolean =>
  node.k === "op" && (node.op === "i64.extend_i32_u" || (node.op === "i64.and" && isMask(node.args[1]!)));

const op32 = (op: string, ...args: Node[]): Node => ({ k: "op", type: "i32", op, args });
const extend = (node: Node): Node => ({ k: "op", type: "i64", op: "i64.extend_i32_u", args: [node] });
