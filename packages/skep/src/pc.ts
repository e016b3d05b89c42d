/**
 * The PC that `createVm()` makes: the chips of `@skep/chipset`, each at the ports, addresses and lines that
 * the layout gives it. Nothing here but wiring; the ACPI tables that describe it are written from the same layout.
 */
import {
  AcpiPm,
  Hpet,
  Irq,
  IrqChip,
  Mmio,
  PCI_INTX_GSIS,
  Pit8254,
  Port,
  Port61,
  ResetControl,
  RtcCmos,
  Uart16550,
} from "@skep/chipset";
import type { AddressSpace } from "@skep/memory";
import { HostBridge, PciBus } from "@skep/pci";
import type { Clock, EngineIrqChip, VmPart } from "@skep/vcpu";
import { Console } from "./console.ts";

export interface PcOptions {
  /** Number of vCPUs, 1 to 255. */
  readonly cpus: number;
  /** The engine's own interrupt controller, which answers its ports and addresses itself. Default: `@skep/chipset`'s. */
  readonly irqchip?: EngineIrqChip;
  /** The guest turned the machine off by ACPI. */
  readonly onPowerOff: () => void;
  /** The guest asked for a reset at port 0xCF9. */
  readonly onReset: () => void;
}

/** I/O APIC inputs that the HPET may use: those behind the four of PCI's interrupt pins. */
const HPET_INPUTS = [20, 21, 22, 23] as const;

/** Chips and wires of a PC: what an operating system needs to find its feet, and a PCI bus for more. */
export class Pc {
  readonly irqchip: EngineIrqChip;
  readonly hpet: Hpet;
  readonly pit: Pit8254;
  readonly port61: Port61;
  readonly rtc: RtcCmos;
  readonly acpi: AcpiPm;
  readonly resetControl: ResetControl;
  /** Bus 0. What an embedder attaches before the guest runs is found by it. */
  readonly pci: PciBus;
  readonly hostBridge: HostBridge;
  readonly com1: Uart16550;
  readonly com2: Uart16550;
  /** What hangs on COM1, Linux's ttyS0. */
  readonly console = new Console();
  /** What hangs on COM2, Linux's ttyS1: a line of the embedder's own beside the console. */
  readonly channel = new Console();

  /** @throws OverlapError where `memory` has something else at one of the chips' places. */
  constructor(memory: AddressSpace, clock: Clock, options: PcOptions) {
    const irqchip = options.irqchip ?? new IrqChip(clock, { vcpus: options.cpus });
    const line = (irq: number) => irqchip.isaLine(irq);
    this.irqchip = irqchip;
    // The HPET can take lines 0 and 8 over, so the 8254 and the RTC reach them through it.
    const inputs = Array.from({ length: 24 }, (_, input) =>
      HPET_INPUTS.some((hpetInput) => hpetInput === input) ? irqchip.line(input) : undefined,
    );
    this.hpet = new Hpet(clock, { inputs, irq0: line(Irq.PIT), irq8: line(Irq.RTC), msi: irqchip });
    this.pit = new Pit8254(clock, this.hpet.pitInput);
    this.rtc = new RtcCmos(clock, this.hpet.rtcInput);
    this.port61 = new Port61(clock, this.pit);
    this.acpi = new AcpiPm(clock, line(Irq.SCI), { onPowerOff: options.onPowerOff });
    this.resetControl = new ResetControl(() => options.onReset());
    this.pci = new PciBus(memory, { interruptLine: (pin) => irqchip.line(PCI_INTX_GSIS[pin]!) });
    // Reset control is a byte inside the bridge's address port.
    this.hostBridge = new HostBridge(this.pci, this.resetControl);
    this.com1 = new Uart16550(clock, line(Irq.COM1), this.console);
    this.com2 = new Uart16550(clock, line(Irq.COM2), this.channel);
    this.console.attach(this.com1);
    this.channel.attach(this.com2);

    if (irqchip instanceof IrqChip) mapIrqChip(memory, irqchip);
    for (const [{ base, bytes }, device, name] of [
      [Port.PIT, this.pit, "8254"],
      [Port.SYSTEM_CONTROL_B, this.port61, "system control port B"],
      [Port.RTC, this.rtc, "RTC"],
      [Port.COM1, this.com1, "COM1"],
      [Port.COM2, this.com2, "COM2"],
      [Port.SMI, this.acpi.smiCommand, "SMI command"],
      [Port.ACPI_PM, this.acpi, "ACPI power management"],
      [Port.PCI_CONFIG_ADDRESS, this.hostBridge.address, "PCI configuration address, reset control"],
      [Port.PCI_CONFIG_DATA, this.hostBridge.data, "PCI configuration data"],
    ] as const) {
      memory.ports.add(base, bytes, device, name);
    }
    memory.addMmio(Mmio.PCI_ECAM.base, Mmio.PCI_ECAM.bytes, this.hostBridge.ecam, "PCI ECAM");
    memory.addMmio(Mmio.HPET.base, Mmio.HPET.bytes, this.hpet, "HPET");
  }

  /** The parts that have state, by the names that they have in saved states; for `Vm.addPart`. */
  parts(): Readonly<Record<string, VmPart>> {
    const { irqchip, hpet, pit, port61, rtc, acpi, resetControl, hostBridge, pci, com1, com2 } = this;
    return { irqchip, hpet, pit, port61, rtc, acpi, resetControl, hostBridge, pci, com1, com2 };
  }
}

/** Gives the interrupt controllers of `@skep/chipset` their places. */
function mapIrqChip(memory: AddressSpace, { pic, ioapic }: IrqChip): void {
  for (const [{ base, bytes }, device, name] of [
    [Port.PIC_MASTER, pic.master, "8259 master"],
    [Port.PIC_SLAVE, pic.slave, "8259 slave"],
    [Port.ELCR, pic.elcr, "8259 edge/level control"],
  ] as const) {
    memory.ports.add(base, bytes, device, name);
  }
  memory.addMmio(Mmio.IOAPIC.base, Mmio.IOAPIC.bytes, ioapic, "I/O APIC");
}
