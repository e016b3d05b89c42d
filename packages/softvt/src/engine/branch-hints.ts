/** Up to here V8 takes branch hints by a flag alone: Node 20, 22 and 24. */
const LAST_V8_WITH_FLAG = 13;
const FLAG = "--experimental-wasm-branch-hinting";

interface NodeProcess {
  readonly versions?: { readonly v8?: string };
  /** From Node 20.16 on. */
  getBuiltinModule?(name: "v8"): { setFlagsFromString(flags: string): void };
}

/**
 * Has V8 heed what the engine's modules say of branches (custom section `metadata.code.branch_hint`) where it does so
 * only by a flag, which then holds for the whole process. A memory access that misses the TLB calls a function, and
 * a call keeps nothing in registers: without the hints V8 stores values on the way that is nearly always taken, too.
 * Outside of Node nothing happens.
 */
export function enableBranchHints(): void {
  const { process } = globalThis as { readonly process?: NodeProcess };
  const version = Number.parseInt(process?.versions?.v8 ?? "", 10);
  if (version <= LAST_V8_WITH_FLAG) process?.getBuiltinModule?.("v8").setFlagsFromString(FLAG);
}
