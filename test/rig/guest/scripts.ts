import type { RigCase } from "./case.ts";

type CaseList = Promise<readonly RigCase[]>;

/** Every script's cases, loaded on demand: listed anywhere, run in a rig. */
export const SCRIPTS = {
  smoke: async (): CaseList => (await import("./smoke.ts")).cases,
  faults: async (): CaseList => (await import("./faults.ts")).cases,
  kvm: async (): CaseList => (await import("./kvm.ts")).cases,
  linux: async (): CaseList => (await import("./linux.ts")).cases,
  "two-engines": async (): CaseList => (await import("./two-engines.ts")).cases,
  "conformance-svm": async (): CaseList => (await import("./conformance-svm.ts")).cases,
  "conformance-vtx": async (): CaseList => (await import("./conformance-vtx.ts")).cases,
} as const;
export type ScriptName = keyof typeof SCRIPTS;

export function isScriptName(name: string): name is ScriptName {
  return Object.hasOwn(SCRIPTS, name);
}
