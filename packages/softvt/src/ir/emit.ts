import type { ByteWriter, CodeWriter } from "../wasm/encoder.ts";
import { LOADS, OPS, STORES, VALUE_TYPE, type WasmType } from "../wasm/opcodes.ts";
import type { Ending, Fn, Label, Node, Stmt, UopField } from "./ir.ts";
import { normalize, parts } from "./normalize.ts";

/** The locals of one WebAssembly function, handed out and taken back by type. */
export class LocalPool {
  readonly #params: number;
  /** Types of the locals after the parameters. */
  readonly types: WasmType[] = [];
  readonly #free = new Map<WasmType, number[]>();

  constructor(params: number) {
    this.#params = params;
  }

  take(type: WasmType): number {
    const free = this.#free.get(type)?.pop();
    if (free !== undefined) return free;
    return this.#params + this.types.push(type) - 1;
  }

  release(type: WasmType, local: number): void {
    const list = this.#free.get(type);
    if (list === undefined) this.#free.set(type, [local]);
    else list.push(local);
  }
}

/** What differs between the places that IR is emitted into. */
export interface EmitTarget {
  readonly out: CodeWriter;
  readonly locals: LocalPool;
  functionIndex(fn: Fn): number;
  /** Pushes the vCPU block's address. */
  cpu(out: ByteWriter): void;
  /** Pushes the current micro-op's address. */
  uop(out: ByteWriter): void;
  /** Pushes a field of the current micro-op. */
  field(out: ByteWriter, field: UopField): void;
  /** Ends an instruction; `depth` is how many labels enclose this point within the emitted statements. */
  end(how: Ending, depth: number, value: (node: Node) => void): void;
}

type Load = Stmt & { readonly s: "load" };

const mentions = (node: Node, id: number): boolean =>
  node.k === "temp"
    ? node.id === id
    : node.k === "op"
      ? node.args.some((arg) => mentions(arg, id))
      : node.k === "select" && [node.cond, node.yes, node.no].some((part) => mentions(part, id));

interface Owned {
  readonly id: number;
  readonly type: WasmType;
  readonly local: number;
}

/** Emits one body of statements as WebAssembly code. */
export function emit(stmts: Stmt[], temps: number, params: readonly WasmType[], target: EmitTarget): void {
  new Emitter(params.length, target).emit(normalize(stmts, temps).stmts);
}

/** Emits bodies of statements, one after the other, in which each operation has one user (ir/normalize.ts). */
export class Emitter {
  readonly #target: EmitTarget;
  readonly #out: CodeWriter;
  /** By temp: reads to come; its local, while it has one. */
  readonly #reads: number[] = [];
  readonly #locals: (number | undefined)[] = [];
  /** Loads that are made where their value is read. */
  readonly #delayed = new Map<number, Load>();
  /** Enclosing labels, innermost last; a loop has two levels (its end, its start). */
  readonly #labels: (Label | undefined)[] = [];
  readonly #scopes: Owned[][] = [];

  /** Temps below `params` are the locals of their numbers in every body; the others are each body's own. */
  constructor(params: number, target: EmitTarget) {
    this.#target = target;
    this.#out = target.out;
    for (let index = 0; index < params; index++) this.#locals[index] = index;
  }

  emit(stmts: Stmt[]): void {
    this.#reads.fill(0);
    // What a reader that nobody wants was waiting for is this body's, not the next one's of the same number.
    this.#delayed.clear();
    this.#countList(stmts);
    this.list(stmts);
  }

  #count(node: Node): void {
    if (node.k === "temp") this.#reads[node.id] = (this.#reads[node.id] ?? 0) + 1;
    else if (node.k === "op") for (const arg of node.args) this.#count(arg);
    else if (node.k === "select") {
      this.#count(node.cond);
      this.#count(node.yes);
      this.#count(node.no);
    }
  }

  #countList(list: readonly Stmt[]): void {
    for (const stmt of list)
      switch (stmt.s) {
        case "set":
          this.#count(stmt.value);
          break;
        case "load":
          this.#count(stmt.address);
          break;
        case "store":
          this.#count(stmt.address);
          this.#count(stmt.value);
          break;
        case "if":
          this.#count(stmt.cond);
          this.#countList(stmt.yes);
          this.#countList(stmt.no);
          break;
        default: {
          const { nodes, lists } = parts(stmt);
          for (const node of nodes) this.#count(node);
          for (const inner of lists) this.#countList(inner);
        }
      }
  }

  list(stmts: Stmt[]): void {
    const scope: Owned[] = [];
    this.#scopes.push(scope);
    for (let i = 0; i < stmts.length; i++) {
      const stmt = stmts[i]!;
      if (stmt.s === "load" && this.#isDelayed(stmt, stmts, i + 1)) {
        this.#delayed.set(stmt.id, stmt);
        continue;
      }
      this.#stmt(stmt);
      for (let i = scope.length - 1; i >= 0; i--)
        if (this.#reads[scope[i]!.id] === 0) this.#release(scope.splice(i, 1)[0]!);
    }
    for (const owned of scope) this.#release(owned);
    this.#scopes.pop();
  }

  /** Whether the only reader of a load comes next, but for other loads: it can be made where it is read. */
  #isDelayed(load: Load, stmts: readonly Stmt[], next: number): boolean {
    if (this.#reads[load.id] !== 1 || this.#locals[load.id] !== undefined) return false;
    for (let i = next; i < stmts.length; i++) {
      const stmt = stmts[i]!;
      if (parts(stmt).nodes.some((node) => mentions(node, load.id))) return stmt.s !== "load";
      if (stmt.s !== "load") return false;
    }
    return false;
  }

  #load(load: Load): void {
    this.#node(load.address);
    this.#out.raw(LOADS[load.op].code);
    this.#memarg(load.offset);
  }

  #release(owned: Owned): void {
    this.#locals[owned.id] = undefined;
    this.#target.locals.release(owned.type, owned.local);
  }

  /** The local that holds temp `id`, made on first assignment; `undefined` if nothing will read it. */
  #localFor(id: number, type: WasmType): number | undefined {
    const known = this.#locals[id];
    if (known !== undefined) return known;
    if ((this.#reads[id] ?? 0) === 0) return undefined;
    const local = this.#target.locals.take(type);
    this.#locals[id] = local;
    this.#scopes[this.#scopes.length - 1]!.push({ id, type, local });
    return local;
  }

  #node(node: Node): void {
    const out = this.#out;
    switch (node.k) {
      case "const":
        this.#const(node.type, node.value);
        return;
      case "temp": {
        const delayed = this.#delayed.get(node.id);
        if (delayed !== undefined) {
          this.#delayed.delete(node.id);
          this.#load(delayed);
          return;
        }
        const local = this.#locals[node.id];
        if (local === undefined) throw new Error(`temp ${node.id} is read where it is not defined`);
        this.#reads[node.id]!--;
        out.u8(0x20);
        out.u32(local);
        return;
      }
      case "field":
        this.#target.field(out, node.field);
        return;
      case "uop":
        this.#target.uop(out);
        return;
      case "cpu":
        this.#target.cpu(out);
        return;
      case "op": {
        for (const arg of node.args) this.#node(arg);
        out.raw(OPS[node.op]!.code);
        if (node.lanes !== undefined) out.raw(node.lanes);
        return;
      }
      case "select":
        this.#node(node.yes);
        this.#node(node.no);
        this.#node(node.cond);
        if (node.type === "v128") out.raw([0x1c, 0x01, VALUE_TYPE.v128]);
        else out.u8(0x1b);
        return;
    }
  }

  #const(type: WasmType, value: number | bigint): void {
    const out = this.#out;
    if (type === "i32") {
      out.u8(0x41);
      out.s32(Number(value));
    } else if (type === "i64") {
      out.u8(0x42);
      out.s64(BigInt(value));
    } else if (type === "v128") {
      out.raw([0xfd, 0x0c]);
      for (let i = 0n; i < 16n; i++) out.u8(Number((BigInt(value) >> (8n * i)) & 0xffn));
    } else {
      const bytes = new DataView(new ArrayBuffer(8));
      if (type === "f32") bytes.setFloat32(0, Number(value), true);
      else bytes.setFloat64(0, Number(value), true);
      out.u8(type === "f32" ? 0x43 : 0x44);
      out.raw(new Uint8Array(bytes.buffer, 0, type === "f32" ? 4 : 8));
    }
  }

  #memarg(offset: number): void {
    // The alignment hint is 0 (one byte): guest accesses are unaligned, and engines ignore the hint.
    this.#out.u8(0);
    this.#out.u32(offset);
  }

  #set(id: number, type: WasmType): void {
    const local = this.#localFor(id, type);
    if (local === undefined) this.#out.u8(0x1a);
    else {
      this.#out.u8(0x21);
      this.#out.u32(local);
    }
  }

  #br(depth: number): void {
    this.#out.u8(0x0c);
    this.#out.u32(depth);
  }

  #labelDepth(label: Label, start: boolean): number {
    const at = this.#labels.indexOf(label);
    if (at < 0) throw new Error("break or continue outside its loop");
    return this.#labels.length - 1 - at - (start ? 1 : 0);
  }

  #stmt(stmt: Stmt): void {
    const out = this.#out;
    switch (stmt.s) {
      case "set":
        if (this.#locals[stmt.id] === undefined && (this.#reads[stmt.id] ?? 0) === 0) return;
        this.#node(stmt.value);
        this.#set(stmt.id, stmt.type);
        return;
      case "load":
        this.#load(stmt);
        this.#set(stmt.id, LOADS[stmt.op].type);
        return;
      case "store":
        this.#node(stmt.address);
        this.#node(stmt.value);
        out.raw(STORES[stmt.op].code);
        this.#memarg(stmt.offset);
        return;
      case "call":
        for (const arg of stmt.args) this.#node(arg);
        out.u8(0x10);
        out.u32(this.#target.functionIndex(stmt.fn));
        if (stmt.id !== undefined) this.#set(stmt.id, stmt.fn.result!);
        return;
      case "if":
        this.#node(stmt.cond);
        if (stmt.likely !== undefined) out.hint(stmt.likely);
        out.raw([0x04, 0x40]);
        this.#labels.push(undefined);
        this.list(stmt.yes);
        if (stmt.no.length > 0) {
          out.u8(0x05);
          this.list(stmt.no);
        }
        this.#labels.pop();
        out.u8(0x0b);
        return;
      case "loop":
        out.raw([0x02, 0x40, 0x03, 0x40]);
        this.#labels.push(stmt.label, undefined);
        this.list(stmt.body);
        this.#br(0);
        this.#labels.length -= 2;
        out.raw([0x0b, 0x0b]);
        return;
      case "block":
        out.raw([0x02, 0x40]);
        this.#labels.push(stmt.label);
        this.list(stmt.body);
        this.#labels.pop();
        out.u8(0x0b);
        return;
      case "break":
        this.#br(this.#labelDepth(stmt.label, false));
        return;
      case "continue":
        this.#br(this.#labelDepth(stmt.label, true));
        return;
      case "switch": {
        const count = stmt.cases.length;
        for (let i = 0; i < count + 2; i++) out.raw([0x02, 0x40]);
        this.#node(stmt.index);
        out.u8(0x0e);
        out.u32(count);
        for (let i = 0; i <= count; i++) out.u32(i);
        for (let i = 0; i <= count; i++) {
          out.u8(0x0b);
          for (let level = 0; level <= count - i; level++) this.#labels.push(undefined);
          this.list(i < count ? stmt.cases[i]! : stmt.default);
          this.#labels.length -= count - i + 1;
          if (i < count) this.#br(count - i);
        }
        out.u8(0x0b);
        return;
      }
      case "return":
        if (stmt.value !== undefined) this.#node(stmt.value);
        out.u8(0x0f);
        return;
      case "copy":
        this.#node(stmt.to);
        this.#node(stmt.from);
        this.#node(stmt.length);
        out.raw([0xfc, 0x0a, 0x00, 0x00]);
        return;
      case "fill":
        this.#node(stmt.to);
        this.#node(stmt.value);
        this.#node(stmt.length);
        out.raw([0xfc, 0x0b, 0x00]);
        return;
      case "end":
        this.#target.end(stmt.how, this.#labels.length, (node) => this.#node(node));
        return;
    }
  }
}
