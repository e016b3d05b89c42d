export * from "./debian.ts";
