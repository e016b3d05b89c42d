/** Vector instructions where nothing but the manuals is needed: known answers, and the checks that come first. */
import { describe, expect, it } from "vitest";
import { Cpu } from "../src/cpu/layout.ts";
import { updateSse } from "../src/cpu/sse-state.ts";
import { longMachine, type Machine } from "./machine.ts";

// CR0 and CR4 bits restated (SDM Vol. 3A fig. 2-7); exception vectors (table 6-1).
const EM = 4n;
const TS = 8n;
const OSFXSR = 0x200n;
const UD = 6;
const NM = 7;
const MF = 16;

function machine(cr0 = 0n, cr4 = OSFXSR): Machine {
  const m = longMachine();
  m.set64(Cpu.CR0, m.get64(Cpu.CR0) | cr0);
  m.set64(Cpu.CR4, m.get64(Cpu.CR4) | cr4);
  m.call(updateSse);
  return m;
}

const xmm = (m: Machine, i: number): bigint =>
  (m.get64(Cpu.XMM + 16 * i + 8) << 64n) | m.get64(Cpu.XMM + 16 * i);
function setXmm(m: Machine, i: number, value: bigint): void {
  m.set64(Cpu.XMM + 16 * i, value);
  m.set64(Cpu.XMM + 16 * i + 8, value >> 64n);
}
/** Bytes written from the first in memory to the last. */
const bytes = (hex: string): bigint => BigInt(`0x${hex.match(/../g)!.reverse().join("")}`);

const done = { kind: "done" };
const fault = (vector: number): object => ({ kind: "fault", vector, error: undefined });

describe("checks", () => {
  const PXOR_XMM = [0x66, 0x0f, 0xef, 0xc1];
  const PXOR_MM = [0x0f, 0xef, 0xc1];
  const MOVQ2DQ = [0xf3, 0x0f, 0xd6, 0xc1];
  const EMMS = [0x0f, 0x77];
  const CRC32 = [0xf2, 0x0f, 0x38, 0xf1, 0xc1];

  it("executes where nothing is in the way", () => {
    for (const code of [PXOR_XMM, PXOR_MM, MOVQ2DQ, EMMS]) expect(machine().run(...code)).toEqual(done);
  });

  it("raises #NM for a switched task, so that its registers can be brought in", () => {
    for (const code of [PXOR_XMM, PXOR_MM, MOVQ2DQ, EMMS])
      expect(machine(TS).run(...code)).toMatchObject(fault(NM));
  });

  it("raises #UD where the x87 is emulated, even for a switched task", () => {
    for (const code of [PXOR_XMM, PXOR_MM, MOVQ2DQ, EMMS])
      for (const cr0 of [EM, EM | TS]) expect(machine(cr0).run(...code)).toMatchObject(fault(UD));
  });

  it("raises #UD for XMM registers that the system does not save", () => {
    for (const code of [PXOR_XMM, MOVQ2DQ]) expect(machine(0n, 0n).run(...code)).toMatchObject(fault(UD));
    for (const code of [PXOR_MM, EMMS]) expect(machine(0n, 0n).run(...code)).toEqual(done);
  });

  it("asks nothing of CRC32, which works on general registers", () => {
    expect(machine(EM | TS, 0n).run(...CRC32)).toEqual(done);
  });

  it("raises a pending x87 exception from MMX instructions, and from no others", () => {
    for (const [code, expected] of [
      [PXOR_MM, fault(MF)],
      [MOVQ2DQ, fault(MF)],
      [EMMS, fault(MF)],
      [PXOR_XMM, done],
    ] as const) {
      const m = machine(0x20n);
      // IE pending, unmasked.
      m.set32(Cpu.FCW, 0x37e);
      m.set32(Cpu.FSW, 0x81);
      expect(m.run(...code)).toMatchObject(expected);
    }
  });

  it("follows CLTS, LMSW and MOV to CR0 and CR4", () => {
    const m = machine(TS);
    expect(m.run(...PXOR_XMM)).toMatchObject(fault(NM));
    m.run(0x0f, 0x06); // clts
    expect(m.run(...PXOR_XMM)).toEqual(done);
    m.setReg(0, 0x39n);
    m.run(0x0f, 0x01, 0xf0); // lmsw ax: TS
    expect(m.run(...PXOR_XMM)).toMatchObject(fault(NM));
    m.setReg(0, 0x8001_0011n);
    m.run(0x0f, 0x22, 0xc0); // mov cr0, rax
    expect(m.run(...PXOR_XMM)).toEqual(done);
    m.setReg(0, 0x20n);
    m.run(0x0f, 0x22, 0xe0); // mov cr4, rax
    expect(m.run(...PXOR_XMM)).toMatchObject(fault(UD));
  });
});

describe("MMX and x87", () => {
  it("makes the whole x87 stack valid and TOP 0, and EMMS empties it", () => {
    const m = machine();
    m.set32(Cpu.TOP, 5);
    m.set32(Cpu.FTW, 0xffff);
    m.set64(Cpu.FPR + 16, 0x1122_3344_5566_7788n);
    m.run(0x0f, 0x6f, 0xd1); // movq mm2, mm1
    expect(m.get32(Cpu.TOP)).toBe(0);
    expect(m.get32(Cpu.FTW)).toBe(0);
    expect(m.get64(Cpu.FPR + 32)).toBe(0x1122_3344_5566_7788n);
    // Sign and exponent: all ones, in the destination alone (SDM Vol. 1 sec. 9.5.1).
    expect(m.get32(Cpu.FPR + 32 + 8) & 0xffff).toBe(0xffff);
    expect(m.get32(Cpu.FPR + 16 + 8) & 0xffff).not.toBe(0xffff);
    m.run(0x0f, 0x77);
    expect(m.get32(Cpu.FTW)).toBe(0xffff);
  });
});

describe("known answers", () => {
  it("encrypts and decrypts a round of AES (FIPS 197 app. C.1)", () => {
    const m = machine();
    setXmm(m, 0, bytes("00102030405060708090a0b0c0d0e0f0"));
    setXmm(m, 1, bytes("d6aa74fdd2af72fadaa678f1d6ab76fe"));
    m.run(0x66, 0x0f, 0x38, 0xdc, 0xc1); // aesenc xmm0, xmm1
    expect(xmm(m, 0)).toBe(bytes("89d810e8855ace682d1843d8cb128fe4"));
    // Back: take the key out, undo MixColumns, and the last round without it undoes the rest.
    m.run(0x66, 0x0f, 0xef, 0xc1); // pxor xmm0, xmm1
    m.run(0x66, 0x0f, 0x38, 0xdb, 0xc0); // aesimc xmm0, xmm0
    m.run(0x66, 0x0f, 0xef, 0xc9); // pxor xmm1, xmm1
    m.run(0x66, 0x0f, 0x38, 0xdf, 0xc1); // aesdeclast xmm0, xmm1
    expect(xmm(m, 0)).toBe(bytes("00102030405060708090a0b0c0d0e0f0"));
  });

  it("substitutes all 256 bytes there and back", () => {
    const m = machine();
    const seen = new Set<bigint>();
    setXmm(m, 1, 0n);
    for (let first = 0; first < 256; first += 16) {
      let state = 0n;
      for (let i = 0; i < 16; i++) state |= BigInt(first + i) << BigInt(8 * i);
      setXmm(m, 0, state);
      m.run(0x66, 0x0f, 0x38, 0xdd, 0xc1); // aesenclast xmm0, xmm1
      for (let i = 0; i < 16; i++) seen.add((xmm(m, 0) >> BigInt(8 * i)) & 0xffn);
      m.run(0x66, 0x0f, 0x38, 0xdf, 0xc1); // aesdeclast xmm0, xmm1
      expect(xmm(m, 0)).toBe(state);
    }
    expect(seen.size).toBe(256);
  });

  it("expands a key of AES-128 (FIPS 197 app. A.1)", () => {
    const m = machine();
    // w3 = 09cf4f3c; the next word wants SubWord(RotWord(w3)) xor Rcon = 8b84eb01.
    setXmm(m, 1, bytes("2b7e151628aed2a6abf7158809cf4f3c"));
    m.run(0x66, 0x0f, 0x3a, 0xdf, 0xc1, 0x01); // aeskeygenassist xmm0, xmm1, 1
    expect(xmm(m, 0) >> 96n).toBe(bytes("8b84eb01"));
  });

  it("computes the CRC of iSCSI (RFC 3720 app. B.4)", () => {
    const m = machine();
    m.setReg(0, 0xffff_ffffn);
    m.setReg(1, 0n);
    for (let i = 0; i < 4; i++) m.run(0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc1); // crc32 rax, rcx
    expect(m.reg(0) ^ 0xffff_ffffn).toBe(0x8a91_36aan);
    // By bytes, 0 to 31.
    m.setReg(0, 0xffff_ffffn);
    for (let i = 0; i < 32; i++) {
      m.setReg(1, BigInt(i));
      m.run(0xf2, 0x0f, 0x38, 0xf0, 0xc1); // crc32 eax, cl
    }
    expect(m.reg(0) ^ 0xffff_ffffn).toBe(0x46dd_794en);
  });

  it("multiplies polynomials", () => {
    const m = machine();
    // (x^63 + 1)^2 = x^126 + 1
    setXmm(m, 0, 0x8000_0000_0000_0001n);
    m.run(0x66, 0x0f, 0x3a, 0x44, 0xc0, 0x00); // pclmulqdq xmm0, xmm0, 0
    expect(xmm(m, 0)).toBe((1n << 126n) | 1n);
  });

  it("finds a substring (PCMPISTRI, equal ordered)", () => {
    const m = machine();
    setXmm(m, 0, bytes(Buffer.from("needle\0\0\0\0\0\0\0\0\0\0").toString("hex")));
    setXmm(m, 1, bytes(Buffer.from("hay with needle.").toString("hex")));
    m.run(0x66, 0x0f, 0x3a, 0x63, 0xc1, 0x0c); // pcmpistri xmm0, xmm1, 0Ch
    expect(m.reg(1)).toBe(9n);
  });
});
