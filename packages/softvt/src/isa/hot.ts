import type { Variant } from "./registry.ts";

/**
 * Which handlers are inline cases of the interpreter: what guests execute most. Everything else is a call
 * away, which costs about 2 ns more; past some 1,500 cases the whole switch would slow down.
 */
const BOTH = [32, 64];

/** Register forms: mnemonic → operand sizes. */
const REGISTER: Record<string, readonly number[]> = {
  ADD: BOTH,
  OR: BOTH,
  ADC: BOTH,
  SBB: BOTH,
  AND: BOTH,
  SUB: BOTH,
  XOR: BOTH,
  CMP: BOTH,
  TEST: BOTH,
  MOV: BOTH,
  MOVZX: BOTH,
  MOVSX: BOTH,
  MOVSXD: BOTH,
  INC: BOTH,
  DEC: BOTH,
  NEG: BOTH,
  NOT: BOTH,
  SHL: BOTH,
  SHR: BOTH,
  SAR: BOTH,
  ROL: BOTH,
  ROR: BOTH,
  SHLD: [32],
  SHRD: [32],
  IMUL: BOTH,
  MUL: BOTH,
  PUSH: BOTH,
  POP: BOTH,
  CALL: BOTH,
  RET: BOTH,
  JMP: BOTH,
  Jcc: BOTH,
  SETcc: BOTH,
  CMOVcc: BOTH,
  BSWAP: BOTH,
  BT: BOTH,
  CDQE: BOTH,
  CQO: BOTH,
  XCHG: BOTH,
  LEAVE: BOTH,
  NOP: BOTH,
};

/** Memory forms, in every flat address kind. */
const MEMORY: Record<string, readonly number[]> = {
  MOV: BOTH,
  MOVZX: [32],
  MOVSX: BOTH,
  MOVSXD: [64],
  LEA: BOTH,
  ADD: BOTH,
  SUB: BOTH,
  AND: [32],
  OR: [32],
  XOR: [32],
  CMP: BOTH,
  TEST: [32],
};

/** 16-bit moves and compares in memory are common in kernels; byte forms ride on operand size 32. */
const RARE_OPCODES: Record<string, readonly number[]> = {
  // Moves to and from segment, control and debug registers, and to fixed addresses.
  MOV: [0x8c, 0x8e, 0xa0, 0xa1, 0xa2, 0xa3, 0x20, 0x21, 0x22, 0x23],
  PUSH: [0x06, 0x0e, 0x16, 0x1e, 0xa0, 0xa8],
  POP: [0x07, 0x17, 0x1f, 0xa1, 0xa9],
  CALL: [0x9a, 0xff],
  JMP: [0xea],
  XCHG: [0x86],
  NOP: [0x1e],
};

const words = (text: string): ReadonlySet<string> => new Set(text.split(" "));
/** XMM instructions: what compilers and C libraries move, clear, copy and search with. */
const VECTOR_REGISTER = words(
  "MOVAPS MOVDQA MOVQ MOVD PMOVMSKB XORPS PXOR POR PAND PADDD PADDQ PSUBB PCMPEQB PCMPEQD PMINUB PSHUFD " +
    "PUNPCKLBW PUNPCKLWD PUNPCKLDQ PUNPCKLQDQ",
);
const VECTOR_MEMORY = words("MOVAPS MOVUPS MOVDQA MOVDQU MOVQ MOVD MOVSS MOVSD MOVHPS PCMPEQB PMINUB");

function isHotVector(v: Variant): boolean {
  const { name, operands } = v.spec;
  if (v.opsize === 16 || operands.some((o) => o.kind === "P" || o.kind === "Q")) return false;
  if (!v.memory) return VECTOR_REGISTER.has(name);
  return VECTOR_MEMORY.has(name) && (v.ea === "base64" || v.ea === "index64");
}

const IS_ALU = /^(ADD|SUB|AND|OR|XOR|ADC|SBB)$/;

export function isHot(v: Variant): boolean {
  const { name, opcode } = v.spec;
  if (RARE_OPCODES[name]?.includes(opcode)) return false;
  if (v.spec.operands.some((o) => o.kind === "V" || o.kind === "W")) return isHotVector(v);
  if (!v.memory) return REGISTER[name]?.includes(v.opsize) ?? false;
  if (v.ea === "any" || v.noFlags) return false;
  if (!(MEMORY[name]?.includes(v.opsize) ?? false)) return false;
  const narrow = v.ea === "base32" || v.ea === "index32";
  if (narrow && v.opsize === 64) return false;
  // Loads and compares inline; of the read-modify-write forms only the full-width ones.
  if (IS_ALU.test(name)) return opcode % 8 === 3 || opcode === 0x01 || opcode === 0x29;
  return true;
}
