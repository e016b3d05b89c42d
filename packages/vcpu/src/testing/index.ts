export * from "./conformance/index.ts";
export * from "./fake-engine.ts";
export * from "./fake-platform.ts";
