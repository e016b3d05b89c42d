import { LOADS, STORES, type WasmType } from "../wasm/opcodes.ts";
import { type Ending, endingNodes, type Fn, type Label, type Node, type Stmt, type UopField } from "./ir.ts";
import { evaluateOp, f32bits, f64bits, type Value } from "./ops.ts";

/** What the evaluator needs from its surroundings. */
export interface EvaluateContext {
  /** The arena. */
  readonly memory: DataView;
  /** Address of the vCPU block. */
  readonly cpu: number;
  /** Address of the micro-op, for instructions. */
  readonly uop: number;
  field(field: UopField): number;
  /** Calls an imported function. */
  host(name: string, args: readonly Value[]): Value | undefined;
}

export interface EvaluateResult {
  readonly value: Value | undefined;
  /** How the instruction ended, with the values of the ending's expressions. */
  readonly ending: { readonly kind: Ending["kind"]; readonly values: readonly Value[] } | undefined;
}

/** Statement outcomes other than falling through. */
type Signal =
  | { readonly k: "break" | "continue"; readonly label: Label }
  | { readonly k: "return"; readonly value: Value | undefined }
  | { readonly k: "end"; readonly kind: Ending["kind"]; readonly values: readonly Value[] };

/**
 * Runs IR by walking it, with BigInt arithmetic: slow, plain, and the oracle that the generated code is
 * compared with.
 */
export function evaluate(
  stmts: readonly Stmt[],
  args: readonly Value[],
  context: EvaluateContext,
): EvaluateResult {
  const signal = new Evaluator(context, args).run(stmts);
  if (signal?.k === "return") return { value: signal.value, ending: undefined };
  if (signal?.k === "end") return { value: undefined, ending: { kind: signal.kind, values: signal.values } };
  return { value: undefined, ending: undefined };
}

class Evaluator {
  readonly #context: EvaluateContext;
  readonly #temps: Value[];

  constructor(context: EvaluateContext, args: readonly Value[]) {
    this.#context = context;
    this.#temps = [...args];
  }

  #node(node: Node): Value {
    switch (node.k) {
      case "const":
        return constant(node.type, node.value);
      case "temp":
        return this.#temps[node.id]!;
      case "field":
        return this.#context.field(node.field);
      case "uop":
        return this.#context.uop;
      case "cpu":
        return this.#context.cpu;
      case "op":
        return evaluateOp(
          node.op,
          node.args.map((arg) => this.#node(arg)),
          node.lanes,
        );
      case "select":
        return this.#node(node.cond) !== 0 ? this.#node(node.yes) : this.#node(node.no);
    }
  }

  #u32(node: Node): number {
    return (this.#node(node) as number) >>> 0;
  }

  run(stmts: readonly Stmt[]): Signal | undefined {
    for (const stmt of stmts) {
      const signal = this.#stmt(stmt);
      if (signal !== undefined) return signal;
    }
    return undefined;
  }

  #stmt(stmt: Stmt): Signal | undefined {
    switch (stmt.s) {
      case "set":
        this.#temps[stmt.id] = this.#node(stmt.value);
        return undefined;
      case "load":
        this.#temps[stmt.id] = this.#load(stmt.op, this.#u32(stmt.address) + stmt.offset);
        return undefined;
      case "store":
        this.#store(stmt.op, this.#u32(stmt.address) + stmt.offset, this.#node(stmt.value));
        return undefined;
      case "call": {
        const value = this.#call(
          stmt.fn,
          stmt.args.map((arg) => this.#node(arg)),
        );
        if (stmt.id !== undefined) this.#temps[stmt.id] = value!;
        return undefined;
      }
      case "if":
        return this.run(this.#node(stmt.cond) !== 0 ? stmt.yes : stmt.no);
      case "block": {
        const signal = this.run(stmt.body);
        return signal?.k === "break" && signal.label === stmt.label ? undefined : signal;
      }
      case "loop":
        for (;;) {
          const signal = this.run(stmt.body);
          if (signal === undefined) continue;
          if (signal.k === "break" && signal.label === stmt.label) return undefined;
          if (signal.k === "continue" && signal.label === stmt.label) continue;
          return signal;
        }
      case "break":
      case "continue":
        return { k: stmt.s, label: stmt.label };
      case "switch":
        return this.run(stmt.cases[this.#u32(stmt.index)] ?? stmt.default);
      case "return":
        return { k: "return", value: stmt.value === undefined ? undefined : this.#node(stmt.value) };
      case "copy": {
        const bytes = new Uint8Array(this.#context.memory.buffer);
        const from = this.#u32(stmt.from);
        bytes.copyWithin(this.#u32(stmt.to), from, from + this.#u32(stmt.length));
        return undefined;
      }
      case "fill": {
        const to = this.#u32(stmt.to);
        new Uint8Array(this.#context.memory.buffer).fill(
          this.#u32(stmt.value),
          to,
          to + this.#u32(stmt.length),
        );
        return undefined;
      }
      case "end":
        return {
          k: "end",
          kind: stmt.how.kind,
          values: endingNodes(stmt.how).map((node) => this.#node(node)),
        };
    }
  }

  #call(fn: Fn, args: Value[]): Value | undefined {
    if (fn.body === undefined) return this.#context.host(fn.name, args);
    return evaluate(fn.body().stmts, args, this.#context).value;
  }

  #load(op: keyof typeof LOADS, address: number): Value {
    const { type, bytes } = LOADS[op];
    const { memory } = this.#context;
    let raw = 0n;
    for (let i = bytes - 1; i >= 0; i--) raw = (raw << 8n) | BigInt(memory.getUint8(address + i));
    const value = op.endsWith("_s") ? BigInt.asIntN(bytes * 8, raw) : raw;
    if (type === "i32" || type === "f32") return Number(BigInt.asIntN(32, value));
    return type === "v128" ? value : BigInt.asUintN(64, value);
  }

  #store(op: keyof typeof STORES, address: number, value: Value): void {
    const { bytes } = STORES[op];
    let rest = BigInt.asUintN(bytes * 8, BigInt(value));
    for (let i = 0; i < bytes; i++) {
      this.#context.memory.setUint8(address + i, Number(rest & 0xffn));
      rest >>= 8n;
    }
  }
}

function constant(type: WasmType, value: number | bigint): Value {
  if (type === "f32") return f32bits(Number(value));
  if (type === "f64") return f64bits(Number(value));
  return value;
}
