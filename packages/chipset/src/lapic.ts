/**
 * Local APIC, xAPIC and x2APIC (Intel SDM Vol. 3A ch. 11): one per vCPU. Here are its modes, registers, messages and
 * errors; `lapic-registers.ts` has the register map, `lapic-priority.ts` what is requested and in service, `lapic-lvt.ts`
 * the local vector table and LINT pins, `lapic-timer.ts` the timer, `lapic-ipi.ts` what the ICR asks for.
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
import type { Clock, LocalApicPort, LocalApicStateV1 } from "@skep/vcpu";
import { type ApicAddress, DeliveryMode, x2apicLogicalId } from "./apic-message.ts";
import { decodeIcr } from "./lapic-ipi.ts";
import { LocalVectorTable, type LvtHost } from "./lapic-lvt.ts";
import { checkLocalApicOptions, type LocalApicHost, type LocalApicOptions } from "./lapic-options.ts";
import { InterruptPriority } from "./lapic-priority.ts";
import {
  APIC_BASE,
  DFR_RESERVED,
  ESR,
  FIRST_VECTOR,
  HIGH_BYTE,
  ICR,
  LVT,
  LVT_ENTRIES,
  LvtEntry,
  lvtEntryAt,
  MSR,
  REG,
  RESET_BASE,
  SVR,
  VERSION,
  VERSION_EOI_SUPPRESSION,
} from "./lapic-registers.ts";
import { checkLocalApicState } from "./lapic-state.ts";
import { LocalApicTimer } from "./lapic-timer.ts";

/** `LocalApic.pending` while an ExtINT is: the vector is the 8259's to give, by an INTA cycle. */
export const EXTINT = 0x100;

export class LocalApic implements LocalApicPort, ApicAddress {
  readonly id: number;
  readonly #host: LocalApicHost;
  readonly #options: LocalApicOptions;
  readonly #timer: LocalApicTimer;
  readonly #hasDeadline: boolean;
  readonly #version: number;
  readonly #baseReserved: bigint;
  readonly #svrWritable: number;
  readonly #lvt: LocalVectorTable;
  readonly #interrupts = new InterruptPriority();

  #base = 0n;
  #enabled = false;
  #x2apic = false;
  #mmioBase: number | undefined;
  #ldr = 0;
  #dfr = 0;
  #svr = 0;
  #esr = 0;
  #errors = 0;
  #errorRaised = false;
  #icrLow = 0;
  #icrHigh = 0;
  #extInt = false;
  #pending = -1;

  /** @throws RangeError where an option is out of its range. */
  constructor(host: LocalApicHost, clock: Clock, options: LocalApicOptions) {
    const { id, physicalAddressBits, timerHz } = checkLocalApicOptions(options);
    const suppression = options.eoiSuppression ?? true;
    this.id = id;
    this.#host = host;
    this.#options = options;
    this.#hasDeadline = options.tscDeadline ?? true;
    this.#version = VERSION | (suppression ? VERSION_EOI_SUPPRESSION : 0);
    this.#svrWritable = SVR.VECTOR | SVR.ENABLED | SVR.FOCUS_DISABLED | (suppression ? SVR.SUPPRESS_EOI : 0);
    this.#lvt = new LocalVectorTable(this.#lvtHost(), { hasDeadline: this.#hasDeadline });
    const address = ((1n << BigInt(physicalAddressBits)) - 1n) & ~0xfffn;
    const flags = APIC_BASE.BSP | APIC_BASE.ENABLED | ((options.x2apic ?? true) ? APIC_BASE.EXTD : 0n);
    this.#baseReserved = ~(address | flags);
    this.#timer = new LocalApicTimer(clock, () => this.#lvt.fire(LvtEntry.TIMER), {
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
    return this.#interrupts.processorPriority;
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
    return this.#interrupts.taskPriority >>> 4;
  }

  setTpr(value: number): void {
    this.#interrupts.taskPriority = (value & 0xf) << 4;
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
      this.#interrupts.take(taken);
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
      this.#lvt.setLint0(level);
      this.#update();
    } else this.#lvt.setLint1(level);
  }

  /** A thermal, performance-monitoring or corrected-machine-check event: fires its LVT entry. */
  localEvent(entry: typeof LvtEntry.CMCI | typeof LvtEntry.THERMAL | typeof LvtEntry.PERFORMANCE): void {
    this.#lvt.fire(entry);
    // The performance entry is masked as it is delivered (sec. 11.5.1).
    if (entry === LvtEntry.PERFORMANCE) this.#lvt.mask(entry);
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
      this.#lvt.setVirtualWire();
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
        return this.#interrupts.taskPriority;
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
    if (register >= REG.ISR && register < REG.ESR) return this.#interrupts.read(register);
    const entry = lvtEntryAt(register);
    return entry < 0 ? undefined : this.#lvt.read(entry);
  }

  /** False where there is no such register; writes to read-only ones vanish. */
  #writeRegister(register: number, value: number): boolean {
    switch (register) {
      case REG.TPR:
        this.#interrupts.taskPriority = value & 0xff;
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
          for (let entry = 0; entry < LVT_ENTRIES; entry++) this.#writeLvt(entry, this.#lvt.read(entry));
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
        return entry < 0 ? undefined : this.#lvt.writable[entry]! | LVT.DELIVERY_STATUS | LVT.REMOTE_IRR;
      }
    }
  }

  #writeLvt(entry: number, written: number): void {
    this.#lvt.write(entry, written, (this.#svr & SVR.ENABLED) === 0);
    this.#update();
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
    this.#ldr = 0;
    this.#dfr = 0xffff_ffff;
    this.#svr = SVR.VECTOR;
    this.#esr = 0;
    this.#errors = 0;
    this.#errorRaised = false;
    this.#icrLow = 0;
    this.#icrHigh = 0;
    this.#lvt.reset();
    this.#interrupts.clear();
    this.#extInt = false;
    this.#timer.reset();
  }

  // Interrupts.

  /** Sets IRR. False where the vector is illegal. */
  #request(vector: number, level: boolean): boolean {
    const accepted = this.#interrupts.request(vector, level);
    if (accepted) this.#update();
    else this.#error(ESR.RECEIVE_ILLEGAL_VECTOR);
    return accepted;
  }

  #endOfInterrupt(): void {
    const vector = this.#interrupts.end();
    if (vector < 0) return;
    this.#update();
    if (!this.#interrupts.isLevelTriggered(vector)) return;
    this.#lvt.endOfInterrupt(vector);
    if ((this.#svr & SVR.SUPPRESS_EOI) === 0) this.#host.eoi(vector);
  }

  #lvtHost(): LvtHost {
    const isEnabled = (): boolean => this.#enabled;
    return {
      get isEnabled() {
        return isEnabled();
      },
      request: (vector, level) => this.#request(vector, level),
      accept: (mode) => void this.accept(mode, 0, false),
      nmi: () => this.#host.nmi(),
      configureTimer: (mode, isMasked) => this.#timer.configure(mode, isMasked),
    };
  }

  #sendIpi(): void {
    const command = decodeIcr(this.#icrLow, this.#icrHigh, this.#x2apic);
    if (command.kind === "self") this.#sendSelf(command.vector);
    else if (command.kind === "illegal") this.#error(ESR.SEND_ILLEGAL_VECTOR);
    else if (command.kind === "send") this.#host.ipi(command.message, command.shorthand);
  }

  #sendSelf(vector: number): void {
    if (vector < FIRST_VECTOR) this.#error(ESR.SEND_ILLEGAL_VECTOR);
    else if (this.accepting) this.#request(vector, false);
  }

  /** Logs an error and raises the error interrupt, once until ESR is written. */
  #error(bit: number): void {
    this.#errors |= bit;
    if (this.#errorRaised || this.#lvt.isMasked(LvtEntry.ERROR)) return;
    this.#errorRaised = true;
    this.#lvt.fire(LvtEntry.ERROR);
  }

  /** Recomputes `pending` from the registers; called after every change of them. */
  #update(): void {
    const next = this.#extInt || this.#lvt.isExtIntAsserted ? EXTINT : this.#interrupts.next;
    if (next === this.#pending) return;
    this.#pending = next;
    if (next >= 0) this.#host.wake();
  }

  // State.

  save(): LocalApicStateV1 {
    return {
      kind: "lapic",
      version: 1,
      apicBase: this.#base,
      ldr: this.#ldr,
      dfr: this.#dfr,
      svr: this.#svr,
      esr: this.#esr,
      errors: this.#errors,
      errorRaised: this.#errorRaised,
      icrLow: this.#icrLow,
      icrHigh: this.#icrHigh,
      ...this.#lvt.save(),
      ...this.#interrupts.save(),
      extInt: this.#extInt,
      timer: this.#timer.save(),
    };
  }

  /**
   * Checks a saved state without taking it.
   * @throws StateError where it is not one that this APIC can have.
   */
  parse(state: unknown): LocalApicStateV1 {
    return checkLocalApicState(state, {
      base: ~this.#baseReserved,
      svr: this.#svrWritable,
      lvt: this.#lvt.writable,
    });
  }

  /** @throws StateError where `state` is not one that this APIC can have; nothing is changed then. */
  restore(state: unknown): void {
    const saved = this.parse(state);
    this.#setBase(saved.apicBase);
    this.#ldr = saved.ldr;
    this.#dfr = saved.dfr;
    this.#svr = saved.svr;
    this.#esr = saved.esr;
    this.#errors = saved.errors;
    this.#errorRaised = saved.errorRaised;
    this.#icrLow = saved.icrLow;
    this.#icrHigh = saved.icrHigh;
    this.#interrupts.restore(saved);
    this.#extInt = saved.extInt;
    this.#timer.reset();
    this.#lvt.restore(saved);
    this.#timer.restore(saved.timer);
    // A processor that halts with an interrupt pending has to be woken, whatever was pending before.
    this.#pending = -1;
    this.#update();
  }
}
