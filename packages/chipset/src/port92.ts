/**
 * System control port A of the PS/2, port 0x92: fast A20 and fast reset (Intel ICH9 data sheet, PORT92,
 * sec. 13.7.3). The gate is shared with the i8042.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { StateReader } from "@skep/vcpu";
import type { A20Gate } from "./a20.ts";
import { type ByteRegisters, readBytes, writeBytes } from "./access.ts";
import type { ResetKind } from "./reset-control.ts";

/** Bits of port 0x92. */
export const PORT92 = {
  /** RW: going from 0 to 1 resets the processor (INIT). */
  INIT_NOW: 0x01,
  /** RW: address line 20. */
  ALT_A20_GATE: 0x02,
} as const;

export interface Port92StateV1 {
  kind: "port92";
  version: 1;
  initNow: boolean;
}

/** The port; claim it at `Port.SYSTEM_CONTROL_A`. */
export class Port92 implements BusDevice, ByteRegisters {
  readonly #a20: A20Gate;
  readonly #onReset: (kind: ResetKind) => void;
  #initNow = false;

  /** @param onReset called inside the guest's write: should note the request and return. */
  constructor(a20: A20Gate, onReset: (kind: ResetKind) => void) {
    this.#a20 = a20;
    this.#onReset = onReset;
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this, offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this, offset, size, value);
  }

  readByte(offset: number): number {
    if (offset !== 0) return 0xff;
    return (this.#initNow ? PORT92.INIT_NOW : 0) | (this.#a20.enabled ? PORT92.ALT_A20_GATE : 0);
  }

  writeByte(offset: number, value: number): void {
    if (offset !== 0) return;
    const initNow = (value & PORT92.INIT_NOW) !== 0;
    const resets = initNow && !this.#initNow;
    this.#initNow = initNow;
    this.#a20.set((value & PORT92.ALT_A20_GATE) !== 0);
    if (resets) this.#onReset("processor");
  }

  reset(): void {
    this.#initNow = false;
  }

  save(): Port92StateV1 {
    return { kind: "port92", version: 1, initNow: this.#initNow };
  }

  /** Restores the port alone; the gate has its own state. @throws StateError */
  restore(state: unknown): void {
    this.#initNow = new StateReader(state, "port92", 1).boolean("initNow");
  }
}
