/** Interprocessor interrupts: what a write of the interrupt command register asks for (SDM Vol. 3A sec. 11.6.1). */
import { type ApicMessage, DeliveryMode } from "./apic-message.ts";
import { FIRST_VECTOR, ICR, Shorthand } from "./lapic-registers.ts";

export type IpiCommand =
  /** Nothing: a combination that table 11-3 calls invalid, or a level that is de-asserted. */
  | { readonly kind: "none" }
  /** An error: a vector that is an exception's. */
  | { readonly kind: "illegal" }
  | { readonly kind: "self"; readonly vector: number }
  /** `shorthand` (`Shorthand`) replaces the message's destination unless NONE. */
  | { readonly kind: "send"; readonly message: ApicMessage; readonly shorthand: number };

/** @param wide in x2APIC mode: destinations have 32 bits. */
export function decodeIcr(low: number, high: number, wide: boolean): IpiCommand {
  const mode = (low >>> ICR.MODE_SHIFT) & 7;
  const vector = low & 0xff;
  const shorthand = (low >>> ICR.SHORTHAND_SHIFT) & 3;
  // A level de-assertion only synchronised arbitration IDs, before the Pentium 4; everything else is sent
  // as an edge (table 11-3).
  if ((low & ICR.LEVEL) !== 0 && (low & ICR.ASSERT) === 0) return { kind: "none" };
  const fixed = mode === DeliveryMode.FIXED;
  // Self and all-including-self go with fixed delivery only (table 11-3); there is no ExtINT IPI.
  if ((shorthand === Shorthand.SELF || shorthand === Shorthand.ALL) && !fixed) return { kind: "none" };
  if (mode === DeliveryMode.EXTINT) return { kind: "none" };
  if (shorthand === Shorthand.SELF) return { kind: "self", vector };
  if ((fixed || mode === DeliveryMode.LOWEST_PRIORITY) && vector < FIRST_VECTOR) return { kind: "illegal" };
  const destination = wide ? high : high >>> 24;
  const logical = (low & ICR.LOGICAL) !== 0;
  return {
    kind: "send",
    message: { destination, logical, wide, mode, vector, level: false },
    shorthand,
  };
}
