import type { AccessSize } from "@skep/memory";

/** An interrupt wire as a device sees it: a level, recomputed from the device's state after every access. */
export interface IrqLine {
  /** Drives the line; setting the level it already has does nothing. */
  set(level: boolean): void;
}

/** Where message-signalled interrupts go (SDM Vol. 3A sec. 11.11). */
export interface MsiTarget {
  /** `address` is the 32-bit message address (0xFEExxxxx), `data` the 32-bit message data. */
  send(address: number, data: number): void;
}

/**
 * The processor's side of one local APIC: what the run loop asks and tells it.
 *
 * x2APIC MSRs (0x800 to 0x8FF), IA32_APIC_BASE and IA32_TSC_DEADLINE reach it through `readMsr` and
 * `writeMsr`; the xAPIC page through `read` and `write`, with offsets from its base.
 */
export interface LocalApicPort {
  /** Guest-physical base of the xAPIC page, or `undefined` while it is disabled or in x2APIC mode. */
  readonly mmioBase: number | undefined;
  read(offset: number, size: AccessSize): number;
  write(offset: number, size: AccessSize, value: number): void;
  /** `undefined`: no such MSR in this state, the guest gets #GP(0). */
  readMsr(index: number): bigint | undefined;
  /** False: no such MSR or a reserved bit, the guest gets #GP(0). */
  writeMsr(index: number, value: bigint): boolean;
  /** CR8, 0 to 15: bits 7:4 of the task priority. */
  getTpr(): number;
  setTpr(value: number): void;
}

/** What the interrupt controller asks of the VM's vCPUs. */
export interface VcpuSignals {
  /** An interrupt or NMI became pending for vCPU `index`: wake it if it halts. */
  wake(index: number): void;
  nmi(index: number): void;
  /** INIT: the vCPU resets and waits for a start-up IPI. */
  init(index: number): void;
  /** Start-up IPI with `vector` 0x00 to 0xFF: real mode at CS = vector << 8, IP 0. */
  startup(index: number, vector: number): void;
}

/**
 * The interrupt controller in front of the vCPUs: KVM's in-kernel irqchip, or `@skep/chipset`'s APICs and
 * 8259s. Engines without an irqchip of their own are driven through this by the run loop.
 */
export interface InterruptController {
  /** Vector of the interrupt that vCPU `index` would take now if it accepts one, or -1. No side effect. */
  pending(index: number): number;
  /** Takes that interrupt (the INTA cycle): moves it to in-service and returns its vector, or -1 if it is gone. */
  acknowledge(index: number): number;
  localApic(index: number): LocalApicPort;
  /** Called once, before the first vCPU runs. */
  connect(signals: VcpuSignals): void;
}

/** An interrupt controller that an engine brings: what a machine is wired to. It answers its own ports and addresses. */
export interface EngineIrqChip extends InterruptController, MsiTarget {
  /**
   * A line of global system interrupt `gsi`; each call gives a line of its own, the input is asserted while any is.
   *
   * @throws RangeError where there is no such input.
   */
  line(gsi: number): IrqLine;
  /** A line of ISA IRQ `irq`, 0 to 15 but 2. @throws RangeError */
  isaLine(irq: number): IrqLine;
  /** RESET of every chip. The lines keep the level that their devices drive. */
  reset(): void;
  /** Plain versioned data. */
  save(): unknown;
  /** @throws StateError where `state` is not one of this controller's. */
  restore(state: unknown): void;
}
