import { bochsVtx } from "./bochs-vtx.ts";
import type { ScriptName } from "./guest/scripts.ts";
import type { RigMachine } from "./machine.ts";
import { qemuSvm } from "./qemu-svm.ts";

export interface Rig {
  readonly machine: RigMachine;
  /** What it runs, in order. */
  readonly scripts: readonly ScriptName[];
  /** Many times what it takes on a quiet machine. */
  readonly timeoutSeconds: number;
}

export const RIGS: Readonly<Record<"svm" | "vtx", Rig>> = {
  svm: {
    machine: qemuSvm,
    scripts: ["smoke", "conformance-svm", "kvm", "linux", "two-engines"],
    timeoutSeconds: 1800,
  },
  vtx: { machine: bochsVtx, scripts: ["smoke", "conformance-vtx"], timeoutSeconds: 3600 },
};
