export * from "./address-space.ts";
export * from "./arena.ts";
export * from "./bus.ts";
export type { UnclaimedAccess, UnclaimedWatcher } from "./bus-map.ts";
export { type DirtyClearedWatcher, DirtyLog, type DirtySource } from "./dirty.ts";
export type { CodeWatcher } from "./dma.ts";
export * from "./ept.ts";
export { EptEntry, type EptLevel, EptMemoryType, type EptProblem, EptViolation } from "./ept-format.ts";
export {
  ArenaError,
  GuestAddressError,
  MemoryError,
  MemoryStateError,
  type NamedRange,
  OverlapError,
} from "./errors.ts";
export * from "./guest-memory.ts";
export * from "./page-flags.ts";
export * from "./port-space.ts";
export * from "./regmap.ts";
export type { AddressSpaceStateV1, MemoryPageV1, MemoryRangeStateV1 } from "./state.ts";
