export { createKvmEngine, type KvmOptions } from "./engine.ts";
export { KvmError, type KvmExitDetails, KvmExitError, KvmThreadError } from "./errors.ts";
export type { Doorbell, DoorbellRange, IrqFd } from "./event-fds.ts";
export { HostMemory } from "./host-memory.ts";
export { KvmIrqChip, type KvmIrqChipStateV1, type KvmLocalApicStateV1 } from "./irqchip.ts";
export { type MemorySlot, MemorySlots } from "./memory-slots.ts";
export { KvmVm, type KvmVmSettings } from "./vm.ts";
