export { createKvmEngine, type KvmOptions } from "./engine.ts";
export { KvmError, type KvmExitDetails, KvmExitError, KvmThreadError } from "./errors.ts";
export { KvmIrqChip, type KvmIrqChipStateV1, type KvmLocalApicStateV1 } from "./irqchip.ts";
export { type MemorySlot, MemorySlots } from "./memory-slots.ts";
