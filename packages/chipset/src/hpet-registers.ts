/** Registers of the HPET (IA-PC HPET specification 1.0a, sec. 2.3) and their bits. */
import { RegisterMap, type RegisterRow } from "@skep/memory";

export const TIMER_COUNT = 3;

/** Registers, by offset (sec. 2.3); 64 bits each. */
export const HPET_REG = {
  /** RO: general capabilities and identification. */
  GCAP_ID: 0x000,
  /** RW: general configuration. */
  GEN_CONF: 0x010,
  /** RW1C: general interrupt status. */
  GINTR_STA: 0x020,
  /** RW: main counter. */
  MAIN_CNT: 0x0f0,
  /** Timer 0's block; timer n's is 0x20 × n further on. */
  TIMERS: 0x100,
  TIMER_STRIDE: 0x20,
  /** RW, in a timer's block: configuration and capabilities. */
  CONF: 0x00,
  /** RW, in a timer's block: comparator. */
  COMP: 0x08,
  /** RW, in a timer's block: message data (low half) and address (high half). */
  FSB: 0x10,
} as const;

/** Each 64-bit register as two of 32, known by their offsets. */
export const HPET_MAP = new RegisterMap<number>([
  ...wide(HPET_REG.GCAP_ID),
  [null, 8],
  ...wide(HPET_REG.GEN_CONF),
  [null, 8],
  ...wide(HPET_REG.GINTR_STA),
  [null, 0xc8],
  ...wide(HPET_REG.MAIN_CNT),
  [null, 8],
  ...Array.from({ length: TIMER_COUNT }, (_, index) => index).flatMap((index): RegisterRow<number>[] => {
    const base = HPET_REG.TIMERS + HPET_REG.TIMER_STRIDE * index;
    const registers = [HPET_REG.CONF, HPET_REG.COMP, HPET_REG.FSB];
    return [...registers.flatMap((register) => wide(base + register)), [null, 8]];
  }),
]);

function wide(offset: number): RegisterRow<number>[] {
  return [
    [offset, 4],
    [offset + 4, 4],
  ];
}

/** Low half of GCAP_ID; the high half is the counter's period in femtoseconds. */
export const GCAP_ID = {
  REV_ID: 0x0000_0001,
  /** Index of the last timer. */
  NUM_TIM_CAP_SHIFT: 8,
  COUNT_SIZE_CAP: 0x0000_2000,
  LEG_RT_CAP: 0x0000_8000,
  VENDOR_ID: 0x8086_0000,
} as const;
export const GEN_CONF = { ENABLE_CNF: 0x1, LEG_RT_CNF: 0x2 } as const;
/** Low half of a timer's configuration; the high half is INT_ROUTE_CAP, one bit an I/O APIC input. */
export const TN_CONF = {
  /** 1 is level-triggered. */
  INT_TYPE_CNF: 0x0002,
  INT_ENB_CNF: 0x0004,
  /** 1 is periodic. */
  TYPE_CNF: 0x0008,
  /** RO. */
  PER_INT_CAP: 0x0010,
  /** RO: 64 bits wide. */
  SIZE_CAP: 0x0020,
  /** WO: the next comparator write sets the accumulator too. */
  VAL_SET_CNF: 0x0040,
  /** 1 makes a 64-bit timer one of 32. */
  MODE32_CNF: 0x0100,
  INT_ROUTE_CNF: 0x3e00,
  INT_ROUTE_SHIFT: 9,
  FSB_EN_CNF: 0x4000,
  /** RO. */
  FSB_INT_DEL_CAP: 0x8000,
} as const;
