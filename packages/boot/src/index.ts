export * from "./acpi/index.ts";
export * from "./e820.ts";
export { BootError, type BootErrorCode } from "./errors.ts";
export * from "./initramfs/index.ts";
export * from "./layout.ts";
export * from "./linux/boot.ts";
export * from "./linux/bzimage.ts";
export * from "./linux/elf.ts";
export { type SetupData, SetupDataType } from "./linux/zero-page.ts";
