/** What a local APIC saves, and the check of what it is given back. */

import { StateReader } from "@skep/vcpu";
import {
  APIC_BASE,
  DFR_RESERVED,
  ESR,
  HIGH_BYTE,
  ICR,
  LVT,
  LVT_ENTRIES,
  LvtEntry,
} from "./lapic-registers.ts";
import { LocalApicTimer, type LocalApicTimerStateV1 } from "./lapic-timer.ts";

export interface LocalApicStateV1 {
  kind: "lapic";
  version: 1;
  /** IA32_APIC_BASE. */
  apicBase: bigint;
  tpr: number;
  ldr: number;
  dfr: number;
  svr: number;
  esr: number;
  /** Errors since ESR was last written, and whether their interrupt has been raised. */
  errors: number;
  errorRaised: boolean;
  icrLow: number;
  icrHigh: number;
  /** CMCI, timer, thermal, performance, LINT0, LINT1, error. */
  lvt: number[];
  isr: number[];
  tmr: number[];
  irr: number[];
  /** An ExtINT message waits for its INTA cycle. */
  extInt: boolean;
  lint0: boolean;
  lint1: boolean;
  timer: LocalApicTimerStateV1;
}

/** Bits that an APIC's registers can hold, by the features that it offers. */
export interface LocalApicBits {
  readonly base: bigint;
  readonly svr: number;
  readonly lvt: readonly number[];
}

const ERRORS = ESR.SEND_ILLEGAL_VECTOR | ESR.RECEIVE_ILLEGAL_VECTOR | ESR.ILLEGAL_REGISTER;

/**
 * Checks a saved state and gives a clean copy, bits that the registers do not have dropped.
 * @throws StateError where it is not one that an APIC with these bits can have.
 */
export function parseLocalApicState(state: unknown, bits: LocalApicBits): LocalApicStateV1 {
  const from = new StateReader(state, "lapic", 1);
  const apicBase = from.u64("apicBase");
  const invalidMode = (apicBase & (APIC_BASE.EXTD | APIC_BASE.ENABLED)) === APIC_BASE.EXTD;
  from.check("apicBase", (apicBase & ~bits.base) === 0n && !invalidMode, "a valid IA32_APIC_BASE");
  const lvt = from.uints("lvt", LVT_ENTRIES, 0x7_ffff).map((value, entry) => {
    const remote = entry === LvtEntry.LINT0 ? LVT.REMOTE_IRR : 0;
    return value & (bits.lvt[entry]! | remote);
  });
  const vectors = (field: string): number[] => {
    const words = from.uints(field, 8, 0xffff_ffff);
    from.check(field, (words[0]! & 0xffff) === 0, "no vector below 16");
    return words;
  };
  return {
    kind: "lapic",
    version: 1,
    apicBase,
    tpr: from.uint("tpr", 0xff),
    ldr: (from.uint("ldr", 0xffff_ffff) & HIGH_BYTE) >>> 0,
    dfr: (from.uint("dfr", 0xffff_ffff) | DFR_RESERVED) >>> 0,
    svr: from.uint("svr", 0xffff) & bits.svr,
    esr: from.uint("esr", 0xff) & ERRORS,
    errors: from.uint("errors", 0xff) & ERRORS,
    errorRaised: from.boolean("errorRaised"),
    icrLow: from.uint("icrLow", 0xffff_ffff) & ICR.WRITABLE,
    icrHigh: from.uint("icrHigh", 0xffff_ffff),
    lvt,
    isr: vectors("isr"),
    tmr: vectors("tmr"),
    irr: vectors("irr"),
    extInt: from.boolean("extInt"),
    lint0: from.boolean("lint0"),
    lint1: from.boolean("lint1"),
    timer: LocalApicTimer.parse(from.unknown("timer")),
  };
}
