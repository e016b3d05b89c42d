import { createKvmEngine } from "@skep/vcpu/kvm";
import type { KvmCaseContext } from "@skep/vcpu/kvm/testing";

/** Why KVM cannot be tried here; or what its cases need to know. */
export interface KvmHere {
  readonly missing: string | undefined;
  readonly context: KvmCaseContext;
}

const { usable, evidence } = await createKvmEngine().probe();

/** A KVM that opens and crawls is tried: it emulates. */
export const kvmHere: KvmHere = {
  missing: usable || evidence.includes("this KVM emulates") ? undefined : evidence,
  context: { engine: (options) => createKvmEngine(options), isEmulating: !usable },
};
