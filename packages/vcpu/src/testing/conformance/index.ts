export type { CaseGroup, ConformanceCase, Need } from "./case.ts";
export {
  ConformanceError,
  type Guest,
  type StartMode,
  type StartOptions,
  type StopReason,
  startImage,
} from "./guest.ts";
export { type GuestEvent, Machine } from "./machine.ts";
export {
  type ConformanceOptions,
  engineConformance,
  engineGroups,
  processorGroups,
  runCase,
  type TestFramework,
} from "./suite.ts";
