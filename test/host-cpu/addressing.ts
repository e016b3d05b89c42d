/** Memory operands: an addressing form, and register values with which it reaches an address. */

import { type Mem, type Mem16, PREFIX, REG } from "./encode.ts";
import { HOST_LAYOUT } from "./host-cpu.ts";
import type { Random } from "./random.ts";

export interface Shape {
  name: string;
  modes: readonly (64 | 32)[];
  base?: "any" | "sp" | "bp";
  index?: boolean;
  /** Base and index are one register. */
  same?: boolean;
  dispBytes?: 0 | 1 | 4;
  rip?: boolean;
  absolute?: boolean;
  /** A SIB byte that is not needed. */
  sib?: boolean;
  /** 67 prefix: 32-bit registers in 64-bit mode. */
  narrow?: boolean;
  segment?: number;
}

const BOTH = [64, 32] as const;
const LONG = [64] as const;
const LEGACY = [32] as const;

/** Every addressing form of ModRM and SIB that behaves differently somewhere (SDM Vol. 2A tables 2-2, 2-3). */
export const SHAPES: readonly Shape[] = [
  { name: "[base]", modes: BOTH, base: "any", dispBytes: 0 },
  { name: "[base+d8]", modes: BOTH, base: "any", dispBytes: 1 },
  { name: "[base+d32]", modes: BOTH, base: "any", dispBytes: 4 },
  { name: "[sp]", modes: BOTH, base: "sp", dispBytes: 0 },
  { name: "[sp+d8]", modes: BOTH, base: "sp", dispBytes: 1 },
  { name: "[bp+d8]", modes: BOTH, base: "bp", dispBytes: 1 },
  { name: "[bp+d32]", modes: BOTH, base: "bp", dispBytes: 4 },
  { name: "[base+index]", modes: BOTH, base: "any", index: true, dispBytes: 0 },
  { name: "[base+index+d8]", modes: BOTH, base: "any", index: true, dispBytes: 1 },
  { name: "[base+index+d32]", modes: BOTH, base: "any", index: true, dispBytes: 4 },
  { name: "[bp+index+d8]", modes: BOTH, base: "bp", index: true, dispBytes: 1 },
  { name: "[base+base*s+d8]", modes: BOTH, base: "any", index: true, same: true, dispBytes: 1 },
  { name: "[index+d32]", modes: BOTH, index: true, dispBytes: 4 },
  { name: "[base] by SIB", modes: BOTH, base: "any", dispBytes: 0, sib: true },
  { name: "[d32]", modes: LEGACY, absolute: true },
  { name: "[d32] by SIB", modes: BOTH, absolute: true, sib: true },
  { name: "[rip+d32]", modes: LONG, rip: true },
  { name: "a32 [base+index+d32]", modes: LONG, base: "any", index: true, dispBytes: 4, narrow: true },
  { name: "a32 [base+d8]", modes: LONG, base: "any", dispBytes: 1, narrow: true },
  { name: "fs:[base+d32]", modes: LONG, base: "any", dispBytes: 4, segment: PREFIX.FS },
  { name: "gs:[base+index]", modes: LONG, base: "any", index: true, dispBytes: 0, segment: PREFIX.GS },
  { name: "fs:a32 [base]", modes: LONG, base: "any", dispBytes: 0, narrow: true, segment: PREFIX.FS },
  { name: "es:[base]", modes: BOTH, base: "any", dispBytes: 0, segment: PREFIX.ES },
  { name: "cs:[base]", modes: BOTH, base: "any", dispBytes: 0, segment: PREFIX.CS },
];

/** Where a memory operand lies, by what should happen there. */
export type Place =
  | "anywhere"
  | "aligned"
  | "page"
  | "low-guard"
  | "high-guard"
  | "edge"
  | "read-only"
  | "non-canonical";

const PLACES: readonly Place[] = [
  ...(Array(6).fill("aligned") as Place[]),
  ...(Array(6).fill("anywhere") as Place[]),
  ...(["page", "page", "low-guard", "high-guard", "edge", "read-only", "non-canonical"] as const),
];

/** Chances as tests want them: two thirds harmless, the rest page-crossing or faulting. */
export function pickPlace(random: Random): Place {
  return random.pick(PLACES);
}

/** An address of `bytes` bytes at such a place; `span` bytes around it also stay inside where it is harmless. */
export function placeAddress(place: Place, bytes: number, random: Random, span = 64): bigint {
  const { DATA, DATA_BYTES, READ_ONLY, READ_ONLY_BYTES } = HOST_LAYOUT;
  const within = (margin: number): number =>
    DATA + random.between(margin, DATA_BYTES - margin - Math.max(bytes, 1));
  switch (place) {
    case "anywhere":
      return BigInt(within(span));
    case "aligned": {
      const alignment = Math.min(16, Math.max(1, bytes));
      return BigInt(Math.floor(within(span + 16) / alignment) * alignment);
    }
    case "page":
      return BigInt(DATA + 0x1000 * random.between(1, DATA_BYTES / 0x1000 - 1) - random.between(0, bytes));
    case "low-guard":
      return BigInt(DATA - Math.max(bytes, 1) - random.below(0x1000));
    case "high-guard":
      return BigInt(DATA + DATA_BYTES + random.below(0x1000));
    case "edge": // some bytes inside, some behind
      return BigInt(DATA + DATA_BYTES - random.between(Math.min(1, bytes), Math.max(1, bytes - 1)));
    case "read-only":
      return BigInt(READ_ONLY + random.below(READ_ONLY_BYTES - bytes));
    case "non-canonical": // bits 63 and 62 differ
      return (random.integer(64) & ~(3n << 62n)) | (BigInt(random.between(1, 2)) << 62n);
  }
}

/** A memory operand that reaches `address` once `registers` and segment bases are set. */
export interface Addressing {
  shape: Shape;
  rm: Mem;
  prefixes: number[];
  address: bigint;
  registers: Map<number, bigint>;
  fsBase?: bigint;
  gsBase?: bigint;
}

export interface AddressingOptions {
  mode: 64 | 32;
  /** Registers below this may be used: 8 where the form must do without REX. */
  registers: number;
  /** Accessed bytes. */
  bytes: number;
  /** Bytes around the address that should stay inside the window too; default 64. */
  span?: number | undefined;
}

/**
 * Chooses registers, displacement and register values.
 * @param place made harmless where the shape cannot reach it.
 */
export function addressingFor(
  shape: Shape,
  place: Place,
  random: Random,
  options: AddressingOptions,
): Addressing {
  const { mode, bytes, span } = options;
  const wide = mode === 64 && !shape.narrow;
  const reachable = place !== "non-canonical" || (wide && shape.base && !shape.same && !shape.segment);
  const address = placeAddress(reachable ? place : "anywhere", bytes, random, span);
  const result: Addressing = { shape, rm: {}, prefixes: [], address, registers: new Map() };
  if (shape.segment !== undefined) result.prefixes.push(shape.segment);
  if (shape.narrow) result.prefixes.push(PREFIX.ADDRESS_SIZE);

  if (shape.absolute || shape.rip) {
    result.rm = { disp: Number(address), rip: shape.rip, sib: shape.sib };
    return result;
  }
  let offset = address;
  if (mode === 64 && (shape.segment === PREFIX.FS || shape.segment === PREFIX.GS)) {
    // A narrow offset is added to the base without wrapping: the base must lie just below.
    const base = shape.narrow ? address - BigInt(random.u32()) : random.integer(64) >> 17n;
    offset = address - base;
    if (shape.segment === PREFIX.FS) result.fsBase = BigInt.asUintN(64, base);
    else result.gsBase = BigInt.asUintN(64, base);
  }
  solve(result, offset, wide ? 64 : 32, random, options);
  return result;
}

/** Finds values so that base + index × scale + disp = offset in `width` bits. */
function solve(
  result: Addressing,
  offset: bigint,
  width: 64 | 32,
  random: Random,
  options: AddressingOptions,
): void {
  const { shape } = result;
  const scale = random.pick([1, 2, 4, 8] as const);
  const set = (register: number, value: bigint): void => {
    const garbage = width === 32 && options.mode === 64 ? random.u64() & ~0xffffffffn : 0n;
    result.registers.set(register, BigInt.asUintN(width, value) | garbage);
  };
  let disp = 0;
  if (shape.dispBytes === 1) disp = random.between(-128, shape.same ? 100 : 127);
  if (shape.dispBytes === 4)
    disp = random.oneIn(3) ? random.between(-0x8000, 0x7000) : (random.u32() | 0) >> 3;
  /** Moves disp up until the rest can be divided. */
  const quotient = (divisor: number): bigint => {
    disp += Number(BigInt.asUintN(width, offset - BigInt(disp)) % BigInt(divisor));
    return BigInt.asUintN(width, offset - BigInt(disp)) / BigInt(divisor);
  };

  const base = shape.base && pickBase(shape.base, random, options.registers);
  const index = shape.same ? base : shape.index ? pickOther(random, options.registers, base) : undefined;
  if (index === undefined) set(base!, offset - BigInt(disp));
  else if (shape.same) set(index, quotient(1 + scale));
  else if (base === undefined) set(index, quotient(scale));
  else {
    const value = random.oneIn(2) ? BigInt(random.between(-64, 64)) : random.integer(64);
    set(index, value);
    set(base, offset - BigInt(disp) - value * BigInt(scale));
  }
  result.rm = { base, index, scale, disp, dispBytes: shape.dispBytes, sib: shape.sib };
}

/** RSP and R12 need a SIB byte, RBP and R13 a displacement: shapes that are about that ask for them. */
function pickBase(base: "any" | "sp" | "bp", random: Random, registers: number): number {
  if (base === "any") return pickOther(random, registers, undefined);
  return (base === "sp" ? REG.RSP : REG.RBP) + 8 * random.below(registers / 8);
}

function pickOther(random: Random, registers: number, not: number | undefined): number {
  let register: number;
  do register = random.below(registers);
  while (register === REG.RSP || register === not);
  return register;
}

/** The eight 16-bit forms, whose addresses are only worth computing (LEA): nothing is mapped below 64 KiB. */
export function addressing16(random: Random): { rm: Mem16; prefixes: number[]; name: string } {
  const rm16 = random.below(8);
  const dispBytes = random.pick([0, 1, 2] as const);
  const disp = dispBytes === 0 && rm16 !== 6 ? 0 : random.between(-128, 127);
  return {
    rm: { rm16, disp, dispBytes },
    prefixes: [PREFIX.ADDRESS_SIZE],
    name: `a16 [rm ${rm16}+d${8 * dispBytes}]`,
  };
}
