/**
 * A local APIC between the form that every engine's has and KVM's: a register page (struct kvm_lapic_state, SDM Vol. 3A
 * table 11-1) and two MSRs beside it.
 *
 * What KVM's cannot hold is refused by name: errors that ESR does not show yet, an ExtINT message, an asserted NMI wire,
 * EOI suppression and the CMCI entry where its version register does not offer them.
 *
 * The countdown is the current-count register, which the kernel works out when it is asked and goes on from when it is
 * told. One that is over is told as 0 whether or not its interrupt has been requested: it is taken as due, so that a
 * tick may come once too often, and is never lost.
 */
import { APIC_TIMER_HZ } from "../cpuid.ts";
import { type LocalApicStateV1, type LocalApicTimerStateV1, MAX_SINCE_FIRE_NS } from "../irqchip-state.ts";
import { StateReader } from "../state-reader.ts";
import { Size, Struct } from "./structs.ts";

const REG = {
  VERSION: 0x030,
  TPR: 0x080,
  LDR: 0x0d0,
  DFR: 0x0e0,
  SVR: 0x0f0,
  ISR: 0x100,
  TMR: 0x180,
  IRR: 0x200,
  ESR: 0x280,
  LVT_CMCI: 0x2f0,
  ICR_LOW: 0x300,
  ICR_HIGH: 0x310,
  LVT_TIMER: 0x320,
  TIMER_INITIAL: 0x380,
  TIMER_CURRENT: 0x390,
  TIMER_DIVIDE: 0x3e0,
} as const;
/** Registers follow each other at this distance. */
const STEP = 0x10;
const VECTOR_WORDS = 8;

/** Entries behind the timer's: thermal, performance, LINT0, LINT1, error. */
const LVT_FROM_TIMER = 6;
const LVT = { VECTOR: 0xff, MASKED: 0x1_0000, MODE_SHIFT: 17 } as const;
const TimerMode = { ONE_SHOT: 0, PERIODIC: 1 } as const;
const DIVIDE_BITS = 0xb;

const VERSION = { LAST_LVT_SHIFT: 16, EOI_SUPPRESSION: 0x100_0000 } as const;
const LAST_LVT_WITH_CMCI = 6;
const SVR_BITS = 0x13ff;
const SVR_SUPPRESS_EOI = 0x1000;
const ESR_BITS = 0xe0;
const ICR_BITS = 0xc_cfff;
const HIGH_BYTE = 0xff00_0000;
const BASE_EXTENDED = 0x400n;

/** What KVM keeps of one local APIC. */
export interface KvmLapic {
  /** `Size.LAPIC` bytes. */
  readonly page: Uint8Array;
  readonly apicBase: bigint;
  readonly tscDeadline: bigint;
}

/** @param lint0 level of the 8259s' INTR, which no register shows. */
export function lapicFromKvm({ page, apicBase, tscDeadline }: KvmLapic, lint0: boolean): LocalApicStateV1 {
  const registers = new Struct(page);
  const words = (at: number): number[] =>
    Array.from({ length: VECTOR_WORDS }, (_, i) => registers.u32(at + STEP * i));
  const isExtended = (apicBase & BASE_EXTENDED) !== 0n;
  return {
    kind: "lapic",
    version: 1,
    apicBase,
    tpr: registers.u32(REG.TPR) & 0xff,
    ldr: isExtended ? 0 : (registers.u32(REG.LDR) & HIGH_BYTE) >>> 0,
    dfr: (registers.u32(REG.DFR) | ~HIGH_BYTE) >>> 0,
    svr: registers.u32(REG.SVR) & SVR_BITS,
    esr: registers.u32(REG.ESR) & ESR_BITS,
    errors: 0,
    errorRaised: false,
    icrLow: registers.u32(REG.ICR_LOW) & ICR_BITS,
    icrHigh: registers.u32(REG.ICR_HIGH),
    lvt: [
      hasCmci(registers) ? registers.u32(REG.LVT_CMCI) : LVT.MASKED,
      ...Array.from({ length: LVT_FROM_TIMER }, (_, i) => registers.u32(REG.LVT_TIMER + STEP * i)),
    ],
    isr: words(REG.ISR),
    tmr: words(REG.TMR),
    irr: words(REG.IRR),
    extInt: false,
    lint0,
    lint1: false,
    timer: timerFromKvm(registers, tscDeadline),
  };
}

/**
 * @param made the page as the kernel made it: ID and version, and what no state holds.
 * @param path of the state, for errors, such as "irqchip.lapics[0]".
 * @throws StateError naming the field that KVM's local APIC cannot hold.
 */
export function lapicToKvm(state: LocalApicStateV1, made: Uint8Array, path: string): KvmLapic {
  const page = new Uint8Array(new ArrayBuffer(Size.LAPIC));
  page.set(made);
  const registers = new Struct(page);
  checkFits(state, registers, path);
  const words = (at: number, values: readonly number[]): void =>
    values.forEach((value, i) => {
      registers.setU32(at + STEP * i, value);
    });
  registers.setU32(REG.TPR, state.tpr);
  // In x2APIC mode the kernel works it out from the ID.
  registers.setU32(REG.LDR, state.ldr);
  registers.setU32(REG.DFR, state.dfr);
  registers.setU32(REG.SVR, state.svr);
  registers.setU32(REG.ESR, state.esr);
  registers.setU32(REG.ICR_LOW, state.icrLow);
  registers.setU32(REG.ICR_HIGH, state.icrHigh);
  const [cmci, ...lvt] = state.lvt;
  if (hasCmci(registers)) registers.setU32(REG.LVT_CMCI, cmci!);
  words(REG.LVT_TIMER, lvt);
  words(REG.ISR, state.isr);
  words(REG.TMR, state.tmr);
  words(REG.IRR, state.irr);
  timerToKvm(registers, state.timer);
  return { page, apicBase: state.apicBase, tscDeadline: state.timer.deadline };
}

function checkFits(state: LocalApicStateV1, made: Struct, path: string): void {
  const from = new StateReader(state, path);
  from.check("errors", state.errors === 0, "0: KVM's local APIC logs no errors");
  from.check("extInt", !state.extInt, "false: KVM's local APIC holds no ExtINT message");
  from.check("lint1", !state.lint1, "false: KVM's local APICs have no NMI wire");
  const suppresses = (state.svr & SVR_SUPPRESS_EOI) !== 0;
  const maySuppress = (made.u32(REG.VERSION) & VERSION.EOI_SUPPRESSION) !== 0;
  from.check(
    "svr",
    !suppresses || maySuppress,
    "no EOI suppression: KVM's local APIC does not offer it here",
  );
  const isCmciUsed = state.lvt[0] !== LVT.MASKED;
  from.check("lvt", !isCmciUsed || hasCmci(made), "no CMCI entry: KVM's local APIC does not offer it here");
}

function hasCmci(registers: Struct): boolean {
  return ((registers.u32(REG.VERSION) >>> VERSION.LAST_LVT_SHIFT) & 0xff) >= LAST_LVT_WITH_CMCI;
}

function timerFromKvm(registers: Struct, deadline: bigint): LocalApicTimerStateV1 {
  const entry = registers.u32(REG.LVT_TIMER);
  const mode = (entry >>> LVT.MODE_SHIFT) & 3;
  const isCounting = mode === TimerMode.ONE_SHOT || mode === TimerMode.PERIODIC;
  const initialCount = isCounting ? registers.u32(REG.TIMER_INITIAL) : 0;
  const current = registers.u32(REG.TIMER_CURRENT);
  const divideConfig = registers.u32(REG.TIMER_DIVIDE) & DIVIDE_BITS;
  const vector = entry & LVT.VECTOR;
  const isRequested = ((registers.u32(REG.IRR + STEP * (vector >>> 5)) >>> (vector & 31)) & 1) !== 0;
  const isDue = initialCount !== 0 && current === 0 && (entry & LVT.MASKED) === 0 && !isRequested;
  return {
    kind: "lapic-timer",
    version: 1,
    initialCount,
    divideConfig,
    startCount:
      initialCount === 0 ? 0 : isDue || mode === TimerMode.PERIODIC ? Math.max(1, current) : current,
    elapsedNs: isDue ? tickNs(divideConfig) : 0,
    sinceFireNs: MAX_SINCE_FIRE_NS,
    deadline: isCounting ? 0n : deadline,
  };
}

function timerToKvm(registers: Struct, timer: LocalApicTimerStateV1): void {
  const { initialCount, divideConfig, startCount, elapsedNs } = timer;
  const isMasked = (registers.u32(REG.LVT_TIMER) & LVT.MASKED) !== 0;
  // The kernel takes a count of 0 for one that is due.
  const left = startCount === 0 ? 0 : Math.max(1, startCount - Math.floor(elapsedNs / tickNs(divideConfig)));
  registers.setU32(REG.TIMER_DIVIDE, divideConfig & DIVIDE_BITS);
  registers.setU32(REG.TIMER_CURRENT, left);
  registers.setU32(REG.TIMER_INITIAL, left === 0 && !isMasked ? 0 : initialCount);
}

/** One tick of the counter, in ns. Divide configuration's bits 3, 1, 0 as a number: 0 is 2, 1 is 4, … 6 is 128, 7 is 1. */
function tickNs(divideConfig: number): number {
  const code = ((divideConfig >>> 1) & 4) | (divideConfig & 3);
  return ((code === 7 ? 1 : 2 << code) * 1e9) / APIC_TIMER_HZ;
}
