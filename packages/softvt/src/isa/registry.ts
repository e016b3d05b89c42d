import type { EaKind } from "../cpu/address.ts";
import type { Stmt } from "../ir/ir.ts";
import { Insn } from "./insn.ts";
import { type Operand, parseOperands } from "./operand.ts";

/** Which opcode map an instruction is in: one byte, 0F, 0F 38, 0F 3A. */
export type OpcodeMap = 0 | 1 | 2 | 3;
export type MandatoryPrefix = "" | "66" | "F2" | "F3";

/** What an instruction with a VEX prefix wants of it (SDM Vol. 2A sec. 2.3). */
export interface VexCoding {
  /** VEX.L; `undefined` where it is ignored. */
  readonly l?: 0 | 1;
  /**
   * The description is that of two operands, the first of which is both source and destination: here VEX.vvvv names the
   * source. Where the destination is only partly written, the rest comes from there, too.
   */
  readonly threeOperand?: boolean;
  /** Operands of memory have a vector register as index. */
  readonly vsib?: boolean;
}

export interface InsnOptions {
  /**
   * Arithmetic flags: "set" overwrites all six without reading them; "partial" writes some, reads none that it
   * would need if what it writes is dead; "none" leaves them alone. These three cannot fault in their register
   * form, unless that is of vectors. Default: anything may happen.
   */
  readonly flags?: "set" | "partial" | "none";
  /** LOCK is allowed on the memory form. */
  readonly lock?: boolean;
  /** "no64": #UD in 64-bit mode. "only64": exists only there. */
  readonly mode?: "no64" | "only64";
  /** 64-bit mode: "d64" operand size defaults to 64 (66 gives 16); "f64" is always 64. */
  readonly size64?: "d64" | "f64";
  /** Operand sizes it exists in; default 16, 32, 64 where an operand is sized by v, z or y, else one. */
  readonly sizes?: readonly (16 | 32 | 64)[];
  /** Nothing may be decoded behind it: it branches, or changes what decoding depends on. */
  readonly ends?: boolean;
  readonly vex?: VexCoding;
  /** In 64-bit mode needs nothing; in real and virtual-8086 mode #UD. */
  readonly protectedOnly?: boolean;
  /** CPUID feature (for the README's list and the processor model). */
  readonly feature?: string;
}

/** What there is to know of an instruction apart from what it does. */
export interface InsnCoding extends InsnOptions {
  readonly name: string;
  readonly map: OpcodeMap;
  readonly opcode: number;
  /** ModRM.reg that selects it, or `undefined`. */
  readonly digit: number | undefined;
  /** Whole ModRM byte that selects it, or `undefined`. */
  readonly modrm: number | undefined;
  /** Mandatory prefix; `undefined` where 66, F2 and F3 do not select (66 then changes the operand size). */
  readonly prefix: MandatoryPrefix | undefined;
  readonly rexW: boolean | undefined;
  readonly operands: readonly Operand[];
  /** Operands as written, for listings. */
  readonly operandText: string;
}

export interface InsnSpec extends InsnCoding {
  readonly describe: (c: Insn) => void;
}

/** One form of an instruction: what a handler of the interpreter is made from. */
export interface Variant {
  readonly name: string;
  readonly spec: InsnSpec;
  readonly opsize: number;
  readonly memory: boolean;
  readonly ea: EaKind;
  /** The arithmetic flags that it sets are dead. */
  readonly noFlags: boolean;
}

export const SPECS: InsnSpec[] = [];

/**
 * Declares an instruction.
 *
 * `encoding` is written as in the SDM: optional `NP`, `66`, `F2` or `F3` (mandatory prefix), optional `W0` or
 * `W1` (REX.W or VEX.W), `0F`, `0F 38`, `0F 3A` (map), the opcode, then `/digit` or `=XX` (whole ModRM
 * byte), or `+r` (a register in the low three opcode bits).
 *
 * ```ts
 * insn("ADD", "01", "Ev+,Gv", { flags: "set", lock: true }, (c) => …);
 * ```
 */
export function insn(
  name: string,
  encoding: string,
  operands: string,
  options: InsnOptions,
  describe: (c: Insn) => void,
): void {
  const tokens: string[] = encoding.split(" ");
  const next = (): string => tokens[0] ?? "";
  let prefix: MandatoryPrefix | undefined;
  let rexW: boolean | undefined;
  let map: OpcodeMap = 0;
  if (tokens[0] === "NP") {
    prefix = "";
    tokens.shift();
  } else if (tokens.length > 1 && /^(66|F2|F3)$/.test(tokens[0]!)) prefix = tokens.shift() as MandatoryPrefix;
  if (tokens[0] === "W0" || tokens[0] === "W1") rexW = tokens.shift() === "W1";
  if (next() === "0F" && tokens.length > 1) {
    tokens.shift();
    map = 1;
    const following = tokens[1] ?? "";
    if ((next() === "38" || next() === "3A") && /^[0-9A-F]{2}$/.test(following))
      map = tokens.shift() === "38" ? 2 : 3;
  }
  const opcode = Number.parseInt(tokens.shift()!, 16);
  let digit: number | undefined;
  let modrm: number | undefined;
  let registers = 1;
  for (const token of tokens) {
    if (token.startsWith("/")) digit = Number.parseInt(token.slice(1), 8);
    else if (token.startsWith("=")) modrm = Number.parseInt(token.slice(1), 16);
    else if (token === "+r") registers = 8;
    else throw new Error(`${name}: bad encoding ${encoding}`);
  }
  if (Number.isNaN(opcode)) throw new Error(`${name}: bad encoding ${encoding}`);
  const base = { name, map, digit, modrm, prefix, rexW, operandText: operands, describe, ...options };
  for (let i = 0; i < registers; i++)
    SPECS.push({ ...base, opcode: opcode + i, operands: parseOperands(operands) });
}

/** Describes one variant: its statements and the number of temps that they use. */
export function describeVariant(variant: Variant): { stmts: Stmt[]; temps: number } {
  const c = new Insn(variant);
  variant.spec.describe(c);
  c.end({ kind: "next" });
  return { stmts: c.stmts, temps: c.tempCount };
}
