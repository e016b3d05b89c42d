import { UOP_FIELDS } from "../../src/cpu/uop.ts";
import { hostFunctions } from "../../src/ir/builder.ts";
import { emit, LocalPool } from "../../src/ir/emit.ts";
import type { Fn } from "../../src/ir/ir.ts";
import { CodeWriter, ModuleBuilder } from "../../src/wasm/encoder.ts";
import { LOADS, type WasmType } from "../../src/wasm/opcodes.ts";

/** Where the vCPU block and whatever a test wants lie in a test module's memory. */
export const CPU_ADDRESS = 0x1000;
export const FREE_ADDRESS = 0x8_0000;
const MEMORY_PAGES = 32;

/** An instruction's description as a function: (address of its micro-op) → 1 where it left, else 0. */
export interface Snippet {
  readonly name: string;
  describe(): { stmts: Parameters<typeof emit>[0]; temps: number };
}

export interface TestModule {
  readonly memory: DataView;
  readonly bytes: Uint8Array;
  // biome-ignore lint/suspicious/noExplicitAny: numbers and bigints by signature.
  readonly call: Record<string, (...args: any[]) => any>;
}

/** Compiles functions (those exported must not take or give v128) and instructions into one module. */
export function compile(exported: readonly Fn[], snippets: readonly Snippet[] = []): TestModule {
  const module = new ModuleBuilder();
  const indices = new Map<Fn, number>();
  const pending: Fn[] = [];
  const signature = (fn: Fn): { params: readonly WasmType[]; results: readonly WasmType[] } => ({
    params: fn.params,
    results: fn.result === undefined ? [] : [fn.result],
  });
  const env: Record<string, WebAssembly.ImportValue> = {};
  for (const fn of hostFunctions()) {
    indices.set(fn, module.importFunction(fn.name, signature(fn)));
    env[fn.name] = (() => {
      throw new Error(`test module: host function ${fn.name} called`);
    }) as CallableFunction;
  }
  const indexOf = (fn: Fn): number => {
    const known = indices.get(fn);
    if (known !== undefined) return known;
    const index = module.declare(signature(fn));
    indices.set(fn, index);
    pending.push(fn);
    return index;
  };
  const define = (
    index: number,
    params: readonly WasmType[],
    body: { stmts: Parameters<typeof emit>[0]; temps: number },
    isSnippet: boolean,
    hasResult: boolean,
  ): void => {
    const out = new CodeWriter();
    const locals = new LocalPool(params.length);
    emit(body.stmts, body.temps, isSnippet ? [] : params, {
      out,
      locals,
      functionIndex: indexOf,
      cpu: (w) => w.raw([0x23, 0x00]),
      uop: (w) => w.raw([0x20, 0x00]),
      field: (w, field) => {
        const { offset, load } = UOP_FIELDS[field];
        w.raw([0x20, 0x00, ...LOADS[load].code, 0x00]);
        w.u32(offset);
      },
      end: (how) => {
        out.raw([0x41, how.kind === "next" ? 0 : 1, 0x0f]);
      },
    });
    if (isSnippet || hasResult) out.u8(0x00);
    module.define(index, locals.types, out);
  };
  for (const fn of exported) module.exportFunction(fn.name, indexOf(fn));
  for (const snippet of snippets) {
    const index = module.declare({ params: ["i32"], results: ["i32"] });
    module.exportFunction(snippet.name, index);
    define(index, ["i32"], snippet.describe(), true, true);
  }
  for (let fn = pending.pop(); fn !== undefined; fn = pending.pop())
    define(indices.get(fn)!, fn.params, fn.body!(), false, fn.result !== undefined);
  const memory = new WebAssembly.Memory({ initial: MEMORY_PAGES, maximum: MEMORY_PAGES, shared: true });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.bytes()), {
    env: { ...env, memory, cpu: CPU_ADDRESS },
  });
  return {
    memory: new DataView(memory.buffer),
    bytes: new Uint8Array(memory.buffer),
    call: instance.exports as TestModule["call"],
  };
}
