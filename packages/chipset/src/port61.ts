/**
 * System control port B of the PC/AT, port 0x61: gate of the 8254's counter 2, the speaker, and the board's NMI
 * sources (IBM PC AT Technical Reference; Intel ICH9 data sheet, NMI_SC, sec. 13.7.1).
 *
 * Linux times its processor against counter 2 through this port. No memory parity or channel check error ever
 * comes, so their two bits read as 0.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { type Clock, StateReader } from "@skep/vcpu";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import { PIT_HZ, type Pit8254 } from "./pit8254.ts";
import { ticksAt } from "./ticks.ts";

/** Bits of port 0x61. */
export const NMI_SC = {
  /** RW: gate of counter 2. */
  TIM_CNT2_EN: 0x01,
  /** RW: counter 2 drives the speaker. */
  SPKR_DAT_EN: 0x02,
  /** RW: 1 masks system errors (SERR#). */
  PCI_SERR_EN: 0x04,
  /** RW: 1 masks channel checks (IOCHK#). */
  IOCHK_NMI_EN: 0x08,
  /** RO: changes with each refresh request, about every 15 µs. */
  REF_TOGGLE: 0x10,
  /** RO: OUT of counter 2. */
  TMR2_OUT_STS: 0x20,
} as const;

const WRITABLE = 0x0f;
/** Refresh requests come every 18 ticks of the 8254's input. */
const REFRESH_TICKS = 18;

export interface Port61StateV1 {
  kind: "port61";
  version: 1;
  /** The four writable bits. */
  control: number;
}

/** The port; claim it at `Port.SYSTEM_CONTROL_B`. */
export class Port61 implements BusDevice, ByteRegisters {
  readonly #clock: Clock;
  readonly #pit: Pit8254;
  #control = 0;

  /** @param pit whose counter 2 it gates. */
  constructor(clock: Clock, pit: Pit8254) {
    this.#clock = clock;
    this.#pit = pit;
  }

  /** Whether the speaker would follow OUT of counter 2. */
  get speakerEnabled(): boolean {
    return (this.#control & NMI_SC.SPKR_DAT_EN) !== 0;
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this, offset, size, value);
  }

  readByte(offset: number): number {
    if (offset !== 0) return 0xff;
    const refreshes = Math.floor(ticksAt(this.#clock.now(), PIT_HZ) / REFRESH_TICKS);
    const toggle = refreshes % 2 !== 0 ? NMI_SC.REF_TOGGLE : 0;
    return this.#control | toggle | (this.#pit.out(2) ? NMI_SC.TMR2_OUT_STS : 0);
  }

  writeByte(offset: number, value: number): void {
    if (offset !== 0) return;
    this.#control = value & WRITABLE;
    this.#pit.setGate(2, (value & NMI_SC.TIM_CNT2_EN) !== 0);
  }

  reset(): void {
    this.writeByte(0, 0);
  }

  save(): Port61StateV1 {
    return { kind: "port61", version: 1, control: this.#control };
  }

  /** Restores the port alone: the gate is the 8254's own state. @throws StateError */
  restore(state: unknown): void {
    this.#control = new StateReader(state, "port61", 1).bits("control", WRITABLE);
  }
}
