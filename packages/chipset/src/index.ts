export * from "./layout.ts";
export * from "./pit8254.ts";
export * from "./port61.ts";
