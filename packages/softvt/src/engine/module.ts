import type { DecodeTable } from "../isa/table.ts";
import { enableBranchHints } from "./branch-hints.ts";
import { engineBytes } from "./bytes.ts";
import { readDecodeTable } from "./sections.ts";

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
  /** Arena address of the code at `rip`, 0 where the TLB does not have it. */
  codeAddress(rip: bigint): number;
  /** Compiled regions: functions of (budget left, entry) that return the budget left. */
  readonly regions: WebAssembly.Table;
}

export interface EngineCode {
  readonly table: DecodeTable;
  readonly module: WebAssembly.Module;
}

/**
 * Compiles the engine's module.
 *
 * @throws EngineMismatchError where it was generated for another build of this package.
 */
export async function compileEngine(bytes: Uint8Array<ArrayBuffer>): Promise<EngineCode> {
  const module = await WebAssembly.compile(bytes);
  return { table: readDecodeTable(module), module };
}

let loaded: Promise<EngineCode> | undefined;

/** The engine's compiled code, one for the process. */
export function loadEngine(): Promise<EngineCode> {
  if (loaded === undefined) {
    enableBranchHints();
    loaded = engineBytes().then(compileEngine);
  }
  return loaded;
}
