import { endingNodes, mapEnding, type Node, type Stmt } from "./ir.ts";

/** Where something is used: the chain of (statement list, index) from the outermost list inwards. */
type Place = readonly { readonly list: Stmt[]; readonly index: number }[];

function common(a: Place, b: Place): Place {
  const out: { list: Stmt[]; index: number }[] = [];
  for (let depth = 0; depth < a.length && depth < b.length; depth++) {
    const x = a[depth]!;
    const y = b[depth]!;
    if (x.list !== y.list) break;
    out.push({ list: x.list, index: Math.min(x.index, y.index) });
    if (x.index !== y.index) break;
  }
  return out;
}

const children = (node: Node): readonly Node[] =>
  node.k === "op" ? node.args : node.k === "select" ? [node.yes, node.no, node.cond] : [];

/** The expressions that a statement evaluates itself, and the lists nested in it. */
export function parts(stmt: Stmt): { nodes: readonly Node[]; lists: readonly Stmt[][] } {
  switch (stmt.s) {
    case "set":
      return { nodes: [stmt.value], lists: [] };
    case "load":
      return { nodes: [stmt.address], lists: [] };
    case "store":
      return { nodes: [stmt.address, stmt.value], lists: [] };
    case "call":
      return { nodes: stmt.args, lists: [] };
    case "if":
      return { nodes: [stmt.cond], lists: [stmt.yes, stmt.no] };
    case "loop":
    case "block":
      return { nodes: [], lists: [stmt.body] };
    case "switch":
      return { nodes: [stmt.index], lists: [...stmt.cases, stmt.default] };
    case "return":
      return { nodes: stmt.value === undefined ? [] : [stmt.value], lists: [] };
    case "copy":
      return { nodes: [stmt.to, stmt.from, stmt.length], lists: [] };
    case "fill":
      return { nodes: [stmt.to, stmt.value, stmt.length], lists: [] };
    case "end":
      return { nodes: endingNodes(stmt.how), lists: [] };
    case "break":
    case "continue":
      return { nodes: [], lists: [] };
  }
}

/** The same statement with its expressions and lists replaced. */
export function mapParts(stmt: Stmt, node: (n: Node) => Node, list: (l: Stmt[]) => Stmt[]): Stmt {
  switch (stmt.s) {
    case "set":
      return { ...stmt, value: node(stmt.value) };
    case "load":
      return { ...stmt, address: node(stmt.address) };
    case "store":
      return { ...stmt, address: node(stmt.address), value: node(stmt.value) };
    case "call":
      return { ...stmt, args: stmt.args.map(node) };
    case "if":
      return { ...stmt, cond: node(stmt.cond), yes: list(stmt.yes), no: list(stmt.no) };
    case "loop":
    case "block":
      return { ...stmt, body: list(stmt.body) };
    case "switch":
      return { ...stmt, index: node(stmt.index), cases: stmt.cases.map(list), default: list(stmt.default) };
    case "return":
      return stmt.value === undefined ? stmt : { ...stmt, value: node(stmt.value) };
    case "copy":
      return { ...stmt, to: node(stmt.to), from: node(stmt.from), length: node(stmt.length) };
    case "fill":
      return { ...stmt, to: node(stmt.to), value: node(stmt.value), length: node(stmt.length) };
    case "end":
      return { ...stmt, how: mapEnding(stmt.how, node) };
    case "break":
    case "continue":
      return stmt;
  }
}

/**
 * Names every expression that is used more than once, at the nearest place before all its uses, so that in
 * the result each operation has one user: a back end may then emit expressions as plain trees.
 *
 * Being pure, an expression may move up to any place where its temps are defined, and every temp it reads
 * is defined in a list that encloses all its uses.
 */
export function normalize(stmts: Stmt[], temps: number): { stmts: Stmt[]; temps: number } {
  const postorder: Node[] = [];
  const seen = new Set<Node>();
  const places = new Map<Node, Place>();
  const uses = new Map<Node, number>();

  const use = (node: Node, place: Place): void => {
    uses.set(node, (uses.get(node) ?? 0) + 1);
    const known = places.get(node);
    places.set(node, known === undefined ? place : common(known, place));
  };
  const visit = (node: Node): void => {
    if ((node.k !== "op" && node.k !== "select") || seen.has(node)) return;
    seen.add(node);
    for (const child of children(node)) visit(child);
    postorder.push(node);
  };
  const walk = (list: Stmt[], outer: Place): void => {
    list.forEach((stmt, index) => {
      const place = [...outer, { list, index }];
      const { nodes, lists } = parts(stmt);
      for (const node of nodes) {
        visit(node);
        use(node, place);
      }
      for (const inner of lists) walk(inner, place);
    });
  };
  walk(stmts, []);
  for (let i = postorder.length - 1; i >= 0; i--) {
    const node = postorder[i]!;
    for (const child of children(node)) use(child, places.get(node)!);
  }

  // Where each shared operation gets its name: list → index → operations, operands first.
  const inserts = new Map<Stmt[], Map<number, Node[]>>();
  const names = new Map<Node, number>();
  let next = temps;
  for (const node of postorder) {
    if (uses.get(node)! < 2) continue;
    const place = places.get(node)!;
    const { list, index } = place[place.length - 1]!;
    const here = inserts.get(list) ?? new Map<number, Node[]>();
    inserts.set(list, here);
    here.set(index, [...(here.get(index) ?? []), node]);
    names.set(node, next++);
  }
  if (names.size === 0) return { stmts, temps };

  const memo = new Map<Node, Node>();
  const expand = (node: Node): Node => {
    if (node.k === "op") return { ...node, args: node.args.map(rewrite) };
    if (node.k === "select")
      return { ...node, cond: rewrite(node.cond), yes: rewrite(node.yes), no: rewrite(node.no) };
    return node;
  };
  const rewrite = (node: Node): Node => {
    const id = names.get(node);
    if (id !== undefined) return { k: "temp", type: node.type, id };
    let done = memo.get(node);
    if (done === undefined) {
      done = expand(node);
      memo.set(node, done);
    }
    return done;
  };
  const rewriteList = (list: Stmt[]): Stmt[] => {
    const out: Stmt[] = [];
    const here = inserts.get(list);
    list.forEach((stmt, index) => {
      for (const node of here?.get(index) ?? [])
        out.push({ s: "set", id: names.get(node)!, type: node.type, value: expand(node) });
      out.push(mapParts(stmt, rewrite, rewriteList));
    });
    return out;
  };
  return { stmts: rewriteList(stmts), temps: next };
}
