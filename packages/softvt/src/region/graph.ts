import type { Handler } from "../isa/handlers.ts";
import type { DecodeTable } from "../isa/table.ts";
import { factsOfHandler } from "./facts.ts";

const PAGE_BYTES = 4096;

/** A micro-op as it was decoded, whatever stands in its place now. */
export interface Uop {
  /** Where it is in the arena. */
  readonly address: number;
  readonly handler: number;
  /** Address of its bytes for handlers that are called for it: a copy, as regions put entries in its place. */
  copy: number;
  /** Its 16 bytes. */
  readonly bytes: DataView;
}

/**
 * Decoded code as the code cache holds it, by offset in the guest's linear addresses from the start of one page, the
 * region's home. Offsets below 0 and from 4096 on lie in other pages.
 */
export interface CodeReader {
  /** The micro-op for offset `pos`, or `undefined` where none is decoded, or the page is not known. */
  uopAt(pos: number): Uop | undefined;
  /** The one at an arena address. */
  uop(address: number): Uop;
  /** Whether `pos` was reached by a look-up of late: something outside goes there. */
  isLookedUp(pos: number): boolean;
  /** Arena address of the page at offset `page`, one in which `uopAt` found something. */
  pageAddress(page: number): number;
}

/** One instruction of a region. */
export interface Op {
  readonly uop: Uop;
  readonly handler: Handler;
  /** Where it is, from the start of the home page. */
  readonly pos: number;
  /** Micro-ops that it stands for: 2 for a compare fused with its branch. */
  readonly slots: 1 | 2;
  /** Where it branches to, if that is known: from the start of the home page. */
  readonly target: number | undefined;
  /** The same from the start of its own page. */
  readonly displacement: number;
  /** What follows if it does not branch; `undefined`: it always does. */
  readonly falls: number | undefined;
  /** Where a call comes back. */
  readonly returnsTo: number | undefined;
  /** Whether the budget is looked at before what follows: the interpreter would look that up. */
  readonly isChecked: boolean;
}

/** Instructions that are entered at the first and left behind the last, or by an event. */
export interface Block {
  readonly index: number;
  readonly pos: number;
  /** Offset of the page that it is in. */
  readonly page: number;
  readonly ops: readonly Op[];
  /** Whether control comes from outside of the region. */
  readonly isEntry: boolean;
  /** Of a block that ends by a return: the blocks behind the region's own calls of what it returns from. */
  readonly returns: readonly number[];
}

export interface RegionGraph {
  readonly blocks: readonly Block[];
  /** By offset of their first instruction. */
  readonly at: ReadonlyMap<number, Block>;
  /** Arena addresses of its pages, by offset. */
  readonly pages: ReadonlyMap<number, number>;
}

/**
 * The most statements of a region's descriptions. They become some 5 bytes of WebAssembly each; V8 gives functions of
 * more than 8,192 virtual registers, about 50 KB, to a register allocator that spills nearly everything
 * (`turbo_use_mid_tier_regalloc_for_huge_functions`): measured, twice the machine code and half the speed.
 */
const MAX_STATEMENTS = 4000;

/** Of a return: the most places behind calls that are tried. */
const MAX_RETURNS = 6;
/** Longest instruction, in bytes. */
const MAX_LENGTH = 15;

/**
 * The blocks that control reaches from `seeds` (offsets from the start of the home page), of about `limit` statements at
 * most.
 */
export function buildGraph(
  reader: CodeReader,
  handlers: readonly Handler[],
  special: DecodeTable["special"],
  seeds: Iterable<number>,
  limit = MAX_STATEMENTS,
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

  /** Whether the interpreter, come to the micro-op at `address`, looks up what follows. */
  const isLookedUpNext = (address: number): boolean => {
    const { handler, bytes } = reader.uop(address);
    // A way to code that was decoded before leads to where that was, also when it was decoded anew elsewhere.
    if (handler === special.goto) return isLookedUpNext(bytes.getInt32(12, true) >>> 0);
    return handler === special.pageEnd || handler === special.stale;
  };

  const read = (pos: number): Op | undefined => {
    const uop = reader.uopAt(pos);
    const handler = uop && handlers[uop.handler];
    if (uop?.handler === special.straddle)
      // The interpreter executes it and looks up what is behind it.
      for (let next = (pos | (PAGE_BYTES - 1)) + 2; next < pos + MAX_LENGTH; next++)
        if (reader.isLookedUp(next) && reader.uopAt(next) !== undefined) lead(next, true);
    if (uop === undefined || handler?.variant === undefined) return undefined;
    const { spec, opsize } = handler.variant;
    const isFused = handler.fused !== undefined;
    // A fused compare holds neither the branch's target nor its length: they are in the micro-op behind it.
    const branch = isFused ? reader.uop(uop.address + 16) : uop;
    const place = branch.bytes.getUint16(2, true);
    const page = pos & -PAGE_BYTES;
    const next = page + (place & 0xfff) + (place >> 12);
    const hasTarget = isFused || spec.operands.some(({ kind }) => kind === "J");
    const displacement = branch.bytes.getInt32(8, true);
    const isKnown = hasTarget && (isFused || opsize !== 16);
    const ends = spec.ends === true && !isFused;
    return {
      uop,
      handler,
      pos,
      slots: isFused ? 2 : 1,
      target: isKnown ? page + displacement : undefined,
      displacement,
      falls: ends ? undefined : next,
      returnsTo: ends && !/^(JMP|RET)/.test(spec.name) ? next : undefined,
      isChecked: !ends && isLookedUpNext(branch.address + 16),
    };
  };

  for (let start = near.shift() ?? far.shift(); start !== undefined; start = near.shift() ?? far.shift()) {
    for (let pos: number | undefined = start; pos !== undefined; ) {
      if (ops.has(pos) || statements >= limit) break;
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
  const bodies = starts.map((pos): Op[] => {
    const list: Op[] = [];
    for (let at: number | undefined = pos; at !== undefined; ) {
      const op: Op | undefined = ops.get(at);
      if (op === undefined || (at !== pos && leaders.has(at))) break;
      list.push(op);
      at = op.falls;
    }
    return list;
  });
  const numbers = new Map(starts.map((pos, index) => [pos, index]));
  const returns = returnSites(bodies, numbers);
  const pages = new Map<number, number>();
  const blocks = bodies.map((list, index): Block => {
    const pos = starts[index]!;
    const page = pos & -PAGE_BYTES;
    if (!pages.has(page)) pages.set(page, reader.pageAddress(page));
    const isEntry = entries.has(pos) || reader.isLookedUp(pos);
    return { index, pos, page, ops: list, isEntry, returns: returns[index]! };
  });
  return { blocks, at: new Map(blocks.map((block) => [block.pos, block])), pages };
}

/** For each block that ends by a return, where the calls in the region of what it returns from go on. */
function returnSites(bodies: readonly (readonly Op[])[], numbers: ReadonlyMap<number, number>): number[][] {
  const found = bodies.map((): Set<number> => new Set());
  const number = (pos: number | undefined): number | undefined =>
    pos === undefined ? undefined : numbers.get(pos);
  for (const body of bodies) {
    const call = body[body.length - 1]!;
    const callee = call.returnsTo === undefined ? undefined : number(call.target);
    const site = number(call.returnsTo);
    if (callee === undefined || site === undefined) continue;
    const seen = new Set([callee]);
    for (const block of seen) {
      const last = bodies[block]![bodies[block]!.length - 1]!;
      if (last.handler.variant?.spec.name === "RET") found[block]!.add(site);
      // Over the calls within.
      const ways = last.returnsTo === undefined ? [last.target, last.falls] : [last.returnsTo];
      for (const way of ways) {
        const next = number(way);
        if (next !== undefined) seen.add(next);
      }
    }
  }
  return found.map((sites) => [...sites].slice(0, MAX_RETURNS));
}
