/**
 * The memory map that a PC's firmware answers INT 15h, AX=E820h with (ACPI 6.5 sec. 15), and questions about it.
 *
 * ```text
 * 0 ── 0x9FC00 ── 0xA0000 ──────── 0xE0000 ── 1 MiB ───── A ──────── low end ──── 0xFEC00000 ─── 4 GiB ── …
 *   RAM      EBDA        (VGA, ROMs)     BIOS       RAM      ACPI, NVS     (PCI)        chips, flash    RAM
 * ```
 */
import { HIGH_RAM_BASE, LOW_RAM_END, Mmio } from "@skep/chipset";
import { alignDown, alignUp } from "./bytes.ts";
import { hex } from "./errors.ts";
import { ACPI_REGION_BYTES, type MemoryRange, PAGE_BYTES } from "./layout.ts";

/** Address range types (ACPI 6.5 table 15.1). */
export const E820Type = {
  RAM: 1,
  RESERVED: 2,
  /** ACPI tables: the guest may reuse it after reading them. */
  ACPI: 3,
  /** Firmware's own, kept across sleep: FACS. */
  NVS: 4,
  UNUSABLE: 5,
} as const;
export type E820Type = (typeof E820Type)[keyof typeof E820Type];

export interface E820Entry extends MemoryRange {
  readonly type: E820Type;
}

/** Entries in ascending order, without overlaps. What no entry covers is not RAM. */
export type MemoryMap = readonly E820Entry[];

export interface PcMemoryMap {
  readonly entries: MemoryMap;
  /** Where the ACPI tables go: the type 3 and type 4 entries together. */
  readonly acpi: MemoryRange;
}

export interface PcMemoryMapOptions {
  /** Bytes kept for ACPI tables at the end of low RAM, a multiple of 4096, at least 8192. Default 128 KiB. */
  readonly acpiBytes?: number;
  /** Further ranges to be marked reserved, outside RAM: PCI ECAM (`Mmio.PCI_ECAM`) where an MCFG names it. */
  readonly reserved?: readonly MemoryRange[];
}

/** First address past the EBDA, the hole's start; RAM goes on at 1 MiB. */
const LEGACY_HOLE = Mmio.EBDA.base + Mmio.EBDA.bytes;
const ONE_MIB = 0x10_0000;

/**
 * The memory map of a PC with `ramBytes` of RAM: up to 3 GiB from address 0, the rest from 4 GiB on. The 384 KiB
 * under the legacy hole (0xA0000 to 1 MiB) are part of `ramBytes` but not usable, as on a PC.
 *
 * @param ramBytes a multiple of 4096, from 4 MiB on, below 2^52.
 * @throws RangeError for other sizes.
 * @example
 * const map = pcMemoryMap(512 << 20);
 * const tables = buildAcpi({ cpus: 1, region: map.acpi });
 */
export function pcMemoryMap(ramBytes: number, options: PcMemoryMapOptions = {}): PcMemoryMap {
  const acpiBytes = options.acpiBytes ?? ACPI_REGION_BYTES;
  checkSize("ramBytes", ramBytes, 4 * ONE_MIB, 2 ** 52 - HIGH_RAM_BASE);
  checkSize("acpiBytes", acpiBytes, 2 * PAGE_BYTES, ONE_MIB);
  const lowEnd = Math.min(ramBytes, LOW_RAM_END);
  const acpi = { base: lowEnd - acpiBytes, bytes: acpiBytes };
  const nvs = lowEnd - PAGE_BYTES;
  const entries: E820Entry[] = [
    span(0, Mmio.EBDA.base, E820Type.RAM),
    span(Mmio.EBDA.base, LEGACY_HOLE, E820Type.RESERVED),
    { ...Mmio.BIOS, type: E820Type.RESERVED },
    span(ONE_MIB, acpi.base, E820Type.RAM),
    span(acpi.base, nvs, E820Type.ACPI),
    span(nvs, lowEnd, E820Type.NVS),
    span(Mmio.IOAPIC.base, HIGH_RAM_BASE, E820Type.RESERVED),
  ];
  if (ramBytes > lowEnd) {
    entries.push({ base: HIGH_RAM_BASE, bytes: ramBytes - lowEnd, type: E820Type.RAM });
  }
  for (const range of options.reserved ?? []) {
    entries.push({ base: range.base, bytes: range.bytes, type: E820Type.RESERVED });
  }
  entries.sort((a, b) => a.base - b.base);
  checkMemoryMap(entries);
  return { entries, acpi };
}

/**
 * Refuses a map that is not in ascending order, overlaps itself or leaves the 52-bit address space.
 * @throws RangeError naming the entry.
 */
export function checkMemoryMap(map: MemoryMap): void {
  let end = 0;
  for (const [i, entry] of map.entries()) {
    const valid =
      Number.isSafeInteger(entry.base) &&
      Number.isSafeInteger(entry.bytes) &&
      entry.bytes > 0 &&
      entry.base >= end &&
      entry.base + entry.bytes <= 2 ** 52;
    if (!valid) {
      throw new RangeError(
        `memoryMap[${i}]: expected a range of at least 1 byte from ${hex(end)} on, below 2^52, ` +
          `got ${entry.bytes} bytes at ${entry.base}`,
      );
    }
    end = entry.base + entry.bytes;
  }
}

/** Usable RAM as ascending ranges, adjoining entries joined. */
export function ramRanges(map: MemoryMap): MemoryRange[] {
  const ranges: { base: number; bytes: number }[] = [];
  for (const entry of map) {
    if (entry.type !== E820Type.RAM) continue;
    const last = ranges.at(-1);
    if (last && last.base + last.bytes === entry.base) last.bytes += entry.bytes;
    else ranges.push({ base: entry.base, bytes: entry.bytes });
  }
  return ranges;
}

/** Whether all of `range` is usable RAM. */
export function isRam(map: MemoryMap, range: MemoryRange): boolean {
  return ramRanges(map).some((ram) => contains(ram, range));
}

export interface PlacementOptions {
  readonly bytes: number;
  /** Power of two. */
  readonly alignment: number;
  /** Lowest address allowed. */
  readonly floor: number;
  /** First address that may not be used any more. */
  readonly ceiling: number;
  /** Ranges to stay clear of. */
  readonly avoid?: readonly MemoryRange[];
}

/** The highest place in RAM for `bytes`, or undefined. */
export function placeHigh(map: MemoryMap, options: PlacementOptions): number | undefined {
  const avoid = options.avoid ?? [];
  for (const ram of ramRanges(map).reverse()) {
    const floor = Math.max(ram.base, options.floor);
    let top = Math.min(ram.base + ram.bytes, options.ceiling);
    for (;;) {
      const base = alignDown(top - options.bytes, options.alignment);
      if (base < floor) break;
      const hit = avoid.find((range) => overlaps(range, { base, bytes: options.bytes }));
      if (!hit) return base;
      top = hit.base;
    }
  }
  return undefined;
}

/** The lowest place in RAM for `bytes`, or undefined. */
export function placeLow(map: MemoryMap, options: PlacementOptions): number | undefined {
  const avoid = options.avoid ?? [];
  for (const ram of ramRanges(map)) {
    const ceiling = Math.min(ram.base + ram.bytes, options.ceiling);
    let bottom = Math.max(ram.base, options.floor);
    for (;;) {
      const base = alignUp(bottom, options.alignment);
      if (base + options.bytes > ceiling) break;
      const hit = avoid.find((range) => overlaps(range, { base, bytes: options.bytes }));
      if (!hit) return base;
      bottom = hit.base + hit.bytes;
    }
  }
  return undefined;
}

export function overlaps(a: MemoryRange, b: MemoryRange): boolean {
  return a.base < b.base + b.bytes && b.base < a.base + a.bytes;
}

export function contains(outer: MemoryRange, inner: MemoryRange): boolean {
  return inner.base >= outer.base && inner.base + inner.bytes <= outer.base + outer.bytes;
}

function span(base: number, end: number, type: E820Type): E820Entry {
  return { base, bytes: end - base, type };
}

function checkSize(field: string, value: number, least: number, most: number): void {
  if (Number.isSafeInteger(value) && value % PAGE_BYTES === 0 && value >= least && value <= most) return;
  throw new RangeError(`${field}: expected a multiple of 4096 from ${least} to ${most} bytes, got ${value}`);
}
