import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { Cpu, Event } from "./layout.ts";

/** Reads an i32 field of the vCPU block. */
export const get32 = (f: Builder, field: number): I32 => f.load("i32.load", f.cpu, field);
/** Reads an i64 field of the vCPU block. */
export const get64 = (f: Builder, field: number): I64 => f.load("i64.load", f.cpu, field);
export const set32 = (f: Builder, field: number, value: I32 | number): void =>
  f.store("i32.store", f.cpu, typeof value === "number" ? f.i32(value) : value, field);
export const set64 = (f: Builder, field: number, value: I64 | bigint | number): void =>
  f.store("i64.store", f.cpu, typeof value === "object" ? value : f.i64(value), field);

/** Exception vectors (SDM Vol. 3A table 6-1). */
export const Vector = {
  DE: 0,
  DB: 1,
  NMI: 2,
  BP: 3,
  OF: 4,
  BR: 5,
  UD: 6,
  NM: 7,
  DF: 8,
  TS: 10,
  NP: 11,
  SS: 12,
  GP: 13,
  PF: 14,
  MF: 16,
  AC: 17,
  XM: 19,
} as const;

/** Exceptions that push an error code, a bit each. */
export const HAS_ERROR_CODE = 0x0002_7d00;

/**
 * Raises exception `vector` at the current instruction. Only notes it: the caller returns or leaves at once,
 * with nothing of the instruction's result stored.
 */
export function raise(f: Builder, vector: number, error: I32 | number = 0): void {
  set32(f, Cpu.EXC_VECTOR, vector);
  set32(f, Cpu.EXC_ERROR, error);
  set32(f, Cpu.EXC_HAS_ERROR, (HAS_ERROR_CODE >> vector) & 1);
  set32(f, Cpu.EVENT, Event.FAULT);
}

/** (vector, error code) → the same as `raise`, as a call: what instructions hold many of is the smaller for it. */
export const raiseException = fn("raiseException", ["i32", "i32"], undefined, (f, vector, error) => {
  set32(f, Cpu.EXC_VECTOR, vector);
  set32(f, Cpu.EXC_ERROR, error);
  set32(f, Cpu.EXC_HAS_ERROR, f.i32(HAS_ERROR_CODE).shrU(vector).and(1));
  set32(f, Cpu.EVENT, Event.FAULT);
});

/** CR0, CR4, EFER and RFLAGS bits (SDM Vol. 3A sec. 2.3, 2.5, 2.2.1). Masks. */
export const CR0 = {
  PE: 1,
  MP: 2,
  EM: 4,
  TS: 8,
  ET: 0x10,
  NE: 0x20,
  WP: 0x1_0000,
  AM: 0x4_0000,
  NW: 0x2000_0000,
  CD: 0x4000_0000,
  PG: 0x8000_0000,
} as const;
export const CR4 = {
  VME: 1,
  PVI: 2,
  TSD: 4,
  DE: 8,
  PSE: 0x10,
  PAE: 0x20,
  MCE: 0x40,
  PGE: 0x80,
  PCE: 0x100,
  OSFXSR: 0x200,
  OSXMMEXCPT: 0x400,
  UMIP: 0x800,
  FSGSBASE: 0x1_0000,
  PCIDE: 0x2_0000,
  OSXSAVE: 0x4_0000,
  SMEP: 0x10_0000,
  SMAP: 0x20_0000,
} as const;
/** XCR0, and the bits of XSAVE's masks: components of the state (SDM Vol. 1 sec. 13.1). */
export const XCR0 = { X87: 1, SSE: 2, AVX: 4 } as const;
export const EFER = { SCE: 1, LME: 0x100, LMA: 0x400, NXE: 0x800 } as const;
export const RFLAGS = {
  CF: 1,
  ONE: 2,
  PF: 4,
  AF: 0x10,
  ZF: 0x40,
  SF: 0x80,
  TF: 0x100,
  IF: 0x200,
  DF: 0x400,
  OF: 0x800,
  IOPL: 0x3000,
  IOPL_SHIFT: 12,
  NT: 0x4000,
  RF: 0x1_0000,
  VM: 0x2_0000,
  AC: 0x4_0000,
  VIF: 0x8_0000,
  VIP: 0x10_0000,
  ID: 0x20_0000,
} as const;
/** CF, PF, AF, ZF, SF, OF. */
export const ARITHMETIC = 0x8d5;

/** Width of guest-physical addresses in bits: page-table bits from here to 51 are reserved. */
export const PHYSICAL_ADDRESS_BITS = 40;
