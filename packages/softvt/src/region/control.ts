/**
 * The control flow of a region, made fit for WebAssembly's: loops with one header, and for each node the places
 * where its code has to stand.
 *
 * After Norman Ramsey, "Beyond Relooper: recursive translation of unstructured control flow to structured control
 * flow", ICFP 2022: code follows the dominator tree; a node's children that something branches to stand behind
 * blocks around it. Loops with several entries get a node in front that dispatches on a number.
 */
export interface FlowNode {
  /** Nodes that it goes to, by number. */
  readonly successors: readonly number[];
}

/** What stands at a place: one of the nodes given, or a dispatch that was added. */
export type Site =
  | { readonly kind: "node"; readonly node: number }
  /** Goes to `targets[n]`, n being the entry's number (at the root) or the number left by whoever came. */
  | { readonly kind: "dispatch"; readonly isRoot: boolean; readonly targets: readonly number[] };

export interface Step {
  /** Site to go to. */
  readonly site: number;
  /** The number to leave for its dispatch; `undefined`: it is none. */
  readonly state: number | undefined;
}

export class ControlFlow {
  readonly sites: Site[];
  /** Position of a site in reverse postorder; -1: nothing reaches it. */
  readonly order: Int32Array;
  /** Sites that a branch goes back to. */
  readonly isLoop: boolean[];
  /** Children in the dominator tree, latest in order first. */
  readonly children: number[][];
  readonly root: number;
  /** Forward branches to a site. */
  readonly arrivals: Int32Array;

  readonly #successors: (readonly number[])[];
  readonly #rules = new Map<number, { readonly dispatch: number; readonly state: number }[]>();

  /** `entries`: nodes where control may come in. */
  constructor(nodes: readonly FlowNode[], entries: readonly number[]) {
    this.sites = nodes.map((_, node): Site => ({ kind: "node", node }));
    this.#successors = nodes.map((node) => node.successors);
    this.root = this.#addDispatch(entries, true);
    const reached = this.#postorder().filter((site) => site !== this.root);
    this.#singleHeaders(new Set(reached));

    const postorder = this.#postorder();
    const count = this.sites.length;
    this.order = new Int32Array(count).fill(-1);
    postorder.reverse().forEach((site, i) => {
      this.order[site] = i;
    });
    this.isLoop = new Array<boolean>(count).fill(false);
    this.arrivals = new Int32Array(count);
    const predecessors: number[][] = Array.from({ length: count }, () => []);
    for (const site of postorder)
      for (const { site: to } of this.steps(site)) {
        if (this.order[to]! <= this.order[site]!) this.isLoop[to] = true;
        else this.arrivals[to]!++;
        predecessors[to]!.push(site);
      }
    const parents = this.#dominators(postorder, predecessors);
    this.children = Array.from({ length: count }, () => []);
    for (const site of postorder) if (site !== this.root) this.children[parents[site]!]!.unshift(site);
  }

  /** Where going from site `from` to node `to` leads. */
  step(from: number, to: number): Step {
    const made = this.sites[from]!.kind === "dispatch" ? from : -1;
    for (const { dispatch, state } of this.#rules.get(to) ?? [])
      if (dispatch > made) return { site: dispatch, state };
    return { site: to, state: undefined };
  }

  /** All steps out of a site. */
  steps(from: number): Step[] {
    return this.#successors[from]!.map((to) => this.step(from, to));
  }

  #addDispatch(targets: readonly number[], isRoot: boolean): number {
    this.#successors.push(targets);
    return this.sites.push({ kind: "dispatch", isRoot, targets }) - 1;
  }

  #postorder(): number[] {
    const seen = new Set<number>();
    const out: number[] = [];
    const visit = (site: number): void => {
      seen.add(site);
      for (const { site: to } of this.steps(site)) if (!seen.has(to)) visit(to);
      out.push(site);
    };
    visit(this.root);
    return out;
  }

  /** Gives every loop within `set` one header, from the outermost inwards. */
  #singleHeaders(set: ReadonlySet<number>): void {
    for (const loop of this.#components(set)) {
      const members = new Set(loop);
      const headers = new Set<number>();
      for (let from = 0; from < this.sites.length; from++)
        if (!members.has(from))
          for (const { site } of this.steps(from)) if (members.has(site)) headers.add(site);
      if (headers.size > 1) {
        const targets = [...headers];
        const dispatch = this.#addDispatch(targets, false);
        targets.forEach((target, state) => {
          const rules = this.#rules.get(target) ?? [];
          rules.push({ dispatch, state });
          this.#rules.set(target, rules);
        });
      } else for (const header of headers) members.delete(header);
      this.#singleHeaders(members);
    }
  }

  /** Strongly connected components of the sites in `set` that have a cycle (Tarjan). */
  #components(set: ReadonlySet<number>): number[][] {
    const found: number[][] = [];
    const index = new Map<number, number>();
    const low = new Map<number, number>();
    const stack: number[] = [];
    const onStack = new Set<number>();
    const visit = (site: number): void => {
      index.set(site, index.size);
      low.set(site, index.get(site)!);
      stack.push(site);
      onStack.add(site);
      let loopsItself = false;
      for (const { site: to } of this.steps(site)) {
        if (!set.has(to)) continue;
        if (to === site) loopsItself = true;
        if (!index.has(to)) {
          visit(to);
          low.set(site, Math.min(low.get(site)!, low.get(to)!));
        } else if (onStack.has(to)) low.set(site, Math.min(low.get(site)!, index.get(to)!));
      }
      if (low.get(site) !== index.get(site)) return;
      const component: number[] = [];
      for (;;) {
        const member = stack.pop()!;
        onStack.delete(member);
        component.push(member);
        if (member === site) break;
      }
      if (component.length > 1 || loopsItself) found.push(component);
    };
    for (const site of set) if (!index.has(site)) visit(site);
    return found;
  }

  /** Immediate dominators (Cooper, Harvey, Kennedy, "A simple, fast dominance algorithm", 2001). */
  #dominators(order: readonly number[], predecessors: readonly number[][]): Int32Array {
    const parents = new Int32Array(this.sites.length).fill(-1);
    parents[this.root] = this.root;
    const common = (a: number, b: number): number => {
      let x = a;
      let y = b;
      while (x !== y) {
        while (this.order[x]! > this.order[y]!) x = parents[x]!;
        while (this.order[y]! > this.order[x]!) y = parents[y]!;
      }
      return x;
    };
    for (let changed = true; changed; ) {
      changed = false;
      for (const site of order) {
        if (site === this.root) continue;
        let parent = -1;
        for (const from of predecessors[site]!) {
          if (parents[from] === -1) continue;
          parent = parent === -1 ? from : common(parent, from);
        }
        if (parents[site] === parent) continue;
        parents[site] = parent;
        changed = true;
      }
    }
    return parents;
  }
}
