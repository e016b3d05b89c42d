export * as aml from "./aml.ts";
export { type AcpiOptions, type AcpiTables, buildAcpi } from "./build.ts";
export { type PciRootOptions, pciRoot } from "./pci-root.ts";
export {
  type AcpiPlatform,
  type AcpiProcessor,
  type AcpiSerialPort,
  type AcpiTable,
  COM1,
  COM2,
  PC_PLATFORM,
} from "./platform.ts";
export * as resources from "./resources.ts";
export { table } from "./tables.ts";
