import type { Handler } from "../isa/handlers.ts";
import { factsOfHandler, isLeft } from "./facts.ts";

const PAGE_BYTES = 4096;

/** A micro-op as it was decoded, whatever stands in its place now. */
export interface Uop {
  /** Where it is in the arena. */
  readonly address: number;
  readonly handler: number;
  /** Address of a copy that nothing overwrites, for functions that are handed the micro-op. */
  copy: number;
  /** Its 16 bytes. */
  readonly bytes: DataView;
}

/** Decoded code of one page, as the code cache holds it. */
export interface CodeReader {
  /** The micro-op for offset `pos` of the page, or `undefined` where none is decoded. */
  uopAt(pos: number): Uop | undefined;
  /** The one at an arena address. */
  uop(address: number): Uop;
  /** Whether `pos` was reached by a look-up of late: something outside the page goes there. */
  isLookedUp(pos: number): boolean;
}

/** One instruction of a region. */
export interface Op {
  readonly uop: Uop;
  readonly handler: Handler;
  readonly pos: number;
  /** Micro-ops that it stands for: 2 for a compare fused with its branch. */
  readonly slots: 1 | 2;
  /** Offset in the page of where it branches to, if that is in the page and known. */
  readonly target: number | undefined;
  /** Of a branch with displacement: where it goes from the start of the page, in the page or not. */
  readonly displacement: number;
  /** Offset of what follows if it does not branch; `undefined`: it always does. */
  readonly falls: number | undefined;
  /** Offset of the instruction to which a call comes back. */
  readonly returnsTo: number | undefined;
  /** Whether the budget is looked at before what follows: the interpreter would look that up. */
  readonly isChecked: boolean;
}

/** Instructions that are entered at the first and left behind the last, or by an event. */
export interface Block {
  readonly index: number;
  readonly pos: number;
  readonly ops: readonly Op[];
  /** Whether control comes from outside of the region. */
  readonly isEntry: boolean;
}

export interface RegionGraph {
  readonly blocks: readonly Block[];
  /** By offset of their first instruction. */
  readonly at: ReadonlyMap<number, Block>;
}

/**
 * The most statements of a region's descriptions. They become some 9 bytes of WebAssembly each; V8 gives functions of
 * more than 8,192 virtual registers, about 50 KB, to a register allocator that spills nearly everything
 * (`turbo_use_mid_tier_regalloc_for_huge_functions`): measured, twice the machine code and half the speed.
 */
const MAX_STATEMENTS = 4000;

/** The blocks that control reaches from `seeds` (offsets in the page) without leaving it. */
export function buildGraph(
  reader: CodeReader,
  handlers: readonly Handler[],
  special: { readonly pageEnd: number; readonly stale: number },
  seeds: Iterable<number>,
): RegionGraph {
  const ops = new Map<number, Op>();
  const entries = new Set<number>();
  const leaders = new Set<number>();
  // Code that is called comes last: its return leaves the region anyway.
  const near: number[] = [];
  const far: number[] = [];
  const lead = (pos: number, isEntry: boolean, work = near): void => {
    leaders.add(pos);
    if (isEntry) entries.add(pos);
    work.push(pos);
  };
  for (const seed of seeds) lead(seed, true);
  let statements = 0;

  const read = (pos: number): Op | undefined => {
    const uop = reader.uopAt(pos);
    const handler = uop && handlers[uop.handler];
    if (uop === undefined || handler?.variant === undefined) return undefined;
    if (isLeft(handler)) {
      // The interpreter executes it and comes back.
      const place = uop.bytes.getUint16(2, true);
      const next = (place & 0xfff) + (place >> 12);
      if (reader.uopAt(next) !== undefined) lead(next, true);
      return undefined;
    }
    const { spec, opsize } = handler.variant;
    const isFused = handler.fused !== undefined;
    // A fused compare holds neither the branch's target nor its length: they are in the micro-op behind it.
    const branch = isFused ? reader.uop(uop.address + 16) : uop;
    const place = branch.bytes.getUint16(2, true);
    const next = (place & 0xfff) + (place >> 12);
    const hasTarget = isFused || spec.operands.some(({ kind }) => kind === "J");
    const target = branch.bytes.getInt32(8, true);
    const inPage = hasTarget && target >= 0 && target < PAGE_BYTES && (isFused || opsize !== 16);
    const ends = spec.ends === true && !isFused;
    const follower = ends ? undefined : reader.uop(branch.address + 16).handler;
    return {
      uop,
      handler,
      pos,
      slots: isFused ? 2 : 1,
      target: inPage ? target : undefined,
      displacement: target,
      falls: ends ? undefined : next,
      returnsTo: ends && !/^(JMP|RET)/.test(spec.name) ? next : undefined,
      isChecked: follower === special.pageEnd || follower === special.stale,
    };
  };

  for (let start = near.shift() ?? far.shift(); start !== undefined; start = near.shift() ?? far.shift()) {
    for (let pos: number | undefined = start; pos !== undefined; ) {
      if (ops.has(pos) || statements >= MAX_STATEMENTS) break;
      const op = read(pos);
      if (op === undefined) break;
      ops.set(pos, op);
      statements += factsOfHandler(op.handler).size;
      if (op.target !== undefined) lead(op.target, false, op.returnsTo === undefined ? near : far);
      if (op.returnsTo !== undefined) lead(op.returnsTo, true);
      if (op.falls !== undefined && (op.target !== undefined || op.isChecked)) leaders.add(op.falls);
      // A loop's start is an entry: a slice that ends there goes on there.
      if (op.target !== undefined && op.target <= pos) entries.add(op.target);
      pos = op.falls;
    }
  }

  const starts = [...leaders].filter((pos) => ops.has(pos)).sort((a, b) => a - b);
  const blocks = starts.map((pos, index): Block => {
    const list: Op[] = [];
    for (let at: number | undefined = pos; at !== undefined; ) {
      const op: Op | undefined = ops.get(at);
      if (op === undefined || (at !== pos && leaders.has(at))) break;
      list.push(op);
      at = op.falls;
    }
    return { index, pos, ops: list, isEntry: entries.has(pos) || reader.isLookedUp(pos) };
  });
  return { blocks, at: new Map(blocks.map((block) => [block.pos, block])) };
}
