import { segmentAddress } from "../cpu/address.ts";
import { Cpu, Mode, Seg } from "../cpu/layout.ts";
import { UOP_FIELDS } from "../cpu/uop.ts";
import { type Fits32, fits32, fold } from "../ir/fold.ts";
import type { Ending, Fn, Label, Node, Stmt } from "../ir/ir.ts";
import { LOADS, type LoadName, type WasmType } from "../wasm/opcodes.ts";
import { ANY_EFFECTS, blockOffset, type Effects, effectsOf, passesBlock } from "./effects.ts";
import { type Facts, factsOf } from "./facts.ts";
import type { Op } from "./graph.ts";
import { FIRST_INDEXED, FLAG_REGS, placeAt, REG_TYPES, Reg } from "./layout.ts";
import { cpuLoad, gprPart, i32, i64, insertPart, local, op, set, zero } from "./nodes.ts";
import type { RegionFacts } from "./region-facts.ts";

/** Functions that are small, or vanish, once their arguments and the kind of the flags are known. */
const INLINED = new Set([
  "carryFlag",
  "overflowFlag",
  "adjustFlag",
  "zeroFlag",
  "signFlag",
  "parityFlag",
  "lessFlag",
  "flagSecond",
  "anyLinear",
  "anyOffset",
]);

/** Operations that may change nothing, depending on the width of what they are done to. */
const WIDTH_MATTERS = new Set(["i64.and", "i64.extend_i32_u"]);

/** A function's body under way: an instruction's own, or one inlined in it. */
export interface Frame {
  readonly facts: Facts;
  /** Added to its temps' numbers. */
  readonly base: number;
  /** By temp: the expression that it stands for, if it does. */
  readonly values: (Node | undefined)[];
  readonly label: Label;
  /** Of an inlined function: the temp of its result; of an instruction -1. */
  readonly result: number;
  readonly resultType: WasmType | undefined;
  /** Whether something jumps to the end. */
  isLeftEarly: boolean;
  /** The result, where the body is nothing but its return. */
  value: Node | undefined;
}

/**
 * Rewrites the statements of one instruction's description for a region: fields of the micro-op become constants,
 * registers and flags locals, and what is then known while compiling is worked out: address kinds, immediates,
 * conditions of flags whose origin is known. How an instruction ends is its heir's to say.
 */
export abstract class Rewriter {
  protected readonly region: RegionFacts;
  /** The instruction under way. */
  protected op!: Op;
  protected frame!: Frame;
  /** The kind of the flags, where it is known. */
  protected kind: number | undefined;
  protected kindWrites = 0;
  /** Whether the instruction may have overwritten code, or raised an event. */
  protected mayBeStale = false;
  protected mayHaveEvent = false;
  /** Temps that alias a local, by local: they need a copy before it changes. */
  protected readonly aliases = new Map<number, { frame: Frame; id: number }[]>();
  /** Loads of locals are copies: one may change under a condition. */
  protected isEager = false;
  /** By temp: whether it is an i64 whose upper half is known to be clear. */
  #narrow: boolean[] = [];
  readonly #fits32: Fits32;

  constructor(region: RegionFacts, flagKind: number | undefined) {
    this.region = region;
    this.kind = flagKind;
    // Outside of 64-bit mode the registers that it has are 32 bits wide (cpu/mode.ts).
    const narrowGprs = (region.mode & Mode.CODE_MASK) === Mode.CODE64 ? 0 : 8;
    this.#fits32 = (node) =>
      node.k === "temp" &&
      (node.id < REG_TYPES.length
        ? node.id >= Reg.GPR && node.id < Reg.GPR + narrowGprs
        : this.#narrow[node.id] === true);
  }

  /** Call at an instruction's start: its temps begin anew. */
  protected begin(): void {
    this.region.temps = REG_TYPES.length;
    this.#narrow = [];
    this.mayBeStale = false;
    this.mayHaveEvent = false;
    this.aliases.clear();
  }

  /** Notes what is known of `value` for temp `id`, which it alone is assigned to. */
  #note(id: number, value: Node): void {
    if (value.type === "i64" && fits32(value, this.#fits32)) this.#narrow[id] = true;
  }

  /** Rewrites an ending; whether control may go on behind it. */
  protected abstract end(how: Ending, out: Stmt[], isTail: boolean): boolean;

  /** Begins a body whose temps get numbers from `base` on. */
  protected enter(known: Facts, base: number, result: number, resultType?: WasmType): Frame {
    this.region.temps = Math.max(this.region.temps, base + known.temps);
    this.frame = {
      facts: known,
      base,
      values: [],
      label: { kind: "block" },
      result,
      resultType,
      isLeftEarly: false,
      value: undefined,
    };
    return this.frame;
  }

  // ---- expressions

  protected node(node: Node): Node {
    const frame = this.frame;
    switch (node.k) {
      case "const":
      case "cpu":
        return node;
      case "temp":
        return (
          frame.values[node.id] ??
          (frame.base === 0 ? node : { k: "temp", type: node.type, id: frame.base + node.id })
        );
      case "field":
        return i32(this.#uopField(UOP_FIELDS[node.field].offset, UOP_FIELDS[node.field].load));
      case "uop":
        return i32(this.op.uop.address);
      case "op":
        return this.#operation(node);
    }
    const cond = this.node(node.cond);
    if (cond.k === "const") return this.node(cond.value !== 0 ? node.yes : node.no);
    return { k: "select", type: node.type, cond, yes: this.node(node.yes), no: this.node(node.no) };
  }

  #operation(node: Node & { k: "op" }): Node {
    const { args } = node;
    if (args.length > 2) {
      const made = { ...node, args: args.map((arg) => this.node(arg)) };
      return fold(made, this.#fits32);
    }
    const first = this.node(args[0]!);
    const second = args.length === 2 ? this.node(args[1]!) : undefined;
    // Nothing new is known of it but the width of its temps.
    if (first === args[0] && second === args[1] && !WIDTH_MATTERS.has(node.op)) return node;
    const made = { ...node, args: second === undefined ? [first] : [first, second] };
    return fold(made, this.#fits32);
  }

  #uopField(offset: number, load: LoadName): number {
    const { bytes } = this.op.uop;
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
    if (node.k !== "const" || Number(node.value) !== this.op.uop.address) return undefined;
    if (offset < 16) return i32(this.#uopField(offset, load));
    if (this.op.slots !== 2 || offset !== 24) throw new Error(`a load from behind a micro-op: ${offset}`);
    return i32(this.op.displacement);
  }

  // ---- locals

  protected use(reg: number): void {
    this.region.used.add(reg);
  }

  /** Before `reg` changes: temps that alias it get a copy of their own. */
  #release(reg: number, out: Stmt[]): void {
    const list = this.aliases.get(reg);
    if (list === undefined) return;
    this.aliases.delete(reg);
    const id = this.region.temps++;
    this.#note(id, local(reg));
    out.push({ s: "set", id, type: REG_TYPES[reg]!, value: local(reg) });
    const copy: Node = { k: "temp", type: REG_TYPES[reg]!, id };
    for (const alias of list) alias.frame.values[alias.id] = copy;
  }

  #assign(reg: number, value: Node, out: Stmt[]): void {
    this.use(reg);
    this.region.written.add(reg);
    if (reg === Reg.FLAG_KIND) {
      this.kind = value.k === "const" ? Number(value.value) : undefined;
      this.kindWrites++;
    }
    out.push(set(reg, value));
  }

  /** The value of local `reg` for temp `id`: itself while it does not change, or a copy. */
  #read(reg: number, id: number, out: Stmt[]): void {
    const frame = this.frame;
    if (reg === Reg.FLAG_KIND && this.kind !== undefined && frame.facts.sets[id] === 1) {
      frame.values[id] = i32(this.kind);
      return;
    }
    this.use(reg);
    if (this.isEager || frame.facts.sets[id] !== 1) {
      if (frame.facts.sets[id] === 1) this.#note(frame.base + id, local(reg));
      out.push({ s: "set", id: frame.base + id, type: REG_TYPES[reg]!, value: local(reg) });
      return;
    }
    frame.values[id] = local(reg);
    const list = this.aliases.get(reg) ?? [];
    list.push({ frame, id });
    this.aliases.set(reg, list);
  }

  #define(id: number, type: WasmType, value: Node, out: Stmt[]): void {
    const frame = this.frame;
    const isOnly = frame.facts.sets[id] === 1;
    if (isOnly && (value.k === "const" || (value.k === "temp" && value.id >= REG_TYPES.length))) {
      frame.values[id] = value;
      return;
    }
    if (isOnly) this.#note(frame.base + id, value);
    out.push({ s: "set", id: frame.base + id, type, value });
  }

  #load(stmt: Stmt & { s: "load" }, out: Stmt[]): void {
    const address = this.node(stmt.address);
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
          this.#define(stmt.id, "i32", i32(this.region.mode), out);
          return;
        case "event":
          // An instruction begins without one, and only what it calls or stores raises one.
          if (this.mayHaveEvent) break;
          this.#define(stmt.id, "i32", i32(0), out);
          return;
        case "field":
          this.#read(place.reg, stmt.id, out);
          return;
        case "gpr": {
          if (stmt.op === "i64.load" && place.byte === 0) {
            this.#read(place.reg, stmt.id, out);
            return;
          }
          this.use(place.reg);
          // A part is computed here: what it comes from may change.
          const id = this.frame.base + stmt.id;
          const value = gprPart(stmt.op, place.reg, place.byte, this.#fits32);
          if (this.frame.facts.sets[stmt.id] === 1) this.#note(id, value);
          out.push({ s: "set", id, type: LOADS[stmt.op].type, value });
          return;
        }
      }
    } else if (at !== undefined && at.constant + stmt.offset < FIRST_INDEXED)
      throw new Error(`${this.op.handler.name}: a register by an index`);
    const id = this.frame.base + stmt.id;
    if (stmt.op.endsWith("_u") && this.frame.facts.sets[stmt.id] === 1) this.#narrow[id] = true;
    out.push({ s: "load", id, op: stmt.op, address, offset: stmt.offset });
  }

  #store(stmt: Stmt & { s: "store" }, out: Stmt[]): void {
    const address = this.node(stmt.address);
    const value = this.node(stmt.value);
    const at = blockOffset(address);
    if (at !== undefined && !at.indexed) {
      const place = placeAt(at.constant + stmt.offset);
      if (place.kind === "gpr" || (place.kind === "field" && place.reg >= Reg.FLAG_KIND)) {
        const whole = place.kind === "field" || (stmt.op === "i64.store" && place.byte === 0);
        // Worked out before the local changes, which it may read.
        const named = this.aliases.has(place.reg) ? this.name(value, out) : value;
        this.#release(place.reg, out);
        const final = whole ? named : insertPart(stmt.op, place.reg, (place as { byte: number }).byte, named);
        this.#assign(place.reg, final, out);
        return;
      }
      if (place.kind === "event") this.mayHaveEvent = true;
      else if (place.kind !== "memory") throw new Error(`${this.op.handler.name}: a store to ${place.kind}`);
    } else if (at !== undefined && at.constant + stmt.offset < FIRST_INDEXED)
      throw new Error(`${this.op.handler.name}: a register by an index`);
    out.push({ s: "store", op: stmt.op, address, offset: stmt.offset, value });
  }

  /** What `segmentAddress` gives where the mode says that there is nothing to check. */
  #flatAddress([seg, offset, , write]: readonly Node[]): Node | undefined {
    if (seg?.k !== "const") return undefined;
    const { mode } = this.region;
    const isData = Number(seg.value) < Seg.FS;
    if ((mode & Mode.CODE_MASK) === Mode.CODE64) return isData ? offset : undefined;
    // Code is never written, however flat.
    const isRead = write?.k === "const" && Number(write.value) === 0;
    const isFlat = (mode & Mode.FLAT) !== 0 && isData && (isRead || Number(seg.value) !== Seg.CS);
    if (!isFlat) return undefined;
    if (fits32(offset!, this.#fits32)) return offset;
    return op("i64", "i64.extend_i32_u", op("i32", "i32.wrap_i64", offset!));
  }

  /** `value` under a name of its own, if it is more than that. */
  protected name(value: Node, out: Stmt[]): Node {
    if (value.k !== "op" && value.k !== "select") return value;
    const id = this.region.temps++;
    this.#note(id, value);
    out.push({ s: "set", id, type: value.type, value });
    return { k: "temp", type: value.type, id };
  }

  protected call(
    fn: Fn,
    args: Node[],
    id: number | undefined,
    effects: Readonly<Effects>,
    out: Stmt[],
  ): void {
    const gprs = effects.readsGprs || effects.writesGprs;
    const flags = effects.readsFlags || effects.writesFlags;
    if (effects.writesGprs) for (let i = 0; i < 16; i++) this.#release(Reg.GPR + i, out);
    if (effects.writesFlags) for (const reg of FLAG_REGS) this.#release(reg, out);
    if (effects.writesTlb) this.#release(Reg.TLB, out);
    if (gprs || flags) out.push(this.region.save(gprs, flags));
    out.push({ s: "call", id, fn, args });
    this.mayHaveEvent = true;
    if (effects.writesGprs || effects.writesFlags)
      out.push(this.region.load(effects.writesGprs, effects.writesFlags));
    if (effects.writesFlags) {
      this.kind = undefined;
      this.kindWrites++;
    }
    if (effects.writesTlb) out.push(cpuLoad(Reg.TLB, Cpu.TLB));
    if (effects.writesCode) {
      this.mayBeStale = true;
      out.push(cpuLoad(Reg.STALE, Cpu.REGION_STALE));
    }
  }

  /** Puts a function's body in place of its call. */
  #inline(stmt: Stmt & { s: "call" }, out: Stmt[]): void {
    const outer = this.frame;
    const args = stmt.args.map((arg) => this.name(this.node(arg), out));
    const { stmts, temps } = stmt.fn.body!();
    const known = factsOf(stmts, temps);
    const result = this.region.temps++;
    const frame = this.enter(known, this.region.temps, result, stmt.fn.result);
    args.forEach((arg, i) => {
      frame.values[i] = arg;
    });
    const body: Stmt[] = [];
    this.list(stmts, body, true);
    const type = stmt.fn.result!;
    // A temp belongs to the list where it is first assigned: the result is wanted outside.
    if (frame.value === undefined) out.push({ s: "set", id: result, type, value: zero(type) });
    if (frame.isLeftEarly) out.push({ s: "block", label: frame.label, body });
    else out.push(...body);
    this.frame = outer;
    if (stmt.id !== undefined)
      this.#define(stmt.id, type, frame.value ?? { k: "temp", type, id: result }, out);
  }

  // ---- statements

  /** Rewrites `stmts` into `out`; `isTail`: behind them comes the frame's end. Whether control gets there. */
  protected list(stmts: readonly Stmt[], out: Stmt[], isTail: boolean): boolean {
    for (let i = 0; i < stmts.length; i++)
      if (!this.#stmt(stmts[i]!, out, isTail && i === stmts.length - 1)) return false;
    return true;
  }

  /** Whether control may go on behind it. */
  #stmt(stmt: Stmt, out: Stmt[], isTail: boolean): boolean {
    switch (stmt.s) {
      case "set":
        this.#define(stmt.id, stmt.type, this.node(stmt.value), out);
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
          throw new Error(`${this.op.handler.name}: ${stmt.fn.name} is handed the micro-op`);
        const args = stmt.args.map((arg) => this.node(arg));
        const flat = stmt.fn === segmentAddress ? this.#flatAddress(args) : undefined;
        if (flat !== undefined) {
          this.#define(stmt.id!, "i64", flat, out);
          return true;
        }
        const effects = passesBlock(args) ? ANY_EFFECTS : effectsOf(stmt.fn);
        this.call(stmt.fn, args, stmt.id === undefined ? undefined : this.frame.base + stmt.id, effects, out);
        return true;
      }
      case "if":
        return this.#if(stmt, out, isTail);
      case "loop": {
        this.kind = undefined;
        this.mayHaveEvent = true;
        const body: Stmt[] = [];
        this.list(stmt.body, body, false);
        this.kind = undefined;
        out.push({ s: "loop", label: stmt.label, body });
        return true;
      }
      case "block": {
        const writes = this.kindWrites;
        const body: Stmt[] = [];
        this.list(stmt.body, body, false);
        if (this.kindWrites !== writes) this.kind = undefined;
        out.push({ s: "block", label: stmt.label, body });
        return true;
      }
      case "switch":
        return this.#switch(stmt, out, isTail);
      case "return": {
        const frame = this.frame;
        if (stmt.value !== undefined) {
          const value = this.node(stmt.value);
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
          to: this.node(stmt.to),
          from: this.node(stmt.from),
          length: this.node(stmt.length),
        });
        return true;
      case "fill":
        out.push({
          ...stmt,
          to: this.node(stmt.to),
          value: this.node(stmt.value),
          length: this.node(stmt.length),
        });
        return true;
      case "end":
        return this.end(stmt.how, out, isTail);
    }
  }

  #if(stmt: Stmt & { s: "if" }, out: Stmt[], isTail: boolean): boolean {
    const cond = this.node(stmt.cond);
    if (cond.k === "const") return this.list(Number(cond.value) !== 0 ? stmt.yes : stmt.no, out, isTail);
    const before = this.kind;
    const yes: Stmt[] = [];
    const yesFalls = this.list(stmt.yes, yes, isTail);
    const afterYes = this.kind;
    this.kind = before;
    const no: Stmt[] = [];
    const noFalls = this.list(stmt.no, no, isTail);
    if (yesFalls) this.kind = noFalls && this.kind !== afterYes ? undefined : afterYes;
    out.push({ s: "if", cond, yes, no, likely: stmt.likely });
    return yesFalls || noFalls;
  }

  #switch(stmt: Stmt & { s: "switch" }, out: Stmt[], isTail: boolean): boolean {
    const index = this.node(stmt.index);
    if (index.k === "const")
      return this.list(stmt.cases[Number(index.value) >>> 0] ?? stmt.default, out, isTail);
    const writes = this.kindWrites;
    const before = this.kind;
    const rewrite = (list: Stmt[]): Stmt[] => {
      this.kind = before;
      const body: Stmt[] = [];
      this.list(list, body, false);
      return body;
    };
    out.push({ s: "switch", index, cases: stmt.cases.map(rewrite), default: rewrite(stmt.default) });
    this.kind = this.kindWrites === writes ? before : undefined;
    return true;
  }
}
