export * from "./address-space.ts";
export * from "./bus.ts";
export * from "./guest-memory.ts";
export * from "./page-flags.ts";
