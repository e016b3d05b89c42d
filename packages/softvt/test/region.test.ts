/** What compiled regions are made of: every handler's code, what functions touch, control flow of any shape. */
import { expect, it } from "vitest";
import { Random } from "../../../test/host-cpu/random.ts";
import { readSlow, writeSlow } from "../src/cpu/memory.ts";
import { Emitter, LocalPool } from "../src/ir/emit.ts";
import type { Node } from "../src/ir/ir.ts";
import { ControlFlow } from "../src/region/control.ts";
import { effectsOf } from "../src/region/effects.ts";
import type { Block, Op } from "../src/region/graph.ts";
import { allHandlers, compileRegions } from "../src/region/index.ts";
import { RegionFacts } from "../src/region/region-facts.ts";
import { specializeBlock } from "../src/region/specialize.ts";
import { CodeWriter, ModuleBuilder } from "../src/wasm/encoder.ts";

/** Flat 64-bit and 32-bit code, 16-bit code of real mode: as `Cpu.MODE` has them. */
const MODES = [10, 13, 16];

it("compiles every handler of the interpreter to valid WebAssembly", () => {
  const handlers = allHandlers().filter(({ variant }) => variant !== undefined);
  const bytes = new DataView(new ArrayBuffer(16));
  bytes.setUint16(2, 0x3010, true);
  // RAX, RBX, RSI by their offsets; a scale of 2 in DS, 64 bits.
  [0, 24, 48, 0x4d].forEach((value, i) => {
    bytes.setUint8(4 + i, value);
  });
  const uop = { address: 0x300_0000, copy: 0x300_0000, handler: 0, bytes };
  for (const mode of MODES) {
    const sources = handlers.map((handler) => {
      const slots = handler.fused === undefined ? 1 : 2;
      const op: Op = {
        ...{ uop, handler, pos: 16, slots, displacement: 0x40, target: 0x40, falls: 19 },
        ...{ returnsTo: undefined, isChecked: false },
      };
      const block: Block = { index: 0, pos: 16, page: 0, ops: [op], isEntry: true, returns: [] };
      const graph = { blocks: [block], at: new Map([[16, block]]), pages: new Map([[0, 0x10_0000]]) };
      return { name: handler.name, mode, graph };
    });
    expect(WebAssembly.validate(compileRegions(sources)), `mode ${mode}`).toBe(true);
  }
  expect(handlers.length).toBeGreaterThan(3000);
});

it("keeps a loop that a compare and its branch close in the region", () => {
  const handler = allHandlers().find(({ name }) => name === "CMP_39_32_j5")!;
  const bytes = new DataView(new ArrayBuffer(16));
  bytes.setUint16(2, 0x2010, true);
  const uop = { address: 0x300_0000, copy: 0, handler: 0, bytes };
  const op: Op = {
    ...{ uop, handler, pos: 16, slots: 2, displacement: 16, target: 16, falls: 20 },
    ...{ returnsTo: undefined, isChecked: false },
  };
  const block: Block = { index: 0, pos: 16, page: 0, ops: [op], isEntry: true, returns: [] };
  const graph = { blocks: [block], at: new Map([[16, block]]), pages: new Map([[0, 0x10_0000]]) };
  for (const mode of MODES) {
    const { successors } = specializeBlock(new RegionFacts(mode, graph), block, undefined);
    expect(successors, `mode ${mode}`).toEqual([0]);
  }
});

it("says which branches are likely, at the places where they are", () => {
  const out = new CodeWriter();
  out.raw([0x41, 0x00]);
  out.hint(false);
  out.raw([0x04, 0x40, 0x0b]);
  const module = new ModuleBuilder();
  module.importFunction("import", { params: [], results: [] });
  module.define(module.declare({ params: [], results: [] }), ["i64"], out);
  const bytes = module.bytes();
  expect(WebAssembly.validate(bytes)).toBe(true);
  const [hints] = WebAssembly.Module.customSections(
    new WebAssembly.Module(bytes),
    "metadata.code.branch_hint",
  );
  // One function, the second one; one hint, 5 bytes behind the start of its local declarations: not likely.
  expect([...new Uint8Array(hints!)]).toEqual([1, 1, 1, 5, 1, 0]);
});

it("gives each body its own temps, also where a load of the one before has lost its reader", () => {
  const i32 = (value: number): Node => ({ k: "const", type: "i32", value });
  const temp: Node = { k: "temp", type: "i32", id: 10 };
  const out = new CodeWriter();
  const locals = new LocalPool(0);
  const none = (): never => {
    throw new Error("not in these bodies");
  };
  const emitter = new Emitter(0, {
    ...{ out, locals, functionIndex: none, cpu: none, uop: none, field: none, end: none },
  });
  // Temp 10 is loaded for temp 11, which nobody reads; then it is 42, and stored at 8.
  emitter.emit([
    { s: "load", id: 10, op: "i32.load", address: i32(0), offset: 0 },
    { s: "set", id: 11, type: "i32", value: temp },
  ]);
  emitter.emit([
    { s: "set", id: 10, type: "i32", value: i32(42) },
    { s: "store", op: "i32.store", address: i32(8), offset: 0, value: temp },
  ]);
  const module = new ModuleBuilder();
  const index = module.declare({ params: [], results: [] });
  module.define(index, locals.types, out);
  module.exportFunction("run", index);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const env = { memory, cpu: 0 };
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), { env });
  const view = new Uint32Array(memory.buffer);
  view[0] = 7;
  (exports.run as () => void)();
  expect(view[2]).toBe(42);
});

it("sees that page walks leave registers and flags alone, and what writes code", () => {
  const none = {
    readsGprs: false,
    writesGprs: false,
    readsFlags: false,
    writesFlags: false,
    writesTlb: false,
  };
  expect(effectsOf(readSlow[64]!)).toEqual({ ...none, writesCode: false });
  expect(effectsOf(writeSlow[32]!)).toEqual({ ...none, writesCode: true });
});

it("gives loops of any shape one header, and leads where it did", () => {
  const random = new Random(5);
  for (let round = 0; round < 300; round++) {
    const count = random.between(2, 14);
    const nodes = Array.from({ length: count }, () => ({
      successors: [...new Set(Array.from({ length: random.below(4) }, () => random.below(count)))],
    }));
    const entries = [...new Set(Array.from({ length: random.between(1, 4) }, () => random.below(count)))];
    const flow = new ControlFlow(nodes, entries);
    const parents = new Map<number, number>();
    flow.children.forEach((children, site) => {
      for (const child of children) parents.set(child, site);
    });
    const dominates = (site: number, other: number): boolean => {
      for (let at: number | undefined = other; at !== undefined; at = parents.get(at))
        if (at === site) return true;
      return false;
    };
    flow.sites.forEach((_, site) => {
      if (flow.order[site]! < 0) return;
      for (const { site: to, state } of flow.steps(site)) {
        const isBack = flow.order[to]! <= flow.order[site]!;
        if (isBack)
          expect(dominates(to, site), `round ${round}: a way back enters a loop's middle`).toBe(true);
        if (isBack) expect(flow.isLoop[to]).toBe(true);
        expect(state !== undefined).toBe(flow.sites[to]!.kind === "dispatch");
      }
    });
    // Through any dispatches a node's successor is the one it had.
    const arrive = (from: number, to: number): number => {
      let { site, state } = flow.step(from, to);
      for (let hops = 0; hops < 50; hops++) {
        const at = flow.sites[site]!;
        if (at.kind === "node") return at.node;
        ({ site, state } = flow.step(site, at.targets[state!]!));
      }
      throw new Error("a dispatch leads to dispatches without end");
    };
    nodes.forEach(({ successors }, node) => {
      for (const to of successors) expect(arrive(node, to)).toBe(to);
    });
    for (const entry of entries) expect(arrive(flow.root, entry)).toBe(entry);
  }
});
