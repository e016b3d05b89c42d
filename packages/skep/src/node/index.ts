export * from "./debian.ts";
export { yieldHelperThreads } from "./helper-threads.ts";
