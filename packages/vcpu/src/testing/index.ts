export * from "./fake-engine.ts";
export * from "./fake-platform.ts";
