/** The tables as a guest finds them, by the offsets of ACPI 6.5 ch. 5, and as iasl sees them. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type AcpiOptions,
  type AcpiTables,
  aml,
  BootError,
  buildAcpi,
  COM1,
  COM2,
  pciRoot,
  pcMemoryMap,
  resources,
} from "../src/index.ts";
import { WrittenMemory } from "./guest.ts";
import { inTemporaryDirectory, missing, run } from "./host-tools.ts";

const region = pcMemoryMap(256 << 20).acpi;
const build = (options: Partial<AcpiOptions> = {}): AcpiTables => buildAcpi({ cpus: 2, region, ...options });

/** Walks from the BIOS data area to the tables, checking each sum on the way. */
function discover(acpi: AcpiTables): { memory: WrittenMemory; tables: Map<string, number> } {
  const memory = new WrittenMemory(acpi.writes);
  const ebda = memory.u16(0x40e) * 16;
  let rsdp = ebda;
  while (memory.text(rsdp, 8) !== "RSD PTR ") {
    rsdp += 16; // sec. 5.2.5.1: on 16-byte boundaries in the first KiB
    if (rsdp >= ebda + 1024) throw new Error("no RSDP");
  }
  expect(memory.sum(rsdp, 20)).toBe(0);
  expect(memory.sum(rsdp, memory.u32(rsdp + 20))).toBe(0);
  expect(memory.u8(rsdp + 15)).toBe(2);
  const xsdt = Number(memory.u64(rsdp + 24));
  const tables = new Map([["XSDT", xsdt]]);
  for (let at = xsdt + 36; at < xsdt + memory.u32(xsdt + 4); at += 8) {
    const table = Number(memory.u64(at));
    tables.set(memory.text(table, 4), table);
  }
  const fadt = tables.get("FACP") ?? 0;
  tables.set("DSDT", memory.u32(fadt + 40));
  for (const [signature, table] of tables) {
    expect(memory.text(table, 4)).toBe(signature);
    expect(memory.sum(table, memory.u32(table + 4)), signature).toBe(0);
    expect(table).toBeGreaterThanOrEqual(region.base);
  }
  tables.set("FACS", memory.u32(fadt + 36));
  return { memory, tables };
}

describe("discovery", () => {
  it("leads from the EBDA to every table", () => {
    const acpi = build();
    const { memory, tables } = discover(acpi);
    expect([...tables.keys()].sort()).toEqual(["APIC", "DSDT", "FACP", "FACS", "HPET", "XSDT"]);
    expect(acpi.rsdp).toBe(0x9fc10);
    expect(memory.u16(0x413)).toBe(639);
    expect(memory.u8(0x9fc00)).toBe(1);
  });

  it("keeps FACS in the region's last page, aligned to 64 bytes", () => {
    const { memory, tables } = discover(build());
    const facs = tables.get("FACS") ?? 0;
    expect(facs).toBe(region.base + region.bytes - 4096);
    expect([memory.text(facs, 4), memory.u32(facs + 4), memory.u8(facs + 32)]).toEqual(["FACS", 64, 2]);
  });
});

describe("FADT", () => {
  const fadt = (options: Partial<AcpiOptions> = {}) => {
    const { memory, tables } = discover(build(options));
    const at = tables.get("FACP") ?? 0;
    return {
      u8: (offset: number) => memory.u8(at + offset),
      u16: (offset: number) => memory.u16(at + offset),
      u32: (offset: number) => memory.u32(at + offset),
      gas: (offset: number) => [
        memory.u8(at + offset),
        memory.u8(at + offset + 1),
        memory.u8(at + offset + 3),
        Number(memory.u64(at + offset + 4)),
      ],
    };
  };

  it("names the power management registers, in both forms", () => {
    const table = fadt();
    expect([table.u32(4), table.u8(8), table.u8(131)]).toEqual([276, 6, 5]);
    expect(table.u16(46)).toBe(9); // SCI_INT
    expect([table.u32(48), table.u8(52), table.u8(53)]).toEqual([0xb2, 0xf1, 0xf0]);
    expect([table.u32(56), table.u32(64), table.u32(76), table.u32(80)]).toEqual([
      0x600, 0x604, 0x608, 0x620,
    ]);
    expect([table.u8(88), table.u8(89), table.u8(91), table.u8(92)]).toEqual([4, 2, 4, 16]);
    expect(table.gas(148)).toEqual([1, 32, 2, 0x600]);
    expect(table.gas(172)).toEqual([1, 16, 2, 0x604]);
    expect(table.gas(208)).toEqual([1, 32, 3, 0x608]);
    expect(table.gas(220)).toEqual([1, 128, 1, 0x620]);
  });

  it("resets by 6 to port 0xCF9", () => {
    const table = fadt();
    expect(table.gas(116)).toEqual([1, 8, 1, 0xcf9]);
    expect(table.u8(128)).toBe(6);
    expect(table.u32(112) & (1 << 10)).not.toBe(0);
  });

  it("tells what there is not (IAPC_BOOT_ARCH)", () => {
    expect(fadt().u16(109)).toBe(0b000101); // legacy devices, no VGA
    expect(fadt({ platform: { keyboard: true, vga: true } }).u16(109)).toBe(0b000011);
    expect(fadt({ platform: { rtc: false } }).u16(109)).toBe(0b100101);
    expect(fadt({ platform: { rtc: false } }).u8(108)).toBe(0);
    expect(fadt().u8(108)).toBe(0x32);
  });

  it("has its flags", () => {
    expect(fadt().u32(112)).toBe(0x565); // WBINVD, C1, no sleep button, no RTC wake, 32-bit timer, reset
    expect(fadt({ platform: { powerButton: false, pmTimerBits: 24 } }).u32(112)).toBe(0x465 | 0x10);
    expect([fadt().u16(96), fadt().u16(98)]).toEqual([0xfff, 0xfff]); // no C2, no C3
  });
});

describe("MADT", () => {
  const entries = (options: Partial<AcpiOptions>): number[][] => {
    const { memory, tables } = discover(build(options));
    const madt = tables.get("APIC") ?? 0;
    expect(memory.u32(madt + 36)).toBe(0xfee00000);
    expect(memory.u32(madt + 40)).toBe(1); // PCAT_COMPAT
    const found: number[][] = [];
    for (let at = madt + 44; at < madt + memory.u32(madt + 4); at += memory.u8(at + 1)) {
      found.push([...memory.bytes(at, memory.u8(at + 1))]);
    }
    return found;
  };

  it("lists processors, I/O APIC, overrides and NMI", () => {
    expect(entries({ cpus: 2 })).toEqual([
      [0, 8, 0, 0, 1, 0, 0, 0],
      [0, 8, 1, 1, 1, 0, 0, 0],
      [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
      [2, 10, 0, 0, 2, 0, 0, 0, 0, 0], // IRQ 0 at input 2
      [2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0], // SCI: level, active high
      [4, 6, 0xff, 0, 0, 1], // NMI at LINT1
    ]);
  });

  it("describes processors from APIC id 255 on as x2APICs", () => {
    const found = entries({ cpus: [{ apicId: 254 }, { apicId: 255 }, { apicId: 0x12345 }] });
    expect(found[0]).toEqual([0, 8, 0, 254, 1, 0, 0, 0]);
    expect(found[1]).toEqual([9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    expect(found[2]).toEqual([9, 16, 0, 0, 0x45, 0x23, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    expect(found.at(-1)).toEqual([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
  });

  it("gives more than 255 processors distinct identifiers", () => {
    const found = entries({ cpus: 300 });
    expect(found.filter(([type]) => type === 0)).toHaveLength(255);
    expect(found.filter(([type]) => type === 9)).toHaveLength(45);
  });
});

describe("HPET and MCFG", () => {
  it("say where the registers are", () => {
    const { memory, tables } = discover(build({ platform: { ecam: { base: 0xe0000000, lastBus: 255 } } }));
    const hpet = tables.get("HPET") ?? 0;
    expect([memory.u32(hpet + 36), memory.u64(hpet + 44)]).toEqual([0x8086a201, 0xfed00000n]);
    const table = tables.get("MCFG") ?? 0;
    expect(memory.u64(table + 44)).toBe(0xe0000000n);
    expect([memory.u8(table + 54), memory.u8(table + 55)]).toEqual([0, 255]);
  });

  it("are left out where there are none", () => {
    const { tables } = discover(build({ platform: { hpet: undefined } }));
    expect([tables.has("HPET"), tables.has("MCFG")]).toEqual([false, false]);
  });

  it("reserve ECAM as a motherboard resource (PCI Firmware 3.3 sec. 4.1.2)", () => {
    const dsdt = (options: Partial<AcpiOptions>): Buffer =>
      Buffer.from(build(options).tables.find(({ signature }) => signature === "DSDT")!.content);
    // Memory32Fixed, read and write: base, length.
    const reserved = Buffer.from([0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0, 0x10]);
    const withEcam = dsdt({ platform: { ecam: { base: 0xe0000000, lastBus: 255 } } });
    const board = withEcam.indexOf("MBRD");
    expect(withEcam.indexOf(reserved)).toBeGreaterThan(board);
    expect(board).toBeGreaterThan(0);
    expect(dsdt({}).indexOf(reserved)).toBe(-1);
    expect(() => build({ platform: { ecam: { base: 0xe0000000, lastBus: 256 } } })).toThrow(RangeError);
  });
});

describe("PCI root", () => {
  it("is on bus 0 and keeps the configuration ports to itself", () => {
    const term = Buffer.from(pciRoot());
    const at = (...descriptor: number[]): number => term.indexOf(Buffer.from(descriptor));
    expect(at(0x41, 0xd0, 0x0a, 0x03)).toBeGreaterThan(0); // PNP0A03
    expect(at(0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)).toBeGreaterThan(0); // bus 0, one of them
    expect(at(0x47, 1, 0xf8, 0x0c, 0xf8, 0x0c, 1, 8)).toBeGreaterThan(0); // ports 0xCF8 to 0xCFF, consumed
    expect(at(0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0, 0xf7, 0x0c, 0, 0, 0xf8, 0x0c)).toBeGreaterThan(0);
    expect(at(0x88, 13, 0, 1, 0x0c, 3, 0, 0, 0, 0x0d, 0xff, 0xff, 0, 0, 0, 0xf3)).toBeGreaterThan(0);
  });

  it("is one of PCI Express by name, one of PCI by compatibility, and has _OSC", () => {
    const express = Buffer.from(pciRoot({ express: true }));
    const name = (id: string, ...value: number[]): number =>
      express.indexOf(Buffer.from([0x08, ...Buffer.from(id), 0x0c, ...value]));
    expect(name("_HID", 0x41, 0xd0, 0x0a, 0x08)).toBeGreaterThan(0);
    expect(name("_CID", 0x41, 0xd0, 0x0a, 0x03)).toBeGreaterThan(0);
    expect(express.includes("_OSC")).toBe(true);
    expect(Buffer.from(pciRoot()).includes("_OSC")).toBe(false);
  });

  it("routes pin p of device d to interrupt 16 + (d + p) mod 4 (ACPI 6.5 sec. 6.2.13)", () => {
    const term = Buffer.from(pciRoot());
    const route = (device: number, pin: number, gsi: number): boolean => {
      const address = [0x0c, 0xff, 0xff, device, 0];
      const number = pin === 0 ? [0x00] : pin === 1 ? [0x01] : [0x0a, pin];
      const body = [4, ...(device === 0 ? [0x0b, 0xff, 0xff] : address), ...number, 0x00, 0x0a, gsi];
      return term.includes(Buffer.from([0x12, body.length + 1, ...body]));
    };
    for (let device = 0; device < 32; device++) {
      for (let pin = 0; pin < 4; pin++) {
        expect(route(device, pin, 16 + ((device + pin) % 4)), `device ${device}, pin ${pin}`).toBe(true);
      }
    }
  });

  it.each([-1, 256, 0.5])("refuses %d as last bus", (lastBus) => {
    expect(() => pciRoot({ lastBus })).toThrow(RangeError);
  });
});

describe("limits", () => {
  it("refuses tables that do not fit their region", () => {
    const small = { base: 0x100000, bytes: 0x2000 };
    expect(() => build({ cpus: 4096, region: small })).toThrow(BootError);
    expect(build({ cpus: 1, region: small }).tables.length).toBe(7);
  });

  it("fits 1,024 processors into the memory map's region", () => {
    expect(build({ cpus: 1024 }).tables.length).toBe(7);
  });

  it.each([0, -1, 1.5, 4097])("refuses %d processors", (cpus) => {
    expect(() => build({ cpus })).toThrow(RangeError);
  });

  it("refuses regions above 4 GiB or off page boundaries", () => {
    expect(() => build({ region: { base: 2 ** 32, bytes: 0x4000 } })).toThrow(RangeError);
    expect(() => build({ region: { base: 0x100800, bytes: 0x4000 } })).toThrow(RangeError);
  });
});

const noIasl = missing("iasl", ["-v"]);
describe(noIasl ? `iasl (skipped: ${noIasl})` : "iasl", () => {
  /** Disassembles and compiles again; what iasl had to say, and the new bytes. */
  const roundTrip = (signature: string, content: Uint8Array): { said: string; again: Uint8Array } =>
    inTemporaryDirectory((directory) => {
      writeFileSync(join(directory, "table.dat"), content);
      const out = run("iasl", ["-d", "table.dat"], { cwd: directory });
      const back = run("iasl", ["-we", "-p", "again", "table.dsl"], { cwd: directory });
      expect(out.code, `${signature}: ${out.text}`).toBe(0);
      expect(back.code, `${signature}: ${back.text}`).toBe(0);
      return { said: out.text + back.text, again: readFileSync(join(directory, "again.aml")) };
    });

  /** A table without what the compiler signs: checksum, creator and its revision. */
  const unsigned = (content: Uint8Array): Uint8Array => {
    const copy = Uint8Array.from(content);
    copy[9] = 0;
    copy.fill(0, 28, 36);
    return copy;
  };

  const everything: Partial<AcpiOptions> = {
    cpus: [{ apicId: 0 }, { apicId: 1 }, { apicId: 300 }],
    platform: {
      serialPorts: [COM1, COM2],
      keyboard: true,
      fwCfg: true,
      vga: true,
      ecam: { base: 0xe0000000, lastBus: 255 },
    },
    dsdtTerms: [
      pciRoot({ lastBus: 255, express: true, terms: [aml.device("S08", aml.name("_ADR", 0x1_0000))] }),
    ],
  };

  it.skipIf(noIasl).each([{}, { dsdtTerms: [pciRoot()] }, everything])(
    "reads every table and writes the same (%#)",
    (options) => {
      for (const { signature, content } of build(options).tables) {
        if (signature === "RSDP") continue; // iasl does not write one back
        const { said, again } = roundTrip(signature, content);
        expect(said).not.toMatch(/(warning|error|remark)s? +\d+ -|[1-9]\d* (Errors|Warnings|Remarks|Optim)/i);
        const same = signature === "FACS" ? content : unsigned(content);
        expect(signature === "FACS" ? new Uint8Array(again) : unsigned(again)).toEqual(same);
      }
    },
  );

  it.skipIf(noIasl)("agrees with every term that the encoder knows", () => {
    const { arg, local } = aml;
    const name = (path: string) => aml.path(path);
    const terms = [
      aml.name("INTS", aml.pkg(0, 1, 2, 0xff, 0x100, 0xffff, 0x10000, 0xffffffff, 2n ** 32n, 2n ** 64n - 1n)),
      aml.name("STR", aml.string("skep")),
      aml.operationRegion("REG", aml.RegionSpace.SYSTEM_IO, 0xae00, 0x10),
      aml.field("REG", aml.FieldAccess.BYTE, [
        ["FLD0", 8],
        [undefined, 100],
        ["FLD1", 1],
      ]),
      aml.mutex("MTX"),
      aml.name("OUT", 0),
      aml.device(
        "PCI0",
        aml.name("_HID", aml.eisaId("PNP0A08")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
          "_CRS",
          resources.resources(
            resources.busNumbers(0, 255),
            resources.io(0xcf8, 8),
            resources.ioWindow(0x1000, 0xf000),
            resources.memoryWindow32(0xc0000000, 0x20000000),
            resources.memoryWindow64(0x10_0000_0000, 0x10_0000_0000),
            resources.interrupt(20, "level", "low"),
          ),
        ),
        aml.device("S08", aml.name("_ADR", aml.integer(0x10000))),
      ),
      aml.method(
        "TEST",
        { args: 2, serialized: true },
        aml.acquire(name("MTX")),
        aml.add(arg(0), 1, local(0)),
        aml.subtract(local(0), arg(1), local(1)),
        aml.and(local(0), 0xff, name("OUT")),
        aml.or(local(0), 0x100, name("OUT")),
        aml.xor(local(0), 3, name("OUT")),
        aml.not(local(0), name("OUT")),
        aml.shiftLeft(local(0), 2, name("OUT")),
        aml.shiftRight(local(0), 2, name("OUT")),
        aml.store(name("STR"), name("OUT")),
        aml.store(aml.buffer(new Uint8Array(70)), local(5)),
        aml.createDwordField(local(5), 4, "DWF"),
        aml.store(0x12345678, name("DWF")),
        aml.store(7, aml.index(local(5), 3)),
        aml.when(
          aml.both(aml.equal(local(0), 1), aml.either(aml.greater(local(1), 2), aml.less(local(1), 9))),
          aml.notify(name("PCI0"), 1),
          aml.store(1, name("FLD1")),
        ),
        aml.otherwise(aml.store(aml.isFalse(local(0)), name("FLD0"))),
        aml.loop(local(0), aml.subtract(local(0), 1, local(0))),
        aml.release(name("MTX")),
        aml.ret(local(0)),
      ),
      aml.scope("PCI0.S08", aml.method("_STA", {}, aml.ret(aml.call("TEST", 1, 2)))),
    ];
    const dsdt = build({ dsdtTerms: terms }).tables.find(({ signature }) => signature === "DSDT");
    const { said, again } = roundTrip("DSDT", dsdt?.content ?? new Uint8Array(0));
    expect(said).toMatch(/ 0 Errors/);
    expect(unsigned(again)).toEqual(unsigned(dsdt?.content ?? new Uint8Array(0)));
  });
});
