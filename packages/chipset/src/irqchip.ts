/**
 * The PC's interrupt controllers, wired: a local APIC for each vCPU, one I/O APIC, two 8259As.
 *
 *     ISA IRQ n ──┬── 8259A IR n ── INTR ──┬── LINT0 of every local APIC
 *                 │                        └── I/O APIC input 0 (ExtINT)
 *                 └── I/O APIC input n, IRQ 0 at input 2 ──┐
 *     PCI INTx ────── I/O APIC inputs 16 to 23 ────────────┼── local APIC n ── vCPU n
 *     MSI, IPI ────────────────────────────────────────────┘
 *
 * Global system interrupt n is I/O APIC input n. The MADT has to say so: I/O APIC base 0, interrupt source
 * override of ISA IRQ 0 to GSI 2 (bus-conforming edge), APIC IDs equal to the vCPU indices.
 */
import {
  type Clock,
  type InterruptController,
  type IrqChipStateV1,
  type IrqLine,
  type LocalApicPort,
  type MsiTarget,
  StateReader,
  type VcpuSignals,
} from "@skep/vcpu";
import { ApicBus } from "./apic-bus.ts";
import { decodeMsi } from "./apic-message.ts";
import { IOAPIC_PINS, IoApic } from "./ioapic.ts";
import { EXTINT, LocalApic } from "./lapic.ts";
import type { LocalApicHost, LocalApicOptions } from "./lapic-options.ts";
import { Pic8259 } from "./pic8259.ts";

const ISA_IRQS = 16;
/** The 8259s' cascade, no line of a device's. */
const ISA_CASCADE = 2;
/** The timer's I/O APIC input; 0 is the 8259s'. */
const GSI_TIMER = 2;
const GSI_PIC = 0;

export interface IrqChipOptions
  extends Pick<
    LocalApicOptions,
    "x2apic" | "tscDeadline" | "eoiSuppression" | "physicalAddressBits" | "timerHz"
  > {
  /** Number of vCPUs, 1 to 255; vCPU n has APIC ID n, and 0 is the boot processor. */
  readonly vcpus: number;
  /** I/O APIC ID, 0 to 15; default 0. */
  readonly ioapicId?: number;
  /**
   * RESET leaves the boot processor's LINT0 and LINT1 as firmware does: 8259 interrupts and NMIs get through.
   * Default true, for kernels that are started without firmware; firmware does not mind.
   */
  readonly virtualWire?: boolean;
  /** Ticks of vCPU `index`'s TSC beyond the clock's (IA32_TSC_ADJUST); default 0. */
  readonly tscOffset?: (index: number) => bigint;
}

const UNCONNECTED: VcpuSignals = { wake() {}, nmi() {}, init() {}, startup() {} };

/**
 * Interrupt controllers for engines that bring none.
 *
 * @example
 * const irqchip = new IrqChip(clock, { vcpus: 2 });
 * irqchip.connect(signals);
 * const uart = irqchip.isaLine(4);
 * uart.set(true);
 */
export class IrqChip implements InterruptController, MsiTarget {
  /** To be mapped at 0xFEC00000, 4 KiB. */
  readonly ioapic: IoApic;
  /** Its `master`, `slave` and `elcr` go to ports 0x20, 0xA0 and 0x4D0, two bytes each. */
  readonly pic: Pic8259;
  readonly #apics: readonly LocalApic[];
  readonly #bus: ApicBus;
  readonly #pins: readonly Wire[];
  readonly #nmi: Wire;
  #signals: VcpuSignals = UNCONNECTED;

  /** @throws RangeError where an option is out of its range. */
  constructor(clock: Clock, options: IrqChipOptions) {
    const { vcpus, virtualWire = true, ioapicId = 0, tscOffset = () => 0n } = options;
    if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > 255)
      throw new RangeError(`IrqChipOptions.vcpus: expected an integer in [1, 255], got ${vcpus}`);
    const apics: LocalApic[] = [];
    this.#apics = apics;
    this.#bus = new ApicBus(apics);
    this.ioapic = new IoApic((message) => this.#bus.deliver(message), { id: ioapicId });
    for (let id = 0; id < vcpus; id++) {
      const apicOptions: LocalApicOptions = {
        ...options,
        id,
        virtualWire: virtualWire && id === 0,
        tscOffset: () => tscOffset(id),
      };
      apics.push(new LocalApic(this.#host(id), clock, apicOptions));
    }
    this.pic = new Pic8259((level) => this.#setIntr(level));
    this.#pins = Array.from(
      { length: IOAPIC_PINS },
      (_, gsi) => new Wire((level) => this.#setGsi(gsi, level)),
    );
    this.#nmi = new Wire((level) => {
      for (const apic of apics) apic.setLint(1, level);
    });
  }

  connect(signals: VcpuSignals): void {
    this.#signals = signals;
  }

  pending(index: number): number {
    const pending = this.#apics[index]!.pending;
    return pending === EXTINT ? this.pic.peek() : pending;
  }

  acknowledge(index: number): number {
    const taken = this.#apics[index]!.acknowledge();
    return taken === EXTINT ? this.pic.acknowledge() : taken;
  }

  localApic(index: number): LocalApicPort {
    const apic = this.#apics[index];
    if (apic === undefined)
      throw new RangeError(`localApic: expected an index below ${this.#apics.length}, got ${index}`);
    return apic;
  }

  /**
   * A line of global system interrupt `gsi`, 1 to 23. Each call gives a line of its own; the input is asserted
   * while any of them is, as wired-OR PCI interrupts are.
   * @throws RangeError for 0, which is the 8259s' (the timer is GSI 2, `isaLine(0)`), and beyond 23.
   */
  line(gsi: number): IrqLine {
    if (!Number.isInteger(gsi) || gsi <= GSI_PIC || gsi >= IOAPIC_PINS)
      throw new RangeError(`line: expected a GSI in [1, ${IOAPIC_PINS - 1}] (timer: 2), got ${gsi}`);
    return this.#pins[gsi]!.source();
  }

  /**
   * A line of ISA IRQ `irq`, 0 to 15: to the 8259s and to the I/O APIC, for IRQ 0 at GSI 2.
   * @throws RangeError for 2, the cascade, and beyond 15.
   */
  isaLine(irq: number): IrqLine {
    if (!Number.isInteger(irq) || irq < 0 || irq >= ISA_IRQS || irq === ISA_CASCADE)
      throw new RangeError(`isaLine: expected an ISA IRQ in [0, 15] but 2, got ${irq}`);
    return this.#pins[irq === 0 ? GSI_TIMER : irq]!.source();
  }

  /** A line of the NMI wire, LINT1 of every local APIC (SERR, IOCHK). */
  nmiLine(): IrqLine {
    return this.#nmi.source();
  }

  /** Takes a message-signalled interrupt; what is none is dropped. */
  send(address: number, data: number): void {
    const message = decodeMsi(address >>> 0, data >>> 0);
    if (message !== undefined) this.#bus.deliver(message);
  }

  /** vCPU `index`'s IA32_TSC_ADJUST changed, and with it what `tscOffset` gives. */
  tscAdjusted(index: number): void {
    this.#apics[index]!.tscAdjusted();
  }

  /** RESET of every chip. The lines keep the level that their devices drive. */
  reset(): void {
    for (const apic of this.#apics) apic.reset();
    this.ioapic.reset();
    this.pic.reset();
    this.#bus.turn = 0;
  }

  save(): IrqChipStateV1 {
    return {
      kind: "irqchip",
      version: 1,
      lapics: this.#apics.map((apic) => apic.save()),
      ioapic: this.ioapic.save(),
      pic: this.pic.save(),
      turn: this.#bus.turn,
    };
  }

  /**
   * Takes a saved state with as many vCPUs. Devices are restored after it and then drive their lines anew.
   * @throws StateError where `state` is not one; nothing is changed then.
   */
  restore(state: unknown): void {
    const from = new StateReader(state, "irqchip", 1);
    const lapics = from.array("lapics", this.#apics.length);
    const turn = from.uint("turn", this.#apics.length - 1);
    from.check("pit", !from.has("pit"), "no 8254: it is none of these chips");
    const saved = lapics.map((lapic, index) => this.#apics[index]!.parse(lapic));
    const ioapic = IoApic.parse(from.unknown("ioapic"));
    const pic = Pic8259.parse(from.unknown("pic"));
    // From the receivers to the senders, so that nothing is sent through what is not restored yet.
    for (const [index, lapic] of saved.entries()) this.#apics[index]!.restore(lapic);
    this.ioapic.restore(ioapic);
    this.pic.restore(pic);
    this.#bus.turn = turn;
  }

  #host(index: number): LocalApicHost {
    return {
      ipi: (message, shorthand) => this.#bus.ipi(index, message, shorthand),
      eoi: (vector) => this.ioapic.endOfInterrupt(vector),
      wake: () => this.#signals.wake(index),
      nmi: () => this.#signals.nmi(index),
      init: () => this.#signals.init(index),
      startup: (vector) => this.#signals.startup(index, vector),
    };
  }

  #setIntr(level: boolean): void {
    for (const apic of this.#apics) apic.setLint(0, level);
    this.ioapic.setPin(GSI_PIC, level);
  }

  #setGsi(gsi: number, level: boolean): void {
    if (gsi === GSI_TIMER) this.pic.setInput(0, level);
    else if (gsi < ISA_IRQS) this.pic.setInput(gsi, level);
    this.ioapic.setPin(gsi, level);
  }
}

/** Several drivers of one input: asserted while any of them asserts it. */
class Wire {
  readonly #drive: (level: boolean) => void;
  #asserted = 0;

  constructor(drive: (level: boolean) => void) {
    this.#drive = drive;
  }

  source(): IrqLine {
    let own = false;
    return {
      set: (level) => {
        if (level === own) return;
        own = level;
        this.#asserted += level ? 1 : -1;
        // Only the first to assert and the last to release move the wire.
        if (this.#asserted === (level ? 1 : 0)) this.#drive(level);
      },
    };
  }
}
