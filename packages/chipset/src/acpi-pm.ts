/**
 * ACPI fixed hardware (ACPI 6.5 sec. 4.8): PM1a event and control blocks, the power-management timer, general
 * purpose event block 0, and the SMI command port that hands them to the operating system.
 *
 * The block is one range of 0x30 ports; the FADT names its parts (layout.ts, `Pm`). The SCI is a level: active
 * while an enabled event's status is set and SCI_EN is. SLP_EN calls the embedder, who stops or suspends the VM.
 *
 * Deviations: SCI_EN is read-write, as on Intel's ICH, besides following the SMI command port; BM_STS, BM_RLD and
 * GBL_RLS are bits without effect (no bus-master arbitration, no firmware to wake).
 */
import { type AccessSize, type BusDevice, mergeBits, type RegisterFile, RegisterMap } from "@skep/memory";
import { type Clock, type ClockTimer, type IrqLine, StateReader } from "@skep/vcpu";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import { Acpi } from "./layout.ts";
import { nsOfTick, ticksAt } from "./ticks.ts";

/** Registers, by offset from the block's base. */
export const PM_REG = {
  /** RW1C, 16 bits: PM1 status. */
  PM1_STS: 0x00,
  /** RW, 16 bits: PM1 enable. */
  PM1_EN: 0x02,
  /** RW, 16 bits: PM1 control. */
  PM1_CNT: 0x04,
  /** RO, 32 bits: the timer. */
  PM_TMR: 0x08,
  /** RW1C, 64 bits in two halves: general purpose event status. */
  GPE0_STS: 0x20,
  GPE0_STS_HIGH: 0x24,
  /** RW, 64 bits in two halves: general purpose event enable. */
  GPE0_EN: 0x28,
  GPE0_EN_HIGH: 0x2c,
} as const;
type PmRegister = (typeof PM_REG)[keyof typeof PM_REG];

const PM_MAP = new RegisterMap<PmRegister>([
  [PM_REG.PM1_STS, 2],
  [PM_REG.PM1_EN, 2],
  [PM_REG.PM1_CNT, 2],
  [null, 2],
  [PM_REG.PM_TMR, 4],
  [null, 0x14],
  [PM_REG.GPE0_STS, 4],
  [PM_REG.GPE0_STS_HIGH, 4],
  [PM_REG.GPE0_EN, 4],
  [PM_REG.GPE0_EN_HIGH, 4],
]);

/** PM1 status (table 4.11); enables stand in the same places. */
export const PM1 = {
  TMR: 0x0001,
  BM: 0x0010,
  GBL: 0x0020,
  PWRBTN: 0x0100,
  SLPBTN: 0x0200,
  RTC: 0x0400,
  /** Status only: the system was in a sleep state. */
  WAK: 0x8000,
} as const;

export const PM1_CNT = {
  SCI_EN: 0x0001,
  BM_RLD: 0x0002,
  /** WO. */
  GBL_RLS: 0x0004,
  SLP_TYP: 0x1c00,
  SLP_TYP_SHIFT: 10,
  /** WO: enter the sleep state. */
  SLP_EN: 0x2000,
} as const;

/** SMI command port block, by offset from 0xB2. */
export const SMI_REG = {
  /** RW: a command; ACPI_ENABLE and ACPI_DISABLE of the FADT. */
  APM_CNT: 0,
  /** RW: scratch. */
  APM_STS: 1,
} as const;

const STS_WRITABLE = PM1.TMR | PM1.BM | PM1.GBL | PM1.PWRBTN | PM1.SLPBTN | PM1.RTC | PM1.WAK;
const EN_WRITABLE = PM1.TMR | PM1.GBL | PM1.PWRBTN | PM1.SLPBTN | PM1.RTC;
const CNT_KEPT = PM1_CNT.SCI_EN | PM1_CNT.BM_RLD | PM1_CNT.SLP_TYP;

/** Frequency of the timer in Hz: 14.31818 MHz / 4. */
export const PM_TIMER_HZ = 3_579_545;
/** General purpose events of block 0. */
export const GPE_COUNT = 64;

export interface AcpiPmOptions {
  /** Bits of the timer, as the FADT's TMR_VAL_EXT says: 24 or 32; default 32. */
  readonly timerBits?: 24 | 32;
  /** SCI_EN after reset, for FADTs without an SMI command port; default false. */
  readonly acpiEnabled?: boolean;
  /** The guest entered soft-off: SLP_EN with SLP_TYP_S5. */
  readonly onPowerOff?: () => void;
  /** The guest entered another sleep state; `slpTyp` is SLP_TYP, 0 to 7. `wake()` ends it. */
  readonly onSleep?: (slpTyp: number) => void;
}

export interface AcpiPmStateV1 {
  kind: "acpi-pm";
  version: 1;
  pm1Status: number;
  pm1Enable: number;
  pm1Control: number;
  /** Low and high half of GPE0's 64 bits. */
  gpeStatus: [number, number];
  gpeEnable: [number, number];
  apmControl: number;
  apmStatus: number;
  /** Value of the timer, all `timerBits` of it. */
  timer: number;
}

/** The chip; claim it at `Port.ACPI_PM`, and its `smiCommand` at `Port.SMI`. */
export class AcpiPm implements BusDevice, RegisterFile<PmRegister> {
  /** The SMI command port. */
  readonly smiCommand: BusDevice;

  readonly #clock: Clock;
  readonly #sci: IrqLine;
  readonly #options: AcpiPmOptions;
  readonly #timer: ClockTimer;
  /** Ticks between two changes of the timer's top bit. */
  readonly #halfPeriod: number;
  #status = 0;
  #enable = 0;
  #control = 0;
  readonly #gpeStatus: [number, number] = [0, 0];
  readonly #gpeEnable: [number, number] = [0, 0];
  #apmControl = 0;
  #apmStatus = 0;
  /** Added to the clock's ticks; not zero after a restore only. */
  #timerOffset = 0;
  /** Changes of the timer's top bit that have been turned into TMR_STS. */
  #seenHalves = 0;

  /** @param sci the system control interrupt, level-triggered, active high at this end: line 9. */
  constructor(clock: Clock, sci: IrqLine, options: AcpiPmOptions = {}) {
    this.#clock = clock;
    this.#sci = sci;
    this.#options = options;
    this.#halfPeriod = 2 ** ((options.timerBits ?? 32) - 1);
    this.#control = options.acpiEnabled === true ? PM1_CNT.SCI_EN : 0;
    this.#timer = clock.timer(() => this.#update());
    this.#seenHalves = this.#halves();
    const bytes: ByteRegisters = {
      readByte: (offset) => this.#readSmi(offset),
      writeByte: (offset, value) => this.#writeSmi(offset, value),
    };
    this.smiCommand = {
      read: (offset, size) => readBytes(bytes, offset, size),
      write: (offset, size, value) => writeBytes(bytes, offset, size, value),
    };
  }

  /** Whether the operating system has taken the events over (SCI_EN). */
  get acpiEnabled(): boolean {
    return (this.#control & PM1_CNT.SCI_EN) !== 0;
  }

  read(offset: number, size: AccessSize): number {
    return PM_MAP.read(offset, size, this);
  }

  write(offset: number, size: AccessSize, value: number): void {
    PM_MAP.write(offset, size, value, this);
  }

  readRegister(register: PmRegister): number {
    switch (register) {
      case PM_REG.PM1_STS:
        this.#settle();
        return this.#status;
      case PM_REG.PM1_EN:
        return this.#enable;
      case PM_REG.PM1_CNT:
        return this.#control;
      case PM_REG.PM_TMR:
        return this.#timerTicks() % (this.#halfPeriod * 2);
      case PM_REG.GPE0_STS:
        return this.#gpeStatus[0];
      case PM_REG.GPE0_STS_HIGH:
        return this.#gpeStatus[1];
      case PM_REG.GPE0_EN:
        return this.#gpeEnable[0];
      case PM_REG.GPE0_EN_HIGH:
        return this.#gpeEnable[1];
    }
  }

  writeRegister(register: PmRegister, value: number, mask: number): void {
    this.#settle();
    switch (register) {
      case PM_REG.PM1_STS:
        this.#status &= ~(value & STS_WRITABLE);
        break;
      case PM_REG.PM1_EN:
        this.#enable = mergeBits(this.#enable, value, mask) & EN_WRITABLE;
        break;
      case PM_REG.PM1_CNT:
        this.#control = mergeBits(this.#control, value, mask) & CNT_KEPT;
        if ((value & PM1_CNT.SLP_EN) !== 0) this.#sleep();
        break;
      case PM_REG.PM_TMR:
        break;
      case PM_REG.GPE0_STS:
      case PM_REG.GPE0_STS_HIGH: {
        const half = register === PM_REG.GPE0_STS ? 0 : 1;
        this.#gpeStatus[half] = (this.#gpeStatus[half] & ~value) >>> 0;
        break;
      }
      case PM_REG.GPE0_EN:
      case PM_REG.GPE0_EN_HIGH: {
        const half = register === PM_REG.GPE0_EN ? 0 : 1;
        this.#gpeEnable[half] = mergeBits(this.#gpeEnable[half], value, mask);
        break;
      }
    }
    this.#update();
  }

  /** The host pressed the power button: an operating system that listens shuts down. */
  pressPowerButton(): void {
    this.#raise(PM1.PWRBTN);
  }

  pressSleepButton(): void {
    this.#raise(PM1.SLPBTN);
  }

  /** The clock chip's alarm, where the FADT offers it as a fixed event (FIX_RTC clear). */
  raiseRtcAlarm(): void {
    this.#raise(PM1.RTC);
  }

  /**
   * Sets general purpose event `index`.
   * @throws RangeError where `index` is not from 0 to 63.
   */
  raiseGpe(index: number): void {
    if (!Number.isInteger(index) || index < 0 || index >= GPE_COUNT) {
      throw new RangeError(`index: expected 0 to ${GPE_COUNT - 1}, got ${index}`);
    }
    const half = index < 32 ? 0 : 1;
    this.#gpeStatus[half] = (this.#gpeStatus[half] | (1 << (index & 31))) >>> 0;
    this.#update();
  }

  /** The VM goes on after `onSleep`: sets WAK_STS. */
  wake(): void {
    this.#raise(PM1.WAK);
  }

  /** Registers as after a platform reset; the timer runs on. */
  reset(): void {
    this.#status = 0;
    this.#enable = 0;
    this.#control = this.#options.acpiEnabled === true ? PM1_CNT.SCI_EN : 0;
    this.#gpeStatus.fill(0);
    this.#gpeEnable.fill(0);
    this.#apmControl = 0;
    this.#apmStatus = 0;
    this.#seenHalves = this.#halves();
    this.#update();
  }

  save(): AcpiPmStateV1 {
    this.#settle();
    return {
      kind: "acpi-pm",
      version: 1,
      pm1Status: this.#status,
      pm1Enable: this.#enable,
      pm1Control: this.#control,
      gpeStatus: [...this.#gpeStatus],
      gpeEnable: [...this.#gpeEnable],
      apmControl: this.#apmControl,
      apmStatus: this.#apmStatus,
      timer: this.#timerTicks() % (this.#halfPeriod * 2),
    };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    const fields = new StateReader(state, "acpi-pm", 1);
    const status = fields.bits("pm1Status", STS_WRITABLE);
    const enable = fields.bits("pm1Enable", EN_WRITABLE);
    const control = fields.bits("pm1Control", CNT_KEPT);
    const gpeStatus = fields.uints("gpeStatus", 2, 0xffff_ffff);
    const gpeEnable = fields.uints("gpeEnable", 2, 0xffff_ffff);
    const apmControl = fields.bits("apmControl", 0xff);
    const apmStatus = fields.bits("apmStatus", 0xff);
    const timer = fields.integer("timer", 0, this.#halfPeriod * 2 - 1);

    this.#status = status;
    this.#enable = enable;
    this.#control = control;
    for (const half of [0, 1] as const) {
      this.#gpeStatus[half] = gpeStatus[half]!;
      this.#gpeEnable[half] = gpeEnable[half]!;
    }
    this.#apmControl = apmControl;
    this.#apmStatus = apmStatus;
    const period = this.#halfPeriod * 2;
    const ticks = ticksAt(this.#clock.now(), PM_TIMER_HZ);
    this.#timerOffset = (((timer - ticks) % period) + period) % period;
    this.#seenHalves = this.#halves();
    this.#update();
  }

  #readSmi(offset: number): number {
    if (offset === SMI_REG.APM_CNT) return this.#apmControl;
    return offset === SMI_REG.APM_STS ? this.#apmStatus : 0xff;
  }

  #writeSmi(offset: number, value: number): void {
    if (offset === SMI_REG.APM_STS) this.#apmStatus = value;
    if (offset !== SMI_REG.APM_CNT) return;
    this.#apmControl = value;
    if (value === Acpi.ACPI_ENABLE) this.#control |= PM1_CNT.SCI_EN;
    if (value === Acpi.ACPI_DISABLE) this.#control &= ~PM1_CNT.SCI_EN;
    this.#update();
  }

  #sleep(): void {
    const slpTyp = (this.#control & PM1_CNT.SLP_TYP) >> PM1_CNT.SLP_TYP_SHIFT;
    if (slpTyp === Acpi.SLP_TYP_S5) this.#options.onPowerOff?.();
    else this.#options.onSleep?.(slpTyp);
  }

  #raise(status: number): void {
    this.#status |= status;
    this.#update();
  }

  #timerTicks(): number {
    return ticksAt(this.#clock.now(), PM_TIMER_HZ) + this.#timerOffset;
  }

  #halves(): number {
    return Math.floor(this.#timerTicks() / this.#halfPeriod);
  }

  /** TMR_STS is set by each change of the timer's top bit (sec. 4.8.2.1). */
  #settle(): void {
    const halves = this.#halves();
    if (halves > this.#seenHalves) this.#status |= PM1.TMR;
    this.#seenHalves = halves;
  }

  #update(): void {
    this.#settle();
    const fixed = (this.#status & this.#enable) !== 0;
    const general =
      (this.#gpeStatus[0] & this.#gpeEnable[0]) !== 0 || (this.#gpeStatus[1] & this.#gpeEnable[1]) !== 0;
    this.#sci.set(this.acpiEnabled && (fixed || general));
    // The timer's change matters to the line alone; TMR_STS itself is settled when somebody looks.
    if ((this.#enable & PM1.TMR) !== 0 && (this.#status & PM1.TMR) === 0) {
      const tick = (this.#seenHalves + 1) * this.#halfPeriod - this.#timerOffset;
      this.#timer.arm(nsOfTick(tick, PM_TIMER_HZ));
    } else {
      this.#timer.cancel();
    }
  }
}
