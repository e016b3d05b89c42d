export * from "./layout.ts";
export * from "./pit8254.ts";
export * from "./port61.ts";
export * from "./rtc-cmos.ts";
export * from "./uart16550.ts";
export * from "./acpi-pm.ts";
export * from "./reset-control.ts";
export * from "./hpet.ts";
