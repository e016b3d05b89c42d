/**
 * Two cascaded 8259A interrupt controllers (Intel 8259A datasheet, 231468) with the edge/level control
 * registers of the PIIX and ICH (ELCR).
 *
 *     IR0..IR7 ── master ── INTR          ports 0x20, 0x21; ELCR 0x4D0
 *                   │ IR2
 *     IR8..IR15 ─ slave                   ports 0xA0, 0xA1; ELCR 0x4D1
 *
 * Deviations: vectors are given as in 8086 mode whatever ICW4 says (there is no CALL here); buffered mode and
 * ICW3 are kept without effect (the cascade is wired); ICW1's LTIM gives way to ELCR, as in the ICH. An edge
 * that has been latched stays until it is acknowledged, where the datasheet wants the input high until then: a
 * device's short pulse is not lost. Between ICW1 and the last ICW no interrupt is output.
 *
 * The slave's INT is not latched by the master, so that a request which is withdrawn before INTA always ends
 * as the master's spurious IR7; a spurious IR15 takes one that goes within the INTA cycle, a single step here.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { type Pic8259ChipStateV1, type Pic8259StateV1, parsePic8259State } from "@skep/vcpu";

/** Offsets from the chip's port, selected by A0. */
const REG = {
  COMMAND: 0, // W: ICW1, OCW2, OCW3; R: IRR, ISR or poll
  DATA: 1, // W: ICW2 to ICW4, then OCW1; R: IMR
} as const;

const ICW1 = { INIT: 0x10, SINGLE: 0x02, NEEDS_ICW4: 0x01 } as const;
const ICW2_BASE = 0xf8;
const ICW4 = { SPECIAL_NESTED: 0x10, AUTO_EOI: 0x02 } as const;
const OCW3 = {
  SELECT: 0x08,
  READ: 0x02,
  READ_ISR: 0x01,
  POLL: 0x04,
  SET_SPECIAL_MASK: 0x40,
  SPECIAL_MASK: 0x20,
} as const;
const POLL_INTERRUPT = 0x80;

/** OCW2's commands: bits 7:5 (rotate, specific, EOI). */
const Ocw2 = {
  ROTATE_AUTO_CLEAR: 0,
  EOI: 1,
  SPECIFIC_EOI: 3,
  ROTATE_AUTO_SET: 4,
  ROTATE_EOI: 5,
  SET_PRIORITY: 6,
  ROTATE_SPECIFIC_EOI: 7,
} as const;

/** The next ICW that the data port takes; READY after the last. */
const Step = { RESET: 0, ICW2: 2, ICW3: 3, ICW4: 4, READY: 5 } as const;

const CASCADE = 2;
/** IR inputs that can be level-triggered: not the timer, keyboard, cascade, RTC and coprocessor ones. */
const ELCR_WRITABLE = [0xf8, 0xde] as const;

/** One 8259A: registers and priorities; the pair does the cascade. */
class Chip implements BusDevice {
  readonly #changed: () => void;
  /** Inputs with another 8259A behind them, whose requests are not latched here. */
  readonly #cascades: number;
  readonly #elcrWritable: number;
  #step: number = Step.RESET;
  #icw1 = 0;
  #icw2 = 0;
  #icw3 = 0;
  #icw4 = 0;
  #imr = 0;
  #isr = 0;
  #latch = 0;
  #levels = 0;
  #elcr = 0;
  #lowest = 7;
  #rotateOnAutoEoi = false;
  #specialMask = false;
  #readIsr = false;
  #poll = false;

  constructor(changed: () => void, cascades: number, elcrWritable: number) {
    this.#changed = changed;
    this.#cascades = cascades;
    this.#elcrWritable = elcrWritable;
  }

  get elcr(): number {
    return this.#elcr;
  }

  set elcr(value: number) {
    this.#elcr = value & this.#elcrWritable;
    this.#latch &= ~this.#elcr;
    this.#changed();
  }

  /** Vector of input `ir`; of IR7 for -1, the request that is gone. */
  vector(ir: number): number {
    return this.#icw2 | (ir & 7);
  }

  /** The input whose request goes to the processor, or -1. */
  request(): number {
    if (this.#step !== Step.READY) return -1;
    const requests = this.#irr & ~this.#imr;
    if (requests === 0) return -1;
    const rank = this.#rank(requests);
    const ir = (rank + this.#lowest + 1) & 7;
    // Special mask mode: a masked level blocks nothing below it.
    const served = this.#rank(this.#specialMask ? this.#isr & ~this.#imr : this.#isr);
    if (rank < served) return ir;
    // Special fully nested mode: the slave's more urgent requests get past its own IR.
    const nested = (this.#icw4 & ICW4.SPECIAL_NESTED) !== 0 && ((this.#cascades >>> ir) & 1) !== 0;
    return rank === served && nested ? ir : -1;
  }

  /** INTA for input `ir`, which `request()` gave. */
  take(ir: number): void {
    const bit = 1 << ir;
    this.#latch &= ~bit;
    if ((this.#icw4 & ICW4.AUTO_EOI) === 0) this.#isr |= bit;
    else if (this.#rotateOnAutoEoi) this.#lowest = ir;
  }

  /** Without notice to the pair. */
  setInput(ir: number, level: boolean): void {
    const bit = 1 << ir;
    if (((this.#levels & bit) !== 0) === level) return;
    this.#levels ^= bit;
    if (level) this.#latch |= bit & ~this.#elcr;
    else this.#latch &= ~(bit & this.#cascades);
  }

  read(offset: number, size: AccessSize): number {
    const value = this.#readByte(offset & 1);
    // Wider accesses are cycles of one byte each, as on the ISA bus; past the second port nothing answers.
    if (size === 1) return value;
    const next = offset === REG.COMMAND ? this.#readByte(REG.DATA) : 0xff;
    return size === 2 ? value | (next << 8) : (value | (next << 8) | 0xffff_0000) >>> 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#writeByte(offset & 1, value & 0xff);
    if (size > 1 && offset === REG.COMMAND) this.#writeByte(REG.DATA, (value >>> 8) & 0xff);
  }

  /** Power-up: waits for ICW1. The inputs keep the level that their drivers give them. */
  reset(): void {
    this.#initialise(0);
    this.#step = Step.RESET;
    this.#icw2 = 0;
    this.#icw3 = 0;
    this.#elcr = 0;
  }

  save(): Pic8259ChipStateV1 {
    return {
      step: this.#step,
      icw1: this.#icw1,
      icw2: this.#icw2,
      icw3: this.#icw3,
      icw4: this.#icw4,
      imr: this.#imr,
      isr: this.#isr,
      latch: this.#latch,
      levels: this.#levels,
      elcr: this.#elcr,
      lowest: this.#lowest,
      rotateOnAutoEoi: this.#rotateOnAutoEoi,
      specialMask: this.#specialMask,
      readIsr: this.#readIsr,
      poll: this.#poll,
    };
  }

  /** Takes a checked state. */
  restore(saved: Pic8259ChipStateV1): void {
    this.#step = saved.step;
    this.#icw1 = saved.icw1;
    this.#icw2 = saved.icw2 & ICW2_BASE;
    this.#icw3 = saved.icw3;
    this.#icw4 = saved.icw4;
    this.#imr = saved.imr;
    this.#isr = saved.isr;
    this.#levels = saved.levels;
    this.#elcr = saved.elcr & this.#elcrWritable;
    this.#latch = saved.latch & ~this.#elcr;
    this.#lowest = saved.lowest;
    this.#rotateOnAutoEoi = saved.rotateOnAutoEoi;
    this.#specialMask = saved.specialMask;
    this.#readIsr = saved.readIsr;
    this.#poll = saved.poll;
  }

  get #irr(): number {
    return this.#latch | (this.#levels & this.#elcr);
  }

  /** Place of the most urgent bit, 0 the first, 8 where there is none. */
  #rank(bits: number): number {
    for (let rank = 0; rank < 8; rank++) if ((bits >>> ((rank + this.#lowest + 1) & 7)) & 1) return rank;
    return 8;
  }

  #readByte(register: number): number {
    if (this.#poll) {
      // The read is the poll's INTA.
      this.#poll = false;
      const ir = this.request();
      if (ir < 0) return 0;
      this.take(ir);
      this.#changed();
      return POLL_INTERRUPT | ir;
    }
    if (register === REG.DATA) return this.#imr;
    return this.#readIsr ? this.#isr : this.#irr;
  }

  #writeByte(register: number, value: number): void {
    if (register === REG.DATA) this.#writeData(value);
    else if ((value & ICW1.INIT) !== 0) this.#initialise(value);
    else if ((value & OCW3.SELECT) !== 0) this.#writeOcw3(value);
    else this.#writeOcw2(value);
    this.#changed();
  }

  /** ICW1: the edge detectors start afresh, and everything but the vector base is as after power-up. */
  #initialise(icw1: number): void {
    this.#step = Step.ICW2;
    this.#icw1 = icw1;
    this.#icw4 = 0;
    this.#imr = 0;
    this.#isr = 0;
    this.#latch = 0;
    this.#lowest = 7;
    this.#rotateOnAutoEoi = false;
    this.#specialMask = false;
    this.#readIsr = false;
    this.#poll = false;
  }

  #writeData(value: number): void {
    const afterIcw3 = (this.#icw1 & ICW1.NEEDS_ICW4) !== 0 ? Step.ICW4 : Step.READY;
    switch (this.#step) {
      case Step.ICW2:
        this.#icw2 = value & ICW2_BASE;
        this.#step = (this.#icw1 & ICW1.SINGLE) !== 0 ? afterIcw3 : Step.ICW3;
        break;
      case Step.ICW3:
        this.#icw3 = value;
        this.#step = afterIcw3;
        break;
      case Step.ICW4:
        this.#icw4 = value & 0x1f;
        this.#step = Step.READY;
        break;
      default:
        this.#imr = value;
    }
  }

  #writeOcw2(value: number): void {
    const level = value & 7;
    switch (value >>> 5) {
      case Ocw2.ROTATE_AUTO_CLEAR:
        this.#rotateOnAutoEoi = false;
        break;
      case Ocw2.ROTATE_AUTO_SET:
        this.#rotateOnAutoEoi = true;
        break;
      case Ocw2.EOI:
        this.#endHighest(false);
        break;
      case Ocw2.ROTATE_EOI:
        this.#endHighest(true);
        break;
      case Ocw2.SPECIFIC_EOI:
        this.#isr &= ~(1 << level);
        break;
      case Ocw2.ROTATE_SPECIFIC_EOI:
        this.#isr &= ~(1 << level);
        this.#lowest = level;
        break;
      case Ocw2.SET_PRIORITY:
        this.#lowest = level;
        break;
    }
  }

  /** Non-specific EOI; in special mask mode it does not see levels that are masked. */
  #endHighest(rotate: boolean): void {
    const rank = this.#rank(this.#specialMask ? this.#isr & ~this.#imr : this.#isr);
    if (rank === 8) return;
    const ir = (rank + this.#lowest + 1) & 7;
    this.#isr &= ~(1 << ir);
    if (rotate) this.#lowest = ir;
  }

  #writeOcw3(value: number): void {
    if ((value & OCW3.SET_SPECIAL_MASK) !== 0) this.#specialMask = (value & OCW3.SPECIAL_MASK) !== 0;
    if ((value & OCW3.POLL) !== 0) this.#poll = true;
    else if ((value & OCW3.READ) !== 0) this.#readIsr = (value & OCW3.READ_ISR) !== 0;
  }
}

export class Pic8259 {
  readonly #master: Chip;
  readonly #slave: Chip;
  readonly #setIntr: (level: boolean) => void;
  #intr = false;
  #slaveIntr = false;

  /** @param setIntr drives INTR; called when its level changes. */
  constructor(setIntr: (level: boolean) => void) {
    this.#setIntr = setIntr;
    this.#master = new Chip(() => this.#update(), 1 << CASCADE, ELCR_WRITABLE[0]);
    this.#slave = new Chip(() => this.#update(), 0, ELCR_WRITABLE[1]);
  }

  /** Ports 0x20 and 0x21. */
  get master(): BusDevice {
    return this.#master;
  }

  /** Ports 0xA0 and 0xA1. */
  get slave(): BusDevice {
    return this.#slave;
  }

  /** Ports 0x4D0 and 0x4D1: one bit an input, set for level-triggered. */
  readonly elcr: BusDevice = {
    read: (offset, size) => {
      const both = this.#master.elcr | (this.#slave.elcr << 8);
      return size === 1 ? (both >>> (offset * 8)) & 0xff : both >>> (offset * 8);
    },
    write: (offset, size, value) => {
      if (offset === 0) this.#master.elcr = value & 0xff;
      if (offset === 1) this.#slave.elcr = value & 0xff;
      else if (size > 1) this.#slave.elcr = (value >>> 8) & 0xff;
    },
  };

  /** Level of INTR. */
  get intr(): boolean {
    return this.#intr;
  }

  /** Drives input `irq`, 0 to 15 but 2, which is the cascade. */
  setInput(irq: number, level: boolean): void {
    if (irq < 8) this.#master.setInput(irq, level);
    else this.#slave.setInput(irq - 8, level);
    this.#update();
  }

  /** The vector that an INTA cycle would give now. No side effect. */
  peek(): number {
    const ir = this.#master.request();
    return ir === CASCADE ? this.#slave.vector(this.#slave.request()) : this.#master.vector(ir);
  }

  /** The INTA cycle: puts the most urgent request in service and gives its vector, the spurious IR7 if none is left. */
  acknowledge(): number {
    const vector = this.peek();
    const ir = this.#master.request();
    if (ir >= 0) this.#master.take(ir);
    if (ir === CASCADE) {
      this.#slave.take(this.#slave.request());
      // INT falls between two INTA cycles, so that the master sees the next request as an edge.
      this.#setSlaveIntr(false);
    }
    this.#drive(false);
    this.#update();
    return vector;
  }

  reset(): void {
    this.#master.reset();
    this.#slave.reset();
    this.#update();
  }

  save(): Pic8259StateV1 {
    return { kind: "pic8259", version: 1, master: this.#master.save(), slave: this.#slave.save() };
  }

  /** Checks a saved state. @throws StateError */
  static parse(state: unknown): Pic8259StateV1 {
    return parsePic8259State(state);
  }

  /** @throws StateError, with nothing changed. */
  restore(state: unknown): void {
    const saved = Pic8259.parse(state);
    this.#master.restore(saved.master);
    this.#slave.restore(saved.slave);
    this.#slaveIntr = (saved.master.levels & (1 << CASCADE)) !== 0;
    this.#update();
  }

  #update(): void {
    this.#setSlaveIntr(this.#slave.request() >= 0);
    this.#drive(this.#master.request() >= 0);
  }

  #setSlaveIntr(level: boolean): void {
    if (this.#slaveIntr === level) return;
    this.#slaveIntr = level;
    this.#master.setInput(CASCADE, level);
  }

  #drive(level: boolean): void {
    if (this.#intr === level) return;
    this.#intr = level;
    this.#setIntr(level);
  }
}
