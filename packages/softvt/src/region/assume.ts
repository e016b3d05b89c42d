import { Cpu } from "../cpu/layout.ts";
import { fold } from "../ir/fold.ts";
import type { Node, Stmt } from "../ir/ir.ts";
import { mapParts } from "../ir/normalize.ts";
import { i32 } from "./nodes.ts";

/**
 * A description's statements for code of one mode (`Cpu.MODE`): what the mode decides is decided. All temps are renumbered
 * by `base`, so that the result may stand for an instruction as it is. `sets`: how often each temp is assigned.
 */
export function assumeMode(
  stmts: readonly Stmt[],
  { mode, base, sets }: { readonly mode: number; readonly base: number; readonly sets: Uint8Array },
): Stmt[] {
  const known: (Node | undefined)[] = [];
  const node = (n: Node): Node => {
    switch (n.k) {
      case "temp":
        return known[n.id] ?? { ...n, id: base + n.id };
      case "op":
        return fold({ ...n, args: n.args.map(node) });
      case "select": {
        const cond = node(n.cond);
        if (cond.k === "const") return node(cond.value !== 0 ? n.yes : n.no);
        return { ...n, cond, yes: node(n.yes), no: node(n.no) };
      }
      default:
        return n;
    }
  };
  const define = (id: number, value: Node): boolean => {
    if (value.k !== "const" || sets[id] !== 1) return false;
    known[id] = value;
    return true;
  };
  const list = (from: readonly Stmt[]): Stmt[] => from.flatMap(statement);
  const statement = (stmt: Stmt): Stmt | readonly Stmt[] => {
    switch (stmt.s) {
      case "load":
        if (stmt.address.k === "cpu" && stmt.offset === Cpu.MODE && define(stmt.id, i32(mode))) return [];
        break;
      case "set":
        if (define(stmt.id, node(stmt.value))) return [];
        break;
      case "if": {
        const cond = node(stmt.cond);
        if (cond.k === "const") return list(cond.value !== 0 ? stmt.yes : stmt.no);
        break;
      }
    }
    const made = mapParts(stmt, node, list);
    const isDefinition = made.s === "set" || made.s === "load" || made.s === "call";
    return isDefinition && made.id !== undefined ? ({ ...made, id: base + made.id } as Stmt) : made;
  };
  return list(stmts);
}
