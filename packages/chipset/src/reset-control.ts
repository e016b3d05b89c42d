/**
 * Reset control register, port 0xCF9 (Intel ICH9 data sheet, RST_CNT, sec. 13.7.5): the FADT's reset register.
 *
 * The byte lies inside the PCI configuration address port 0xCF8, which is decoded for 32-bit accesses only. So the
 * chip takes that port's four bytes and answers to the one: without it the bus would split a PCI configuration
 * address into bytes, and one of them could reset the machine. A PCI host bridge (`@skep/pci`) owns the range instead and
 * hands its byte accesses on to this chip.
 */
import type { AccessSize, BusDevice } from "@skep/memory";
import { StateReader } from "@skep/vcpu";

/** Offset of the register from 0xCF8. */
const RST_CNT_OFFSET = 1;

/** Bits of RST_CNT. */
export const RST_CNT = {
  /** RW: 1 makes it a system reset, 0 resets the processor only (INIT). */
  SYS_RST: 0x02,
  /** RW: going from 0 to 1 resets. */
  RST_CPU: 0x04,
  /** RW: 1 makes a system reset a power cycle. */
  FULL_RST: 0x08,
} as const;

const WRITABLE = RST_CNT.SYS_RST | RST_CNT.RST_CPU | RST_CNT.FULL_RST;

/** "system": the whole machine; "processor": the processor by INIT, devices stay. */
export type ResetKind = "system" | "processor";

export interface ResetControlStateV1 {
  kind: "reset-control";
  version: 1;
  control: number;
}

/** The chip; claim it at `Port.PCI_CONFIG_ADDRESS`. */
export class ResetControl implements BusDevice {
  readonly #onReset: (kind: ResetKind) => void;
  #control = 0;

  /** @param onReset called inside the guest's write: should note the request and return. */
  constructor(onReset: (kind: ResetKind) => void) {
    this.#onReset = onReset;
  }

  read(offset: number, size: AccessSize): number {
    return offset === RST_CNT_OFFSET && size === 1 ? this.#control : 0xffff_ffff;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset !== RST_CNT_OFFSET || size !== 1) return;
    const resets = (value & RST_CNT.RST_CPU) !== 0 && (this.#control & RST_CNT.RST_CPU) === 0;
    this.#control = value & WRITABLE;
    if (resets) this.#onReset((value & RST_CNT.SYS_RST) !== 0 ? "system" : "processor");
  }

  reset(): void {
    this.#control = 0;
  }

  save(): ResetControlStateV1 {
    return { kind: "reset-control", version: 1, control: this.#control };
  }

  /** @throws StateError where `state` is not a saved state of this chip; nothing is changed then. */
  restore(state: unknown): void {
    this.#control = new StateReader(state, "reset-control", 1).bits("control", WRITABLE);
  }
}
