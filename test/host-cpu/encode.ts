/**
 * The x86-64 instruction encoder of the tests: fields in, bytes out (SDM Vol. 2A ch. 2).
 *
 * It knows the *format* of instructions and nothing of their meaning, so that it can also encode forms that no
 * assembler would write: redundant prefixes, long displacements, SIB bytes that are not needed.
 * Missing: EVEX, 3DNow!, XOP.
 */

/** General registers by their encoding. */
// biome-ignore format: a table
export const REG = {
  RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7,
  R8: 8, R9: 9, R10: 10, R11: 11, R12: 12, R13: 13, R14: 14, R15: 15,
} as const;

/** Legacy prefixes (SDM Vol. 2A sec. 2.1.1). */
export const PREFIX = {
  LOCK: 0xf0,
  REPNE: 0xf2,
  REP: 0xf3,
  ES: 0x26,
  CS: 0x2e,
  SS: 0x36,
  DS: 0x3e,
  FS: 0x64,
  GS: 0x65,
  OPERAND_SIZE: 0x66,
  ADDRESS_SIZE: 0x67,
} as const;

/** Opcode maps: one byte, 0F, 0F 38, 0F 3A. */
export type OpcodeMap = 0 | 1 | 2 | 3;

/** A memory operand. With neither base nor index nor rip it is an absolute 32-bit address. */
export interface Mem {
  base?: number | undefined;
  /** Not 4 (RSP cannot be an index), unless it is a vector register. */
  index?: number | undefined;
  scale?: 1 | 2 | 4 | 8 | undefined;
  /** Signed 32 bits; for `rip` the absolute target, which `encode` makes relative. */
  disp?: number | undefined;
  /** Bytes of displacement; default the fewest that hold it. */
  dispBytes?: 0 | 1 | 4 | undefined;
  rip?: boolean | undefined;
  /** Write a SIB byte although none is needed. */
  sib?: boolean | undefined;
  /** The index is a vector register. */
  vsib?: boolean | undefined;
}

/** 16-bit addressing (SDM Vol. 2A table 2-1): `rm` picks the registers, e.g. 0 is [BX+SI]. */
export interface Mem16 {
  rm16: number;
  disp?: number | undefined;
  dispBytes?: 0 | 1 | 2 | undefined;
}

export interface Immediate {
  value: number | bigint;
  bytes: 1 | 2 | 4 | 8;
}

/** The fields of one instruction. */
export interface Encoding {
  /** Legacy prefixes in the order given, before everything else. */
  prefixes?: readonly number[] | undefined;
  /** Mandatory prefix: 66, F2 or F3. */
  mandatory?: number | undefined;
  map?: OpcodeMap | undefined;
  opcode: number;
  /** REX.W or VEX.W. */
  w?: boolean | undefined;
  /** Write a REX prefix although no field needs it (SPL, BPL, SIL, DIL). */
  rex?: boolean | undefined;
  /** ModRM.reg: a register or an opcode extension, 0 to 15. */
  reg?: number | undefined;
  /** ModRM.rm: a register 0 to 15, or memory. */
  rm?: number | Mem | Mem16 | undefined;
  /** A register in the opcode's low three bits. */
  opcodeReg?: number | undefined;
  immediates?: readonly Immediate[] | undefined;
  /** VEX instead of legacy escape, mandatory prefix and REX. */
  vex?: { l: 0 | 1; vvvv?: number | undefined } | undefined;
}

const ESCAPES: readonly (readonly number[])[] = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]];

/**
 * Encodes one instruction.
 * @param address where the instruction will run: needed for `rip` operands only.
 * @param mode 32 refuses what needs REX.
 * @throws {RangeError} for a field outside its range, or one that the mode lacks.
 */
export function encode(e: Encoding, address = 0, mode: 64 | 32 = 64): Uint8Array {
  const out: number[] = [...(e.prefixes ?? [])];
  const rm = e.rm;
  const mem = typeof rm === "object" ? rm : undefined;
  const flat = mem !== undefined && !("rm16" in mem) ? mem : undefined;

  const r = bit3(e.reg, "reg");
  const x = bit3(flat?.index, "index");
  const b = bit3(typeof rm === "number" ? rm : (flat?.base ?? e.opcodeReg), "rm");
  if (mode === 32 && (r | x | b || e.rex || (e.w && !e.vex) || flat?.rip)) {
    throw new RangeError("encode: the form needs REX or RIP addressing, which 32-bit mode lacks");
  }

  if (e.vex) pushVex(out, e, r, x, b);
  else {
    if (e.mandatory !== undefined) out.push(e.mandatory);
    const rex = (e.w ? 8 : 0) | (r << 2) | (x << 1) | b;
    if (rex || e.rex) out.push(0x40 | rex);
    out.push(...ESCAPES[e.map ?? 0]!);
  }
  out.push(e.opcode | ((e.opcodeReg ?? 0) & 7));

  const immediateBytes = (e.immediates ?? []).reduce((sum, i) => sum + i.bytes, 0);
  const reg = ((e.reg ?? 0) & 7) << 3;
  if (typeof rm === "number") out.push(0xc0 | reg | (rm & 7));
  else if (flat) pushMem(out, reg, flat, mode, address + immediateBytes);
  else if (mem) pushMem16(out, reg, mem as Mem16);
  for (const { value, bytes } of e.immediates ?? []) pushLittleEndian(out, value, bytes);
  return Uint8Array.from(out);
}

function bit3(register: number | undefined, field: string): number {
  if (register === undefined) return 0;
  if (!(register >= 0 && register <= 15))
    throw new RangeError(`encode: ${field} must be 0 to 15, not ${register}`);
  return register >> 3;
}

/** SDM Vol. 2A sec. 2.3.5: the two-byte form where it can hold the fields. */
function pushVex(out: number[], e: Encoding, r: number, x: number, b: number): void {
  const pp = e.mandatory === undefined ? 0 : [0x66, 0xf3, 0xf2].indexOf(e.mandatory) + 1;
  const map = e.map ?? 1;
  const tail = ((~(e.vex!.vvvv ?? 0) & 15) << 3) | (e.vex!.l << 2) | pp;
  if (map === 1 && !x && !b && !e.w) out.push(0xc5, ((r ^ 1) << 7) | tail);
  else out.push(0xc4, ((r ^ 1) << 7) | ((x ^ 1) << 6) | ((b ^ 1) << 5) | map, (e.w ? 0x80 : 0) | tail);
}

function pushMem(out: number[], reg: number, m: Mem, mode: 64 | 32, rest: number): void {
  const disp = m.disp ?? 0;
  if (m.rip) {
    out.push(reg | 5);
    pushLittleEndian(out, disp - (rest + out.length + 4), 4);
    return;
  }
  if (m.index === REG.RSP && !m.vsib) throw new RangeError("encode: RSP cannot be an index");
  const scale = [1, 2, 4, 8].indexOf(m.scale ?? 1) << 6;
  const index = ((m.index ?? 4) & 7) << 3;
  if (m.base === undefined) {
    // Without SIB, rm 5 is absolute in 32-bit mode but RIP-relative in 64-bit mode.
    if (mode === 32 && m.index === undefined && !m.sib) out.push(reg | 5);
    else out.push(reg | 4, scale | index | 5);
    pushLittleEndian(out, disp, 4);
    return;
  }
  const base = m.base & 7;
  const fewest = disp === 0 && base !== 5 ? 0 : disp >= -128 && disp < 128 ? 1 : 4;
  const bytes = Math.max(m.dispBytes ?? fewest, fewest);
  const mod = bytes === 0 ? 0 : bytes === 1 ? 0x40 : 0x80;
  if (m.index !== undefined || base === 4 || m.sib) out.push(mod | reg | 4, scale | index | base);
  else out.push(mod | reg | base);
  pushLittleEndian(out, disp, bytes);
}

function pushMem16(out: number[], reg: number, m: Mem16): void {
  const disp = m.disp ?? 0;
  const fewest = disp === 0 && m.rm16 !== 6 ? 0 : disp >= -128 && disp < 128 ? 1 : 2;
  const bytes = Math.max(m.dispBytes ?? fewest, fewest);
  out.push((bytes === 0 ? 0 : bytes === 1 ? 0x40 : 0x80) | reg | m.rm16);
  pushLittleEndian(out, disp, bytes);
}

function pushLittleEndian(out: number[], value: number | bigint, bytes: number): void {
  let rest = BigInt.asUintN(64, BigInt(value));
  for (let i = 0; i < bytes; i++) {
    out.push(Number(rest & 0xffn));
    rest >>= 8n;
  }
}
