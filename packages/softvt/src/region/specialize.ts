import { Cpu, Mode, TLB_ENTRIES, TLB_ENTRY_BYTES, TlbEntry } from "../cpu/layout.ts";
import { enterRegion } from "../cpu/lookup.ts";
import { CALL_HANDLER } from "../engine/names.ts";
import type { Ending, Fn, Node, Stmt } from "../ir/ir.ts";
import { parts } from "../ir/normalize.ts";
import { factsInMode, factsOfHandler, isCalled } from "./facts.ts";
import type { Block } from "./graph.ts";
import { Reg } from "./layout.ts";
import { cpuLoad, cpuStore, i32, i64, isNegative, local, op, set } from "./nodes.ts";
import type { RegionFacts } from "./region-facts.ts";
import { Rewriter } from "./rewriter.ts";

/**
 * Edges of a block: leave by RIP (or a micro-op); leave with an event; return at once, all state being in the vCPU block
 * already; then the region's blocks.
 */
export const EXIT_EDGE = 0;
export const LEAVE_EDGE = 1;
export const RETURN_EDGE = 2;
export const FIRST_BLOCK_EDGE = 3;

const PAGE_BYTES = 4096;
/** Statements behind a store that are written twice. */
const MAX_DOUBLED = 8;

/** The engine's export that calls a handler which is a function of its own. */
export const callHandler: Fn = {
  name: CALL_HANDLER,
  params: ["i32", "i32"],
  result: "i32",
  body: undefined,
};

/** A block's statements: every path through them ends by an edge. */
export interface BlockCode {
  readonly block: Block;
  /** By instruction: their temps are their own. */
  readonly stmts: readonly Stmt[][];
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

class BlockSpecializer extends Rewriter {
  readonly #block: Block;
  readonly #stmts: Stmt[][] = [];
  /** Statements of the instruction under way. */
  #out: Stmt[] = [];
  readonly #successors = new Set<number>();
  #index = 0;
  /** Budget of the block's instructions before the current one, in bytes of micro-ops. */
  #before = 0;

  constructor(region: RegionFacts, block: Block, flagKind: number | undefined) {
    super(region, flagKind);
    this.#block = block;
  }

  run(): BlockCode {
    const { ops } = this.#block;
    let falls = true;
    for (this.#index = 0; this.#index < ops.length; this.#index++) {
      this.op = ops[this.#index]!;
      this.#out = [];
      this.#stmts.push(this.#out);
      falls = this.#instruction();
      this.#before += 16 * this.op.slots;
      if (!falls) break;
    }
    const tail = falls ? this.#fallThrough() : undefined;
    return {
      block: this.#block,
      stmts: this.#stmts,
      tail,
      successors: [...this.#successors],
      flagKind: this.kind,
    };
  }

  /** Behind the last instruction: on to the next block, or out at the micro-op that follows. */
  #fallThrough(): number {
    const op = this.op;
    const next = this.region.graph.at.get(op.falls!);
    this.#out.push(this.#spend(this.#before));
    if (next === undefined || (next.page !== this.#block.page && !op.isChecked)) {
      this.#fallOut();
      return EXIT_EDGE;
    }
    if (op.isChecked) this.#out.push(this.#exitIf(isNegative(local(Reg.LEFT)), this.#rip(next.pos)));
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
   * the region is left.
   */
  #cross(to: Block, out: Stmt[]): void {
    if (to.page !== this.#block.page) this.#guard(to, out);
  }

  #guard(to: Block, out: Stmt[]): void {
    const base = this.name(this.#rip(to.page), out);
    out.push(this.#exitIf(this.#isElsewhere(to.page, base, out), this.#rip(to.pos)));
    out.push(set(Reg.RIP_BASE, base), cpuStore(Reg.RIP_BASE, Cpu.RIP_BASE));
  }

  /** Whether the TLB does not have the page at offset `page`, whose linear address is `base`, where it lay. */
  #isElsewhere(page: number, base: Node, out: Stmt[]): Node {
    const index = op("i32", "i32.wrap_i64", op("i64", "i64.shr_u", base, i64(7n)));
    const offset = op("i32", "i32.and", index, i32((TLB_ENTRIES - 1) * TLB_ENTRY_BYTES));
    this.use(Reg.TLB);
    const entry = this.name(op("i32", "i32.add", local(Reg.TLB), offset), out);
    const load = (type: "i32" | "i64", field: number): Node => {
      const id = this.region.temps++;
      out.push({ s: "load", id, op: `${type}.load`, address: entry, offset: field });
      return { k: "temp", type, id };
    };
    const tag = load("i64", TlbEntry.EXECUTE);
    const addend = load("i32", TlbEntry.ADDEND);
    const host = op("i32", "i32.add", op("i32", "i32.wrap_i64", base), addend);
    const isMoved = op("i32", "i32.ne", host, i32(this.region.graph.pages.get(page)!));
    return op("i32", "i32.or", op("i32", "i64.ne", tag, base), isMoved);
  }

  /**
   * Out behind the last instruction: by RIP, so that whoever called the region can go on with another. Where the
   * interpreter would not look up what follows, that must make no difference: what a look-up may find out (the budget's
   * end, a page that is gone, the code segment's limit) is for the next one of the interpreter's.
   */
  #fallOut(): void {
    const { uop, slots, falls, isChecked } = this.op;
    const out = this.#out;
    const follows = set(Reg.UOP, i32(uop.address + 16 * slots));
    const { mode } = this.region;
    const isLinear = (mode & Mode.FLAT) !== 0 || (mode & Mode.CODE_MASK) === Mode.CODE64;
    if (!isChecked && (!isLinear || (falls! & -PAGE_BYTES) !== this.#block.page)) {
      out.push(follows);
      return;
    }
    out.push(set(Reg.RIP, this.#rip(falls!)));
    if (isChecked) return;
    const isElsewhere = this.#isElsewhere(this.#block.page, local(Reg.RIP_BASE), out);
    const mayDiffer = op("i32", "i32.or", isNegative(local(Reg.LEFT)), isElsewhere);
    out.push({ s: "if", cond: mayDiffer, yes: [follows], no: [], likely: false });
  }

  #spend(bytes: number): Stmt {
    return set(Reg.LEFT, op("i32", "i32.sub", local(Reg.LEFT), i32(bytes)));
  }

  /** Leaves for `rip`. The local RIP is set only there: nowhere else it has to be kept. */
  #exit(rip: Node): Stmt[] {
    return [set(Reg.RIP, rip), { s: "end", how: { kind: "edge", edge: EXIT_EDGE } }];
  }

  #exitIf(cond: Node, rip: Node): Stmt {
    return { s: "if", cond, yes: this.#exit(rip), no: [], likely: false };
  }

  /** Whether control may come to its end. */
  #instruction(): boolean {
    const { handler } = this.op;
    this.begin();
    let falls = true;
    if (isCalled(handler)) falls = this.#callHandler();
    else {
      const known = factsInMode(handler, this.region.mode);
      this.isEager = known.storesUnderCondition;
      const frame = this.enter(known, 0, -1);
      const body: Stmt[] = [];
      falls = this.list(known.stmts, body, true) || frame.isLeftEarly;
      if (frame.isLeftEarly) this.#out.push({ s: "block", label: frame.label, body });
      else this.#out.push(...body);
    }
    if (this.mayBeStale) this.#leaveStale(falls);
    return falls && this.op.falls !== undefined;
  }

  /** Out of the region behind an instruction that has overwritten code of it. */
  #leaveStale(falls: boolean): void {
    const out = this.#out;
    const after = this.op.uop.address + 16 * this.op.slots;
    const leave: Stmt = {
      s: "if",
      cond: local(Reg.STALE),
      yes: [
        this.#spend(this.#before + 16 * this.op.slots),
        set(Reg.UOP, i32(after)),
        { s: "end", how: { kind: "edge", edge: EXIT_EDGE } },
      ],
      no: [],
      likely: false,
    };
    // A store is the last that most do, and finds out in its slow arm: what little follows it is done in both arms.
    const at = out.findLastIndex(({ s }) => s !== "set");
    const store = out[at];
    const isLast = store?.s === "if" && out.length - at <= MAX_DOUBLED && !out.slice(0, at).some(setsStale);
    if (falls && isLast && !store.yes.some(setsStaleWithin) && !store.no.some(setsStaleWithin)) {
      const rest = out.splice(at).slice(1);
      const arm = (stmts: Stmt[]): Stmt[] => [...stmts, ...rest, ...(stmts.some(setsStale) ? [leave] : [])];
      out.push({ ...store, yes: arm(store.yes), no: arm(store.no) });
      return;
    }
    // Known at its start, it has to be kept for this instruction alone.
    out.unshift(set(Reg.STALE, i32(0)));
    if (falls) out.push(leave);
  }

  #callHandler(): boolean {
    const { uop } = this.op;
    const id = this.region.temps++;
    const { effects } = factsOfHandler(this.op.handler);
    this.call(callHandler, [i32(uop.handler), i32(uop.copy)], id, effects, this.#out);
    const result: Node = { k: "temp", type: "i32", id };
    this.#out.push({
      s: "if",
      cond: op("i32", "i32.eqz", result),
      yes: this.#leave(),
      no: [],
      likely: false,
    });
    return this.op.falls !== undefined;
  }

  #leave(): Stmt[] {
    return [
      ...(this.#before === 0 ? [] : [this.#spend(this.#before)]),
      set(Reg.UOP, i32(this.op.uop.address)),
      { s: "end", how: { kind: "edge", edge: LEAVE_EDGE } },
    ];
  }

  protected override end(how: Ending, out: Stmt[], isTail: boolean): boolean {
    switch (how.kind) {
      case "next":
      case "skip":
        if (isTail) return true;
        this.frame.isLeftEarly = true;
        out.push({ s: "break", label: this.frame.label });
        return false;
      case "leave":
        out.push(...this.#leave());
        return false;
      case "jump":
      case "branch":
        this.#branch(this.node(how.rip), 16 * (how.slots ?? 1), out);
        return false;
      default:
        throw new Error(`${this.op.handler.name}: a region cannot end by ${how.kind}`);
    }
  }

  /** A branch to `rip`, within the region if it has that place. */
  #branch(rip: Node, bytes: number, out: Stmt[]): void {
    out.push(this.#spend(this.#before + bytes));
    const { at, blocks } = this.region.graph;
    const spent = isNegative(local(Reg.LEFT));
    const mustLeave = this.mayBeStale ? op("i32", "i32.or", spent, local(Reg.STALE)) : spent;
    const block = this.op.target === undefined ? undefined : at.get(this.op.target);
    if (block !== undefined) {
      out.push(this.#exitIf(mustLeave, rip), ...this.#way(block));
      return;
    }
    const target = this.name(rip, out);
    const back = this.op.returnsTo === undefined ? undefined : at.get(this.op.returnsTo);
    if (back !== undefined) {
      out.push(this.#exitIf(mustLeave, target));
      this.#callOut(target, back, out);
      return;
    }
    const { returns } = this.#block;
    if (returns.length > 0) out.push(this.#exitIf(mustLeave, target));
    for (const index of returns) {
      const to = blocks[index]!;
      const cond = op("i32", "i64.eq", target, this.#rip(to.pos));
      out.push({ s: "if", cond, yes: this.#way(to), no: [], likely: undefined });
    }
    out.push(...this.#exit(target));
  }

  #way(to: Block): Stmt[] {
    const out: Stmt[] = [];
    this.#cross(to, out);
    out.push({ s: "end", how: { kind: "edge", edge: this.#edge(to.index) } });
    return out;
  }

  /** A call of code that is not in the region, at `target`: the region waits for it and goes on at `back`. */
  #callOut(target: Node, back: Block, out: Stmt[]): void {
    const or = (...nodes: Node[]): Node => nodes.reduce((a, b) => op("i32", "i32.or", a, b));
    const field = (type: "i32" | "i64", offset: number): Node => {
      const id = this.region.temps++;
      out.push({ s: "load", id, op: `${type}.load`, address: { k: "cpu", type: "i32" }, offset });
      return { k: "temp", type, id };
    };
    out.push(this.region.save(true, true));
    const expected = (): Node => this.#rip(back.pos);
    out.push({
      s: "call",
      id: Reg.LEFT,
      fn: enterRegion,
      args: [local(Reg.LEFT), target, expected()],
    });
    const isUp = or(field("i32", Cpu.EVENT), field("i32", Cpu.REGION_UOP), field("i32", Cpu.REGION_STALE));
    const isElsewhere = op("i32", "i64.ne", field("i64", Cpu.RIP), expected());
    out.push({
      s: "if",
      cond: or(isUp, isElsewhere, isNegative(local(Reg.LEFT))),
      yes: [{ s: "end", how: { kind: "edge", edge: RETURN_EDGE } }],
      no: [],
      likely: false,
    });
    out.push(this.region.load(true, true), cpuLoad(Reg.TLB, Cpu.TLB));
    this.kind = undefined;
    this.kindWrites++;
    this.#guard(back, out);
    out.push({ s: "end", how: { kind: "edge", edge: this.#edge(back.index) } });
  }
}

/** Whether a statement sets the local STALE, or may do so within. */
function setsStale(stmt: Stmt): boolean {
  return ((stmt.s === "load" || stmt.s === "set") && stmt.id === Reg.STALE) || setsStaleWithin(stmt);
}

/** Whether one of a statement's own statements may set the local STALE. */
function setsStaleWithin(stmt: Stmt): boolean {
  return parts(stmt).lists.some((list) => list.some(setsStale));
}
