import type { RigScript } from "./case.ts";

/** Every script, loaded on demand. */
export const SCRIPTS = {
  smoke: async () => (await import("./smoke.ts")).smoke,
  faults: async () => (await import("./faults.ts")).faults,
  conformance: async () => (await import("./conformance.ts")).conformance,
} as const satisfies Record<string, () => Promise<RigScript>>;
export type ScriptName = keyof typeof SCRIPTS;

export function isScriptName(name: string): name is ScriptName {
  return Object.hasOwn(SCRIPTS, name);
}
