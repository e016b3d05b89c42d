/** What a local APIC is given: the machine as it sees it, and its options. */
import type { ApicMessage } from "./apic-message.ts";

/** What a local APIC sees of the machine. */
export interface LocalApicHost {
  /** Sends an IPI. `shorthand` (`Shorthand`) replaces the message's destination unless NONE. */
  ipi(message: ApicMessage, shorthand: number): void;
  /** A level-triggered interrupt with `vector` ended: the EOI message to the I/O APICs. */
  eoi(vector: number): void;
  /** `pending` changed to an interrupt: a halted processor has to look. */
  wake(): void;
  nmi(): void;
  /** INIT; the APIC itself has taken its INIT state. */
  init(): void;
  startup(vector: number): void;
}

export interface LocalApicOptions {
  /** APIC ID, 0 to 254. */
  readonly id: number;
  /** BSP flag of IA32_APIC_BASE at RESET; default `id === 0`. */
  readonly bootProcessor?: boolean;
  /**
   * Comes out of RESET as firmware leaves a boot processor for an operating system (MP specification 1.4,
   * sec. 3.6.2.2): enabled, LINT0 ExtINT, LINT1 NMI. Default false, the SDM's RESET state.
   */
  readonly virtualWire?: boolean;
  /** x2APIC mode can be entered; default true. CPUID.1:ECX[21] has to agree. */
  readonly x2apic?: boolean;
  /** TSC-deadline mode and its MSR exist; default true. CPUID.1:ECX[24] has to agree. */
  readonly tscDeadline?: boolean;
  /** The EOI broadcast can be suppressed (SVR bit 12), for I/O APICs with an EOI register; default true. */
  readonly eoiSuppression?: boolean;
  /** Physical-address width in bits, 36 to 52: what IA32_APIC_BASE accepts; default 52. */
  readonly physicalAddressBits?: number;
  /** Timer frequency before its divider in Hz, 1 to 1e12; default 1e9. */
  readonly timerHz?: number;
  /** Ticks of this processor's TSC beyond the clock's, i.e. IA32_TSC_ADJUST; default none. */
  readonly tscOffset?: () => bigint;
}

/** The options that are numbers, checked. @throws RangeError where one is out of its range. */
export function checkLocalApicOptions(
  options: LocalApicOptions,
): Required<Pick<LocalApicOptions, "id" | "physicalAddressBits" | "timerHz">> {
  const { id, physicalAddressBits = 52, timerHz = 1e9 } = options;
  checkOption("id", id, 0, 254, Number.isInteger(id));
  checkOption("physicalAddressBits", physicalAddressBits, 36, 52, Number.isInteger(physicalAddressBits));
  checkOption("timerHz", timerHz, 1, 1e12, true);
  return { id, physicalAddressBits, timerHz };
}

function checkOption(name: string, value: number, min: number, max: number, integral: boolean): void {
  if (integral && value >= min && value <= max) return;
  throw new RangeError(`LocalApicOptions.${name}: expected a number in [${min}, ${max}], got ${value}`);
}
