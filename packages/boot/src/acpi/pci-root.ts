/** The PCI root bridge as the DSDT describes it: identifier, bus numbers, interrupts, what it passes on to its buses. */
import { Mmio, PCI_INTX_GSIS, Port } from "@skep/chipset";
import {
  type Aml,
  arg,
  buffer,
  createDwordField,
  device,
  eisaId,
  equal,
  integer,
  isFalse,
  method,
  name,
  or,
  otherwise,
  path,
  pkg,
  ret,
  scope,
  when,
} from "./aml.ts";
import { busNumbers, io, ioWindow, memoryWindow32, resources } from "./resources.ts";

export interface PciRootOptions {
  /** Highest bus number, 0 to 255. Default 0: one bus without bridges. */
  readonly lastBus?: number;
  /** The platform has ECAM: the root is one of PCI Express then. Default false. */
  readonly express?: boolean;
  /** Terms inside the root's scope: devices. */
  readonly terms?: readonly Aml[];
}

/** First port behind configuration mechanism #1. */
const CONFIG_END = Port.PCI_CONFIG_DATA.base + Port.PCI_CONFIG_DATA.bytes;
const DEVICES = 32;
const PINS = 4;

/**
 * Device \_SB.PCI0 of bus 0, a term for `buildAcpi`'s `dsdtTerms`.
 *
 * The ports of configuration mechanism #1 are the bridge's own; all others, the ISA devices' among them, and both PCI
 * memory windows of the layout are behind it (ACPI 6.5 sec. 6.4.3.5; PCI Firmware 3.3 sec. 4.1.4). Interrupt pins arrive
 * at the I/O APIC; for guests that use the 8259s there is no routing.
 */
export function pciRoot(options: PciRootOptions = {}): Aml {
  const { lastBus = 0, express = false, terms = [] } = options;
  if (!Number.isInteger(lastBus) || lastBus < 0 || lastBus > 255) {
    throw new RangeError(`lastBus: expected 0 to 255, got ${lastBus}`);
  }
  const identity = express
    ? [name("_HID", eisaId("PNP0A08")), name("_CID", eisaId("PNP0A03")), operatingSystemCapabilities()]
    : [name("_HID", eisaId("PNP0A03"))];
  const root = device(
    "PCI0",
    ...identity,
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
    interruptRouting(),
    ...terms,
  );
  return scope("_SB", root);
}

/**
 * _PRT (ACPI 6.5 sec. 6.2.13): every function of device d, pin p (INTA is 0), at the global system interrupt of line
 * (d + p) mod 4, so that devices with one pin each do not all share a line.
 */
function interruptRouting(): Aml {
  const routes: Aml[] = [];
  for (let slot = 0; slot < DEVICES; slot++) {
    for (let pin = 0; pin < PINS; pin++) {
      const EVERY_FUNCTION = 0xffff;
      routes.push(pkg(slot * 0x1_0000 + EVERY_FUNCTION, pin, 0, PCI_INTX_GSIS[(slot + pin) % PINS]!));
    }
  }
  return name("_PRT", pkg(...routes));
}

/** 33DB4D5B-1FF7-401C-9657-7441C03DD766 as a buffer has it: the first three parts little-endian. */
const PCI_HOST_BRIDGE_UUID = Uint8Array.of(
  ...[0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40],
  ...[0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66],
);

/**
 * _OSC (PCI Firmware 3.3 sec. 4.5.1; ACPI 6.5 sec. 6.2.11): the guest gets every control that it asks for, since no
 * firmware runs that would keep one. Errors go into the first dword.
 */
function operatingSystemCapabilities(): Aml {
  const UNRECOGNIZED_UUID = 0x4;
  const UNRECOGNIZED_REVISION = 0x8;
  const REVISION = 1;
  const status = path("CDW1");
  return method(
    "_OSC",
    { args: 4, serialized: true },
    createDwordField(arg(3), 0, "CDW1"),
    when(
      equal(arg(0), buffer(PCI_HOST_BRIDGE_UUID)),
      when(isFalse(equal(arg(1), REVISION)), or(status, UNRECOGNIZED_REVISION, status)),
    ),
    otherwise(or(status, UNRECOGNIZED_UUID, status)),
    ret(arg(3)),
  );
}
