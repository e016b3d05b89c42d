export { Bar, type BarOptions } from "./bar.ts";
export {
  DEVICES_PER_BUS,
  FUNCTIONS_PER_DEVICE,
  INTX_LINES,
  PciBus,
  type PciBusOptions,
  type PciBusStateV1,
} from "./bus.ts";
export type { RegisterMasks } from "./config-space.ts";
export {
  type CapabilityWatcher,
  PciFunction,
  type PciFunctionHost,
  type PciFunctionOptions,
  type PciFunctionStateV1,
} from "./function.ts";
export { HostBridge, type HostBridgeOptions, type HostBridgeStateV1 } from "./host-bridge.ts";
export { Msi, type MsiOptions } from "./msi.ts";
