export { type ApicMessage, DeliveryMode, decodeMsi } from "./apic-message.ts";
export { IOAPIC_PINS, IoApic, type IoApicOptions, type IoApicStateV1 } from "./ioapic.ts";
export { IrqChip, type IrqChipOptions, type IrqChipStateV1 } from "./irqchip.ts";
export { EXTINT, LocalApic, type LocalApicHost, type LocalApicOptions } from "./lapic.ts";
export { LvtEntry, Shorthand } from "./lapic-registers.ts";
export type { LocalApicStateV1 } from "./lapic-state.ts";
export type { LocalApicTimerStateV1 } from "./lapic-timer.ts";
export * from "./layout.ts";
export { Pic8259, type Pic8259ChipStateV1, type Pic8259StateV1 } from "./pic8259.ts";
