import type { UopField } from "../ir/ir.ts";

/** Field d of memory forms, behind the scale in its low two bits: see cpu/address.ts. */
export const EA_SEGMENT_SHIFT = 2;
export const EA_SIZE_SHIFT = 5;
export const EA_OVERFLOW = 0x80;
/** Where memory forms, whose field c is the index register, have that of VEX.vvvv in imm2: behind an immediate byte. */
export const VVVV_SHIFT = 8;

/**
 * A micro-op: 16 bytes, one for each instruction.
 *
 * ```text
 *  0      2      4   5   6   7   8        12
 *  handler pos   a   b   c   d   imm      imm2
 * ```
 *
 * - handler: index of its case in the interpreter.
 * - pos: offset of the instruction in its page (11:0), its length in bytes (15:12).
 * - a: offset in the vCPU block of the register in ModRM.reg or the opcode (XMM and x87: from their first).
 * - b: the same for ModRM.rm; of the base register for memory forms.
 * - c: of VEX.vvvv; of the index register for memory forms.
 * - d: see cpu/address.ts; for string instructions and the like the prefixes that count.
 * - imm: immediate; displacement for memory forms; branches: the target's offset from the page's start.
 * - imm2: immediate of memory forms, from bit 8 on the register of VEX.vvvv; upper half of a 64-bit one; branches within the page: the target
 *   micro-op's address once it is known.
 */
export const UOP_FIELDS: Record<
  UopField,
  { offset: number; load: "i32.load8_u" | "i32.load16_u" | "i32.load" }
> = {
  pos: { offset: 2, load: "i32.load16_u" },
  a: { offset: 4, load: "i32.load8_u" },
  b: { offset: 5, load: "i32.load8_u" },
  c: { offset: 6, load: "i32.load8_u" },
  d: { offset: 7, load: "i32.load8_u" },
  imm: { offset: 8, load: "i32.load" },
  imm2: { offset: 12, load: "i32.load" },
};
