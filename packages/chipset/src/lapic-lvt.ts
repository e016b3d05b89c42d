/**
 * The local vector table and the pins LINT0 and LINT1 (SDM Vol. 3A sec. 11.5.1): what a processor's own sources of
 * interrupts become.
 */
import { DeliveryMode } from "./apic-message.ts";
import { LVT, LVT_ENTRIES, LVT_NMI, LVT_VIRTUAL_WIRE, LVT_WRITABLE, LvtEntry } from "./lapic-registers.ts";

/** What the table sees of its local APIC. */
export interface LvtHost {
  /** Enabled by IA32_APIC_BASE. */
  readonly isEnabled: boolean;
  /** Requests a fixed interrupt. False where it was not accepted. */
  request(vector: number, level: boolean): boolean;
  /** An entry fired in a mode that has no vector: NMI or INIT. */
  accept(mode: number): void;
  /** LINT1 while the APIC is disabled: the processor's NMI pin. */
  nmi(): void;
  /** The timer's entry was written: its mode, 0 to 3, and whether it is masked. */
  configureTimer(mode: number, isMasked: boolean): void;
}

export class LocalVectorTable {
  /** Bits of each entry that software writes. */
  readonly writable: readonly number[];
  readonly #host: LvtHost;
  readonly #entries = new Uint32Array(LVT_ENTRIES);
  #lint0 = false;
  #lint1 = false;

  constructor(host: LvtHost, options: { readonly hasDeadline: boolean }) {
    this.#host = host;
    const timerModes = LVT.TIMER_PERIODIC | (options.hasDeadline ? LVT.TIMER_DEADLINE : 0);
    this.writable = LVT_WRITABLE.map((bits, entry) => bits | (entry === LvtEntry.TIMER ? timerModes : 0));
  }

  /** LINT0 asks for the 8259's interrupt: by its entry, or because the APIC is disabled and the pin is INTR. */
  get isExtIntAsserted(): boolean {
    if (!this.#lint0) return false;
    const entry = this.#entries[LvtEntry.LINT0]!;
    return !this.#host.isEnabled || (entry & (LVT.MASKED | LVT.MODE)) === LVT_VIRTUAL_WIRE;
  }

  read(entry: number): number {
    return this.#entries[entry]!;
  }

  /** @param isForced the APIC is disabled by software: the entry is masked whatever is written (sec. 11.4.7.2). */
  write(entry: number, written: number, isForced: boolean): void {
    const value = (written & this.writable[entry]!) | (isForced ? LVT.MASKED : 0);
    if (entry === LvtEntry.TIMER) this.#configureTimer(value);
    // Remote IRR belongs to level triggering and goes with it.
    const remote = (value & LVT.TRIGGER_LEVEL) !== 0 ? this.#entries[entry]! & LVT.REMOTE_IRR : 0;
    this.#entries[entry] = value | remote;
    if (entry === LvtEntry.LINT0) this.#serviceLint0();
  }

  /** Fires an entry. */
  fire(entry: number): void {
    const value = this.#entries[entry]!;
    if (!this.#host.isEnabled || (value & LVT.MASKED) !== 0) return;
    const mode = (value & LVT.MODE) >>> LVT.MODE_SHIFT;
    if (mode === DeliveryMode.FIXED) this.#host.request(value & 0xff, false);
    else if (mode === DeliveryMode.NMI || mode === DeliveryMode.INIT) this.#host.accept(mode);
    // ExtINT follows the level of LINT0 (`isExtIntAsserted`); SMI and reserved modes are dropped.
  }

  isMasked(entry: number): boolean {
    return (this.#entries[entry]! & LVT.MASKED) !== 0;
  }

  mask(entry: number): void {
    this.#entries[entry] = this.#entries[entry]! | LVT.MASKED;
  }

  setLint0(level: boolean): void {
    if (this.#lint0 === level) return;
    this.#lint0 = level;
    // Only fixed delivery has a trigger mode: NMI and INIT are edges, ExtINT a level (sec. 11.5.1).
    const entry = this.#entries[LvtEntry.LINT0]!;
    if ((entry & (LVT.MODE | LVT.TRIGGER_LEVEL)) === LVT.TRIGGER_LEVEL) this.#serviceLint0();
    else if (level) this.fire(LvtEntry.LINT0);
  }

  setLint1(level: boolean): void {
    if (this.#lint1 === level) return;
    this.#lint1 = level;
    if (!level) return;
    if (this.#host.isEnabled) this.fire(LvtEntry.LINT1);
    else this.#host.nmi();
  }

  /** The level-triggered interrupt `vector` ended: LINT0 may ask for another. */
  endOfInterrupt(vector: number): void {
    const lint0 = this.#entries[LvtEntry.LINT0]!;
    if ((lint0 & LVT.REMOTE_IRR) === 0 || (lint0 & 0xff) !== vector) return;
    this.#entries[LvtEntry.LINT0] = lint0 & ~LVT.REMOTE_IRR;
    this.#serviceLint0();
  }

  /** Every entry masked; the pins keep the level that their drivers give them. */
  reset(): void {
    this.#entries.fill(LVT.MASKED);
  }

  /** LINT0 and LINT1 as firmware leaves them on a boot processor. */
  setVirtualWire(): void {
    this.#entries[LvtEntry.LINT0] = LVT_VIRTUAL_WIRE;
    this.#entries[LvtEntry.LINT1] = LVT_NMI;
  }

  save(): { lvt: number[]; lint0: boolean; lint1: boolean } {
    return { lvt: [...this.#entries], lint0: this.#lint0, lint1: this.#lint1 };
  }

  /** Takes what `save` gave; the caller has checked it. Fires nothing, but configures the timer. */
  restore(saved: ReturnType<LocalVectorTable["save"]>): void {
    this.#entries.set(saved.lvt);
    this.#lint0 = saved.lint0;
    this.#lint1 = saved.lint1;
    this.#configureTimer(saved.lvt[LvtEntry.TIMER]!);
  }

  #configureTimer(entry: number): void {
    this.#host.configureTimer((entry >>> LVT.TIMER_MODE_SHIFT) & 3, (entry & LVT.MASKED) !== 0);
  }

  /** Level-triggered fixed LINT0: one interrupt, then another after its EOI while the line stays asserted. */
  #serviceLint0(): void {
    const entry = this.#entries[LvtEntry.LINT0]!;
    const state = entry & (LVT.MASKED | LVT.REMOTE_IRR | LVT.MODE | LVT.TRIGGER_LEVEL);
    if (!this.#lint0 || !this.#host.isEnabled || state !== LVT.TRIGGER_LEVEL) return;
    if (this.#host.request(entry & 0xff, true)) this.#entries[LvtEntry.LINT0] = entry | LVT.REMOTE_IRR;
  }
}
