/** What needs KVM, run where this host has none: on Intel's VT-x as Bochs emulates it. */
import { defineRigTests } from "./rig/define-tests.ts";
import { RIGS } from "./rig/plan.ts";

await defineRigTests(RIGS.vtx);
