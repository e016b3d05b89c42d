import { Emitter, LocalPool } from "../ir/emit.ts";
import type { Fn, Stmt } from "../ir/ir.ts";
import { CodeWriter, ModuleBuilder } from "../wasm/encoder.ts";
import type { WasmType } from "../wasm/opcodes.ts";
import { ControlFlow } from "./control.ts";
import type { Block, RegionGraph } from "./graph.ts";
import { REG_TYPES, Reg } from "./layout.ts";
import { RegionFacts } from "./region-facts.ts";
import {
  type BlockCode,
  EXIT_EDGE,
  FIRST_BLOCK_EDGE,
  LEAVE_EDGE,
  RETURN_EDGE,
  specializeBlock,
} from "./specialize.ts";

/** A region to compile: the code of one page, for one value of `Cpu.MODE`. */
export interface RegionSource {
  /** For profilers. */
  readonly name: string;
  readonly mode: number;
  readonly graph: RegionGraph;
  /** Address of the vCPU block, where there is but one: a constant takes no register. */
  readonly cpu?: number | undefined;
}

/** Name of the export that is region `index` of a module. */
export const regionName = (index: number): string => `r${index}`;

/**
 * Compiles regions into one module. It imports, besides memory and the vCPU block's address, the engine's exports by
 * their names, and exports each region as `regionName(index)`: a function of (budget left, number of the entry) that
 * returns the budget left. Entries are numbered in the order of the graph's blocks that are one.
 */
export function compileRegions(sources: readonly RegionSource[]): Uint8Array<ArrayBuffer> {
  const imports: Fn[] = [];
  const functionIndex = (fn: Fn): number => {
    const known = imports.indexOf(fn);
    return known >= 0 ? known : imports.push(fn) - 1;
  };
  const bodies = sources.map((source) => new RegionCompiler(source, functionIndex).compile());
  const module = new ModuleBuilder();
  for (const { name, params, result } of imports)
    module.importFunction(name, { params, results: result === undefined ? [] : [result] });
  const indices = sources.map(({ name }) =>
    module.declare({ params: ["i32", "i32"], results: ["i32"] }, name),
  );
  bodies.forEach(({ locals, code }, i) => {
    module.define(indices[i]!, locals, code);
    module.exportFunction(regionName(i), indices[i]!);
  });
  return module.bytes();
}

const BLOCK = [0x02, 0x40];
const LOOP = [0x03, 0x40];
const END = 0x0b;
const BR = 0x0c;
const BR_TABLE = 0x0e;
const UNREACHABLE = 0x00;
const PARAMS = 2;

type Frame =
  | { readonly kind: "exit" }
  /** Behind it stands `site`. */
  | { readonly kind: "block"; readonly site: number }
  /** It begins with `site`. */
  | { readonly kind: "loop"; readonly site: number };

class RegionCompiler {
  readonly #facts: RegionFacts;
  readonly #out = new CodeWriter();
  readonly #pool = new LocalPool(REG_TYPES.length);
  readonly #functionIndex: (fn: Fn) => number;
  readonly #codes: BlockCode[] = [];
  readonly #flow: ControlFlow;
  readonly #frames: Frame[] = [];
  readonly #emitter: Emitter;
  readonly #cpu: number | undefined;
  /** Whose statements are emitted: what their edges start from. */
  #current = -1;

  constructor(source: RegionSource, functionIndex: (fn: Fn) => number) {
    this.#functionIndex = functionIndex;
    this.#cpu = source.cpu;
    this.#emitter = this.#makeEmitter();
    this.#facts = new RegionFacts(source.mode, source.graph);
    const { blocks } = source.graph;
    this.#specialize(source.graph);
    const entries = blocks.filter(({ isEntry }) => isEntry).map(({ index }) => index);
    this.#flow = new ControlFlow(this.#codes, entries);
  }

  /** Specializes all blocks; one with a single way in knows the flags' kind that its predecessor leaves. */
  #specialize({ blocks, at }: RegionGraph): void {
    const predecessors = blocks.map((): Block[] => []);
    for (const block of blocks) {
      const last = block.ops[block.ops.length - 1]!;
      for (const pos of [last.target, last.falls]) {
        const to = pos === undefined ? undefined : at.get(pos);
        if (to !== undefined) predecessors[to.index]!.push(block);
      }
    }
    const begun = new Set<Block>();
    const visit = (block: Block): void => {
      if (begun.has(block)) return;
      begun.add(block);
      const [before, ...others] = predecessors[block.index]!;
      const isAlone = !block.isEntry && before !== undefined && others.length === 0;
      if (isAlone) visit(before);
      const flagKind = isAlone ? this.#codes[before.index]?.flagKind : undefined;
      this.#codes[block.index] = specializeBlock(this.#facts, block, flagKind);
    };
    blocks.forEach(visit);
  }

  compile(): { locals: readonly WasmType[]; code: CodeWriter } {
    const { prologue, epilogue } = this.#facts.finish();
    const out = this.#out;
    if (this.#cpu === undefined) {
      out.raw([0x23, 0x00, 0x21]);
      out.u32(Reg.CPU);
    }
    this.#statements(prologue, -1);
    out.raw(BLOCK);
    this.#frames.push({ kind: "exit" });
    this.#site(this.#flow.root);
    out.u8(END);
    this.#frames.pop();
    this.#statements(epilogue, -1);
    out.raw([0x20, Reg.LEFT]);
    return { locals: [...REG_TYPES.slice(PARAMS), ...this.#pool.types], code: out };
  }

  /** The code of a site and of all that it dominates; control does not get behind it. */
  #site(site: number): void {
    const out = this.#out;
    const flow = this.#flow;
    const isLoop = flow.isLoop[site]!;
    if (isLoop) {
      out.raw(LOOP);
      this.#frames.push({ kind: "loop", site });
    }
    const inlined = this.#inlinedChild(site);
    const children = flow.children[site]!.filter((child) => child !== inlined);
    for (const child of children) {
      out.raw(BLOCK);
      this.#frames.push({ kind: "block", site: child });
    }
    this.#own(site, inlined);
    for (const child of children.reverse()) {
      this.#frames.pop();
      out.u8(END);
      this.#site(child);
    }
    if (isLoop) {
      this.#frames.pop();
      out.u8(END);
    }
    // What follows cannot be reached, which the validator is told by this.
    out.u8(UNREACHABLE);
  }

  /** The child whose code can follow a site's own directly: nothing else goes there. */
  #inlinedChild(site: number): number | undefined {
    const { sites, arrivals, children } = this.#flow;
    const what = sites[site]!;
    if (what.kind !== "node") return undefined;
    const { tail, stmts } = this.#codes[what.node]!;
    if (tail === undefined || tail < FIRST_BLOCK_EDGE) return undefined;
    const step = this.#flow.step(site, tail - FIRST_BLOCK_EDGE);
    if (step.state !== undefined || arrivals[step.site] !== 1 || !children[site]!.includes(step.site))
      return undefined;
    // A branch to the same block from within the statements is one more way to get there.
    return stmts.some((list) => takesEdge(list, tail)) ? undefined : step.site;
  }

  #own(site: number, inlined: number | undefined): void {
    const what = this.#flow.sites[site]!;
    const out = this.#out;
    if (what.kind === "dispatch") {
      this.#dispatch(site, what.targets, what.isRoot ? Reg.ENTRY : Reg.STATE);
      return;
    }
    const { stmts, tail } = this.#codes[what.node]!;
    for (const list of stmts) this.#statements(list, site);
    if (tail === undefined) out.u8(UNREACHABLE);
    else if (inlined !== undefined) this.#site(inlined);
    else this.#edge(site, tail, 0);
  }

  #dispatch(site: number, targets: readonly number[], selector: number): void {
    const out = this.#out;
    const steps = targets.map((target) => this.#flow.step(site, target));
    // A target behind another dispatch needs its number set on the way: a block for each.
    for (const _ of steps) out.raw(BLOCK);
    out.raw([0x20, selector, BR_TABLE]);
    out.u32(steps.length - 1);
    steps.forEach((_, i) => {
      out.u32(i);
    });
    steps.forEach((step, i) => {
      out.u8(END);
      this.#go(step.site, step.state, steps.length - 1 - i);
    });
  }

  #statements(stmts: Stmt[], site: number): void {
    this.#current = site;
    this.#emitter.emit(stmts);
  }

  #makeEmitter(): Emitter {
    const none = (): never => {
      throw new Error("a region has no micro-op");
    };
    return new Emitter(REG_TYPES.length, {
      out: this.#out,
      locals: this.#pool,
      functionIndex: this.#functionIndex,
      cpu: (out) => {
        if (this.#cpu === undefined) {
          out.raw([0x20, Reg.CPU]);
          return;
        }
        out.u8(0x41);
        out.s32(this.#cpu);
      },
      uop: none,
      field: none,
      end: (how, depth) => {
        if (how.kind !== "edge") throw new Error(`a region cannot end by ${how.kind}`);
        this.#edge(this.#current, how.edge, depth);
      },
    });
  }

  /** Takes an edge of the block at `site` from within `depth` labels. */
  #edge(site: number, edge: number, depth: number): void {
    if (edge === RETURN_EDGE) {
      this.#out.raw([0x20, Reg.LEFT, 0x0f]);
      return;
    }
    if (edge === EXIT_EDGE || edge === LEAVE_EDGE) {
      this.#branch(0, depth);
      return;
    }
    const step = this.#flow.step(site, edge - FIRST_BLOCK_EDGE);
    this.#go(step.site, step.state, depth);
  }

  #go(site: number, state: number | undefined, depth: number): void {
    if (state !== undefined) {
      this.#out.u8(0x41);
      this.#out.s32(state);
      this.#out.raw([0x21, Reg.STATE]);
    }
    const frame = this.#frames.findLastIndex((f) => f.kind !== "exit" && f.site === site);
    if (frame < 0) throw new Error("a branch to a site whose label is not in reach");
    this.#branch(frame, depth);
  }

  #branch(frame: number, depth: number): void {
    this.#out.u8(BR);
    this.#out.u32(this.#frames.length - 1 - frame + depth);
  }
}

function takesEdge(stmts: readonly Stmt[], edge: number): boolean {
  return stmts.some(
    (stmt) =>
      (stmt.s === "end" && stmt.how.kind === "edge" && stmt.how.edge === edge) ||
      (stmt.s === "if" && (takesEdge(stmt.yes, edge) || takesEdge(stmt.no, edge))) ||
      ((stmt.s === "block" || stmt.s === "loop") && takesEdge(stmt.body, edge)) ||
      (stmt.s === "switch" && [...stmt.cases, stmt.default].some((list) => takesEdge(list, edge))),
  );
}
