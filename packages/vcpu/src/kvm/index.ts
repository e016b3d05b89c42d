export { createKvmEngine, type KvmOptions } from "./engine.ts";
export { KvmError, type KvmExitDetails, KvmExitError, KvmThreadError } from "./errors.ts";
export type { Doorbell, DoorbellRange, IrqFd } from "./event-fds.ts";
export { HostMemory } from "./host-memory.ts";
export { type KernelApics, KvmIrqChip, type KvmIrqChipOptions } from "./irqchip.ts";
export { type InterruptMessage, KvmLocalApics, type LocalApicsStateV1 } from "./local-apics.ts";
export { type MemorySlot, MemorySlots } from "./memory-slots.ts";
export { KvmVm, type KvmVmSettings } from "./vm.ts";
