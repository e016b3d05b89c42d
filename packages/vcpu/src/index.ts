export * from "./clock.ts";
export * from "./engine.ts";
export * from "./errors.ts";
export * from "./exit.ts";
export * from "./irq.ts";
export * from "./state.ts";
