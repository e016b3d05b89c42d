import { Cpu, TLB_ENTRIES, TLB_ENTRY_BYTES, TlbEntry } from "../cpu/layout.ts";
import { enterRegion } from "../cpu/lookup.ts";
import { UOP_FIELDS } from "../cpu/uop.ts";
import { CALL_HANDLER } from "../engine/names.ts";
import { fold } from "../ir/fold.ts";
import type { Ending, Fn, Label, Node, Stmt } from "../ir/ir.ts";
import { LOADS, type LoadName, STORES, type StoreName, type WasmType } from "../wasm/opcodes.ts";
import { ANY_EFFECTS, blockOffset, type Effects, effectsOf, passesBlock } from "./effects.ts";
import { type Facts, factsOf, factsOfHandler, isCalled } from "./facts.ts";
import type { Block, Op, RegionGraph } from "./graph.ts";
import { FIRST_INDEXED, FLAG_REGS, HOMES, placeAt, REG_TYPES, Reg } from "./layout.ts";

/**
 * Turns the descriptions of a block's instructions into statements for a region: fields of micro-ops become
 * constants, registers and flags locals, and what then is known while compiling is worked out: address kinds,
 * immediates, conditions of flags whose origin is in the same block.
 */

/**
 * Edges of a block: leave by RIP (or a micro-op); leave with an event; return at once, all state being in the vCPU block
 * already; then the region's blocks.
 */
export const EXIT_EDGE = 0;
export const LEAVE_EDGE = 1;
export const RETURN_EDGE = 2;
export const FIRST_BLOCK_EDGE = 3;

/** The engine's export that calls a handler which is a function of its own. */
export const callHandler: Fn = {
  name: CALL_HANDLER,
  params: ["i32", "i32"],
  result: "i32",
  body: undefined,
};

/** Functions that are small, or vanish, once their arguments and the kind of the flags are known. */
const INLINED = new Set([
  "carryFlag",
  "overflowFlag",
  "zeroFlag",
  "signFlag",
  "parityFlag",
  "lessFlag",
  "flagSecond",
  "anyLinear",
  "anyOffset",
]);

const i32 = (value: number): Node => ({ k: "const", type: "i32", value: value | 0 });
const i64 = (value: bigint): Node => ({ k: "const", type: "i64", value: BigInt.asUintN(64, value) });
const zero = (type: WasmType): Node => ({ k: "const", type, value: type === "i64" ? 0n : 0 });
export const local = (reg: number): Node => ({ k: "temp", type: REG_TYPES[reg]!, id: reg });
const op = (type: WasmType, name: string, ...args: Node[]): Node => fold({ k: "op", type, op: name, args });
const set = (reg: number, value: Node): Stmt => ({ s: "set", id: reg, type: REG_TYPES[reg]!, value });
const cpuLoad = (reg: number, home: number): Stmt => ({
  s: "load",
  id: reg,
  op: REG_TYPES[reg] === "i32" ? "i32.load" : "i64.load",
  address: { k: "cpu", type: "i32" },
  offset: home,
});
const cpuStore = (reg: number, home: number): Stmt => ({
  s: "store",
  op: REG_TYPES[reg] === "i32" ? "i32.store" : "i64.store",
  address: { k: "cpu", type: "i32" },
  offset: home,
  value: local(reg),
});

/** A function's body under way: an instruction's own, or one inlined in it. */
interface Frame {
  readonly facts: Facts;
  /** Added to its temps' numbers. */
  readonly base: number;
  /** Temps that stand for an expression. */
  readonly values: Map<number, Node>;
  readonly label: Label;
  /** Of an inlined function: the temp of its result; of an instruction -1. */
  readonly result: number;
  readonly resultType: WasmType | undefined;
  /** Whether something jumps to the end. */
  isLeftEarly: boolean;
  /** The result, where the body is nothing but its return. */
  value: Node | undefined;
}

/** What the blocks of one region have in common. */
export class RegionFacts {
  readonly mode: number;
  readonly graph: RegionGraph;
  /** Locals that are read or written, and those that are written. */
  readonly used = new Set<number>();
  readonly written = new Set<number>();
  temps = REG_TYPES.length;
  /** Lists to be filled with write-backs and reloads once all blocks are known. */
  readonly #saves: { readonly list: Stmt[]; readonly gprs: boolean; readonly flags: boolean }[] = [];
  readonly #loads: { readonly list: Stmt[]; readonly gprs: boolean; readonly flags: boolean }[] = [];

  constructor(mode: number, graph: RegionGraph) {
    this.mode = mode;
    this.graph = graph;
  }

  save(gprs: boolean, flags: boolean): Stmt {
    const list: Stmt[] = [];
    this.#saves.push({ list, gprs, flags });
    return { s: "block", label: { kind: "block" }, body: list };
  }

  load(gprs: boolean, flags: boolean): Stmt {
    const list: Stmt[] = [];
    this.#loads.push({ list, gprs, flags });
    return { s: "block", label: { kind: "block" }, body: list };
  }

  /** Call once, when all blocks are specialized. */
  finish(): { readonly prologue: Stmt[]; readonly epilogue: Stmt[] } {
    const isFlag = (reg: number): boolean => reg < Reg.GPR;
    const stores = (gprs: boolean, flags: boolean): Stmt[] =>
      [...HOMES]
        .filter(([reg]) => this.written.has(reg) && (isFlag(reg) ? flags : gprs))
        .map(([reg, home]) => cpuStore(reg, home));
    const loads = (gprs: boolean, flags: boolean): Stmt[] =>
      [...HOMES]
        .filter(([reg]) => this.used.has(reg) && (isFlag(reg) ? flags : gprs))
        .map(([reg, home]) => cpuLoad(reg, home));
    for (const { list, gprs, flags } of this.#saves) list.push(...stores(gprs, flags));
    for (const { list, gprs, flags } of this.#loads) list.push(...loads(gprs, flags));
    return {
      prologue: [cpuLoad(Reg.RIP_BASE, Cpu.RIP_BASE), cpuLoad(Reg.TLB, Cpu.TLB), ...loads(true, true)],
      epilogue: [
        ...stores(true, true),
        cpuStore(Reg.UOP, Cpu.REGION_UOP),
        {
          s: "if",
          cond: op("i32", "i32.eqz", local(Reg.UOP)),
          yes: [cpuStore(Reg.RIP, Cpu.RIP)],
          no: [],
          likely: true,
        },
      ],
    };
  }
}

/** A block's statements: every path through them ends by an edge. */
export interface BlockCode {
  readonly block: Block;
  readonly stmts: Stmt[];
  /** The edge taken at the end of the statements, if control gets there; else `undefined`. */
  readonly tail: number | undefined;
  /** Blocks that it may go to. */
  readonly successors: readonly number[];
  /** The kind of the flags at its end, where it is known. */
  readonly flagKind: number | undefined;
}

/** Specializes one block; `flagKind` is what is known at its start. */
export function specializeBlock(region: RegionFacts, block: Block, flagKind: number | undefined): BlockCode {
  return new BlockSpecializer(region, block, flagKind).run();
}

class BlockSpecializer {
  readonly #region: RegionFacts;
  readonly #block: Block;
  readonly #out: Stmt[] = [];
  readonly #successors = new Set<number>();
  #kind: number | undefined;
  #kindWrites = 0;
  #op!: Op;
  #index = 0;
  /** Budget of the block's instructions before the current one, in bytes of micro-ops. */
  #before = 0;
  #mayBeStale = false;
  #frame!: Frame;
  /** Temps that alias a local, by local: they need a copy before it changes. */
  #aliases = new Map<number, { frame: Frame; id: number }[]>();
  #isEager = false;

  constructor(region: RegionFacts, block: Block, flagKind: number | undefined) {
    this.#region = region;
    this.#block = block;
    this.#kind = flagKind;
  }

  run(): BlockCode {
    const { ops } = this.#block;
    let falls = true;
    for (this.#index = 0; this.#index < ops.length; this.#index++) {
      this.#op = ops[this.#index]!;
      falls = this.#instruction();
      this.#before += 16 * this.#op.slots;
      if (!falls) break;
    }
    const tail = falls ? this.#fallThrough() : undefined;
    return {
      block: this.#block,
      stmts: this.#out,
      tail,
      successors: [...this.#successors],
      flagKind: this.#kind,
    };
  }

  /** Behind the last instruction: on to the next block, or out at the micro-op that follows. */
  #fallThrough(): number {
    const op = this.#op;
    const next = this.#region.graph.at.get(op.falls!);
    this.#out.push(this.#spend(this.#before));
    if (next === undefined || (next.page !== this.#block.page && !op.isChecked)) {
      this.#out.push(set(Reg.UOP, i32(op.uop.address + 16 * op.slots)));
      return EXIT_EDGE;
    }
    if (op.isChecked) {
      this.#out.push(set(Reg.RIP, this.#rip(next.pos)));
      this.#out.push(this.#exitIf(isNegative(local(Reg.LEFT))));
    }
    this.#cross(next, this.#out);
    return this.#edge(next.index);
  }

  #edge(index: number): number {
    this.#successors.add(index);
    return index + FIRST_BLOCK_EDGE;
  }

  #rip(pos: number): Node {
    return op("i64", "i64.add", local(Reg.RIP_BASE), i64(BigInt(pos - this.#block.page)));
  }

  /**
   * On the way to a block in another page: it must lie where it lay when the region was compiled, by the TLB; else
   * the region is left. RIP holds the way's end.
   */
  #cross(to: Block, out: Stmt[]): void {
    if (to.page !== this.#block.page) this.#guard(to, out);
  }

  #guard(to: Block, out: Stmt[]): void {
    const base = this.#name(this.#rip(to.page), out);
    const index = op("i32", "i32.wrap_i64", op("i64", "i64.shr_u", base, i64(7n)));
    const offset = op("i32", "i32.and", index, i32((TLB_ENTRIES - 1) * TLB_ENTRY_BYTES));
    this.#use(Reg.TLB);
    const entry = this.#name(op("i32", "i32.add", local(Reg.TLB), offset), out);
    const load = (type: "i32" | "i64", field: number): Node => {
      const id = this.#region.temps++;
      out.push({ s: "load", id, op: `${type}.load`, address: entry, offset: field });
      return { k: "temp", type, id };
    };
    const tag = load("i64", TlbEntry.EXECUTE);
    const addend = load("i32", TlbEntry.ADDEND);
    const page = op("i32", "i32.add", op("i32", "i32.wrap_i64", base), addend);
    const elsewhere = op("i32", "i32.ne", page, i32(this.#region.graph.pages.get(to.page)!));
    out.push(this.#exitIf(op("i32", "i32.or", op("i32", "i64.ne", tag, base), elsewhere)));
    out.push(set(Reg.RIP_BASE, base), cpuStore(Reg.RIP_BASE, Cpu.RIP_BASE));
  }

  #spend(bytes: number): Stmt {
    return set(Reg.LEFT, op("i32", "i32.sub", local(Reg.LEFT), i32(bytes)));
  }

  #exitIf(cond: Node): Stmt {
    return {
      s: "if",
      cond,
      yes: [{ s: "end", how: { kind: "edge", edge: EXIT_EDGE } }],
      no: [],
      likely: false,
    };
  }

  /** Whether control may come to its end. */
  #instruction(): boolean {
    const { handler, uop } = this.#op;
    this.#mayBeStale = false;
    this.#aliases.clear();
    const known = factsOfHandler(handler);
    let falls = true;
    if (isCalled(handler)) falls = this.#callHandler();
    else {
      this.#isEager = known.storesUnderCondition;
      const frame = this.#enter(known, -1, undefined);
      const body: Stmt[] = [];
      falls = this.#list(known.stmts, body, true) || frame.isLeftEarly;
      if (frame.isLeftEarly) this.#out.push({ s: "block", label: frame.label, body });
      else this.#out.push(...body);
    }
    if (falls && this.#mayBeStale) {
      this.#out.push({
        s: "if",
        cond: local(Reg.STALE),
        yes: [
          this.#spend(this.#before + 16 * this.#op.slots),
          set(Reg.UOP, i32(uop.address + 16 * this.#op.slots)),
          { s: "end", how: { kind: "edge", edge: EXIT_EDGE } },
        ],
        no: [],
        likely: false,
      });
    }
    return falls && this.#op.falls !== undefined;
  }

  #callHandler(): boolean {
    const { uop } = this.#op;
    const id = this.#region.temps++;
    const { effects } = factsOfHandler(this.#op.handler);
    this.#call(callHandler, [i32(uop.handler), i32(uop.copy)], id, effects, this.#out);
    const result: Node = { k: "temp", type: "i32", id };
    this.#out.push({
      s: "if",
      cond: op("i32", "i32.eqz", result),
      yes: this.#leave(),
      no: [],
      likely: false,
    });
    return this.#op.falls !== undefined;
  }

  #leave(): Stmt[] {
    return [
      ...(this.#before === 0 ? [] : [this.#spend(this.#before)]),
      set(Reg.UOP, i32(this.#op.uop.address)),
      { s: "end", how: { kind: "edge", edge: LEAVE_EDGE } },
    ];
  }

  #enter(known: Facts, result: number, resultType: WasmType | undefined): Frame {
    const base = this.#region.temps;
    this.#region.temps += known.temps;
    this.#frame = {
      facts: known,
      base,
      values: new Map(),
      label: { kind: "block" },
      result,
      resultType,
      isLeftEarly: false,
      value: undefined,
    };
    return this.#frame;
  }

  // ---- expressions

  #node(node: Node): Node {
    const frame = this.#frame;
    switch (node.k) {
      case "const":
      case "cpu":
        return node;
      case "temp": {
        const value = frame.values.get(node.id);
        return value ?? { k: "temp", type: node.type, id: frame.base + node.id };
      }
      case "field":
        return i32(this.#uopField(UOP_FIELDS[node.field].offset, UOP_FIELDS[node.field].load));
      case "uop":
        return i32(this.#op.uop.address);
    }
    if (node.k === "op") return fold({ ...node, args: node.args.map((arg) => this.#node(arg)) });
    const cond = this.#node(node.cond);
    if (cond.k === "const") return this.#node(Number(cond.value) !== 0 ? node.yes : node.no);
    return { ...node, cond, yes: this.#node(node.yes), no: this.#node(node.no) };
  }

  #uopField(offset: number, load: LoadName): number {
    const { bytes } = this.#op.uop;
    switch (load) {
      case "i32.load8_u":
        return bytes.getUint8(offset);
      case "i32.load16_u":
        return bytes.getUint16(offset, true);
      default:
        return bytes.getInt32(offset, true);
    }
  }

  /** A load from a micro-op: this one, or (24, 28) the branch fused with it. */
  #uopLoad(node: Node, offset: number, load: LoadName): Node | undefined {
    if (node.k !== "const" || Number(node.value) !== this.#op.uop.address) return undefined;
    if (offset < 16) return i32(this.#uopField(offset, load));
    if (this.#op.slots !== 2 || offset !== 24) throw new Error(`a load from behind a micro-op: ${offset}`);
    return i32(this.#op.displacement);
  }

  // ---- locals

  #use(reg: number): void {
    this.#region.used.add(reg);
  }

  /** Before `reg` changes: temps that alias it get a copy of their own. */
  #release(reg: number, out: Stmt[]): void {
    const list = this.#aliases.get(reg);
    if (list === undefined) return;
    this.#aliases.delete(reg);
    const id = this.#region.temps++;
    out.push({ s: "set", id, type: REG_TYPES[reg]!, value: local(reg) });
    const copy: Node = { k: "temp", type: REG_TYPES[reg]!, id };
    for (const alias of list) alias.frame.values.set(alias.id, copy);
  }

  #assign(reg: number, value: Node, out: Stmt[]): void {
    this.#use(reg);
    this.#region.written.add(reg);
    if (reg === Reg.FLAG_KIND) {
      this.#kind = value.k === "const" ? Number(value.value) : undefined;
      this.#kindWrites++;
    }
    out.push(set(reg, value));
  }

  /** The value of local `reg` for temp `id`: itself while it does not change, or a copy. */
  #read(reg: number, id: number, out: Stmt[]): void {
    const frame = this.#frame;
    if (reg === Reg.FLAG_KIND && this.#kind !== undefined && frame.facts.sets[id] === 1) {
      frame.values.set(id, i32(this.#kind));
      return;
    }
    this.#use(reg);
    if (this.#isEager || frame.facts.sets[id] !== 1) {
      out.push({ s: "set", id: frame.base + id, type: REG_TYPES[reg]!, value: local(reg) });
      return;
    }
    frame.values.set(id, local(reg));
    const list = this.#aliases.get(reg) ?? [];
    list.push({ frame, id });
    this.#aliases.set(reg, list);
  }

  #define(id: number, type: WasmType, value: Node, out: Stmt[]): void {
    const frame = this.#frame;
    if (
      frame.facts.sets[id] === 1 &&
      (value.k === "const" || (value.k === "temp" && value.id >= REG_TYPES.length))
    )
      frame.values.set(id, value);
    else out.push({ s: "set", id: frame.base + id, type, value });
  }

  #load(stmt: Stmt & { s: "load" }, out: Stmt[]): void {
    const address = this.#node(stmt.address);
    const fromUop = this.#uopLoad(address, stmt.offset, stmt.op);
    if (fromUop !== undefined) {
      this.#define(stmt.id, "i32", fromUop, out);
      return;
    }
    const at = blockOffset(address);
    if (at !== undefined && !at.indexed) {
      const place = placeAt(at.constant + stmt.offset);
      switch (place.kind) {
        case "zero":
          this.#define(stmt.id, "i64", i64(0n), out);
          return;
        case "mode":
          this.#define(stmt.id, "i32", i32(this.#region.mode), out);
          return;
        case "field":
          this.#read(place.reg, stmt.id, out);
          return;
        case "gpr": {
          if (stmt.op === "i64.load" && place.byte === 0) {
            this.#read(place.reg, stmt.id, out);
            return;
          }
          this.#use(place.reg);
          // A part is computed here: what it comes from may change.
          const id = this.#frame.base + stmt.id;
          out.push({
            s: "set",
            id,
            type: LOADS[stmt.op].type,
            value: gprPart(stmt.op, place.reg, place.byte),
          });
          return;
        }
      }
    } else if (at !== undefined && at.constant + stmt.offset < FIRST_INDEXED)
      throw new Error(`${this.#op.handler.name}: a register by an index`);
    const id = this.#frame.base + stmt.id;
    out.push({ s: "load", id, op: stmt.op, address, offset: stmt.offset });
  }

  #store(stmt: Stmt & { s: "store" }, out: Stmt[]): void {
    const address = this.#node(stmt.address);
    const value = this.#node(stmt.value);
    const at = blockOffset(address);
    if (at !== undefined && !at.indexed) {
      const place = placeAt(at.constant + stmt.offset);
      if (place.kind === "gpr" || (place.kind === "field" && place.reg >= Reg.FLAG_KIND)) {
        const whole = place.kind === "field" || (stmt.op === "i64.store" && place.byte === 0);
        // Worked out before the local changes, which it may read.
        const named = this.#aliases.has(place.reg) ? this.#name(value, out) : value;
        this.#release(place.reg, out);
        const final = whole ? named : insertPart(stmt.op, place.reg, (place as { byte: number }).byte, named);
        this.#assign(place.reg, final, out);
        return;
      }
      if (place.kind !== "memory") throw new Error(`${this.#op.handler.name}: a store to ${place.kind}`);
    } else if (at !== undefined && at.constant + stmt.offset < FIRST_INDEXED)
      throw new Error(`${this.#op.handler.name}: a register by an index`);
    out.push({ s: "store", op: stmt.op, address, offset: stmt.offset, value });
  }

  /** `value` under a name of its own, if it is more than that. */
  #name(value: Node, out: Stmt[]): Node {
    if (value.k !== "op" && value.k !== "select") return value;
    const id = this.#region.temps++;
    out.push({ s: "set", id, type: value.type, value });
    return { k: "temp", type: value.type, id };
  }

  #call(fn: Fn, args: Node[], id: number | undefined, effects: Readonly<Effects>, out: Stmt[]): void {
    const gprs = effects.readsGprs || effects.writesGprs;
    const flags = effects.readsFlags || effects.writesFlags;
    if (effects.writesGprs) for (let i = 0; i < 16; i++) this.#release(Reg.GPR + i, out);
    if (effects.writesFlags) for (const reg of FLAG_REGS) this.#release(reg, out);
    if (effects.writesTlb) this.#release(Reg.TLB, out);
    if (gprs || flags) out.push(this.#region.save(gprs, flags));
    out.push({ s: "call", id, fn, args });
    if (effects.writesGprs || effects.writesFlags)
      out.push(this.#region.load(effects.writesGprs, effects.writesFlags));
    if (effects.writesFlags) {
      this.#kind = undefined;
      this.#kindWrites++;
    }
    if (effects.writesTlb) out.push(cpuLoad(Reg.TLB, Cpu.TLB));
    if (effects.writesCode) {
      this.#mayBeStale = true;
      out.push(cpuLoad(Reg.STALE, Cpu.REGION_STALE));
    }
  }

  /** Puts a function's body in place of its call. */
  #inline(stmt: Stmt & { s: "call" }, out: Stmt[]): void {
    const outer = this.#frame;
    const args = stmt.args.map((arg) => this.#name(this.#node(arg), out));
    const { stmts, temps } = stmt.fn.body!();
    const known = factsOf(stmts, temps);
    const result = this.#region.temps++;
    const frame = this.#enter(known, result, stmt.fn.result);
    args.forEach((arg, i) => {
      frame.values.set(i, arg);
    });
    const body: Stmt[] = [];
    this.#list(stmts, body, true);
    const type = stmt.fn.result!;
    // A temp belongs to the list where it is first assigned: the result is wanted outside.
    if (frame.value === undefined) out.push({ s: "set", id: result, type, value: zero(type) });
    if (frame.isLeftEarly) out.push({ s: "block", label: frame.label, body });
    else out.push(...body);
    this.#frame = outer;
    if (stmt.id !== undefined)
      this.#define(stmt.id, type, frame.value ?? { k: "temp", type, id: result }, out);
  }

  // ---- statements

  /** Rewrites `stmts` into `out`; `isTail`: behind them comes the frame's end. Whether control gets there. */
  #list(stmts: readonly Stmt[], out: Stmt[], isTail: boolean): boolean {
    for (let i = 0; i < stmts.length; i++)
      if (!this.#stmt(stmts[i]!, out, isTail && i === stmts.length - 1)) return false;
    return true;
  }

  /** Whether control may go on behind it. */
  #stmt(stmt: Stmt, out: Stmt[], isTail: boolean): boolean {
    switch (stmt.s) {
      case "set":
        this.#define(stmt.id, stmt.type, this.#node(stmt.value), out);
        return true;
      case "load":
        this.#load(stmt, out);
        return true;
      case "store":
        this.#store(stmt, out);
        return true;
      case "call": {
        if (INLINED.has(stmt.fn.name)) {
          this.#inline(stmt, out);
          return true;
        }
        if (stmt.args.some(({ k }) => k === "uop"))
          throw new Error(`${this.#op.handler.name}: ${stmt.fn.name} is handed the micro-op`);
        const args = stmt.args.map((arg) => this.#node(arg));
        const effects = passesBlock(args) ? ANY_EFFECTS : effectsOf(stmt.fn);
        this.#call(
          stmt.fn,
          args,
          stmt.id === undefined ? undefined : this.#frame.base + stmt.id,
          effects,
          out,
        );
        return true;
      }
      case "if":
        return this.#if(stmt, out, isTail);
      case "loop": {
        this.#kind = undefined;
        const body: Stmt[] = [];
        this.#list(stmt.body, body, false);
        this.#kind = undefined;
        out.push({ s: "loop", label: stmt.label, body });
        return true;
      }
      case "block": {
        const writes = this.#kindWrites;
        const body: Stmt[] = [];
        this.#list(stmt.body, body, false);
        if (this.#kindWrites !== writes) this.#kind = undefined;
        out.push({ s: "block", label: stmt.label, body });
        return true;
      }
      case "switch":
        return this.#switch(stmt, out, isTail);
      case "return": {
        const frame = this.#frame;
        if (stmt.value !== undefined) {
          const value = this.#node(stmt.value);
          if (isTail && !frame.isLeftEarly && out.every((s) => s.s === "set" || s.s === "load"))
            frame.value = value;
          else out.push({ s: "set", id: frame.result, type: frame.resultType!, value });
        }
        if (!isTail) {
          frame.isLeftEarly = true;
          out.push({ s: "break", label: frame.label });
        }
        return false;
      }
      case "break":
      case "continue":
        out.push(stmt);
        return false;
      case "copy":
        out.push({
          ...stmt,
          to: this.#node(stmt.to),
          from: this.#node(stmt.from),
          length: this.#node(stmt.length),
        });
        return true;
      case "fill":
        out.push({
          ...stmt,
          to: this.#node(stmt.to),
          value: this.#node(stmt.value),
          length: this.#node(stmt.length),
        });
        return true;
      case "end":
        return this.#end(stmt.how, out, isTail);
    }
  }

  #if(stmt: Stmt & { s: "if" }, out: Stmt[], isTail: boolean): boolean {
    const cond = this.#node(stmt.cond);
    if (cond.k === "const") return this.#list(Number(cond.value) !== 0 ? stmt.yes : stmt.no, out, isTail);
    const before = this.#kind;
    const yes: Stmt[] = [];
    const yesFalls = this.#list(stmt.yes, yes, isTail);
    const afterYes = this.#kind;
    this.#kind = before;
    const no: Stmt[] = [];
    const noFalls = this.#list(stmt.no, no, isTail);
    if (yesFalls) this.#kind = noFalls && this.#kind !== afterYes ? undefined : afterYes;
    out.push({ s: "if", cond, yes, no, likely: stmt.likely });
    return yesFalls || noFalls;
  }

  #switch(stmt: Stmt & { s: "switch" }, out: Stmt[], isTail: boolean): boolean {
    const index = this.#node(stmt.index);
    if (index.k === "const")
      return this.#list(stmt.cases[Number(index.value) >>> 0] ?? stmt.default, out, isTail);
    const writes = this.#kindWrites;
    const before = this.#kind;
    const rewrite = (list: Stmt[]): Stmt[] => {
      this.#kind = before;
      const body: Stmt[] = [];
      this.#list(list, body, false);
      return body;
    };
    out.push({ s: "switch", index, cases: stmt.cases.map(rewrite), default: rewrite(stmt.default) });
    this.#kind = this.#kindWrites === writes ? before : undefined;
    return true;
  }

  #end(how: Ending, out: Stmt[], isTail: boolean): boolean {
    switch (how.kind) {
      case "next":
      case "skip":
        if (isTail) return true;
        this.#frame.isLeftEarly = true;
        out.push({ s: "break", label: this.#frame.label });
        return false;
      case "leave":
        out.push(...this.#leave());
        return false;
      case "jump":
      case "branch":
        this.#branch(this.#node(how.rip), 16 * (how.slots ?? 1), out);
        return false;
      default:
        throw new Error(`${this.#op.handler.name}: a region cannot end by ${how.kind}`);
    }
  }

  /** A branch to `rip`, within the region if it has that place. */
  #branch(rip: Node, bytes: number, out: Stmt[]): void {
    out.push(this.#spend(this.#before + bytes));
    const { at, blocks } = this.#region.graph;
    const offset = this.#pageOffset(rip);
    const block = offset === undefined ? undefined : at.get(this.#block.page + offset);
    const ways = block !== undefined ? [block] : this.#block.returns.map((index) => blocks[index]!);
    out.push(set(Reg.RIP, rip));
    const back = this.#op.returnsTo === undefined ? undefined : at.get(this.#op.returnsTo);
    if (block === undefined && back !== undefined) {
      this.#callOut(back, out);
      return;
    }
    if (ways.length > 0) {
      const spent = isNegative(local(Reg.LEFT));
      out.push(this.#exitIf(this.#mayBeStale ? op("i32", "i32.or", spent, local(Reg.STALE)) : spent));
    }
    for (const to of ways) {
      const yes: Stmt[] = [];
      this.#cross(to, yes);
      yes.push({ s: "end", how: { kind: "edge", edge: this.#edge(to.index) } });
      if (block !== undefined) {
        out.push(...yes);
        return;
      }
      const cond = op("i32", "i64.eq", local(Reg.RIP), this.#rip(to.pos));
      out.push({ s: "if", cond, yes, no: [], likely: undefined });
    }
    out.push({ s: "end", how: { kind: "edge", edge: EXIT_EDGE } });
  }

  /** A call of code that is not in the region, to RIP: the region waits for it and goes on at `back`. */
  #callOut(back: Block, out: Stmt[]): void {
    const or = (...nodes: Node[]): Node => nodes.reduce((a, b) => op("i32", "i32.or", a, b));
    const field = (type: "i32" | "i64", offset: number): Node => {
      const id = this.#region.temps++;
      out.push({ s: "load", id, op: `${type}.load`, address: { k: "cpu", type: "i32" }, offset });
      return { k: "temp", type, id };
    };
    const spent = isNegative(local(Reg.LEFT));
    out.push(this.#exitIf(this.#mayBeStale ? or(spent, local(Reg.STALE)) : spent));
    out.push(this.#region.save(true, true));
    const expected = (): Node => this.#rip(back.pos);
    out.push({
      s: "call",
      id: Reg.LEFT,
      fn: enterRegion,
      args: [local(Reg.LEFT), local(Reg.RIP), expected()],
    });
    out.push(set(Reg.RIP, expected()));
    const isUp = or(field("i32", Cpu.EVENT), field("i32", Cpu.REGION_UOP), field("i32", Cpu.REGION_STALE));
    const isElsewhere = op("i32", "i64.ne", field("i64", Cpu.RIP), local(Reg.RIP));
    out.push({
      s: "if",
      cond: or(isUp, isElsewhere, isNegative(local(Reg.LEFT))),
      yes: [{ s: "end", how: { kind: "edge", edge: RETURN_EDGE } }],
      no: [],
      likely: false,
    });
    out.push(this.#region.load(true, true), cpuLoad(Reg.TLB, Cpu.TLB));
    this.#kind = undefined;
    this.#kindWrites++;
    this.#guard(back, out);
    out.push({ s: "end", how: { kind: "edge", edge: this.#edge(back.index) } });
  }

  /** The offset of `rip` from the start of the instruction's page, where that is a constant. */
  #pageOffset(rip: Node): number | undefined {
    const isBase = (node: Node | undefined): boolean => node?.k === "temp" && node.id === Reg.RIP_BASE;
    if (isBase(rip)) return 0;
    if (rip.k !== "op" || rip.op !== "i64.add" || !isBase(rip.args[0])) return undefined;
    const second = rip.args[1]!;
    if (second.k !== "const") return undefined;
    const offset = Number(BigInt.asIntN(64, BigInt(second.value)));
    return Math.abs(offset) < 2 ** 31 ? offset : undefined;
  }
}

const isNegative = (node: Node): Node => op("i32", "i32.lt_s", node, i32(0));

/** `load` of a part of a general register. */
function gprPart(load: LoadName, reg: number, byte: number): Node {
  const { type, bytes } = LOADS[load];
  if (type !== "i64" && type !== "i32") throw new Error(`a general register by ${load}`);
  const signed = load.endsWith("_s");
  const shifted = op("i64", "i64.shr_u", local(reg), i64(BigInt(8 * byte)));
  if (bytes === 8) return shifted;
  const bits = 8 * bytes;
  const part = signed
    ? op("i64", `i64.extend${bits}_s`, shifted)
    : op("i64", "i64.and", shifted, i64((1n << BigInt(bits)) - 1n));
  return type === "i64" ? part : op("i32", "i32.wrap_i64", part);
}

/** Local `reg` with a part replaced, as `store` would. */
function insertPart(store: StoreName, reg: number, byte: number, value: Node): Node {
  const bits = BigInt(8 * STORES[store].bytes);
  const wide = value.type === "i32" ? op("i64", "i64.extend_i32_u", value) : value;
  if (wide.type !== "i64" || bits + BigInt(8 * byte) > 64n)
    throw new Error(`a general register by ${store} at ${byte}`);
  const mask = (1n << bits) - 1n;
  const shift = BigInt(8 * byte);
  const kept = op("i64", "i64.and", local(reg), i64(~(mask << shift)));
  const part = op("i64", "i64.shl", op("i64", "i64.and", wide, i64(mask)), i64(shift));
  return op("i64", "i64.or", kept, part);
}
