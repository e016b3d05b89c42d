/** CPUID in a saved VM: a processor does not change under a running system. */
import type { CpuidResult } from "./cpuid.ts";
import { CPUID_FEATURE_WORDS, type CpuidRegister } from "./cpuid-features.ts";
import { StateReader } from "./state-reader.ts";

export interface CpuidLeaf extends CpuidResult {
  leaf: number;
  subleaf: number;
}

/** CPUID as a saved VM's guest has seen it on vCPU 0: leaves in order, subleaves beyond the first where they say something. */
export interface CpuidStateV1 {
  kind: "cpuid";
  version: 1;
  leaves: CpuidLeaf[];
}

/** @throws StateError naming the first register of `state` that is not what `leaves` have. */
export function checkCpuidState(state: unknown, leaves: readonly CpuidLeaf[]): void {
  const reader = new StateReader(state, "cpuid", 1);
  const saved = reader.unknown("leaves");
  if (!Array.isArray(saved)) throw reader.error("leaves", "an array", saved);
  const key = (entry: { leaf?: unknown; subleaf?: unknown } | null): string =>
    `${entry?.leaf}.${entry?.subleaf}`;
  const before = new Map(saved.map((entry) => [key(entry), entry as Partial<CpuidLeaf>]));
  const here = new Map(leaves.map((entry) => [key(entry), entry]));
  for (const name of new Set([...here.keys(), ...before.keys()])) {
    for (const register of ["eax", "ebx", "ecx", "edx"] as const) {
      const [ours, theirs] = [here.get(name)?.[register] ?? 0, before.get(name)?.[register] ?? 0];
      if (ours === theirs) continue;
      const [leaf, subleaf] = name.split(".").map(Number) as [number, number];
      const place = `leaves[0x${leaf.toString(16)}.${subleaf}].${register}`;
      const flags = typeof theirs === "number" ? flagNames(leaf, subleaf, register, ours ^ theirs) : "";
      throw reader.error(place, `0x${ours.toString(16)}, which this VM has${flags}`, theirs);
    }
  }
}

/** Names of the flags in `bits` of a register, for a message. */
function flagNames(leaf: number, subleaf: number, register: CpuidRegister, bits: number): string {
  const word = CPUID_FEATURE_WORDS.find(
    (each) => each[0] === leaf && each[1] === subleaf && each[2] === register,
  );
  const names = Object.entries(word?.[3] ?? {}).flatMap(([bit, name]) =>
    (bits >>> Number(bit)) & 1 ? [name] : [],
  );
  return names.length === 0 ? "" : ` (they differ in ${names.join(", ")})`;
}
