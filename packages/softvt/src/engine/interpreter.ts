import { Cpu, Event } from "../cpu/layout.ts";
import { callRegion } from "../cpu/lookup.ts";
import { UOP_FIELDS } from "../cpu/uop.ts";
import { hostFunctions } from "../ir/builder.ts";
import { type EmitTarget, emit, LocalPool } from "../ir/emit.ts";
import type { Ending, Fn, Node, UopField } from "../ir/ir.ts";
import type { HandlerTable } from "../isa/handlers.ts";
import { CodeWriter, ModuleBuilder } from "../wasm/encoder.ts";
import { LOADS, type WasmType } from "../wasm/opcodes.ts";
import { afterRegionPart, LOCALS, Local, lookupPart, slowPart } from "./dispatcher.ts";
import { CALL_HANDLER, REGION_ENTRY_BITS, REGION_TABLE, REGION_WORD_OFFSET } from "./names.ts";

/**
 * Generates the tier 0 module: one function `run` with a `br_table` over the hot handlers as inline cases,
 * every other handler as a function in table 0, and the helper functions that they call.
 *
 * @param sections text of custom sections, by name.
 */
export function generateModule(
  handlers: HandlerTable,
  exported: readonly Fn[],
  sections: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder();
  for (const [name, text] of Object.entries(sections)) module.customSection(name, text);
  const indices = new Map<Fn, number>();
  const pending: Fn[] = [];
  for (const fn of hostFunctions())
    indices.set(
      fn,
      module.importFunction(fn.name, {
        params: fn.params,
        results: fn.result === undefined ? [] : [fn.result],
      }),
    );
  const functionIndex = (fn: Fn): number => {
    const known = indices.get(fn);
    if (known !== undefined) return known;
    const signature = { params: fn.params, results: fn.result === undefined ? [] : [fn.result] };
    const index = module.declare(signature, fn.name);
    indices.set(fn, index);
    pending.push(fn);
    return index;
  };

  const run = module.declare({ params: ["i32"], results: ["i32"] }, "run");
  module.exportFunction("run", run);
  const cold = handlers.list.slice(handlers.hotCount).map((handler) => ({
    handler,
    index: module.declare({ params: ["i32"], results: ["i32"] }, handler.name),
  }));
  module.table = cold.map(({ index }) => index);
  module.openTable = REGION_TABLE;
  const callHandler = module.declare({ params: ["i32", "i32"], results: ["i32"] }, CALL_HANDLER);
  module.exportFunction(CALL_HANDLER, callHandler);
  emitCallHandler(module, callHandler, handlers.hotCount);
  indices.set(callRegion, module.declare({ params: ["i32", "i32"], results: ["i32"] }, callRegion.name));
  emitCallRegion(module, indices.get(callRegion)!);
  for (const fn of exported) module.exportFunction(fn.name, functionIndex(fn));

  emitRun(module, run, handlers, functionIndex);
  for (const { handler, index } of cold) {
    const { stmts, temps } = handler.describe();
    const code = new Code(["i32"], functionIndex);
    // The micro-op's address is the parameter; descriptions do not know it as a temp.
    emit(
      stmts,
      temps,
      [],
      code.target((how, _depth, value) => endFunction(code, how, value)),
    );
    code.out.u8(0x00);
    code.define(module, index);
  }
  for (let fn = pending.pop(); fn !== undefined; fn = pending.pop()) {
    const body = fn.body!();
    const code = new Code(fn.params, functionIndex);
    emit(
      body.stmts,
      body.temps,
      fn.params,
      code.target(() => {
        throw new Error(`${fn?.name}: a function cannot end an instruction`);
      }),
    );
    if (fn.result !== undefined) code.out.u8(0x00);
    code.define(module, indices.get(fn)!);
  }
  // Compiled regions call what the interpreter's cases call.
  for (const [fn, index] of indices)
    if (fn.body !== undefined && !exported.includes(fn)) module.exportFunction(fn.name, index);
  return module.bytes();
}

/** Code of one function under construction, with the vCPU block's address in a local of its own. */
class Code {
  readonly out = new CodeWriter();
  readonly locals: LocalPool;
  readonly #functionIndex: (fn: Fn) => number;
  readonly cpuLocal: number;
  readonly #fixed: readonly WasmType[];
  uopLocal = 0;

  /** `params`: the function's; `fixed`: locals with fixed numbers behind them. */
  constructor(
    params: readonly WasmType[],
    functionIndex: (fn: Fn) => number,
    fixed: readonly WasmType[] = ["i32"],
    cpuLocal = params.length,
  ) {
    this.#functionIndex = functionIndex;
    this.#fixed = fixed;
    this.cpuLocal = cpuLocal;
    this.locals = new LocalPool(params.length + fixed.length);
    this.out.raw([0x23, 0x00, 0x21]);
    this.out.u32(this.cpuLocal);
  }

  target(end: EmitTarget["end"]): EmitTarget {
    return {
      out: this.out,
      locals: this.locals,
      functionIndex: this.#functionIndex,
      cpu: (out) => {
        out.u8(0x20);
        out.u32(this.cpuLocal);
      },
      uop: (out) => {
        out.u8(0x20);
        out.u32(this.uopLocal);
      },
      field: (out: CodeWriter, field: UopField) => {
        const { offset, load } = UOP_FIELDS[field];
        out.u8(0x20);
        out.u32(this.uopLocal);
        out.raw(LOADS[load].code);
        out.u8(0);
        out.u32(offset);
      },
      end,
    };
  }

  get(local: number): void {
    this.out.u8(0x20);
    this.out.u32(local);
  }
  set(local: number): void {
    this.out.u8(0x21);
    this.out.u32(local);
  }
  tee(local: number): void {
    this.out.u8(0x22);
    this.out.u32(local);
  }
  i32(value: number): void {
    this.out.u8(0x41);
    this.out.s32(value);
  }
  op(code: number): void {
    this.out.u8(code);
  }
  br(depth: number): void {
    this.out.u8(0x0c);
    this.out.u32(depth);
  }
  /** Stores what `value` pushes into an i32 (or i64) field of the vCPU block. */
  storeCpu(field: number, value: () => void, wide = false): void {
    this.get(this.cpuLocal);
    value();
    this.out.u8(wide ? 0x37 : 0x36);
    this.out.u8(0);
    this.out.u32(field);
  }
  loadI32(offset: number): void {
    this.out.raw([0x28, 0x00]);
    this.out.u32(offset);
  }

  define(module: ModuleBuilder, index: number): void {
    module.define(index, [...this.#fixed, ...this.locals.types], this.out);
  }
}

const ADD = 0x6a;
const SUB = 0x6b;
const EQZ = 0x45;
const LT_S = 0x48;
const AND = 0x71;
const SHR_U = 0x76;
const OR = 0x72;
const RETURN = 0x0f;

const REGION_SIGNATURE = { params: ["i32", "i32"], results: ["i32"] } as const;

/** (handler, micro-op) → result. */
function emitCallHandler(module: ModuleBuilder, index: number, hotCount: number): void {
  const out = new CodeWriter();
  out.raw([0x20, 0x01, 0x20, 0x00, 0x41]);
  out.s32(hotCount);
  out.raw([SUB, 0x11]);
  out.u32(module.typeIndex({ params: ["i32"], results: ["i32"] }));
  out.u8(0x00);
  module.define(index, [], out);
}

/** Pushes the entry's number and the place in the table that a `region` micro-op holds, and calls. */
function callBy(out: CodeWriter, uopLocal: number, type: number): void {
  const word = (): void => {
    out.raw([0x20, uopLocal, 0x28, 0x00]);
    out.u32(REGION_WORD_OFFSET);
    out.u8(0x41);
  };
  word();
  out.s32((1 << REGION_ENTRY_BITS) - 1);
  out.u8(AND);
  word();
  out.s32(REGION_ENTRY_BITS);
  out.raw([SHR_U, 0x11]);
  out.u32(type);
  out.u8(0x01);
}

function emitCallRegion(module: ModuleBuilder, index: number): void {
  const out = new CodeWriter();
  out.raw([0x20, 0x00]);
  callBy(out, 1, module.typeIndex(REGION_SIGNATURE));
  module.define(index, [], out);
}

/** Ends a handler that is a function of its own: it returns the next micro-op, or 0 to leave. */
function endFunction(code: Code, how: Ending, value: (node: Node) => void): void {
  switch (how.kind) {
    case "next":
    case "skip":
      code.get(0);
      code.i32(how.kind === "next" ? 16 : 32);
      code.op(ADD);
      break;
    case "jump":
    case "branch":
    case "lookup":
      code.storeCpu(Cpu.RIP, () => value(how.rip), true);
      code.storeCpu(Cpu.EVENT, () => code.i32(how.kind === "lookup" ? Event.LOOKUP : Event.BRANCH));
      code.i32(0);
      break;
    case "leave":
      code.i32(0);
      break;
    case "goto":
    case "region":
    case "edge":
    case "part":
      // The dispatcher accounts for a jump within micro-ops: only inline cases can make one.
      throw new Error(`a handler that is a function cannot end by ${how.kind}`);
  }
  code.op(RETURN);
}

/** Labels around the cases, by distance from them; behind these come `slow` and `exit`. */
const LEAVE = 0;
const DISPATCH = 1;
const LOOKUP = 2;
const SLOW = 3;

function emitRun(
  module: ModuleBuilder,
  index: number,
  handlers: HandlerTable,
  functionIndex: (fn: Fn) => number,
): void {
  // Local 0 is the budget; LOCALS[1..] follow, with CPU at its own place among them.
  const code = new RunCode(functionIndex);
  const region = { type: module.typeIndex(REGION_SIGNATURE), handler: handlers.special.region };
  const { out } = code;
  code.get(Local.BUDGET);
  code.set(Local.LEFT);
  const part = (depthOf: Record<string, number>) =>
    code.target((how, depth) => {
      if (how.kind !== "part") throw new Error(`the dispatcher cannot end by ${how.kind}`);
      code.br(depth + depthOf[how.part]!);
    });
  out.raw([0x02, 0x40, 0x03, 0x40]); // exit, slow
  const slow = slowPart();
  // A step goes to the dispatch loop past the look-up: STEPPING is 2 then, and 1 while it runs.
  out.raw([0x02, 0x40]);
  emit(slow.stmts, slow.temps, LOCALS, part({ slow: 1, dispatch: 0, exit: 2 }));
  out.u8(0x0b);
  out.raw([0x03, 0x40]); // lookup
  out.raw([0x02, 0x40]);
  code.get(Local.STEPPING);
  code.i32(2);
  code.op(0x46);
  out.raw([0x04, 0x40]);
  code.i32(1);
  code.set(Local.STEPPING);
  code.br(1);
  out.u8(0x0b);
  const lookup = lookupPart();
  emit(lookup.stmts, lookup.temps, LOCALS, part({ dispatch: 0, slow: 2, exit: 3 }));
  out.u8(0x0b);
  out.raw([0x03, 0x40]); // dispatch
  out.raw([0x02, 0x40]); // leave
  const count = handlers.hotCount;
  for (let i = 0; i <= count; i++) out.raw([0x02, 0x40]);
  code.get(Local.UOP);
  out.raw([0x2f, 0x00, 0x00]);
  out.u8(0x0e);
  out.u32(count);
  for (let i = 0; i <= count; i++) out.u32(i);
  for (let i = 0; i < count; i++) {
    out.u8(0x0b);
    const open = count - i;
    const { stmts, temps } = handlers.list[i]!.describe();
    emit(
      stmts,
      temps,
      [],
      code.target((how, depth, value) => endCase(code, how, depth + open, region, value)),
    );
  }
  out.u8(0x0b);
  // The long tail: a call by table, whose result is the next micro-op.
  code.get(Local.UOP);
  code.get(Local.UOP);
  out.raw([0x2f, 0x00, 0x00]);
  code.i32(count);
  code.op(SUB);
  out.u8(0x11);
  out.u32(module.typeIndex({ params: ["i32"], results: ["i32"] }));
  out.u8(0x00);
  const next = code.scratch;
  code.tee(next);
  out.raw([0x04, 0x40]);
  code.get(next);
  code.set(Local.UOP);
  code.br(1 + DISPATCH);
  out.u8(0x0b);
  out.u8(0x0b); // leave
  code.get(Local.LIMIT);
  code.get(Local.UOP);
  code.op(SUB);
  code.set(Local.LEFT);
  code.br(2); // slow: dispatch 0, lookup 1
  out.raw([0x0b, 0x0b, 0x0b, 0x0b]);
  code.get(Local.CPU);
  code.loadI32(Cpu.EXIT_REASON);
  module.define(index, [...LOCALS.slice(1), ...code.locals.types], out);
}

/** The function `run`: like any code, but its vCPU local stands among the dispatcher's. */
class RunCode extends Code {
  readonly scratch: number;
  constructor(functionIndex: (fn: Fn) => number) {
    super(["i32"], functionIndex, LOCALS.slice(1), Local.CPU);
    this.uopLocal = Local.UOP;
    this.scratch = this.locals.take("i32");
  }
}

/** Ends an inline case; `base` is the distance to the label LEAVE. */
function endCase(
  code: Code,
  how: Ending,
  base: number,
  region: { readonly type: number; readonly handler: number },
  value: (node: Node) => void,
): void {
  /** LEFT = LIMIT - UOP - bytes. */
  const account = (bytes: number): void => {
    code.get(Local.LIMIT);
    code.get(Local.UOP);
    code.op(SUB);
    if (bytes > 0) {
      code.i32(bytes);
      code.op(SUB);
    }
  };
  switch (how.kind) {
    case "next":
    case "skip":
      code.get(Local.UOP);
      code.i32(how.kind === "next" ? 16 : 32);
      code.op(ADD);
      code.set(Local.UOP);
      code.br(base + DISPATCH);
      return;
    case "leave":
      code.br(base + LEAVE);
      return;
    case "branch":
    case "lookup":
      value(how.rip);
      code.set(Local.RIP);
      account(how.kind === "branch" ? 16 * (how.slots ?? 1) : 0);
      code.set(Local.LEFT);
      code.br(base + LOOKUP);
      return;
    case "goto": {
      account(0);
      code.set(Local.LEFT);
      value(how.to);
      code.tee(Local.UOP);
      code.get(Local.LEFT);
      code.op(ADD);
      code.set(Local.LIMIT);
      code.br(base + DISPATCH);
      return;
    }
    case "jump": {
      const to = code.locals.take("i32");
      const link = code.locals.take("i32");
      value(how.link);
      code.tee(link);
      code.loadI32(0);
      code.tee(to);
      code.op(EQZ);
      account(16 * (how.slots ?? 1));
      code.tee(Local.LEFT);
      code.i32(0);
      code.op(LT_S);
      code.op(OR);
      code.out.raw([0x04, 0x40]);
      code.storeCpu(Cpu.LINK, () => code.get(link));
      value(how.rip);
      code.set(Local.RIP);
      code.br(base + 1 + LOOKUP);
      code.out.u8(0x0b);
      code.get(to);
      code.tee(Local.UOP);
      code.get(Local.LEFT);
      code.op(ADD);
      code.set(Local.LIMIT);
      code.br(base + DISPATCH);
      code.locals.release("i32", to);
      code.locals.release("i32", link);
      return;
    }
    case "region": {
      account(0);
      code.set(Local.LEFT);
      code.out.raw([0x03, 0x40]);
      code.storeCpu(Cpu.REGION_STALE, () => code.i32(0));
      code.get(Local.LEFT);
      callBy(code.out, Local.UOP, region.type);
      code.set(Local.LEFT);
      const after = afterRegionPart(region.handler);
      const depths = {
        region: 0,
        dispatch: 1 + DISPATCH,
        lookup: 1 + LOOKUP,
        slow: 1 + SLOW,
        exit: 1 + SLOW + 1,
      };
      const parts = code.target((how, depth) => {
        if (how.kind !== "part") throw new Error(`the dispatcher cannot end by ${how.kind}`);
        code.br(depth + depths[how.part] + (how.part === "region" ? 0 : base));
      });
      emit(after.stmts, after.temps, LOCALS, parts);
      code.out.u8(0x0b);
      return;
    }
    case "edge":
    case "part":
      throw new Error(`an inline case cannot end by ${how.kind}`);
  }
}
