import type { EaKind } from "../cpu/address.ts";
import { type Operand, parseOperands } from "./operand.ts";
import type { InsnCoding } from "./registry.ts";
import type { SpecialName } from "./special.ts";

/** The handlers that one form (instruction, operand size, register or memory) may be decoded to. */
export interface Form {
  readonly spec: InsnCoding;
  readonly opsize: number;
  readonly memory: boolean;
  /** Handler by address kind (register forms: `any`), flags wanted or dead. */
  readonly handlers: Partial<Record<EaKind, { wanted: number; dead: number }>>;
  /** Handlers of this instruction fused with the Jcc behind it, by condition; register forms only. */
  readonly fused: readonly number[] | undefined;
}

/** What decoding needs: no description runs for it, none is even loaded where a build packed it. */
export interface DecodeTable {
  /** Of each instruction its forms, at `formIndex(opsize, memory)`. */
  readonly forms: ReadonlyMap<InsnCoding, readonly (Form | undefined)[]>;
  readonly special: Readonly<Record<SpecialName, number>>;
}

/** Position of a form in `DecodeTable.forms`' arrays. */
export const formIndex = (opsize: number, memory: boolean): number => (opsize >> 5) * 2 + (memory ? 1 : 0);

/** Operand sizes that an instruction is described for. */
export function sizesOf(spec: InsnCoding): readonly number[] {
  if (spec.sizes !== undefined) return spec.sizes;
  if (spec.size64 !== undefined) return [16, 32, 64];
  return spec.operands.some((o) => o.size === "v" || o.size === "z" || o.size === "y") ? [16, 32, 64] : [32];
}

/** A form as text holds it: operand size, memory, handlers by address kind, fused handlers. */
type PackedForm = [number, boolean, Form["handlers"], (readonly number[])?];
/** Of some opcodes in a row that differ in nothing else: what they share, then each one's opcode and forms. */
type PackedInsn = [Omit<InsnCoding, "opcode" | "operands">, ...[number, PackedForm[]][]];

/** The table as text, for `unpackTable()`. */
export function packTable(table: DecodeTable): string {
  const packed: PackedInsn[] = [];
  let last: string | undefined;
  for (const [spec, forms] of table.forms) {
    const { opcode, operands: _operands, ...shared } = spec as InsnCoding & { describe?: unknown };
    delete shared.describe;
    const text = JSON.stringify(shared);
    if (text !== last) packed.push([shared]);
    last = text;
    const list: PackedForm[] = [];
    for (const form of forms) {
      if (form === undefined) continue;
      const { opsize, memory, handlers, fused } = form;
      list.push(fused === undefined ? [opsize, memory, handlers] : [opsize, memory, handlers, fused]);
    }
    packed[packed.length - 1]!.push([opcode, list]);
  }
  return JSON.stringify({ special: table.special, packed });
}

/** The table that `packTable()` gave as text. */
export function unpackTable(text: string): DecodeTable {
  const { special, packed } = JSON.parse(text) as Pick<DecodeTable, "special"> & { packed: PackedInsn[] };
  const forms = new Map<InsnCoding, (Form | undefined)[]>();
  const parsed = new Map<string, readonly Operand[]>();
  for (const [shared, ...opcodes] of packed) {
    let operands = parsed.get(shared.operandText);
    if (operands === undefined) {
      operands = parseOperands(shared.operandText);
      parsed.set(shared.operandText, operands);
    }
    for (const [opcode, list] of opcodes) {
      const spec: InsnCoding = { ...shared, opcode, operands };
      const unpacked: (Form | undefined)[] = [];
      for (const [opsize, memory, handlers, fused] of list)
        unpacked[formIndex(opsize, memory)] = { spec, opsize, memory, handlers, fused };
      forms.set(spec, unpacked);
    }
  }
  return { forms, special };
}
