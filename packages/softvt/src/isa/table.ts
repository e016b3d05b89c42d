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

/** Instructions with their forms, at `formIndex(opsize, memory)`. */
export type Forms = ReadonlyMap<InsnCoding, readonly (Form | undefined)[]>;

/** What decoding needs: no description runs for it, none is even loaded where a build packed it. */
export interface DecodeTable {
  /** Of the instructions without a VEX prefix. */
  readonly forms: Forms;
  /** Of those with one: unpacked when the first is decoded, for they are many and a start does without. */
  readonly vexForms: () => Forms;
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

/**
 * A form as text holds it: operand size and 1 for memory, handlers by address kind, fused handlers. Where there is but one
 * handler, which is so of most, it is its number.
 */
type PackedForm = [number, Form["handlers"] | number, (readonly number[])?];

function packHandlers(handlers: Form["handlers"]): Form["handlers"] | number {
  const { any, ...others } = handlers;
  const isAlone = any !== undefined && any.wanted === any.dead && Object.keys(others).length === 0;
  return isAlone ? any.wanted : handlers;
}

const unpackHandlers = (packed: Form["handlers"] | number): Form["handlers"] =>
  typeof packed === "number" ? { any: { wanted: packed, dead: packed } } : packed;

/** Of some opcodes in a row that differ in nothing else: what they share, then each one's opcode and forms. */
type PackedInsn = [Omit<InsnCoding, "opcode" | "operands">, ...[number, PackedForm[]][]];

function packForms(forms: Forms): PackedInsn[] {
  const packed: PackedInsn[] = [];
  let last: string | undefined;
  for (const [spec, list] of forms) {
    // What is not needed to decode stays out: the description, and the feature's name.
    const {
      opcode,
      operands: _operands,
      feature: _feature,
      ...shared
    } = spec as InsnCoding & {
      describe?: unknown;
    };
    delete shared.describe;
    const text = JSON.stringify(shared);
    if (text !== last) packed.push([shared]);
    last = text;
    packed[packed.length - 1]!.push([
      opcode,
      list.flatMap((form) => (form === undefined ? [] : [packForm(form)])),
    ]);
  }
  return packed;
}

function packForm({ opsize, memory, handlers, fused }: Form): PackedForm {
  const kind = opsize + (memory ? 1 : 0);
  return fused === undefined ? [kind, packHandlers(handlers)] : [kind, packHandlers(handlers), fused];
}

function unpackForms(packed: readonly PackedInsn[]): Forms {
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
      for (const [kind, packedHandlers, fused] of list) {
        const memory = (kind & 1) === 1;
        const opsize = kind & ~1;
        const handlers = unpackHandlers(packedHandlers);
        unpacked[formIndex(opsize, memory)] = { spec, opsize, memory, handlers, fused };
      }
      forms.set(spec, unpacked);
    }
  }
  return forms;
}

interface PackedTable extends Pick<DecodeTable, "special"> {
  readonly packed: readonly PackedInsn[];
  /** Text of its own, which need not be parsed at once. */
  readonly vex: string;
}

/** The table as text, for `unpackTable()`. */
export function packTable(table: DecodeTable): string {
  const packed: PackedTable = {
    special: table.special,
    packed: packForms(table.forms),
    vex: JSON.stringify(packForms(table.vexForms())),
  };
  return JSON.stringify(packed);
}

/** The table that `packTable()` gave as text. */
export function unpackTable(text: string): DecodeTable {
  const { special, packed, vex } = JSON.parse(text) as PackedTable;
  let vexForms: Forms | undefined;
  return {
    forms: unpackForms(packed),
    special,
    vexForms: () => {
      vexForms ??= unpackForms(JSON.parse(vex) as PackedInsn[]);
      return vexForms;
    },
  };
}
