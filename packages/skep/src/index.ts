export * from "./console.ts";
export * from "./create-vm.ts";
export * from "./engines.ts";
export * from "./errors.ts";
export * from "./exec.ts";
export * from "./pc.ts";
