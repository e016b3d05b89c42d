export { A20Gate, type A20GateStateV1 } from "./a20.ts";
export { AcpiPm, type AcpiPmOptions, type AcpiPmStateV1, GPE_COUNT, PM_TIMER_HZ } from "./acpi-pm.ts";
export { type ApicMessage, DeliveryMode, decodeMsi } from "./apic-message.ts";
export { Hpet, type HpetStateV1, type HpetTimerStateV1, type HpetWiring } from "./hpet.ts";
export {
  I8042,
  type I8042ByteStateV1,
  type I8042Lines,
  type I8042Options,
  type I8042StateV1,
} from "./i8042.ts";
export { IOAPIC_PINS, IoApic, type IoApicOptions } from "./ioapic.ts";
export { IrqChip, type IrqChipOptions } from "./irqchip.ts";
export { EXTINT, LocalApic } from "./lapic.ts";
export type { LocalApicHost, LocalApicOptions } from "./lapic-options.ts";
export { LvtEntry, Shorthand } from "./lapic-registers.ts";
export * from "./layout.ts";
export { Pic8259 } from "./pic8259.ts";
export { PIT_HZ, Pit8254 } from "./pit8254.ts";
export { Port61, type Port61StateV1 } from "./port61.ts";
export { Port92, type Port92StateV1 } from "./port92.ts";
export type { Ps2Device } from "./ps2-device.ts";
export { Ps2Keyboard, type Ps2KeyboardStateV1 } from "./ps2-keyboard.ts";
export { Ps2Mouse, type Ps2MouseStateV1 } from "./ps2-mouse.ts";
export { ResetControl, type ResetControlStateV1, type ResetKind } from "./reset-control.ts";
export { RtcCmos, type RtcCmosOptions, type RtcCmosStateV1 } from "./rtc-cmos.ts";
export {
  type ModemOutputs,
  type ModemSignals,
  UART_FIFO_BYTES,
  Uart16550,
  type Uart16550StateV1,
  type UartBackend,
} from "./uart16550.ts";
