/**
 * The differentiated system description table: what no register tells. Processors, the legacy devices that the
 * guest's drivers bind to by PNP identifier, the ports and addresses that nobody may reuse, and \_S5 for power-off.
 */
import { Acpi, Irq, type LayoutRange, Port } from "@skep/chipset";
import { concat } from "../bytes.ts";
import { type Aml, device, eisaId, integer, name, pkg, scope, string } from "./aml.ts";
import type { AcpiPlatform, AcpiProcessor } from "./platform.ts";
import { io, irq, memory32, resources } from "./resources.ts";
import { table } from "./tables.ts";

/** What ECAM takes of addresses for one bus: 256 functions of 4 KiB (PCI Express 5.0 sec. 7.2.2). */
const ECAM_BYTES_PER_BUS = 0x10_0000;

/** Complies with ACPI 2.0: integers have 64 bits. */
const DSDT_REVISION = 2;

/** The whole table; `extra` is appended to it as it is (a PCI root's scope). */
export function dsdt(
  platform: AcpiPlatform,
  processors: readonly AcpiProcessor[],
  extra: readonly Aml[],
): Uint8Array {
  const system = scope(
    "_SB",
    ...processors.map((_, uid) => processor(uid)),
    ...platform.serialPorts.map(({ port, irq: line }, i) => serialPort(i + 1, port, line)),
    ...legacyDevices(platform),
    motherboard(platform),
  );
  return table("DSDT", DSDT_REVISION, concat([sleepPackage("_S5", Acpi.SLP_TYP_S5), system, ...extra]));
}

/** A processor device; _UID ties it to the MADT's entry. */
function processor(uid: number): Aml {
  const id = `C${uid.toString(16).toUpperCase().padStart(3, "0")}`;
  return device(id, name("_HID", string("ACPI0007")), name("_UID", integer(uid)));
}

/** SLP_TYP for PM1a and PM1b, and two reserved elements (ACPI 6.5 sec. 7.4.2). */
function sleepPackage(at: string, sleepType: number): Aml {
  return name(at, pkg(sleepType, sleepType, 0, 0));
}

function serialPort(uid: number, port: number, line: number): Aml {
  return device(
    `COM${uid}`,
    name("_HID", eisaId("PNP0501")),
    name("_UID", integer(uid)),
    name("_CRS", resources(io(port, 8), irq(line))),
  );
}

function legacyDevices(platform: AcpiPlatform): Aml[] {
  const devices = [
    pnp("PIC", "PNP0000", ports(Port.PIC_MASTER), ports(Port.PIC_SLAVE), ports(Port.ELCR), irq(Irq.CASCADE)),
    pnp("PIT", "PNP0100", ports(Port.PIT), irq(Irq.PIT)),
  ];
  if (platform.rtc) devices.push(pnp("RTC", "PNP0B00", ports(Port.RTC), irq(Irq.RTC)));
  if (platform.keyboard) {
    devices.push(
      pnp("KBD", "PNP0303", ports(Port.I8042_DATA), ports(Port.I8042_COMMAND), irq(Irq.KEYBOARD)),
      pnp("MOU", "PNP0F13", irq(Irq.MOUSE)),
    );
  }
  if (platform.hpet) devices.push(pnp("HPET", "PNP0103", memory32(platform.hpet.base, 0x400)));
  if (platform.fwCfg) {
    const crs = name("_CRS", resources(ports(Port.FW_CFG)));
    devices.push(device("FWCF", name("_HID", string("QEMU0002")), crs));
  }
  return devices;
}

/**
 * Ports and addresses that belong to no driver (PNP0C02) and must not be given away. ECAM has to be among them (PCI
 * Firmware 3.3 sec. 4.1.2): Linux uses it only then. Other addresses are the memory map's business.
 */
function motherboard(platform: AcpiPlatform): Aml {
  const { ecam } = platform;
  return pnp(
    "MBRD",
    "PNP0C02",
    ports(Port.SYSTEM_CONTROL_B),
    ports(Port.SYSTEM_CONTROL_A),
    ports(Port.SMI),
    ports(Port.ACPI_PM),
    ...(ecam ? [memory32(ecam.base, (ecam.lastBus + 1) * ECAM_BYTES_PER_BUS)] : []),
  );
}

function pnp(at: string, id: string, ...descriptors: Uint8Array[]): Aml {
  return device(at, name("_HID", eisaId(id)), name("_CRS", resources(...descriptors)));
}

function ports(range: LayoutRange): Uint8Array {
  return io(range.base, range.bytes);
}
