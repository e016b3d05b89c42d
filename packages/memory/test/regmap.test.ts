import { beforeEach, describe, expect, it } from "vitest";
import { mergeBits, type RegisterFile, RegisterMap } from "../src/index.ts";

/** The PM1 block as ACPI 6.5 sec. 4.8.3 lays it out, and a gap. */
const MAP = new RegisterMap([
  ["STS", 2],
  ["EN", 2],
  ["CNT", 4],
  [null, 3],
  ["BYTE", 1],
]);
type Register = "STS" | "EN" | "CNT" | "BYTE";

let values: Record<Register, number>;
let log: string[];
const file: RegisterFile<Register> = {
  readRegister: (register) => {
    log.push(register);
    return values[register];
  },
  writeRegister: (register, value, mask) => {
    log.push(`${register}=${value.toString(16)}/${mask.toString(16)}`);
    values[register] = mergeBits(values[register], value, mask);
  },
};

beforeEach(() => {
  values = { STS: 0x1234, EN: 0x5678, CNT: 0xfedc_ba98, BYTE: 0xef };
  log = [];
});

describe("RegisterMap", () => {
  it("knows its size and where registers lie", () => {
    expect(MAP.bytes).toBe(12);
    expect(MAP.offsetOf("CNT")).toBe(4);
    expect(MAP.offsetOf("BYTE")).toBe(11);
  });

  it("reads whole registers", () => {
    expect(MAP.read(0, 2, file)).toBe(0x1234);
    expect(MAP.read(4, 4, file)).toBe(0xfedc_ba98);
    expect(MAP.read(11, 1, file)).toBe(0xef);
    expect(log).toEqual(["STS", "CNT", "BYTE"]);
  });

  it("agrees with a little-endian picture of itself at every offset and size", () => {
    // 0x34 0x12 | 0x78 0x56 | 0x98 0xBA 0xDC 0xFE | gap reads 0 | 0xEF | past the end reads 0
    const picture = new DataView(
      Uint8Array.of(0x34, 0x12, 0x78, 0x56, 0x98, 0xba, 0xdc, 0xfe, 0, 0, 0, 0xef, 0, 0, 0, 0).buffer,
    );
    for (let offset = 0; offset < 12; offset++) {
      expect(MAP.read(offset, 1, file)).toBe(picture.getUint8(offset));
      expect(MAP.read(offset, 2, file)).toBe(picture.getUint16(offset, true));
      expect(MAP.read(offset, 4, file)).toBe(picture.getUint32(offset, true));
    }
  });

  it("touches each register once, in order", () => {
    MAP.read(1, 4, file);
    expect(log).toEqual(["STS", "EN", "CNT"]);
    log = [];
    MAP.write(1, 4, 0xddcc_bbaa, file);
    expect(log).toEqual(["STS=aa00/ff00", "EN=ccbb/ffff", "CNT=dd/ff"]);
    expect(values).toEqual({ STS: 0xaa34, EN: 0xccbb, CNT: 0xfedc_badd, BYTE: 0xef });
  });

  it("writes at every offset and size what a byte-wise picture would hold", () => {
    for (const size of [1, 2, 4] as const) {
      for (let offset = 0; offset < 12; offset++) {
        values = { STS: 0, EN: 0, CNT: 0, BYTE: 0 };
        MAP.write(offset, size, 0xffff_ffff, file);
        const image = Array.from({ length: 12 }, (_, i) => MAP.read(i, 1, file));
        const expected = image.map((_, i) =>
          i >= offset && i < offset + size && !(i >= 8 && i < 11) ? 0xff : 0,
        );
        expect([size, offset, ...image]).toEqual([size, offset, ...expected]);
      }
    }
  });

  it("never reads a register in order to write", () => {
    MAP.write(5, 1, 0x42, file);
    expect(log).toEqual(["CNT=4200/ff00"]);
  });

  it("a byte written beside a write-one-to-clear byte leaves that one alone", () => {
    let status = 0xffff;
    const w1c: RegisterFile<Register> = {
      readRegister: () => status,
      writeRegister: (register, value) => {
        if (register === "STS") status &= ~value;
      },
    };
    MAP.write(1, 1, 0x81, w1c);
    expect(status).toBe(0x7eff);
  });

  it("gaps and what lies past the end read as 0 and swallow writes", () => {
    expect(MAP.read(8, 2, file)).toBe(0);
    expect(MAP.read(12, 4, file)).toBe(0);
    expect(MAP.read(0x1_0000, 4, file)).toBe(0);
    MAP.write(8, 2, 0xffff, file);
    MAP.write(0xffff_ffff, 4, 0xffff_ffff, file);
    expect(log).toEqual([]);
  });

  it("registers may be numbers", () => {
    const seen: number[] = [];
    new RegisterMap([[7, 4]]).read(0, 4, { readRegister: (r) => seen.push(r), writeRegister: () => {} });
    expect(seen).toEqual([7]);
  });

  it("refuses tables that make no sense", () => {
    expect(() => new RegisterMap([["A", 3 as 4]])).toThrow(RangeError);
    expect(() => new RegisterMap([["A", 8 as 4]])).toThrow(RangeError);
    expect(() => new RegisterMap([[null, 0]])).toThrow(RangeError);
    expect(() => new RegisterMap([[null, 0x1_0001]])).toThrow(RangeError);
    expect(() => new RegisterMap([])).toThrow(RangeError);
    expect(() => MAP.offsetOf("NONE" as "STS")).toThrow(RangeError);
  });
});

describe("mergeBits", () => {
  it("is unsigned", () => {
    expect(mergeBits(0x0000_00ff, 0xff00_0000, 0xff00_0000)).toBe(0xff00_00ff);
    expect(mergeBits(0xffff_ffff, 0, 0x0000_ff00)).toBe(0xffff_00ff);
  });
});
