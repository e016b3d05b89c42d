/**
 * Operands as the SDM's opcode map writes them (Vol. 2D app. A.2), plus how they are used:
 * `+` read and written, `=` written only, nothing: read only.
 *
 * | code | what | where it is |
 * | --- | --- | --- |
 * | E, W, Q | general, XMM, MMX register or memory | ModRM.rm |
 * | R, U, N | general, XMM, MMX register only | ModRM.rm |
 * | M | memory only (`M` alone: its address) | ModRM.rm |
 * | G, V, P | general, XMM, MMX register | ModRM.reg |
 * | S, C, D | segment, control, debug register (read as its number) | ModRM.reg |
 * | B, H | general, XMM register | VEX.vvvv |
 * | L | XMM register | upper four bits of an immediate byte |
 * | Z | general register | low three opcode bits |
 * | I | immediate, sign-extended to the operand size | |
 * | J | branch displacement | |
 * | O | memory at an immediate address | |
 * | A | far pointer | |
 * | AL CL AX DX rAX 1 | themselves | |
 *
 * Sizes: b 8, w 16, d 32, q 64, dq 128, qq 256 bits; x 128, or 256 by VEX.L; v 16, 32 or 64 by operand size; z as v but an immediate of 16 or
 * 32; y 32 or 64; p far pointer (16 + operand size).
 */
export type OperandKind =
  | "E"
  | "G"
  | "M"
  | "I"
  | "J"
  | "O"
  | "A"
  | "W"
  | "V"
  | "Q"
  | "P"
  | "S"
  | "C"
  | "D"
  | "B"
  | "H"
  | "L"
  | "Z"
  | "fixed";
export type SizeCode = "b" | "w" | "d" | "q" | "x" | "dq" | "qq" | "v" | "z" | "y" | "p" | "";

export interface Operand {
  readonly kind: OperandKind;
  readonly size: SizeCode;
  readonly access: "r" | "w" | "rw";
  /** For "E", "W", "Q": which forms there are. */
  readonly forms: "both" | "reg" | "mem";
  /** For "fixed": the register, or the constant 1. */
  readonly fixed?: "AL" | "CL" | "AX" | "DX" | "rAX" | "1";
}

const KINDS: Record<string, { kind: OperandKind; forms: Operand["forms"] }> = {
  E: { kind: "E", forms: "both" },
  R: { kind: "E", forms: "reg" },
  M: { kind: "M", forms: "mem" },
  G: { kind: "G", forms: "both" },
  W: { kind: "W", forms: "both" },
  U: { kind: "W", forms: "reg" },
  Q: { kind: "Q", forms: "both" },
  N: { kind: "Q", forms: "reg" },
  V: { kind: "V", forms: "both" },
  P: { kind: "P", forms: "both" },
  S: { kind: "S", forms: "both" },
  C: { kind: "C", forms: "both" },
  D: { kind: "D", forms: "both" },
  B: { kind: "B", forms: "both" },
  H: { kind: "H", forms: "both" },
  L: { kind: "L", forms: "both" },
  Z: { kind: "Z", forms: "both" },
  I: { kind: "I", forms: "both" },
  J: { kind: "J", forms: "both" },
  O: { kind: "O", forms: "mem" },
  A: { kind: "A", forms: "both" },
};

/** Parses e.g. `Ev+,Gv`. @throws Error where the text is not of that form. */
export function parseOperands(text: string): Operand[] {
  if (text === "") return [];
  return text.split(",").map((item) => {
    const access = item.endsWith("+") ? "rw" : item.endsWith("=") ? "w" : "r";
    const name = access === "r" ? item : item.slice(0, -1);
    if (/^(AL|CL|AX|DX|rAX|1)$/.test(name))
      return {
        kind: "fixed",
        size: name === "rAX" ? "v" : name === "AX" || name === "DX" ? "w" : "b",
        access,
        forms: "both",
        fixed: name as NonNullable<Operand["fixed"]>,
      };
    const kind = KINDS[name[0]!];
    if (kind === undefined || !/^([bwdqxvzyp]|dq|qq)?$/.test(name.slice(1)))
      throw new Error(`bad operand: ${item}`);
    return { ...kind, size: name.slice(1) as SizeCode, access };
  });
}

/** Operand width in bits at operand size `opsize`, `wide` by VEX.L; 0 where it has none. */
export function sizeBits(size: SizeCode, opsize: number, wide = false): number {
  switch (size) {
    case "b":
      return 8;
    case "w":
      return 16;
    case "d":
      return 32;
    case "q":
      return 64;
    case "x":
      return wide ? 256 : 128;
    case "dq":
      return 128;
    case "qq":
      return 256;
    case "v":
    case "z":
      return opsize;
    case "y":
      return opsize === 64 ? 64 : 32;
    case "p":
    case "":
      return 0;
  }
}
