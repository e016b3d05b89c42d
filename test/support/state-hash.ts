import { createHash } from "node:crypto";
import type { MachineStateV1 } from "skep";

/** A hash of a state's values: V8's serialization tells apart where an integer is kept, which chance decides. */
export function hashOf(state: MachineStateV1): string {
  const hash = createHash("sha256");
  hash.update(JSON.stringify(state.vm, (_key, value) => (typeof value === "bigint" ? `${value}n` : value)));
  for (const { address, bytes } of state.pages) hash.update(`${address}`).update(bytes);
  return hash.digest("hex");
}
