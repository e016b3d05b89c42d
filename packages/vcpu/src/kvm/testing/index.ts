import type { KvmCase } from "./case.ts";
import { errorCases } from "./error-cases.ts";
import { eventLoopCases } from "./event-loop-cases.ts";
import { interruptCases } from "./interrupt-cases.ts";
import { memoryCases } from "./memory-cases.ts";
import { runCases } from "./run-cases.ts";
import { smpCases } from "./smp-cases.ts";

export { type KvmCase, type KvmCaseContext, SkipCase } from "./case.ts";
export { KvmMachine, type KvmMachineOptions, withMachine } from "./machine.ts";
export { emulationLimit, kvmConformanceSkip } from "./skips.ts";

/** Cases of KVM's engine beyond the conformance suite, by group: plain functions, for any test framework or none. */
export const kvmCases: readonly { readonly title: string; readonly cases: readonly KvmCase[] }[] = [
  { title: "runs", cases: runCases },
  { title: "event loop", cases: eventLoopCases },
  { title: "memory", cases: memoryCases },
  { title: "interrupts", cases: interruptCases },
  { title: "several vCPUs", cases: smpCases },
  { title: "errors", cases: errorCases },
];

/** For tests of the ABI's restatement: what is written down of it, and its reader. */
export * as abi from "../abi.ts";
export { ExitReader } from "../exit-reader.ts";
export * as structs from "../structs.ts";
