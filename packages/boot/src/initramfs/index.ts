export * from "./busybox.ts";
export * from "./cpio.ts";
export * from "./exec-protocol.ts";
