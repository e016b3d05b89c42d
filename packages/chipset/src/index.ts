export * from "./apic-message.ts";
export * from "./ioapic.ts";
export * from "./irqchip.ts";
export * from "./lapic.ts";
export { LvtEntry, Shorthand } from "./lapic-registers.ts";
export type { LocalApicStateV1 } from "./lapic-state.ts";
export type { LocalApicTimerStateV1 } from "./lapic-timer.ts";
export * from "./pic8259.ts";
