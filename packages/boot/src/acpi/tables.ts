/**
 * The tables with fixed layouts: RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG (ACPI 6.5 ch. 5; IA-PC HPET 1.0a
 * sec. 3.2.4; PCI Firmware 3.3 sec. 4.1.2). Fields are written by the offsets that the specification gives.
 */
import { Acpi, GSI_OVERRIDE, Irq, Pm, Port } from "@skep/chipset";
import { concat, StructWriter } from "../bytes.ts";
import type { AcpiPlatform, AcpiProcessor } from "./platform.ts";

const TABLE_HEADER_BYTES = 36;
const OEM_ID = "SKEP";
const OEM_TABLE_ID = "SKEPPC";
const CREATOR_ID = "SKEP";

/** Puts the common header in front of a table's body (sec. 5.2.6), length and checksum included. */
export function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const writer = new StructWriter(TABLE_HEADER_BYTES + body.length)
    .text(0, signature, 4)
    .u32(4, TABLE_HEADER_BYTES + body.length)
    .u8(8, revision)
    .text(10, OEM_ID, 6, 0x20)
    .text(16, OEM_TABLE_ID, 8, 0x20)
    .u32(24, 1)
    .text(28, CREATOR_ID, 4, 0x20)
    .u32(32, 1)
    .raw(TABLE_HEADER_BYTES, body);
  return writer.u8(9, checksum(writer.bytes)).bytes;
}

/** Root pointer, revision 2 (sec. 5.2.5.3): two checksums, the first over the 20 bytes of ACPI 1.0. */
export function rsdp(xsdtAddress: number): Uint8Array {
  const REVISION = 2;
  const BYTES = 36;
  const writer = new StructWriter(BYTES).text(0, "RSD PTR ").text(9, OEM_ID, 6, 0x20).u8(15, REVISION);
  writer.u32(20, BYTES).u64(24, xsdtAddress);
  writer.u8(8, checksum(writer.bytes.subarray(0, 20)));
  return writer.u8(32, checksum(writer.bytes)).bytes;
}

export function xsdt(addresses: readonly number[]): Uint8Array {
  const body = new StructWriter(addresses.length * 8);
  for (const [i, address] of addresses.entries()) body.u64(i * 8, address);
  return table("XSDT", 1, body.bytes);
}

/** Firmware control structure (sec. 5.2.10): no header checksum, 64 bytes, aligned to 64. */
export function facs(): Uint8Array {
  const VERSION = 2;
  return new StructWriter(64).text(0, "FACS").u32(4, 64).u8(32, VERSION).bytes;
}

/** FADT flags (sec. 5.2.9, table 5.10). */
const FadtFlag = {
  WBINVD: 1 << 0,
  PROC_C1: 1 << 2,
  /** Set where there is no fixed power button. */
  PWR_BUTTON: 1 << 4,
  /** Set where there is no fixed sleep button. */
  SLP_BUTTON: 1 << 5,
  /** Set where the RTC's wake status is not in the fixed registers. */
  FIX_RTC: 1 << 6,
  TMR_VAL_EXT: 1 << 8,
  RESET_REG_SUP: 1 << 10,
} as const;

/** IA-PC boot architecture flags (sec. 5.2.9.3, table 5.11). */
const BootArch = {
  LEGACY_DEVICES: 1 << 0,
  I8042: 1 << 1,
  VGA_NOT_PRESENT: 1 << 2,
  CMOS_RTC_NOT_PRESENT: 1 << 5,
} as const;

/** Generic address structures in system I/O space (sec. 5.2.3.2). */
const AccessSize = { BYTE: 1, WORD: 2, DWORD: 3 } as const;
function ioAddress(port: number, bits: number, access: number): Uint8Array {
  const SYSTEM_IO = 1;
  return new StructWriter(12).u8(0, SYSTEM_IO).u8(1, bits).u8(3, access).u64(4, port).bytes;
}

/**
 * Fixed description table, revision 6.5 (sec. 5.2.9). SCI is a level: the chipset's line is high while an enabled
 * event is pending, so the MADT gives it as active high.
 */
export function fadt(platform: AcpiPlatform, facsAddress: number, dsdtAddress: number): Uint8Array {
  const BYTES = 276;
  const [MAJOR, MINOR] = [6, 5];
  const CENTURY_CMOS_INDEX = 0x32;
  // Latencies that say "no C2", "no C3" (above 100 and above 1000 microseconds).
  const [NO_C2, NO_C3] = [0xfff, 0xfff];
  const flags =
    FadtFlag.WBINVD |
    FadtFlag.PROC_C1 |
    (platform.powerButton ? 0 : FadtFlag.PWR_BUTTON) |
    FadtFlag.SLP_BUTTON |
    FadtFlag.FIX_RTC |
    (platform.pmTimerBits === 32 ? FadtFlag.TMR_VAL_EXT : 0) |
    FadtFlag.RESET_REG_SUP;
  const bootArch =
    BootArch.LEGACY_DEVICES |
    (platform.keyboard ? BootArch.I8042 : 0) |
    (platform.vga ? 0 : BootArch.VGA_NOT_PRESENT) |
    (platform.rtc ? 0 : BootArch.CMOS_RTC_NOT_PRESENT);

  // Offsets in the table, less the header's 36.
  const body = new StructWriter(BYTES - TABLE_HEADER_BYTES);
  const at = (offset: number): number => offset - TABLE_HEADER_BYTES;
  body
    .u32(at(36), facsAddress)
    .u32(at(40), dsdtAddress)
    .u16(at(46), Irq.SCI)
    .u32(at(48), Port.SMI.base)
    .u8(at(52), Acpi.ACPI_ENABLE)
    .u8(at(53), Acpi.ACPI_DISABLE)
    .u32(at(56), Pm.PM1A_EVT.base)
    .u32(at(64), Pm.PM1A_CNT.base)
    .u32(at(76), Pm.PM_TMR.base)
    .u32(at(80), Pm.GPE0.base)
    .u8(at(88), Pm.PM1A_EVT.bytes)
    .u8(at(89), Pm.PM1A_CNT.bytes)
    .u8(at(91), Pm.PM_TMR.bytes)
    .u8(at(92), Pm.GPE0.bytes)
    .u16(at(96), NO_C2)
    .u16(at(98), NO_C3)
    .u8(at(108), platform.rtc ? CENTURY_CMOS_INDEX : 0)
    .u16(at(109), bootArch)
    .u32(at(112), flags)
    .raw(at(116), ioAddress(Port.RESET_CONTROL.base, 8, AccessSize.BYTE))
    .u8(at(128), Acpi.RESET_VALUE)
    .u8(at(131), MINOR)
    // The 64-bit FACS address stays 0: one of the two may be given, and 32 bits reach it.
    .u64(at(140), dsdtAddress)
    .raw(at(148), ioAddress(Pm.PM1A_EVT.base, Pm.PM1A_EVT.bytes * 8, AccessSize.WORD))
    .raw(at(172), ioAddress(Pm.PM1A_CNT.base, Pm.PM1A_CNT.bytes * 8, AccessSize.WORD))
    .raw(at(208), ioAddress(Pm.PM_TMR.base, Pm.PM_TMR.bytes * 8, AccessSize.DWORD))
    .raw(at(220), ioAddress(Pm.GPE0.base, Pm.GPE0.bytes * 8, AccessSize.BYTE));
  return table("FACP", MAJOR, body.bytes);
}

/** MPS INTI flags (sec. 5.2.12.5, table 5.26). */
const Inti = { CONFORMS: 0x0, ACTIVE_HIGH: 0x1, LEVEL: 0xc } as const;

/** First identifier that only an x2APIC can have (255 is the broadcast). */
const FIRST_X2APIC_ID = 255;

/**
 * Interrupt controllers (sec. 5.2.12): a local APIC or x2APIC for each processor, one I/O APIC with inputs from
 * global interrupt 0, the 8254 at input 2, SCI level and active high, NMI at LINT1 of every processor.
 */
export function madt(platform: AcpiPlatform, processors: readonly AcpiProcessor[]): Uint8Array {
  const PCAT_COMPAT = 1;
  const ENABLED = 1;
  const ISA_BUS = 0;
  const LINT1 = 1;
  const [EVERY_LOCAL_APIC, EVERY_X2APIC] = [0xff, 0xffff_ffff];
  const parts = [new StructWriter(8).u32(0, platform.localApicBase).u32(4, PCAT_COMPAT).bytes];
  const add = (type: number, bytes: number): StructWriter => {
    const entry = new StructWriter(bytes).u8(0, type).u8(1, bytes);
    parts.push(entry.bytes);
    return entry;
  };
  let hasX2Apic = false;
  for (const [uid, { apicId }] of processors.entries()) {
    if (apicId < FIRST_X2APIC_ID && uid < EVERY_LOCAL_APIC) {
      add(0, 8).u8(2, uid).u8(3, apicId).u32(4, ENABLED);
    } else {
      add(9, 16).u32(4, apicId).u32(8, ENABLED).u32(12, uid);
      hasX2Apic = true;
    }
  }
  add(1, 12).u8(2, platform.ioApic.id).u32(4, platform.ioApic.base);
  add(2, 10).u8(2, ISA_BUS).u8(3, Irq.PIT).u32(4, GSI_OVERRIDE.PIT).u16(8, Inti.CONFORMS);
  add(2, 10)
    .u8(2, ISA_BUS)
    .u8(3, Irq.SCI)
    .u32(4, Irq.SCI)
    .u16(8, Inti.ACTIVE_HIGH | Inti.LEVEL);
  add(4, 6).u8(2, EVERY_LOCAL_APIC).u16(3, Inti.CONFORMS).u8(5, LINT1);
  if (hasX2Apic) add(10, 12).u16(2, Inti.CONFORMS).u32(4, EVERY_X2APIC).u8(8, LINT1);
  return table("APIC", 5, concat(parts));
}

/** HPET description: the first block's address and what its capabilities register says. */
export function hpet(base: number, blockId: number): Uint8Array {
  const SYSTEM_MEMORY = 0;
  const MIN_TICK = 0x80;
  const body = new StructWriter(20).u32(0, blockId).u8(4, SYSTEM_MEMORY).u8(5, 64).u64(8, base);
  return table("HPET", 1, body.u16(17, MIN_TICK).bytes);
}

/** PCI Express configuration space: segment 0, buses 0 to `lastBus` (at most 255), 1 MiB each from `base`. */
export function mcfg(base: number, lastBus: number): Uint8Array {
  if (!Number.isInteger(lastBus) || lastBus < 0 || lastBus > 255) {
    throw new RangeError(`platform.ecam.lastBus: expected 0 to 255, got ${lastBus}`);
  }
  const body = new StructWriter(8 + 16)
    .u64(8, base)
    .u8(8 + 10, 0)
    .u8(8 + 11, lastBus);
  return table("MCFG", 1, body.bytes);
}

/** The byte that makes all bytes sum up to 0, with the present value of its own place counted. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (const byte of bytes) sum += byte;
  return -sum & 0xff;
}
