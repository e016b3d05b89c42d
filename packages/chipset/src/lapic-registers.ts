/**
 * The local APIC's programming model (Intel SDM Vol. 3A ch. 11): register map, bits and reset constants.
 * The chip itself is in `lapic.ts`.
 */
import { LVT_ENTRIES } from "@skep/vcpu";
import { DeliveryMode } from "./apic-message.ts";

export { LVT_ENTRIES };

/** Offsets in the xAPIC page; the x2APIC MSR of a register is 0x800 + offset / 16 (table 11-6). */
export const REG = {
  ID: 0x020, // RO
  VERSION: 0x030, // RO
  TPR: 0x080, // RW  task priority
  APR: 0x090, // RO  arbitration priority; zero
  PPR: 0x0a0, // RO  processor priority
  EOI: 0x0b0, // WO
  RRD: 0x0c0, // RO  remote read; zero
  LDR: 0x0d0, // RW  logical destination; RO in x2APIC mode
  DFR: 0x0e0, // RW  destination format; xAPIC only
  SVR: 0x0f0, // RW  spurious-interrupt vector
  ISR: 0x100, // RO  in service, 8 registers
  TMR: 0x180, // RO  trigger mode, 8 registers
  IRR: 0x200, // RO  requested, 8 registers
  ESR: 0x280, // RW  error status
  LVT_CMCI: 0x2f0, // RW
  ICR_LOW: 0x300, // RW  interrupt command; 64 bits in x2APIC mode
  ICR_HIGH: 0x310, // RW  xAPIC only
  LVT_TIMER: 0x320, // RW  then thermal, performance, LINT0, LINT1
  LVT_ERROR: 0x370, // RW
  TIMER_INITIAL: 0x380, // RW
  TIMER_CURRENT: 0x390, // RO
  TIMER_DIVIDE: 0x3e0, // RW
  SELF_IPI: 0x3f0, // WO  x2APIC only
} as const;

/** Entries of the local vector table, in the order of their registers. */
export const LvtEntry = {
  CMCI: 0,
  TIMER: 1,
  THERMAL: 2,
  PERFORMANCE: 3,
  LINT0: 4,
  LINT1: 5,
  ERROR: 6,
} as const;

/** Entry whose register is at `register`, or -1. */
export function lvtEntryAt(register: number): number {
  if (register === REG.LVT_CMCI) return LvtEntry.CMCI;
  if (register < REG.LVT_TIMER || register > REG.LVT_ERROR) return -1;
  return LvtEntry.TIMER + ((register - REG.LVT_TIMER) >>> 4);
}

/** Bits of an LVT entry (fig. 11-8); the vector is bits 7:0. */
export const LVT = {
  MODE: 0x700,
  MODE_SHIFT: 8,
  /** RO, always idle. */
  DELIVERY_STATUS: 0x1000,
  /** RO: a level-triggered LINT0 interrupt waits for its EOI. */
  REMOTE_IRR: 0x4000,
  TRIGGER_LEVEL: 0x8000,
  MASKED: 0x1_0000,
  TIMER_MODE_SHIFT: 17,
  TIMER_PERIODIC: 0x2_0000,
  TIMER_DEADLINE: 0x4_0000,
} as const;

/** Bits of each LVT entry that software writes; the timer's mode bits are added by what it offers. */
export const LVT_WRITABLE = [0x1_07ff, 0x1_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/** LINT0 and LINT1 as firmware leaves them on a boot processor: the virtual wire, and NMI. */
export const LVT_VIRTUAL_WIRE = DeliveryMode.EXTINT << LVT.MODE_SHIFT;
export const LVT_NMI = DeliveryMode.NMI << LVT.MODE_SHIFT;

/** Version 0x14 (integrated APIC), highest LVT entry 6. */
export const VERSION = 0x14 | ((LVT_ENTRIES - 1) << 16);
export const VERSION_EOI_SUPPRESSION = 0x100_0000;

export const SVR = { VECTOR: 0xff, ENABLED: 0x100, FOCUS_DISABLED: 0x200, SUPPRESS_EOI: 0x1000 } as const;

export const ESR = {
  SEND_ILLEGAL_VECTOR: 0x20,
  RECEIVE_ILLEGAL_VECTOR: 0x40,
  ILLEGAL_REGISTER: 0x80,
} as const;

export const ICR = {
  MODE_SHIFT: 8,
  LOGICAL: 0x800,
  /** RO, always idle. */
  DELIVERY_STATUS: 0x1000,
  ASSERT: 0x4000,
  LEVEL: 0x8000,
  SHORTHAND_SHIFT: 18,
  WRITABLE: 0xc_cfff,
} as const;

/** ICR destination shorthands, bits 19:18. */
export const Shorthand = { NONE: 0, SELF: 1, ALL: 2, OTHERS: 3 } as const;

/** LDR and xAPIC ICR_HIGH keep bits 31:24; DFR's other bits are ones. */
export const HIGH_BYTE = 0xff00_0000;
export const DFR_RESERVED = 0x0fff_ffff;

/** Vectors below this belong to exceptions; an APIC reports them as errors (sec. 11.5.2). */
export const FIRST_VECTOR = 16;

export const MSR = { APIC_BASE: 0x1b, TSC_DEADLINE: 0x6e0, X2APIC: 0x800, X2APIC_LAST: 0x8ff } as const;

/** IA32_APIC_BASE (fig. 11-5); the rest up to the physical-address width is the page's address. */
export const APIC_BASE = { BSP: 0x100n, EXTD: 0x400n, ENABLED: 0x800n } as const;

/** Where the xAPIC page is after RESET (sec. 11.4.1). */
export const RESET_BASE = 0xfee0_0000n;
