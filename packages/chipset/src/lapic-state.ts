/** The check of what a local APIC is given back. */

import { type LocalApicStateV1, parseLocalApicState, StateReader } from "@skep/vcpu";
import { DFR_RESERVED, ESR, HIGH_BYTE, ICR, LVT, LvtEntry } from "./lapic-registers.ts";
import { DIVIDE_MASK } from "./lapic-timer.ts";

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
export function checkLocalApicState(state: unknown, bits: LocalApicBits): LocalApicStateV1 {
  const saved = parseLocalApicState(state);
  const { apicBase, timer } = saved;
  if ((apicBase & ~bits.base) !== 0n) {
    throw new StateReader(state, "lapic").error(
      "apicBase",
      "an IA32_APIC_BASE that this APIC can have",
      apicBase,
    );
  }
  const lvt = saved.lvt.map((value, entry) => {
    const remote = entry === LvtEntry.LINT0 ? LVT.REMOTE_IRR : 0;
    return value & (bits.lvt[entry]! | remote);
  });
  return {
    ...saved,
    ldr: (saved.ldr & HIGH_BYTE) >>> 0,
    dfr: (saved.dfr | DFR_RESERVED) >>> 0,
    svr: saved.svr & bits.svr,
    esr: saved.esr & ERRORS,
    errors: saved.errors & ERRORS,
    icrLow: saved.icrLow & ICR.WRITABLE,
    lvt,
    timer: { ...timer, divideConfig: timer.divideConfig & DIVIDE_MASK },
  };
}
