import "../isa/index.ts";
import { SkepError } from "@skep/vcpu";
import { arithmeticFlags, writeFlags } from "../cpu/flags.ts";
import { updateMode } from "../cpu/mode.ts";
import { dropWriteTags, flushNtlb, flushTlb } from "../cpu/paging.ts";
import { updateSse } from "../cpu/sse-state.ts";
import { buildHandlers, type HandlerTable } from "../isa/handlers.ts";
import { FINGERPRINT_SECTION, fingerprint } from "./fingerprint.ts";
import { generateModule } from "./interpreter.ts";
import { PREBUILT } from "./prebuilt.ts";

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

/**
 * The engine's WebAssembly module does not belong to the TypeScript around it: one of them is of another
 * build. Code `ENGINE_MISMATCH`.
 */
export class EngineMismatchError extends SkepError {
  constructor(expected: string, actual: string) {
    super(
      "ENGINE_MISMATCH",
      `the engine's module: expected one generated from descriptions ${expected}, this one is from ${actual}; ` +
        "build @skep/softvt again",
    );
  }
}

const EXPORTED = [updateSse, flushTlb, flushNtlb, dropWriteTags, updateMode, arithmeticFlags, writeFlags];

/** The module's bytes, generated from the descriptions. About a second's work: builds do it ahead of time. */
export function generateEngine(handlers: HandlerTable = buildHandlers()): Uint8Array<ArrayBuffer> {
  return generateModule(handlers, EXPORTED, { [FINGERPRINT_SECTION]: fingerprint(handlers) });
}

let loaded: Promise<EngineCode> | undefined;

/**
 * The engine's compiled code, one for the process.
 *
 * @throws EngineMismatchError where the module that was built ahead of time is not of these sources.
 */
export function loadEngine(): Promise<EngineCode> {
  loaded ??= PREBUILT === undefined ? compileEngine() : compileEngine(inflate(PREBUILT));
  return loaded;
}

/**
 * Compiles the engine: from `bytes`, or from what the descriptions give.
 *
 * @throws EngineMismatchError where `bytes` were generated from other descriptions.
 */
export async function compileEngine(bytes?: Promise<Uint8Array<ArrayBuffer>>): Promise<EngineCode> {
  const handlers = buildHandlers();
  const module = await WebAssembly.compile(bytes === undefined ? generateEngine(handlers) : await bytes);
  const expected = fingerprint(handlers);
  const [section] = WebAssembly.Module.customSections(module, FINGERPRINT_SECTION);
  const actual = section === undefined ? "unknown ones" : new TextDecoder().decode(section);
  if (actual !== expected) throw new EngineMismatchError(expected, actual);
  return { handlers, module };
}

/** The bytes of base64 text that hold a deflate stream. */
async function inflate(base64: string): Promise<Uint8Array<ArrayBuffer>> {
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const { readable, writable } = new DecompressionStream("deflate-raw");
  // Not `new Response(...)`: loading fetch costs Node 20 ms.
  const writer = writable.getWriter();
  const written = writer.write(packed).then(() => writer.close());
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = readable.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
  }
  await written;
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
