/**
 * The ACPI tables of a machine, laid out for its memory.
 *
 * ```text
 * 0x9FC00 EBDA ── RSDP ──▶ XSDT ──▶ FADT ──▶ FACS (last page of the region)
 *                            │        └────▶ DSDT
 *                            └────▶ MADT, HPET, MCFG, …
 * ```
 */
import { Mmio } from "@skep/chipset";
import { alignUp, StructWriter } from "../bytes.ts";
import { BootError } from "../errors.ts";
import { BootLayout, type MemoryRange, type MemoryWrite, PAGE_BYTES } from "../layout.ts";
import type { Aml } from "./aml.ts";
import { dsdt } from "./dsdt.ts";
import { type AcpiPlatform, type AcpiProcessor, type AcpiTable, PC_PLATFORM } from "./platform.ts";
import { facs, fadt, hpet, madt, mcfg, rsdp, xsdt } from "./tables.ts";

export interface AcpiOptions {
  /** Number of processors, with APIC identifiers from 0 on; or each processor's. 1 to 4096. */
  readonly cpus: number | readonly AcpiProcessor[];
  /** Where the tables go: `pcMemoryMap().acpi`. Whole pages below 4 GiB; FACS takes the last one. */
  readonly region: MemoryRange;
  /** What differs from `PC_PLATFORM`. */
  readonly platform?: Partial<AcpiPlatform>;
  /** Terms appended to the DSDT: a PCI root with its scope. */
  readonly dsdtTerms?: readonly Aml[];
  /** Further tables, complete with header and checksum (`table()`): entered in the XSDT. */
  readonly tables?: readonly Uint8Array[];
}

export interface AcpiTables {
  /** Address of the RSDP, for `planLinuxBoot`. */
  readonly rsdp: number;
  /** Every table by signature, for inspection ("RSDP" is one of them). */
  readonly tables: readonly AcpiTable[];
  /** Bytes to be written: the tables' region and the EBDA with the root pointer. */
  readonly writes: readonly MemoryWrite[];
}

const MAX_PROCESSORS = 4096;
const TABLE_ALIGNMENT = 64;

/**
 * Builds and places the tables.
 *
 * @throws RangeError for a number of processors or a region out of range.
 * @throws BootError `too-little-memory` where they do not fit the region.
 * @example
 * const acpi = buildAcpi({ cpus: 2, region: map.acpi, platform: { serialPorts: [COM1, COM2] } });
 */
export function buildAcpi(options: AcpiOptions): AcpiTables {
  const { region } = options;
  const platform = { ...PC_PLATFORM, ...options.platform };
  const processors = listProcessors(options.cpus);
  const pages = region.base % PAGE_BYTES === 0 && region.bytes % PAGE_BYTES === 0;
  if (!pages || region.base < 0 || region.bytes < PAGE_BYTES || region.base + region.bytes > 2 ** 32) {
    throw new RangeError(`region: expected whole pages below 4 GiB, got ${region.bytes} at ${region.base}`);
  }

  const tables: AcpiTable[] = [];
  const facsBase = region.base + region.bytes - PAGE_BYTES;
  let next = region.base;
  const place = (content: Uint8Array): number => {
    const base = next;
    next = alignUp(base + content.length, TABLE_ALIGNMENT);
    if (base + content.length > facsBase) {
      const expected = `room for the ACPI tables in ${region.bytes - PAGE_BYTES} bytes`;
      throw new BootError("too-little-memory", "region", expected, `${next - region.base} bytes and more`);
    }
    tables.push({ signature: signatureOf(content), base, bytes: content.length, content });
    return base;
  };

  const facsTable = facs();
  tables.push({ signature: "FACS", base: facsBase, bytes: facsTable.length, content: facsTable });
  const dsdtBase = place(dsdt(platform, processors, options.dsdtTerms ?? []));
  const listed = [place(fadt(platform, facsBase, dsdtBase)), place(madt(platform, processors))];
  if (platform.hpet) listed.push(place(hpet(platform.hpet.base, platform.hpet.blockId)));
  if (platform.ecam) listed.push(place(mcfg(platform.ecam.base, platform.ecam.lastBus)));
  for (const extra of options.tables ?? []) listed.push(place(extra));
  const root = rsdp(place(xsdt(listed)));
  tables.push({ signature: "RSDP", base: BootLayout.RSDP, bytes: root.length, content: root });

  const writes = tables.map(({ signature, base, content }) => ({
    name: `ACPI ${signature}`,
    address: base,
    bytes: content,
  }));
  return { rsdp: BootLayout.RSDP, tables, writes: [...biosData(), ...writes] };
}

/** The BIOS data area's two words that lead a guest to the EBDA, and the EBDA's own size in KiB. */
function biosData(): MemoryWrite[] {
  const segment = new StructWriter(2).u16(0, Mmio.EBDA.base / 16).bytes;
  const kib = new StructWriter(2).u16(0, Mmio.EBDA.base / 1024).bytes;
  return [
    { name: "EBDA segment", address: BootLayout.BDA_EBDA_SEGMENT, bytes: segment },
    { name: "base memory size", address: BootLayout.BDA_BASE_MEMORY_KIB, bytes: kib },
    { name: "EBDA size", address: Mmio.EBDA.base, bytes: Uint8Array.of(Mmio.EBDA.bytes / 1024) },
  ];
}

function listProcessors(cpus: number | readonly AcpiProcessor[]): readonly AcpiProcessor[] {
  const count = typeof cpus === "number" ? cpus : cpus.length;
  if (!Number.isInteger(count) || count < 1 || count > MAX_PROCESSORS) {
    throw new RangeError(`cpus: expected 1 to ${MAX_PROCESSORS}, got ${count}`);
  }
  return typeof cpus === "number" ? Array.from({ length: cpus }, (_, apicId) => ({ apicId })) : cpus;
}

function signatureOf(content: Uint8Array): string {
  return String.fromCharCode(...content.subarray(0, 4));
}
