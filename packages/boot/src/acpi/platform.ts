/** What the ACPI tables describe. The defaults are the machine of `@skep/chipset`'s layout. */
import { Irq, Mmio, Port } from "@skep/chipset";
import type { MemoryRange } from "../layout.ts";

export interface AcpiProcessor {
  /** Local APIC identifier; from 255 on the processor is described as an x2APIC. */
  readonly apicId: number;
}

export interface AcpiSerialPort {
  /** First of eight ports. */
  readonly port: number;
  /** ISA interrupt. */
  readonly irq: number;
}

export interface AcpiPlatform {
  readonly serialPorts: readonly AcpiSerialPort[];
  /** i8042 with a keyboard (PNP0303) and a mouse (PNP0F13). */
  readonly keyboard: boolean;
  /** RTC and CMOS (PNP0B00); without, the FADT says so. */
  readonly rtc: boolean;
  /** A VGA adapter may answer at 0xA0000: without, the FADT tells the guest not to probe for one. */
  readonly vga: boolean;
  /** Firmware configuration device (QEMU0002) at port 0x510. */
  readonly fwCfg: boolean;
  /** HPET: base address and the low half of its capabilities register, or none. */
  readonly hpet: { readonly base: number; readonly blockId: number } | undefined;
  /** PCI configuration space as memory: 1 MiB for each bus from `base` on, buses 0 to `lastBus`; or none. */
  readonly ecam: { readonly base: number; readonly lastBus: number } | undefined;
  readonly ioApic: { readonly id: number; readonly base: number };
  readonly localApicBase: number;
  /** The PM timer's counting bits. */
  readonly pmTimerBits: 24 | 32;
  /** Whether PM1 has the fixed power button. */
  readonly powerButton: boolean;
}

/** The first serial port, the usual console. */
export const COM1: AcpiSerialPort = { port: Port.COM1.base, irq: Irq.COM1 };
/** The second one, for a channel beside the console. */
export const COM2: AcpiSerialPort = { port: Port.COM2.base, irq: Irq.COM2 };

/** COM1, RTC, HPET with three timers, power button; no ECAM, nothing that needs a driver of its own. */
export const PC_PLATFORM: AcpiPlatform = {
  serialPorts: [COM1],
  keyboard: false,
  rtc: true,
  vga: false,
  fwCfg: false,
  // Revision 1, three comparators of 64 bits, legacy replacement routing, vendor 0x8086: as ICH parts have it.
  hpet: { base: Mmio.HPET.base, blockId: 0x8086_a201 },
  ecam: undefined,
  ioApic: { id: 0, base: Mmio.IOAPIC.base },
  localApicBase: Mmio.LAPIC.base,
  pmTimerBits: 32,
  powerButton: true,
};

/** One table as it lies in guest memory. */
export interface AcpiTable extends MemoryRange {
  readonly signature: string;
  readonly content: Uint8Array;
}
