/**
 * 16550A UART (National Semiconductor PC16550D data sheet, June 1995), as wired in a PC: OUT2 gates the
 * interrupt output.
 *
 * The wire has no speed: a byte written is with the backend before the write returns, and THRE and TEMT read
 * as 1 at once, whatever the divisor says. Two things are paced all the same, so that a guest's interrupt
 * handler, which looks again before it leaves, comes to an end (Linux gives up after 512 rounds with "too much
 * work for irq"): after a burst of THRE interrupts the next one, and after a burst of refills the next
 * `onReceiveSpace`, wait for a short while.
 *
 * Deviations: parity and stop bits are kept but have no effect; set break (LCR.SB) and DMA mode 1 are
 * registers only; the character timeout is that of 115,200 baud whatever the divisor.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { type Clock, type ClockTimer, type IrqLine, StateReader } from "@skep/vcpu";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";

/** Registers, by offset (PC16550D, table II). */
export const UART_REG = {
  /** RO: receiver buffer. With LCR.DLAB set: RW, DLL, the divisor's low byte. */
  RBR: 0,
  /** WO: transmitter holding register. */
  THR: 0,
  /** RW: interrupt enable. With LCR.DLAB set: DLM, the divisor's high byte. */
  IER: 1,
  /** RO: interrupt identification; reading it clears the THRE interrupt that it names. */
  IIR: 2,
  /** WO: FIFO control. */
  FCR: 2,
  /** RW: line control. */
  LCR: 3,
  /** RW: modem control. */
  MCR: 4,
  /** RO: line status; reading clears its error bits. */
  LSR: 5,
  /** RO: modem status; reading clears its delta bits. */
  MSR: 6,
  /** RW: scratch. */
  SCR: 7,
} as const;

export const IER = { ERBFI: 0x01, ETBEI: 0x02, ELSI: 0x04, EDSSI: 0x08 } as const;
/** Interrupt identification, in order of priority; FIFOS is or-ed in while the FIFOs are on. */
export const IIR = {
  NONE: 0x01,
  LINE: 0x06,
  DATA: 0x04,
  TIMEOUT: 0x0c,
  THRE: 0x02,
  MODEM: 0x00,
  FIFOS: 0xc0,
} as const;
export const FCR = { ENABLE: 0x01, RESET_RX: 0x02, RESET_TX: 0x04, TRIGGER_SHIFT: 6 } as const;
export const LCR = { WLS: 0x03, SB: 0x40, DLAB: 0x80 } as const;
export const MCR = { DTR: 0x01, RTS: 0x02, OUT1: 0x04, OUT2: 0x08, LOOP: 0x10 } as const;
export const LSR = {
  DR: 0x01,
  OE: 0x02,
  PE: 0x04,
  FE: 0x08,
  BI: 0x10,
  THRE: 0x20,
  TEMT: 0x40,
  /** At least one error in the receiver FIFO. */
  FIFO_ERROR: 0x80,
} as const;
export const MSR = {
  DCTS: 0x01,
  DDSR: 0x02,
  TERI: 0x04,
  DDCD: 0x08,
  CTS: 0x10,
  DSR: 0x20,
  RI: 0x40,
  DCD: 0x80,
} as const;

/** Depth of each FIFO in bytes. */
export const UART_FIFO_BYTES = 16;

const IER_WRITABLE = 0x0f;
/** FCR's bits that last: trigger level, DMA mode, enable. */
const FCR_KEPT = 0xc9;
const MCR_WRITABLE = 0x1f;
const MSR_LINES = 0xf0;
/** Receiver trigger levels, by FCR bits 7:6. */
const TRIGGER_BYTES = [1, 4, 8, 14] as const;
/** Errors that travel with a character, in LSR's places; kept above the byte in the FIFO. */
const CHARACTER_ERRORS = LSR.PE | LSR.FE | LSR.BI;
const ERROR_SHIFT = 8;
/** Divisor after reset: 115,200 baud, as firmware leaves it; the data sheet leaves it undefined, 0 is illegal. */
const RESET_DIVISOR = 1;

/** Character timeout: four characters of ten bits at 115,200 baud. */
const TIMEOUT_NS = 347_222;
/** THRE interrupts in a row, and receiver refills in a row, before a pause. Well below Linux's 512 rounds. */
const BURST = 128;
const PAUSE_NS = 20_000;

/** What the serial line leads to. */
export interface UartBackend {
  /** A byte that the guest sent. Called inside the guest's write: must return at once. */
  onTransmit(byte: number): void;
  /**
   * There is room again after a `receive()` that did not take everything; may call `receive()` at once.
   */
  onReceiveSpace?(): void;
  /**
   * The guest changed DTR or RTS. Linux raises both when it opens the port, after it has emptied the receiver:
   * a console that holds typed bytes back until then loses none.
   */
  onModemOutputs?(outputs: ModemOutputs): void;
}

/** The UART's outputs to the modem; true is asserted. Both are inactive in loopback. */
export interface ModemOutputs {
  readonly dtr: boolean;
  readonly rts: boolean;
}

/** The modem's signals as the UART sees them; true is asserted. */
export interface ModemSignals {
  readonly cts: boolean;
  readonly dsr: boolean;
  readonly ri: boolean;
  readonly dcd: boolean;
}

export interface Uart16550StateV1 {
  kind: "uart16550";
  version: 1;
  ier: number;
  /** FCR's trigger bits (7:6), DMA bit (3) and enable bit (0). */
  fcr: number;
  lcr: number;
  mcr: number;
  /** All eight bits: lines and deltas. */
  msr: number;
  /** The four lines as driven from outside, in MSR's bits 7:4. */
  modem: number;
  scratch: number;
  divisor: number;
  overrun: boolean;
  /** Receiver FIFO, oldest first: byte, and the character's error bits (LSR's) above it. */
  rx: number[];
  thrPending: boolean;
  /** A THRE interrupt is held back until the pause is over. */
  thrDeferred: boolean;
  timeoutPending: boolean;
  /** A `receive()` was not taken in full and has not been called for again. */
  spaceWanted: boolean;
}

/** The chip; claim it at `Port.COM1` and its like. */
export class Uart16550 implements BusDevice, ByteRegisters {
  readonly #irq: IrqLine;
  readonly #backend: UartBackend;
  readonly #clock: Clock;
  readonly #timeoutTimer: ClockTimer;
  readonly #thrTimer: ClockTimer;
  readonly #refillTimer: ClockTimer;

  #ier = 0;
  #fcr = 0;
  #lcr = 0;
  #mcr = 0;
  #modem: number = MSR.CTS | MSR.DSR | MSR.DCD;
  #msr = this.#modem;
  #scratch = 0;
  #divisor = RESET_DIVISOR;
  #overrun = false;
  readonly #rx = new Uint16Array(UART_FIFO_BYTES);
  #rxHead = 0;
  #rxCount = 0;
  #thrPending = false;
  #thrDeferred = false;
  #thrAcks = 0;
  #timeoutPending = false;
  #spaceWanted = false;
  #refills = 0;

  /** @param irq the interrupt output: line 4 for COM1 and COM3, 3 for COM2 and COM4. */
  constructor(clock: Clock, irq: IrqLine, backend: UartBackend) {
    this.#clock = clock;
    this.#irq = irq;
    this.#backend = backend;
    this.#timeoutTimer = clock.timer(() => {
      this.#timeoutPending = this.#rxCount > 0;
      this.#update();
    });
    this.#thrTimer = clock.timer(() => {
      this.#thrDeferred = false;
      this.#thrAcks = 0;
      this.#thrPending = true;
      this.#update();
    });
    this.#refillTimer = clock.timer(() => {
      this.#refills = 0;
      if (this.#rxCount < this.#capacity()) this.#refill();
    });
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this, offset, size, value);
  }

  readByte(offset: number): number {
    const divisorLatch = (this.#lcr & LCR.DLAB) !== 0;
    switch (offset) {
      case UART_REG.RBR:
        return divisorLatch ? this.#divisor & 0xff : this.#readData();
      case UART_REG.IER:
        return divisorLatch ? this.#divisor >> 8 : this.#ier;
      case UART_REG.IIR:
        return this.#readIdentification();
      case UART_REG.LCR:
        return this.#lcr;
      case UART_REG.MCR:
        return this.#mcr;
      case UART_REG.LSR:
        return this.#readLineStatus();
      case UART_REG.MSR: {
        const value = this.#msr;
        this.#msr &= MSR_LINES;
        this.#update();
        return value;
      }
      case UART_REG.SCR:
        return this.#scratch;
      default:
        return 0xff;
    }
  }

  writeByte(offset: number, value: number): void {
    const divisorLatch = (this.#lcr & LCR.DLAB) !== 0;
    switch (offset) {
      case UART_REG.THR:
        if (divisorLatch) this.#divisor = (this.#divisor & 0xff00) | value;
        else this.#transmit(value);
        return;
      case UART_REG.IER:
        if (divisorLatch) this.#divisor = (this.#divisor & 0x00ff) | (value << 8);
        else this.#writeEnable(value);
        return;
      case UART_REG.FCR:
        this.#writeFifoControl(value);
        return;
      case UART_REG.LCR:
        this.#lcr = value;
        return;
      case UART_REG.MCR:
        this.#writeModemControl(value);
        return;
      case UART_REG.SCR:
        this.#scratch = value;
        return;
      default:
        // LSR and MSR are read-only; the data sheet keeps their writes for factory tests.
        return;
    }
  }

  /**
   * Offers bytes from the line; takes as many as the receiver has room for (0 in loopback) and returns that
   * number. Where it is fewer than offered, `onReceiveSpace` follows.
   */
  receive(bytes: ArrayLike<number>): number {
    const looped = (this.#mcr & MCR.LOOP) !== 0;
    const accepted = looped ? 0 : Math.min(bytes.length, this.#capacity() - this.#rxCount);
    const mask = this.#characterMask();
    for (let index = 0; index < accepted; index++) this.#push((bytes[index] ?? 0) & mask);
    if (accepted < bytes.length) this.#spaceWanted = true;
    if (accepted > 0) this.#restartTimeout();
    this.#update();
    return accepted;
  }

  /** A break condition on the line (Linux's magic SysRq over serial): false where the receiver is full. */
  receiveBreak(): boolean {
    if ((this.#mcr & MCR.LOOP) !== 0 || this.#rxCount === this.#capacity()) return false;
    this.#push((LSR.BI | LSR.FE) << ERROR_SHIFT);
    this.#restartTimeout();
    this.#update();
    return true;
  }

  get modemOutputs(): ModemOutputs {
    const looped = (this.#mcr & MCR.LOOP) !== 0;
    return { dtr: !looped && (this.#mcr & MCR.DTR) !== 0, rts: !looped && (this.#mcr & MCR.RTS) !== 0 };
  }

  /** Drives the modem's signals; after reset CTS, DSR and DCD are asserted: a peer that is there. */
  setModemSignals(signals: ModemSignals): void {
    this.#modem =
      (signals.cts ? MSR.CTS : 0) |
      (signals.dsr ? MSR.DSR : 0) |
      (signals.ri ? MSR.RI : 0) |
      (signals.dcd ? MSR.DCD : 0);
    this.#updateModem();
  }

  /** Master reset (PC16550D, table III). What the modem drives stays. */
  reset(): void {
    this.#ier = 0;
    this.#fcr = 0;
    this.#lcr = 0;
    this.#mcr = 0;
    this.#msr = this.#modem;
    this.#scratch = 0;
    this.#divisor = RESET_DIVISOR;
    this.#clearReceiver();
    this.#clearTransmitter();
    this.#thrPending = false;
    this.#update();
    this.#refillSoon();
  }

  save(): Uart16550StateV1 {
    const rx: number[] = [];
    for (let index = 0; index < this.#rxCount; index++) {
      rx.push(this.#rx[(this.#rxHead + index) % UART_FIFO_BYTES]!);
    }
    return {
      kind: "uart16550",
      version: 1,
      ier: this.#ier,
      fcr: this.#fcr,
      lcr: this.#lcr,
      mcr: this.#mcr,
      msr: this.#msr,
      modem: this.#modem,
      scratch: this.#scratch,
      divisor: this.#divisor,
      overrun: this.#overrun,
      rx,
      thrPending: this.#thrPending,
      thrDeferred: this.#thrDeferred,
      timeoutPending: this.#timeoutPending,
      spaceWanted: this.#spaceWanted,
    };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    const fields = new StateReader(state, "uart16550", 1);
    const ier = fields.bits("ier", IER_WRITABLE);
    const fcr = fields.bits("fcr", FCR_KEPT);
    const lcr = fields.bits("lcr", 0xff);
    const mcr = fields.bits("mcr", MCR_WRITABLE);
    const msr = fields.bits("msr", 0xff);
    const modem = fields.bits("modem", MSR_LINES);
    const scratch = fields.bits("scratch", 0xff);
    const divisor = fields.bits("divisor", 0xffff);
    const overrun = fields.boolean("overrun");
    const capacity = (fcr & FCR.ENABLE) !== 0 ? UART_FIFO_BYTES : 1;
    const rx = fields.queue("rx", capacity, (CHARACTER_ERRORS << ERROR_SHIFT) | 0xff);
    const thrPending = fields.boolean("thrPending");
    const thrDeferred = fields.boolean("thrDeferred");
    const timeoutPending = fields.boolean("timeoutPending");
    const spaceWanted = fields.boolean("spaceWanted");

    this.#ier = ier;
    this.#fcr = fcr;
    this.#lcr = lcr;
    this.#mcr = mcr;
    this.#msr = msr;
    this.#modem = modem;
    this.#scratch = scratch;
    this.#divisor = divisor;
    this.#overrun = overrun;
    this.#rx.set(rx);
    this.#rxHead = 0;
    this.#rxCount = rx.length;
    this.#clearTransmitter();
    this.#thrPending = thrPending;
    if (thrDeferred) this.#deferThr();
    this.#restartTimeout();
    this.#timeoutPending = timeoutPending;
    this.#spaceWanted = spaceWanted;
    this.#refills = 0;
    this.#refillTimer.cancel();
    this.#refillSoon();
    this.#update();
  }

  #fifosOn(): boolean {
    return (this.#fcr & FCR.ENABLE) !== 0;
  }

  #capacity(): number {
    return this.#fifosOn() ? UART_FIFO_BYTES : 1;
  }

  /** Characters of 5 to 8 bits (LCR.WLS). */
  #characterMask(): number {
    return 0xff >> (3 - (this.#lcr & LCR.WLS));
  }

  #readData(): number {
    if (this.#rxCount === 0) return 0;
    const character = this.#rx[this.#rxHead]!;
    this.#rxHead = (this.#rxHead + 1) % UART_FIFO_BYTES;
    this.#rxCount--;
    this.#restartTimeout();
    this.#update();
    if (this.#rxCount === 0) this.#refill();
    return character & 0xff;
  }

  #readIdentification(): number {
    const source = this.#source();
    if (source === IIR.THRE) {
      this.#thrPending = false;
      this.#thrAcks++;
      this.#update();
    }
    return source | (this.#fifosOn() ? IIR.FIFOS : 0);
  }

  #readLineStatus(): number {
    let value = LSR.THRE | LSR.TEMT | this.#lineErrors();
    if (this.#rxCount > 0) {
      value |= LSR.DR;
      if (this.#fifosOn() && this.#fifoHoldsError()) value |= LSR.FIFO_ERROR;
      this.#rx[this.#rxHead]! &= 0xff;
    }
    this.#overrun = false;
    this.#update();
    return value;
  }

  /** LSR's error bits: overrun, and those of the character that is read next. */
  #lineErrors(): number {
    const character = this.#rxCount > 0 ? this.#rx[this.#rxHead]! : 0;
    return (character >> ERROR_SHIFT) | (this.#overrun ? LSR.OE : 0);
  }

  #fifoHoldsError(): boolean {
    for (let index = 0; index < this.#rxCount; index++) {
      if (this.#rx[(this.#rxHead + index) % UART_FIFO_BYTES]! > 0xff) return true;
    }
    return false;
  }

  #writeEnable(value: number): void {
    const before = this.#ier;
    this.#ier = value & IER_WRITABLE;
    // Enabling ETBEI while THRE is set interrupts at once: Linux's start-up test and its start_tx rely on it.
    if ((before & IER.ETBEI) === 0 && (this.#ier & IER.ETBEI) !== 0) this.#thrPending = true;
    if ((before & IER.ERBFI) === 0) this.#restartTimeout();
    this.#update();
  }

  #writeFifoControl(value: number): void {
    const enable = value & FCR.ENABLE;
    // Switching the FIFOs clears both; the other bits count only together with ENABLE (sec. 8.4).
    const switched = enable !== (this.#fcr & FCR.ENABLE);
    this.#fcr = enable === 0 ? 0 : value & FCR_KEPT;
    if (switched || (enable !== 0 && (value & FCR.RESET_RX) !== 0)) this.#clearReceiver();
    this.#update();
    if (this.#rxCount === 0) this.#refillSoon();
  }

  #writeModemControl(value: number): void {
    const before = this.modemOutputs;
    this.#mcr = value & MCR_WRITABLE;
    this.#updateModem();
    const after = this.modemOutputs;
    if (before.dtr !== after.dtr || before.rts !== after.rts) this.#backend.onModemOutputs?.(after);
    if (this.#rxCount === 0) this.#refillSoon();
  }

  #transmit(value: number): void {
    const byte = value & this.#characterMask();
    if ((this.#mcr & MCR.LOOP) !== 0) {
      if (this.#rxCount === this.#capacity()) this.#overrun = true;
      else this.#push(byte);
      this.#restartTimeout();
    } else {
      this.#backend.onTransmit(byte);
    }
    // The byte is gone and the holding register empty again: a new THRE interrupt, now or after the pause.
    this.#thrPending = false;
    if (this.#thrAcks < BURST) this.#thrPending = true;
    else if (!this.#thrDeferred) this.#deferThr();
    this.#update();
  }

  #deferThr(): void {
    this.#thrDeferred = true;
    this.#thrTimer.arm(this.#clock.now() + PAUSE_NS);
  }

  #clearTransmitter(): void {
    this.#thrTimer.cancel();
    this.#thrDeferred = false;
    this.#thrAcks = 0;
  }

  #clearReceiver(): void {
    this.#rxHead = 0;
    this.#rxCount = 0;
    this.#overrun = false;
    this.#restartTimeout();
  }

  #push(character: number): void {
    this.#rx[(this.#rxHead + this.#rxCount) % UART_FIFO_BYTES] = character;
    this.#rxCount++;
  }

  /** A character came or went, which restarts the timeout (sec. 8.4.1: FIFO interrupt mode). */
  #restartTimeout(): void {
    this.#timeoutPending = false;
    if (this.#fifosOn() && this.#rxCount > 0 && (this.#ier & IER.ERBFI) !== 0) {
      this.#timeoutTimer.arm(this.#clock.now() + TIMEOUT_NS);
    } else {
      this.#timeoutTimer.cancel();
    }
  }

  /** Calls for what a full receiver had refused; after a burst of calls, only when the pause is over. */
  #refill(): void {
    if (!this.#spaceWanted) {
      this.#refills = 0;
      return;
    }
    if (this.#refills === BURST) {
      this.#refillSoon();
      return;
    }
    this.#refills++;
    this.#spaceWanted = false;
    this.#backend.onReceiveSpace?.();
  }

  /** After the pause: past a burst, or where a driver is about to clear the receiver once more. */
  #refillSoon(): void {
    if (!this.#spaceWanted || this.#refillTimer.deadline !== undefined) return;
    this.#refillTimer.arm(this.#clock.now() + PAUSE_NS);
  }

  /** Modem lines, or in loopback the modem outputs turned round (sec. 8.6), with their deltas. */
  #updateModem(): void {
    let lines = this.#modem;
    if ((this.#mcr & MCR.LOOP) !== 0) {
      lines =
        ((this.#mcr & MCR.RTS) !== 0 ? MSR.CTS : 0) |
        ((this.#mcr & MCR.DTR) !== 0 ? MSR.DSR : 0) |
        ((this.#mcr & MCR.OUT1) !== 0 ? MSR.RI : 0) |
        ((this.#mcr & MCR.OUT2) !== 0 ? MSR.DCD : 0);
    }
    const changed = (lines ^ this.#msr) & MSR_LINES;
    let deltas = this.#msr & ~MSR_LINES;
    if ((changed & MSR.CTS) !== 0) deltas |= MSR.DCTS;
    if ((changed & MSR.DSR) !== 0) deltas |= MSR.DDSR;
    if ((changed & MSR.DCD) !== 0) deltas |= MSR.DDCD;
    // RI counts at its trailing edge only.
    if ((changed & MSR.RI) !== 0 && (lines & MSR.RI) === 0) deltas |= MSR.TERI;
    this.#msr = lines | deltas;
    this.#update();
  }

  /** The interrupt of highest priority that is enabled and pending, as IIR names it (table V). */
  #source(): number {
    const ier = this.#ier;
    if ((ier & IER.ELSI) !== 0 && this.#lineErrors() !== 0) return IIR.LINE;
    if ((ier & IER.ERBFI) !== 0 && this.#rxCount > 0) {
      const trigger = this.#fifosOn() ? TRIGGER_BYTES[this.#fcr >> FCR.TRIGGER_SHIFT]! : 1;
      if (this.#rxCount >= trigger) return IIR.DATA;
      if (this.#timeoutPending) return IIR.TIMEOUT;
    }
    if ((ier & IER.ETBEI) !== 0 && this.#thrPending) return IIR.THRE;
    if ((ier & IER.EDSSI) !== 0 && (this.#msr & ~MSR_LINES) !== 0) return IIR.MODEM;
    return IIR.NONE;
  }

  #update(): void {
    // The PC gates INTR with OUT2, which loopback forces inactive at the pin.
    const gated = (this.#mcr & (MCR.OUT2 | MCR.LOOP)) === MCR.OUT2;
    this.#irq.set(gated && this.#source() !== IIR.NONE);
  }
}
