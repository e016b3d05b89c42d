import type { Fn, Node, Stmt } from "../ir/ir.ts";
import { parts } from "../ir/normalize.ts";
import { FIRST_INDEXED, placeAt, Reg } from "./layout.ts";

/** Which of the fields that a region keeps in locals a function may touch. */
export interface Effects {
  readsGprs: boolean;
  writesGprs: boolean;
  readsFlags: boolean;
  writesFlags: boolean;
  writesTlb: boolean;
  /** May overwrite decoded code. */
  writesCode: boolean;
}

const NONE: Readonly<Effects> = {
  readsGprs: false,
  writesGprs: false,
  readsFlags: false,
  writesFlags: false,
  writesTlb: false,
  writesCode: false,
};
/** Of a handler of its own, called for a micro-op. */
export const ANY_EFFECTS: Readonly<Effects> = {
  readsGprs: true,
  writesGprs: true,
  readsFlags: true,
  writesFlags: true,
  writesTlb: true,
  writesCode: true,
};

const known = new Map<Fn, Effects>();

/** What a call of `fn` does to those fields, itself and by what it calls. */
export function effectsOf(fn: Fn): Readonly<Effects> {
  const done = known.get(fn);
  if (done !== undefined) return done;
  // Of a cycle each function must see the effects of all: those of its own are found by whoever began.
  const order: Fn[] = [];
  const reach = (f: Fn): void => {
    if (order.includes(f)) return;
    order.push(f);
    if (f.body !== undefined) for (const callee of callees(f.body().stmts)) reach(callee);
  };
  reach(fn);
  const sum: Effects = { ...NONE };
  for (const f of order) add(sum, known.get(f) ?? ownEffects(f));
  known.set(fn, sum);
  return sum;
}

function callees(stmts: readonly Stmt[]): Fn[] {
  const found: Fn[] = [];
  const walk = (list: readonly Stmt[]): void => {
    for (const stmt of list) {
      if (stmt.s === "call") found.push(stmt.fn);
      parts(stmt).lists.forEach(walk);
    }
  };
  walk(stmts);
  return found;
}

/** An address in the vCPU block: its constant part, and whether there is another. */
interface BlockAddress {
  readonly constant: number;
  readonly indexed: boolean;
}

/** What is known of an address in the vCPU block; `undefined`: it lies elsewhere. `temps`: those that hold one. */
export function blockOffset(
  address: Node,
  temps?: ReadonlyMap<number, BlockAddress>,
): BlockAddress | undefined {
  if (address.k === "cpu") return { constant: 0, indexed: false };
  if (address.k === "temp") return temps?.get(address.id);
  if (address.k !== "op" || address.op !== "i32.add") return undefined;
  const [first, second] = address.args as [Node, Node];
  for (const [base, other] of [
    [first, second],
    [second, first],
  ] as const) {
    const at = blockOffset(base, temps);
    if (at === undefined) continue;
    if (other.k === "const") return { ...at, constant: at.constant + Number(other.value) };
    return { ...at, indexed: true };
  }
  return undefined;
}

/**
 * Whether `node` may be an address in the vCPU block that `blockOffset` does not see through. A comparison is a number,
 * and so is the distance of something from an address.
 */
function mayHideAddress(node: Node, temps: ReadonlyMap<number, BlockAddress>): boolean {
  const isAddress = (n: Node): boolean => blockOffset(n, temps) !== undefined;
  if (isAddress(node)) return false;
  if (node.k === "select") return [node.yes, node.no].some((n) => isAddress(n) || mayHideAddress(n, temps));
  if (node.k !== "op" || /\.(eqz?|ne|[lg][te]_[su])$/.test(node.op)) return false;
  const [first, second] = node.args;
  if (node.op === "i32.sub" && !isAddress(first!)) return mayHideAddress(first!, temps);
  if (node.op === "i32.sub" && isAddress(second!)) return false;
  return node.args.some((arg) => isAddress(arg) || mayHideAddress(arg, temps));
}

const mentionsBlock = (node: Node): boolean =>
  node.k === "cpu" ||
  (node.k === "op" && node.args.some(mentionsBlock)) ||
  (node.k === "select" && [node.cond, node.yes, node.no].some(mentionsBlock));

/** What statements do, themselves and by what they call. */
export function effectsOfBody(stmts: readonly Stmt[]): Readonly<Effects> {
  const sum = effectsInside(stmts);
  for (const fn of callees(stmts)) add(sum, effectsOf(fn));
  return sum;
}

function add(sum: Effects, other: Readonly<Effects>): void {
  for (const key of Object.keys(other) as (keyof Effects)[]) sum[key] ||= other[key];
}

function ownEffects(fn: Fn): Effects {
  if (fn.body !== undefined) return effectsInside(fn.body().stmts);
  return { ...NONE, writesCode: fn.name === "codeWritten" };
}

function effectsInside(stmts: readonly Stmt[]): Effects {
  const effects: Effects = { ...NONE };
  const temps = new Map<number, BlockAddress>();
  const touch = (address: Node, offset: number, writes: boolean): void => {
    const at = blockOffset(address, temps);
    if (at === undefined) return;
    const constant = at.constant + offset;
    if (at.indexed) {
      if (constant >= FIRST_INDEXED) return;
      if (writes) effects.writesGprs = true;
      else effects.readsGprs = true;
      return;
    }
    const place = placeAt(constant);
    if (place.kind === "gpr") {
      if (writes) effects.writesGprs = true;
      else effects.readsGprs = true;
    } else if (place.kind === "field" && place.reg === Reg.TLB) {
      if (writes) effects.writesTlb = true;
    } else if (place.kind === "field" && place.reg !== Reg.RIP_BASE) {
      if (writes) effects.writesFlags = true;
      else effects.readsFlags = true;
    }
  };
  const walk = (list: readonly Stmt[]): void => {
    for (const stmt of list) {
      if (stmt.s === "load") touch(stmt.address, stmt.offset, false);
      else if (stmt.s === "store") touch(stmt.address, stmt.offset, true);
      else if (stmt.s === "call")
        for (const arg of stmt.args) {
          // What it is handed it may read and write.
          touch(arg, 0, false);
          touch(arg, 0, true);
          if (mayHideAddress(arg, temps))
            Object.assign(effects, ANY_EFFECTS, { writesCode: effects.writesCode });
        }
      else if (stmt.s === "copy") {
        touch(stmt.to, 0, true);
        touch(stmt.from, 0, false);
      } else if (stmt.s === "fill") touch(stmt.to, 0, true);
      else if (stmt.s === "set") {
        const at = blockOffset(stmt.value, temps);
        const known = temps.get(stmt.id);
        // One that holds now this address, now that: the lower bound of both is what counts.
        if (at !== undefined)
          temps.set(stmt.id, {
            constant: Math.min(at.constant, known?.constant ?? at.constant),
            indexed: at.indexed || known !== undefined,
          });
        // In an expression of another kind it may be on its way anywhere.
        else if (mayHideAddress(stmt.value, temps))
          Object.assign(effects, ANY_EFFECTS, { writesCode: effects.writesCode });
      }
      parts(stmt).lists.forEach(walk);
    }
  };
  walk(stmts);
  return effects;
}

/** Whether an argument hands a function an address in the vCPU block that it might write through. */
export const passesBlock = (args: readonly Node[]): boolean => args.some(mentionsBlock);
