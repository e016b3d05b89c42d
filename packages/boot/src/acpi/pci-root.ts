/** The PCI root bridge as the DSDT describes it: identifier, bus numbers, and what it passes on to its buses. */
import { Mmio, Port } from "@skep/chipset";
import { type Aml, device, eisaId, integer, name, scope } from "./aml.ts";
import { busNumbers, io, ioWindow, memoryWindow32, resources } from "./resources.ts";

export interface PciRootOptions {
  /** Highest bus number, 0 to 255. Default 0: one bus without bridges. */
  readonly lastBus?: number;
  /** Terms inside the root's scope: interrupt routing (_PRT), devices. */
  readonly terms?: readonly Aml[];
}

/** First port behind configuration mechanism #1. */
const CONFIG_END = Port.PCI_CONFIG_DATA.base + Port.PCI_CONFIG_DATA.bytes;

/**
 * Device \_SB.PCI0 of bus 0, a term for `buildAcpi`'s `dsdtTerms`.
 *
 * The ports of configuration mechanism #1 are the bridge's own; all others, the ISA devices' among them, and both PCI
 * memory windows of the layout are behind it (ACPI 6.5 sec. 6.4.3.5; PCI Firmware 3.3 sec. 4.1.4).
 */
export function pciRoot(options: PciRootOptions = {}): Aml {
  const { lastBus = 0, terms = [] } = options;
  if (!Number.isInteger(lastBus) || lastBus < 0 || lastBus > 255) {
    throw new RangeError(`lastBus: expected 0 to 255, got ${lastBus}`);
  }
  const root = device(
    "PCI0",
    name("_HID", eisaId("PNP0A03")),
    name("_UID", integer(0)),
    name("_BBN", integer(0)),
    name(
      "_CRS",
      resources(
        busNumbers(0, lastBus),
        io(Port.PCI_CONFIG_ADDRESS.base, CONFIG_END - Port.PCI_CONFIG_ADDRESS.base),
        ioWindow(0, Port.PCI_CONFIG_ADDRESS.base),
        ioWindow(CONFIG_END, 0x1_0000 - CONFIG_END),
        memoryWindow32(Mmio.PCI_WINDOW.base, Mmio.PCI_WINDOW.bytes),
        memoryWindow32(Mmio.PCI_WINDOW_2.base, Mmio.PCI_WINDOW_2.bytes),
      ),
    ),
    ...terms,
  );
  return scope("_SB", root);
}
