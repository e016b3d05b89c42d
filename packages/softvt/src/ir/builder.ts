import { LOADS, type LoadName, OPS, type StoreName, type WasmType } from "../wasm/opcodes.ts";
import { fold } from "./fold.ts";
import type { Ending, Fn, FnBody, Label, Node, Stmt, UopField } from "./ir.ts";

/** A value of the description language: a pure expression with its type. */
export abstract class Value {
  readonly node: Node;
  constructor(node: Node) {
    this.node = node;
  }
}

type I32Like = I32 | number;
type I64Like = I64 | bigint | number;

const i32node = (x: I32Like): Node =>
  typeof x === "number" ? { k: "const", type: "i32", value: x | 0 } : x.node;
const i64node = (x: I64Like): Node =>
  x instanceof I64 ? x.node : { k: "const", type: "i64", value: BigInt.asUintN(64, BigInt(x)) };

function op(name: string, args: readonly Node[], lanes?: readonly number[]): Node {
  const signature = OPS[name];
  if (signature === undefined) throw new Error(`no such operation: ${name}`);
  if (args.length !== signature.args.length || args.some((arg, i) => arg.type !== signature.args[i]))
    throw new Error(`${name} takes (${signature.args.join()}), got (${args.map((a) => a.type).join()})`);
  return fold({ k: "op", type: signature.result, op: name, args, ...(lanes === undefined ? {} : { lanes }) });
}

/** 32 bits. Signedness is in the operation, as in WebAssembly. Shift counts are modulo 32. */
export class I32 extends Value {
  static of(value: I32Like): I32 {
    return typeof value === "number" ? new I32(i32node(value)) : value;
  }
  #bin(name: string, other: I32Like): I32 {
    return new I32(op(`i32.${name}`, [this.node, i32node(other)]));
  }
  add(x: I32Like): I32 {
    return this.#bin("add", x);
  }
  sub(x: I32Like): I32 {
    return this.#bin("sub", x);
  }
  mul(x: I32Like): I32 {
    return this.#bin("mul", x);
  }
  divU(x: I32Like): I32 {
    return this.#bin("div_u", x);
  }
  remU(x: I32Like): I32 {
    return this.#bin("rem_u", x);
  }
  and(x: I32Like): I32 {
    return this.#bin("and", x);
  }
  or(x: I32Like): I32 {
    return this.#bin("or", x);
  }
  xor(x: I32Like): I32 {
    return this.#bin("xor", x);
  }
  shl(x: I32Like): I32 {
    return this.#bin("shl", x);
  }
  shrU(x: I32Like): I32 {
    return this.#bin("shr_u", x);
  }
  shrS(x: I32Like): I32 {
    return this.#bin("shr_s", x);
  }
  rotl(x: I32Like): I32 {
    return this.#bin("rotl", x);
  }
  rotr(x: I32Like): I32 {
    return this.#bin("rotr", x);
  }
  eq(x: I32Like): I32 {
    return this.#bin("eq", x);
  }
  ne(x: I32Like): I32 {
    return this.#bin("ne", x);
  }
  ltU(x: I32Like): I32 {
    return this.#bin("lt_u", x);
  }
  ltS(x: I32Like): I32 {
    return this.#bin("lt_s", x);
  }
  gtU(x: I32Like): I32 {
    return this.#bin("gt_u", x);
  }
  gtS(x: I32Like): I32 {
    return this.#bin("gt_s", x);
  }
  leU(x: I32Like): I32 {
    return this.#bin("le_u", x);
  }
  leS(x: I32Like): I32 {
    return this.#bin("le_s", x);
  }
  geU(x: I32Like): I32 {
    return this.#bin("ge_u", x);
  }
  geS(x: I32Like): I32 {
    return this.#bin("ge_s", x);
  }
  /** 1 if zero, else 0. */
  eqz(): I32 {
    return new I32(op("i32.eqz", [this.node]));
  }
  clz(): I32 {
    return new I32(op("i32.clz", [this.node]));
  }
  ctz(): I32 {
    return new I32(op("i32.ctz", [this.node]));
  }
  popcnt(): I32 {
    return new I32(op("i32.popcnt", [this.node]));
  }
  signExtend8(): I32 {
    return new I32(op("i32.extend8_s", [this.node]));
  }
  signExtend16(): I32 {
    return new I32(op("i32.extend16_s", [this.node]));
  }
  /** To 64 bits, zero- or sign-extended. */
  u64(): I64 {
    return new I64(op("i64.extend_i32_u", [this.node]));
  }
  s64(): I64 {
    return new I64(op("i64.extend_i32_s", [this.node]));
  }
  /** `this ? a : b`; both sides are evaluated. */
  select<V extends Value>(a: V, b: V): V {
    const node: Node = { k: "select", type: a.node.type, cond: this.node, yes: a.node, no: b.node };
    return wrap(node.cond.k === "const" ? (node.cond.value ? a.node : b.node) : node) as V;
  }
}

/** 64 bits. Shift counts are modulo 64. Comparisons give an `I32` of 0 or 1. */
export class I64 extends Value {
  static of(value: I64Like): I64 {
    return value instanceof I64 ? value : new I64(i64node(value));
  }
  #bin(name: string, other: I64Like): I64 {
    return new I64(op(`i64.${name}`, [this.node, i64node(other)]));
  }
  #cmp(name: string, other: I64Like): I32 {
    return new I32(op(`i64.${name}`, [this.node, i64node(other)]));
  }
  add(x: I64Like): I64 {
    return this.#bin("add", x);
  }
  sub(x: I64Like): I64 {
    return this.#bin("sub", x);
  }
  mul(x: I64Like): I64 {
    return this.#bin("mul", x);
  }
  divU(x: I64Like): I64 {
    return this.#bin("div_u", x);
  }
  divS(x: I64Like): I64 {
    return this.#bin("div_s", x);
  }
  remU(x: I64Like): I64 {
    return this.#bin("rem_u", x);
  }
  remS(x: I64Like): I64 {
    return this.#bin("rem_s", x);
  }
  and(x: I64Like): I64 {
    return this.#bin("and", x);
  }
  or(x: I64Like): I64 {
    return this.#bin("or", x);
  }
  xor(x: I64Like): I64 {
    return this.#bin("xor", x);
  }
  not(): I64 {
    return this.xor(-1n);
  }
  shl(x: I64Like): I64 {
    return this.#bin("shl", x);
  }
  shrU(x: I64Like): I64 {
    return this.#bin("shr_u", x);
  }
  shrS(x: I64Like): I64 {
    return this.#bin("shr_s", x);
  }
  rotl(x: I64Like): I64 {
    return this.#bin("rotl", x);
  }
  rotr(x: I64Like): I64 {
    return this.#bin("rotr", x);
  }
  eq(x: I64Like): I32 {
    return this.#cmp("eq", x);
  }
  ne(x: I64Like): I32 {
    return this.#cmp("ne", x);
  }
  ltU(x: I64Like): I32 {
    return this.#cmp("lt_u", x);
  }
  ltS(x: I64Like): I32 {
    return this.#cmp("lt_s", x);
  }
  gtU(x: I64Like): I32 {
    return this.#cmp("gt_u", x);
  }
  gtS(x: I64Like): I32 {
    return this.#cmp("gt_s", x);
  }
  leU(x: I64Like): I32 {
    return this.#cmp("le_u", x);
  }
  leS(x: I64Like): I32 {
    return this.#cmp("le_s", x);
  }
  geU(x: I64Like): I32 {
    return this.#cmp("ge_u", x);
  }
  geS(x: I64Like): I32 {
    return this.#cmp("ge_s", x);
  }
  eqz(): I32 {
    return new I32(op("i64.eqz", [this.node]));
  }
  clz(): I64 {
    return new I64(op("i64.clz", [this.node]));
  }
  ctz(): I64 {
    return new I64(op("i64.ctz", [this.node]));
  }
  popcnt(): I64 {
    return new I64(op("i64.popcnt", [this.node]));
  }
  signExtend8(): I64 {
    return new I64(op("i64.extend8_s", [this.node]));
  }
  signExtend16(): I64 {
    return new I64(op("i64.extend16_s", [this.node]));
  }
  signExtend32(): I64 {
    return new I64(op("i64.extend32_s", [this.node]));
  }
  /** The low 32 bits. */
  wrap(): I32 {
    return new I32(op("i32.wrap_i64", [this.node]));
  }
  /** Zero-extends the low `bits` (8, 16, 32; 64 changes nothing). */
  zeroExtend(bits: number): I64 {
    // By way of 32 bits: shorter than a mask of 32 ones, and no constant for the machine to load.
    if (bits === 32) return this.wrap().u64();
    return bits === 64 ? this : this.and((1n << BigInt(bits)) - 1n);
  }
  /** Sign-extends from `bits` (8, 16, 32; 64 changes nothing). */
  signExtend(bits: number): I64 {
    if (bits === 64) return this;
    return bits === 8 ? this.signExtend8() : bits === 16 ? this.signExtend16() : this.signExtend32();
  }
  /** Bit `index` as 0 or 1. */
  bit(index: number): I32 {
    return this.shrU(index).wrap().and(1);
  }
}

export class F32 extends Value {
  declare readonly brand: "f32";
}
export class F64 extends Value {
  declare readonly brand: "f64";
}
export class V128 extends Value {
  declare readonly brand: "v128";
}

export interface ValueOf {
  i32: I32;
  i64: I64;
  f32: F32;
  f64: F64;
  v128: V128;
}

export function wrap(node: Node): Value {
  switch (node.type) {
    case "i32":
      return new I32(node);
    case "i64":
      return new I64(node);
    case "f32":
      return new F32(node);
    case "f64":
      return new F64(node);
    case "v128":
      return new V128(node);
  }
}

/** A mutable variable. `get()` gives its value at that point of the description. */
export class Variable<T extends WasmType> {
  readonly type: T;
  readonly #id: number;
  readonly #builder: Builder;
  constructor(builder: Builder, type: T, id: number) {
    this.#builder = builder;
    this.type = type;
    this.#id = id;
  }
  get(): ValueOf[T] {
    return this.#builder.let(wrap({ k: "temp", type: this.type, id: this.#id }), true) as ValueOf[T];
  }
  set(value: ValueOf[T]): void {
    this.#builder.push({ s: "set", id: this.#id, type: this.type, value: value.node });
  }
}

/**
 * Records statements in order. Descriptions are ordinary functions that call these methods; the host
 * language's loops and conditionals act at description time, `if`, `loop` and `switch` at run time.
 *
 * `T` values are evaluated where they are used, loads and calls where they are written.
 */
export class Builder {
  #stmts: Stmt[] = [];
  #temps = 0;

  push(stmt: Stmt): void {
    this.#stmts.push(stmt);
  }

  /** A fresh temp's number. */
  temp(): number {
    return this.#temps++;
  }

  get tempCount(): number {
    return this.#temps;
  }

  /** Records `body`'s statements apart and returns them. */
  scope(body: () => void): Stmt[] {
    const outer = this.#stmts;
    const inner: Stmt[] = [];
    this.#stmts = inner;
    try {
      body();
    } finally {
      this.#stmts = outer;
    }
    return inner;
  }

  /** Evaluates `value` here and names the result. */
  let<V extends Value>(value: V, force = false): V {
    const { node } = value;
    if (!force && (node.k === "const" || node.k === "temp")) return value;
    const id = this.temp();
    this.push({ s: "set", id, type: node.type, value: node });
    return wrap({ k: "temp", type: node.type, id }) as V;
  }

  variable<T extends WasmType>(type: T, initial: ValueOf[T]): Variable<T> {
    const id = this.temp();
    this.push({ s: "set", id, type, value: initial.node });
    return new Variable(this, type, id);
  }

  i32(value: number): I32 {
    return I32.of(value);
  }
  i64(value: bigint | number): I64 {
    return I64.of(value);
  }
  /** A v128 constant from an unsigned 128-bit number. */
  v128(value: bigint): V128 {
    return new V128({ k: "const", type: "v128", value: BigInt.asUintN(128, value) });
  }
  f64(value: number): F64 {
    return new F64({ k: "const", type: "f64", value });
  }
  f32(value: number): F32 {
    return new F32({ k: "const", type: "f32", value });
  }
  /** Address of the vCPU block. */
  get cpu(): I32 {
    return new I32({ k: "cpu", type: "i32" });
  }
  /** Address of the micro-op being executed (in instructions only). */
  get uop(): I32 {
    return new I32({ k: "uop", type: "i32" });
  }
  field(field: UopField): I32 {
    return new I32({ k: "field", type: "i32", field });
  }

  /** Any value instruction of wasm/opcodes.ts by its name; `lanes` for extract, replace and shuffle. */
  op<V extends Value = V128>(name: string, args: readonly Value[], lanes?: readonly number[]): V {
    return wrap(
      op(
        name,
        args.map((arg) => arg.node),
        lanes,
      ),
    ) as V;
  }

  /** Loads from arena address `address + offset`; `offset` is a non-negative constant. */
  load<N extends LoadName>(name: N, address: I32, offset = 0): ValueOf[(typeof LOADS)[N]["type"]] {
    const id = this.temp();
    this.push({ s: "load", id, op: name, address: address.node, offset });
    return wrap({ k: "temp", type: LOADS[name].type, id }) as ValueOf[(typeof LOADS)[N]["type"]];
  }

  store(name: StoreName, address: I32, value: Value, offset = 0): void {
    this.push({ s: "store", op: name, address: address.node, offset, value: value.node });
  }

  /** Calls a function; its value (or `undefined`) is the result. */
  call<V extends Value = I32>(fn: Fn, ...args: Value[]): V {
    if (args.length !== fn.params.length || args.some((arg, i) => arg.node.type !== fn.params[i]))
      throw new Error(`${fn.name} takes (${fn.params.join()}), got (${args.map((a) => a.node.type).join()})`);
    const id = fn.result === undefined ? undefined : this.temp();
    this.push({ s: "call", id, fn, args: args.map((arg) => arg.node) });
    return (id === undefined ? undefined : wrap({ k: "temp", type: fn.result!, id })) as V;
  }

  if(cond: I32, then: () => void, otherwise?: () => void, likely?: boolean): void {
    if (cond.node.k === "const") {
      if (cond.node.value) then();
      else otherwise?.();
      return;
    }
    this.push({
      s: "if",
      cond: cond.node,
      yes: this.scope(then),
      no: otherwise === undefined ? [] : this.scope(otherwise),
      likely,
    });
  }

  /** `if` for a case that hardly ever happens. */
  unlikely(cond: I32, then: () => void): void {
    this.if(cond, then, undefined, false);
  }

  /** Repeats `body` until it breaks out of `label`; `continue` starts it again. */
  loop(body: (label: Label) => void): void {
    const label: Label = { kind: "loop" };
    this.push({ s: "loop", label, body: this.scope(() => body(label)) });
  }

  /** Runs `body` once; `break(label)` leaves it early. */
  block(body: (label: Label) => void): void {
    const label: Label = { kind: "block" };
    this.push({ s: "block", label, body: this.scope(() => body(label)) });
  }

  break(label: Label): void {
    this.push({ s: "break", label });
  }

  continue(label: Label): void {
    this.push({ s: "continue", label });
  }

  /** Runs `cases[index]`, or `otherwise` where `index` (unsigned) is past the end. No fall-through. */
  switch(index: I32, cases: readonly (() => void)[], otherwise: () => void): void {
    this.push({
      s: "switch",
      index: index.node,
      cases: cases.map((body) => this.scope(body)),
      default: this.scope(otherwise),
    });
  }

  return(value?: Value): void {
    this.push({ s: "return", value: value?.node });
  }

  /** Copies `length` bytes, overlapping allowed, as `memory.copy`. */
  copy(to: I32, from: I32, length: I32): void {
    this.push({ s: "copy", to: to.node, from: from.node, length: length.node });
  }

  fill(to: I32, value: I32, length: I32): void {
    this.push({ s: "fill", to: to.node, value: value.node, length: length.node });
  }

  end(how: Ending): void {
    this.push({ s: "end", how });
  }

  /** The statements recorded at the outermost level. */
  get stmts(): Stmt[] {
    return this.#stmts;
  }
}

type ParamValues<P extends readonly WasmType[]> = { [K in keyof P]: ValueOf[P[K]] };

/**
 * Describes a function of the module.
 *
 * ```ts
 * const double = fn("double", ["i64"], "i64", (f, x) => f.return(x.shl(1)));
 * ```
 */
export function fn<const P extends readonly WasmType[]>(
  name: string,
  params: P,
  result: WasmType | undefined,
  describe: (f: Builder, ...params: ParamValues<P>) => void,
): Fn {
  let body: FnBody | undefined;
  return {
    name,
    params,
    result,
    body: () => {
      if (body === undefined) {
        const f = new Builder();
        const values = params.map((type) => wrap({ k: "temp", type, id: f.temp() }));
        describe(f, ...(values as unknown as ParamValues<P>));
        body = { stmts: f.stmts, temps: f.tempCount };
      }
      return body;
    },
  };
}

const HOST_FUNCTIONS: Fn[] = [];

/** Declares a function that the host supplies as import `env.name`. */
export function hostFn(name: string, params: readonly WasmType[], result: WasmType | undefined): Fn {
  const declared: Fn = { name, params, result, body: undefined };
  HOST_FUNCTIONS.push(declared);
  return declared;
}

/** Every function declared by `hostFn`, in order. */
export const hostFunctions = (): readonly Fn[] => HOST_FUNCTIONS;
