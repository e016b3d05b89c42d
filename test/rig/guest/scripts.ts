import type { RigScript } from "./case.ts";

/** Every script, loaded on demand. */
export const SCRIPTS = {
  smoke: async () => (await import("./smoke.ts")).smoke,
  faults: async () => (await import("./faults.ts")).faults,
  kvm: async () => (await import("./kvm.ts")).kvm,
  linux: async () => (await import("./linux.ts")).linux,
  "conformance-svm": async () => (await import("./conformance-svm.ts")).conformanceSvm,
  "conformance-vtx": async () => (await import("./conformance-vtx.ts")).conformanceVtx,
} as const satisfies Record<string, () => Promise<RigScript>>;
export type ScriptName = keyof typeof SCRIPTS;

export function isScriptName(name: string): name is ScriptName {
  return Object.hasOwn(SCRIPTS, name);
}
