export type { CaseGroup, ConformanceCase, Need } from "./case.ts";
export { type Guest, type StartMode, type StartOptions, type StopReason, startImage } from "./guest.ts";
export { type GuestEvent, Machine } from "./machine.ts";
export { processorGroups } from "./suite.ts";
