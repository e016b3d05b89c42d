/** What needs KVM, run where this host has none: on AMD's SVM as QEMU's translator emulates it. */
import { defineRigTests } from "./rig/define-tests.ts";
import { RIGS } from "./rig/plan.ts";

await defineRigTests(RIGS.svm);
