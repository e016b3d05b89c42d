import "../isa/index.ts";
import { arithmeticFlags, writeFlags } from "../cpu/flags.ts";
import { updateMode } from "../cpu/mode.ts";
import { dropWriteTags, flushNtlb, flushTlb } from "../cpu/paging.ts";
import { updateSse } from "../cpu/sse-state.ts";
import { buildHandlers, type HandlerTable } from "../isa/handlers.ts";
import { generateModule } from "./interpreter.ts";

/** What the generated module exports. */
export interface EngineExports {
  /** Runs until an exit; `budget` in micro-op bytes (16 an instruction). Returns the basic exit reason. */
  run(budget: number): number;
  flushTlb(): void;
  flushNtlb(): void;
  dropWriteTags(page: number): void;
  updateMode(): void;
  updateSse(): void;
  arithmeticFlags(): number;
  writeFlags(flags: number): void;
}

export interface EngineCode {
  readonly handlers: HandlerTable;
  readonly module: WebAssembly.Module;
}

const EXPORTED = [updateSse, flushTlb, flushNtlb, dropWriteTags, updateMode, arithmeticFlags, writeFlags];

/** The module's bytes, generated from the descriptions. About a second's work: builds do it ahead of time. */
export function generateEngine(): { handlers: HandlerTable; bytes: Uint8Array<ArrayBuffer> } {
  const handlers = buildHandlers();
  return { handlers, bytes: generateModule(handlers, EXPORTED) };
}

let loaded: Promise<EngineCode> | undefined;

/** The engine's compiled code, one for the process. */
export function loadEngine(): Promise<EngineCode> {
  loaded ??= (async () => {
    const { handlers, bytes } = generateEngine();
    return { handlers, module: await WebAssembly.compile(bytes) };
  })();
  return loaded;
}
