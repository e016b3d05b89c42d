/**
 * Local APIC, xAPIC and x2APIC (Intel SDM Vol. 3A ch. 11): one per vCPU. Registers: `lapic-registers.ts`.
 *
 * The chip shows the vector that its processor should take (`pending`) and hands out messages through a
 * `LocalApicHost`; it knows neither other APICs nor the I/O APIC.
 *
 * Choices, where the SDM leaves them to the model: the APIC ID is read-only; registers are written by
 * aligned 4-byte stores only (others are dropped) and read at any width; the remote-read and arbitration
 * registers read zero; LINT polarity is kept and has no effect, since a line is asserted or not.
 * Missing: SMIs are dropped (there is no system-management mode behind this chip); the thermal, performance
 * and CMCI entries fire only when the host calls `localEvent`.
 */
import type { AccessSize } from "@skep/memory";
import type { Clock, LocalApicPort } from "@skep/vcpu";
import { type ApicAddress, type ApicMessage, DeliveryMode, x2apicLogicalId } from "./apic-message.ts";
import {
  APIC_BASE,
  DFR_RESERVED,
  ESR,
  FIRST_VECTOR,
  HIGH_BYTE,
  ICR,
  LVT,
  LVT_ENTRIES,
  LVT_NMI,
  LVT_VIRTUAL_WIRE,
  LVT_WRITABLE,
  LvtEntry,
  lvtEntryAt,
  MSR,
  REG,
  RESET_BASE,
  Shorthand,
  SVR,
  VERSION,
  VERSION_EOI_SUPPRESSION,
} from "./lapic-registers.ts";
import { type LocalApicStateV1, parseLocalApicState } from "./lapic-state.ts";
import { LocalApicTimer } from "./lapic-timer.ts";
import { VectorSet } from "./vector-set.ts";

/** `LocalApic.pending` while an ExtINT is: the vector is the 8259's to give, by an INTA cycle. */
export const EXTINT = 0x100;

/** What a local APIC sees of the machine. */
export interface LocalApicHost {
  /** Sends an IPI. `shorthand` (`Shorthand`) replaces the message's destination unless NONE. */
  ipi(message: ApicMessage, shorthand: number): void;
  /** A level-triggered interrupt with `vector` ended: the EOI message to the I/O APICs. */
  eoi(vector: number): void;
  /** `pending` changed to an interrupt: a halted processor has to look. */
  wake(): void;
  nmi(): void;
  /** INIT; the APIC itself has taken its INIT state. */
  init(): void;
  startup(vector: number): void;
}

export interface LocalApicOptions {
  /** APIC ID, 0 to 254. */
  readonly id: number;
  /** BSP flag of IA32_APIC_BASE at RESET; default `id === 0`. */
  readonly bootProcessor?: boolean;
  /**
   * Comes out of RESET as firmware leaves a boot processor for an operating system (MP specification 1.4,
   * sec. 3.6.2.2): enabled, LINT0 ExtINT, LINT1 NMI. Default false, the SDM's RESET state.
   */
  readonly virtualWire?: boolean;
  /** x2APIC mode can be entered; default true. CPUID.1:ECX[21] has to agree. */
  readonly x2apic?: boolean;
  /** TSC-deadline mode and its MSR exist; default true. CPUID.1:ECX[24] has to agree. */
  readonly tscDeadline?: boolean;
  /** The EOI broadcast can be suppressed (SVR bit 12), for I/O APICs with an EOI register; default true. */
  readonly eoiSuppression?: boolean;
  /** Physical-address width in bits, 36 to 52: what IA32_APIC_BASE accepts; default 52. */
  readonly physicalAddressBits?: number;
  /** Timer frequency before its divider in Hz, 1 to 1e12; default 1e9. */
  readonly timerHz?: number;
  /** Ticks of this processor's TSC beyond the clock's, i.e. IA32_TSC_ADJUST; default none. */
  readonly tscOffset?: () => bigint;
}

export class LocalApic implements LocalApicPort, ApicAddress {
  readonly id: number;
  readonly #host: LocalApicHost;
  readonly #options: LocalApicOptions;
  readonly #timer: LocalApicTimer;
  readonly #hasDeadline: boolean;
  readonly #version: number;
  readonly #baseReserved: bigint;
  readonly #svrWritable: number;
  readonly #lvtWritable: readonly number[];

  #base = 0n;
  #enabled = false;
  #x2apic = false;
  #mmioBase: number | undefined;
  #tpr = 0;
  #ldr = 0;
  #dfr = 0;
  #svr = 0;
  #esr = 0;
  #errors = 0;
  #errorRaised = false;
  #icrLow = 0;
  #icrHigh = 0;
  readonly #lvt = new Uint32Array(LVT_ENTRIES);
  readonly #isr = new VectorSet();
  readonly #tmr = new VectorSet();
  readonly #irr = new VectorSet();
  #extInt = false;
  #lint0 = false;
  #lint1 = false;
  #pending = -1;

  /** @throws RangeError where an option is out of its range. */
  constructor(host: LocalApicHost, clock: Clock, options: LocalApicOptions) {
    const { id, physicalAddressBits = 52, timerHz = 1e9 } = options;
    checkOption("id", id, 0, 254, Number.isInteger(id));
    checkOption("physicalAddressBits", physicalAddressBits, 36, 52, Number.isInteger(physicalAddressBits));
    checkOption("timerHz", timerHz, 1, 1e12, true);
    const suppression = options.eoiSuppression ?? true;
    this.id = id;
    this.#host = host;
    this.#options = options;
    this.#hasDeadline = options.tscDeadline ?? true;
    this.#version = VERSION | (suppression ? VERSION_EOI_SUPPRESSION : 0);
    this.#svrWritable = SVR.VECTOR | SVR.ENABLED | SVR.FOCUS_DISABLED | (suppression ? SVR.SUPPRESS_EOI : 0);
    const timerModes = LVT.TIMER_PERIODIC | (this.#hasDeadline ? LVT.TIMER_DEADLINE : 0);
    this.#lvtWritable = LVT_WRITABLE.map((bits, entry) => bits | (entry === LvtEntry.TIMER ? timerModes : 0));
    const address = ((1n << BigInt(physicalAddressBits)) - 1n) & ~0xfffn;
    const flags = APIC_BASE.BSP | APIC_BASE.ENABLED | ((options.x2apic ?? true) ? APIC_BASE.EXTD : 0n);
    this.#baseReserved = ~(address | flags);
    this.#timer = new LocalApicTimer(clock, () => this.#local(LvtEntry.TIMER), {
      hz: timerHz,
      tscOffset: options.tscOffset ?? (() => 0n),
    });
    this.reset();
  }

  /** The interrupt to take now: -1 none, a vector, or `EXTINT`. Costs nothing. */
  get pending(): number {
    return this.#pending;
  }

  /** Processor priority (sec. 11.8.3.1); the least takes a lowest-priority interrupt. */
  get ppr(): number {
    const inService = this.#isr.highest();
    return inService < 0 || (this.#tpr & 0xf0) >= (inService & 0xf0) ? this.#tpr : inService & 0xf0;
  }

  /** Enabled by IA32_APIC_BASE and SVR: takes fixed interrupts. */
  get accepting(): boolean {
    return this.#enabled && (this.#svr & SVR.ENABLED) !== 0;
  }

  get x2apic(): boolean {
    return this.#x2apic;
  }

  get logicalId(): number {
    return this.#ldr >>> 24;
  }

  get model(): number {
    return this.#dfr >>> 28;
  }

  // The processor's side.

  get mmioBase(): number | undefined {
    return this.#mmioBase;
  }

  getTpr(): number {
    return this.#tpr >>> 4;
  }

  setTpr(value: number): void {
    this.#tpr = (value & 0xf) << 4;
    this.#update();
  }

  read(offset: number, size: AccessSize): number {
    const value = this.#readRegister(offset & 0xff0);
    if (value === undefined) {
      this.#error(ESR.ILLEGAL_REGISTER);
      return 0;
    }
    const byte = offset & 0xf;
    if (byte > 3) return 0;
    const shifted = value >>> (byte * 8);
    return size === 4 ? shifted : shifted & ((1 << (size * 8)) - 1);
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || (offset & 0xf) !== 0) return;
    const register = offset & 0xff0;
    const known = register !== REG.SELF_IPI && this.#writeRegister(register, value >>> 0);
    if (!known) this.#error(ESR.ILLEGAL_REGISTER);
  }

  readMsr(index: number): bigint | undefined {
    if (index === MSR.APIC_BASE) return this.#base;
    if (index === MSR.TSC_DEADLINE) return this.#hasDeadline ? this.#timer.deadline : undefined;
    if (!this.#x2apic || index < MSR.X2APIC || index > MSR.X2APIC_LAST) return undefined;
    const register = (index - MSR.X2APIC) << 4;
    switch (register) {
      case REG.ICR_LOW:
        return (BigInt(this.#icrHigh) << 32n) | BigInt(this.#icrLow);
      case REG.APR:
      case REG.EOI:
      case REG.RRD:
      case REG.DFR:
      case REG.ICR_HIGH:
        return undefined;
      default: {
        const value = this.#readRegister(register);
        return value === undefined ? undefined : BigInt(value);
      }
    }
  }

  writeMsr(index: number, value: bigint): boolean {
    if (index === MSR.APIC_BASE) return this.#writeBase(value);
    if (index === MSR.TSC_DEADLINE) {
      if (this.#hasDeadline) this.#timer.deadline = BigInt.asUintN(64, value);
      return this.#hasDeadline;
    }
    if (!this.#x2apic || index < MSR.X2APIC || index > MSR.X2APIC_LAST) return false;
    const register = (index - MSR.X2APIC) << 4;
    const low = Number(value & 0xffff_ffffn);
    const high = Number((value >> 32n) & 0xffff_ffffn);
    const writable = this.#msrWritable(register);
    if (writable === undefined || (low & ~writable) !== 0) return false;
    if (register === REG.ICR_LOW) this.#icrHigh = high;
    else if (high !== 0) return false;
    return this.#writeRegister(register, low);
  }

  /** The INTA cycle: takes what `pending` shows. After `EXTINT` the caller asks the 8259 for the vector. */
  acknowledge(): number {
    const taken = this.#pending;
    if (taken === EXTINT) {
      this.#extInt = false;
    } else if (taken >= 0) {
      this.#irr.delete(taken);
      this.#isr.add(taken);
    }
    this.#update();
    return taken;
  }

  // The machine's side.

  /** A message from another APIC, the I/O APIC or an MSI. False where it was not accepted. */
  accept(mode: number, vector: number, level: boolean): boolean {
    if (!this.#enabled) return false;
    switch (mode) {
      case DeliveryMode.FIXED:
      case DeliveryMode.LOWEST_PRIORITY:
        return this.accepting && this.#request(vector, level);
      case DeliveryMode.NMI:
        this.#host.nmi();
        return true;
      case DeliveryMode.INIT:
        this.init();
        this.#host.init();
        return true;
      case DeliveryMode.STARTUP:
        this.#host.startup(vector);
        return true;
      case DeliveryMode.EXTINT:
        if (!this.accepting) return false;
        this.#extInt = true;
        this.#update();
        return true;
      default:
        return false;
    }
  }

  /**
   * Drives LINT0 (the 8259's INTR) or LINT1 (NMI). While IA32_APIC_BASE disables the APIC they are just that.
   */
  setLint(pin: 0 | 1, level: boolean): void {
    if (pin === 0) {
      if (this.#lint0 === level) return;
      this.#lint0 = level;
      // Only fixed delivery has a trigger mode: NMI and INIT are edges, ExtINT a level (sec. 11.5.1).
      const levelFixed = (this.#lvt[LvtEntry.LINT0]! & (LVT.MODE | LVT.TRIGGER_LEVEL)) === LVT.TRIGGER_LEVEL;
      if (levelFixed) this.#serviceLint0();
      else if (level) this.#local(LvtEntry.LINT0);
      this.#update();
    } else {
      if (this.#lint1 === level) return;
      this.#lint1 = level;
      if (!level) return;
      if (this.#enabled) this.#local(LvtEntry.LINT1);
      else this.#host.nmi();
    }
  }

  /** A thermal, performance-monitoring or corrected-machine-check event: fires its LVT entry. */
  localEvent(entry: typeof LvtEntry.CMCI | typeof LvtEntry.THERMAL | typeof LvtEntry.PERFORMANCE): void {
    this.#local(entry);
    // The performance entry is masked as it is delivered (sec. 11.5.1).
    if (entry === LvtEntry.PERFORMANCE) this.#lvt[entry] = this.#lvt[entry]! | LVT.MASKED;
  }

  /** This processor's TSC offset (IA32_TSC_ADJUST) changed. */
  tscAdjusted(): void {
    this.#timer.tscAdjusted();
  }

  /** Power-up or RESET (sec. 11.4.7.1). LINT0 and LINT1 keep the level that their drivers give them. */
  reset(): void {
    const { id, bootProcessor = id === 0 } = this.#options;
    this.#setBase(RESET_BASE | APIC_BASE.ENABLED | (bootProcessor ? APIC_BASE.BSP : 0n));
    this.#resetRegisters();
    if (this.#options.virtualWire) {
      this.#svr |= SVR.ENABLED;
      this.#lvt[LvtEntry.LINT0] = LVT_VIRTUAL_WIRE;
      this.#lvt[LvtEntry.LINT1] = LVT_NMI;
    }
    this.#update();
  }

  /** INIT (sec. 11.4.7.3): as RESET, but IA32_APIC_BASE, and with it the mode, stays. */
  init(): void {
    this.#resetRegisters();
    this.#update();
  }

  // Registers.

  #readRegister(register: number): number | undefined {
    switch (register) {
      case REG.ID:
        return this.#x2apic ? this.id : (this.id << 24) >>> 0;
      case REG.VERSION:
        return this.#version;
      case REG.TPR:
        return this.#tpr;
      case REG.APR:
      case REG.RRD:
      case REG.EOI:
        return 0;
      case REG.PPR:
        return this.ppr;
      case REG.LDR:
        return this.#x2apic ? x2apicLogicalId(this.id) : this.#ldr;
      case REG.DFR:
        return this.#dfr;
      case REG.SVR:
        return this.#svr;
      case REG.ESR:
        return this.#esr;
      case REG.ICR_LOW:
        return this.#icrLow;
      case REG.ICR_HIGH:
        return this.#icrHigh;
      case REG.TIMER_INITIAL:
        return this.#timer.initialCount;
      case REG.TIMER_CURRENT:
        return this.#timer.currentCount;
      case REG.TIMER_DIVIDE:
        return this.#timer.divideConfig;
    }
    if (register >= REG.ISR && register < REG.ESR) {
      const index = (register >>> 4) & 7;
      if (register < REG.TMR) return this.#isr.word(index);
      return register < REG.IRR ? this.#tmr.word(index) : this.#irr.word(index);
    }
    const entry = lvtEntryAt(register);
    return entry < 0 ? undefined : this.#lvt[entry]!;
  }

  /** False where there is no such register; writes to read-only ones vanish. */
  #writeRegister(register: number, value: number): boolean {
    switch (register) {
      case REG.TPR:
        this.#tpr = value & 0xff;
        this.#update();
        return true;
      case REG.EOI:
        this.#endOfInterrupt();
        return true;
      case REG.LDR:
        this.#ldr = (value & HIGH_BYTE) >>> 0;
        return true;
      case REG.DFR:
        this.#dfr = (value | DFR_RESERVED) >>> 0;
        return true;
      case REG.SVR:
        this.#svr = value & this.#svrWritable;
        // Software-disabling masks every entry (sec. 11.4.7.2).
        if ((value & SVR.ENABLED) === 0)
          for (let entry = 0; entry < LVT_ENTRIES; entry++) this.#writeLvt(entry, this.#lvt[entry]!);
        return true;
      case REG.ESR:
        // Shows what has been logged since the last write, and rearms the error interrupt (sec. 11.5.3).
        this.#esr = this.#errors;
        this.#errors = 0;
        this.#errorRaised = false;
        return true;
      case REG.ICR_LOW:
        this.#icrLow = value & ICR.WRITABLE;
        this.#sendIpi();
        return true;
      case REG.ICR_HIGH:
        this.#icrHigh = (value & HIGH_BYTE) >>> 0;
        return true;
      case REG.TIMER_INITIAL:
        this.#timer.initialCount = value;
        return true;
      case REG.TIMER_DIVIDE:
        this.#timer.divideConfig = value;
        return true;
      case REG.SELF_IPI:
        this.#sendSelf(value & 0xff);
        return true;
    }
    const entry = lvtEntryAt(register);
    if (entry < 0) return this.#readRegister(register) !== undefined;
    this.#writeLvt(entry, value);
    return true;
  }

  /** Bits that WRMSR may set; `undefined` where the register is read-only or not there in x2APIC mode. */
  #msrWritable(register: number): number | undefined {
    switch (register) {
      case REG.TPR:
      case REG.SELF_IPI:
        return 0xff;
      case REG.EOI:
      case REG.ESR:
        return 0;
      case REG.SVR:
        return this.#svrWritable;
      case REG.ICR_LOW:
        return ICR.WRITABLE | ICR.DELIVERY_STATUS;
      case REG.TIMER_INITIAL:
        return 0xffff_ffff;
      case REG.TIMER_DIVIDE:
        return 0xb;
      default: {
        // An LVT entry's read-only bits are what a read-modify-write brings back: let through.
        const entry = lvtEntryAt(register);
        return entry < 0 ? undefined : this.#lvtWritable[entry]! | LVT.DELIVERY_STATUS | LVT.REMOTE_IRR;
      }
    }
  }

  #writeLvt(entry: number, written: number): void {
    const masked = (this.#svr & SVR.ENABLED) === 0 ? LVT.MASKED : 0;
    const value = (written & this.#lvtWritable[entry]!) | masked;
    if (entry === LvtEntry.TIMER) this.#configureTimer(value);
    // Remote IRR belongs to level triggering and goes with it.
    const remote = (value & LVT.TRIGGER_LEVEL) !== 0 ? this.#lvt[entry]! & LVT.REMOTE_IRR : 0;
    this.#lvt[entry] = value | remote;
    if (entry === LvtEntry.LINT0) {
      this.#serviceLint0();
      this.#update();
    }
  }

  #configureTimer(entry: number): void {
    this.#timer.configure((entry >>> LVT.TIMER_MODE_SHIFT) & 3, (entry & LVT.MASKED) !== 0);
  }

  #writeBase(value: bigint): boolean {
    if ((value & this.#baseReserved) !== 0n) return false;
    const enabled = (value & APIC_BASE.ENABLED) !== 0n;
    const extended = (value & APIC_BASE.EXTD) !== 0n;
    // Fig. 11-27: x2APIC mode is entered from xAPIC mode, and left by disabling only.
    if (extended && (!enabled || !this.#enabled)) return false;
    if (this.#x2apic && enabled && !extended) return false;
    // Disabling loses the APIC's state: enabled again, it is as after power-up (sec. 11.4.3).
    const disabled = this.#enabled && !enabled;
    this.#setBase(value);
    if (disabled) this.#resetRegisters();
    this.#update();
    return true;
  }

  #setBase(value: bigint): void {
    this.#base = value;
    this.#enabled = (value & APIC_BASE.ENABLED) !== 0n;
    this.#x2apic = (value & APIC_BASE.EXTD) !== 0n;
    this.#mmioBase = this.#enabled && !this.#x2apic ? Number(value & ~0xfffn) : undefined;
  }

  #resetRegisters(): void {
    this.#tpr = 0;
    this.#ldr = 0;
    this.#dfr = 0xffff_ffff;
    this.#svr = SVR.VECTOR;
    this.#esr = 0;
    this.#errors = 0;
    this.#errorRaised = false;
    this.#icrLow = 0;
    this.#icrHigh = 0;
    this.#lvt.fill(LVT.MASKED);
    this.#isr.clear();
    this.#tmr.clear();
    this.#irr.clear();
    this.#extInt = false;
    this.#timer.reset();
  }

  // Interrupts.

  /** Sets IRR. False where the vector is illegal. */
  #request(vector: number, level: boolean): boolean {
    if (vector < FIRST_VECTOR) {
      this.#error(ESR.RECEIVE_ILLEGAL_VECTOR);
      return false;
    }
    this.#irr.add(vector);
    if (level) this.#tmr.add(vector);
    else this.#tmr.delete(vector);
    this.#update();
    return true;
  }

  #endOfInterrupt(): void {
    const vector = this.#isr.highest();
    if (vector < 0) return;
    this.#isr.delete(vector);
    this.#update();
    if (!this.#tmr.has(vector)) return;
    const lint0 = this.#lvt[LvtEntry.LINT0]!;
    if ((lint0 & LVT.REMOTE_IRR) !== 0 && (lint0 & 0xff) === vector) {
      this.#lvt[LvtEntry.LINT0] = lint0 & ~LVT.REMOTE_IRR;
      this.#serviceLint0();
    }
    if ((this.#svr & SVR.SUPPRESS_EOI) === 0) this.#host.eoi(vector);
  }

  /** Fires an LVT entry. */
  #local(entry: number): void {
    const value = this.#lvt[entry]!;
    if (!this.#enabled || (value & LVT.MASKED) !== 0) return;
    const mode = (value & LVT.MODE) >>> LVT.MODE_SHIFT;
    if (mode === DeliveryMode.FIXED) this.#request(value & 0xff, false);
    else if (mode === DeliveryMode.NMI || mode === DeliveryMode.INIT) this.accept(mode, 0, false);
    // ExtINT follows the level of LINT0 (`#extIntPending`); SMI and reserved modes are dropped.
  }

  /** Level-triggered fixed LINT0: one interrupt, then another after its EOI while the line stays asserted. */
  #serviceLint0(): void {
    const entry = this.#lvt[LvtEntry.LINT0]!;
    const state = entry & (LVT.MASKED | LVT.REMOTE_IRR | LVT.MODE | LVT.TRIGGER_LEVEL);
    if (!this.#lint0 || !this.#enabled || state !== LVT.TRIGGER_LEVEL) return;
    if (this.#request(entry & 0xff, true)) this.#lvt[LvtEntry.LINT0] = entry | LVT.REMOTE_IRR;
  }

  #sendIpi(): void {
    const low = this.#icrLow;
    const mode = (low >>> ICR.MODE_SHIFT) & 7;
    const vector = low & 0xff;
    const shorthand = (low >>> ICR.SHORTHAND_SHIFT) & 3;
    // A level de-assertion only synchronised arbitration IDs, before the Pentium 4; everything else is sent
    // as an edge (table 11-3).
    if ((low & ICR.LEVEL) !== 0 && (low & ICR.ASSERT) === 0) return;
    const fixed = mode === DeliveryMode.FIXED;
    // Self and all-including-self go with fixed delivery only (table 11-3); there is no ExtINT IPI.
    if ((shorthand === Shorthand.SELF || shorthand === Shorthand.ALL) && !fixed) return;
    if (mode === DeliveryMode.EXTINT) return;
    if (shorthand === Shorthand.SELF) {
      this.#sendSelf(vector);
      return;
    }
    if ((fixed || mode === DeliveryMode.LOWEST_PRIORITY) && vector < FIRST_VECTOR) {
      this.#error(ESR.SEND_ILLEGAL_VECTOR);
      return;
    }
    const wide = this.#x2apic;
    const destination = wide ? this.#icrHigh : this.#icrHigh >>> 24;
    const logical = (low & ICR.LOGICAL) !== 0;
    this.#host.ipi({ destination, logical, wide, mode, vector, level: false }, shorthand);
  }

  #sendSelf(vector: number): void {
    if (vector < FIRST_VECTOR) this.#error(ESR.SEND_ILLEGAL_VECTOR);
    else if (this.accepting) this.#request(vector, false);
  }

  /** Logs an error and raises the error interrupt, once until ESR is written. */
  #error(bit: number): void {
    this.#errors |= bit;
    if (this.#errorRaised || (this.#lvt[LvtEntry.ERROR]! & LVT.MASKED) !== 0) return;
    this.#errorRaised = true;
    this.#local(LvtEntry.ERROR);
  }

  /** Recomputes `pending` from the registers; called after every change of them. */
  #update(): void {
    let next = -1;
    if (this.#extIntPending()) {
      next = EXTINT;
    } else {
      const vector = this.#irr.highest();
      if (vector >= 0 && (vector & 0xf0) > (this.ppr & 0xf0)) next = vector;
    }
    if (next === this.#pending) return;
    this.#pending = next;
    if (next >= 0) this.#host.wake();
  }

  #extIntPending(): boolean {
    if (this.#extInt) return true;
    if (!this.#lint0) return false;
    return !this.#enabled || (this.#lvt[LvtEntry.LINT0]! & (LVT.MASKED | LVT.MODE)) === LVT_VIRTUAL_WIRE;
  }

  // State.

  save(): LocalApicStateV1 {
    return {
      kind: "lapic",
      version: 1,
      apicBase: this.#base,
      tpr: this.#tpr,
      ldr: this.#ldr,
      dfr: this.#dfr,
      svr: this.#svr,
      esr: this.#esr,
      errors: this.#errors,
      errorRaised: this.#errorRaised,
      icrLow: this.#icrLow,
      icrHigh: this.#icrHigh,
      lvt: [...this.#lvt],
      isr: this.#isr.save(),
      tmr: this.#tmr.save(),
      irr: this.#irr.save(),
      extInt: this.#extInt,
      lint0: this.#lint0,
      lint1: this.#lint1,
      timer: this.#timer.save(),
    };
  }

  /**
   * Checks a saved state without taking it.
   * @throws StateError where it is not one that this APIC can have.
   */
  parse(state: unknown): LocalApicStateV1 {
    return parseLocalApicState(state, {
      base: ~this.#baseReserved,
      svr: this.#svrWritable,
      lvt: this.#lvtWritable,
    });
  }

  /** @throws StateError where `state` is not one that this APIC can have; nothing is changed then. */
  restore(state: unknown): void {
    const saved = this.parse(state);
    this.#setBase(saved.apicBase);
    this.#tpr = saved.tpr;
    this.#ldr = saved.ldr;
    this.#dfr = saved.dfr;
    this.#svr = saved.svr;
    this.#esr = saved.esr;
    this.#errors = saved.errors;
    this.#errorRaised = saved.errorRaised;
    this.#icrLow = saved.icrLow;
    this.#icrHigh = saved.icrHigh;
    this.#lvt.set(saved.lvt);
    this.#isr.restore(saved.isr);
    this.#tmr.restore(saved.tmr);
    this.#irr.restore(saved.irr);
    this.#extInt = saved.extInt;
    this.#lint0 = saved.lint0;
    this.#lint1 = saved.lint1;
    this.#timer.reset();
    this.#configureTimer(saved.lvt[LvtEntry.TIMER]!);
    this.#timer.restore(saved.timer);
    // A processor that halts with an interrupt pending has to be woken, whatever was pending before.
    this.#pending = -1;
    this.#update();
  }
}

function checkOption(name: string, value: number, min: number, max: number, integral: boolean): void {
  if (integral && value >= min && value <= max) return;
  throw new RangeError(`LocalApicOptions.${name}: expected a number in [${min}, ${max}], got ${value}`);
}
