export * from "./fake-guest-memory.ts";
export * from "./guest-memory-cases.ts";
export * from "./probe-device.ts";
