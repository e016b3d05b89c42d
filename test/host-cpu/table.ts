/**
 * From an engine's instruction table to specs for the generator: what the table does not say (which register
 * addresses what, what a user-mode process must not run) is known here by mnemonic.
 */

import type { OpcodeMap } from "./encode.ts";
import { type FeatureName, isFeatureName } from "./features.ts";
import type { InstructionSpec, Role } from "./forms.ts";
import { isSized, type OperandBits, type OperandSpec, parseOperands } from "./operands.ts";

/** An entry of `@skep/softvt`'s table, as far as it is needed here. */
export interface TableEntry {
  readonly name: string;
  readonly map: OpcodeMap;
  readonly opcode: number;
  readonly digit: number | undefined;
  readonly modrm: number | undefined;
  /** "" where the absence of 66, F2 and F3 selects the entry; undefined where 66 is the operand size. */
  readonly prefix: "" | "66" | "F2" | "F3" | undefined;
  readonly rexW: boolean | undefined;
  readonly operandText: string;
  readonly lock?: boolean;
  readonly mode?: "no64" | "only64";
  readonly size64?: "d64" | "f64";
  readonly sizes?: readonly OperandBits[];
  readonly vex?: { readonly l?: 0 | 1; readonly vsib?: boolean };
  readonly feature?: string;
}

/** A spec for the generator, or the reason why the host cannot be asked about the entry. */
export function fromTable(entry: TableEntry): InstructionSpec | { unsuitable: string } {
  const reason = entry.vex?.vsib ? "its addresses are in a vector: gather-host has it" : unsuitable(entry);
  if (reason) return { unsuitable: reason };
  const operands = parseOperands(entry.operandText);
  // Where 66 selects, it cannot be the operand size too.
  const unprefixed = entry.prefix !== undefined && !entry.sizes && isSized(operands);
  const sizes = unprefixed ? ([32, 64] as const) : entry.sizes;
  const only64 = entry.mode === "only64" || (entry.rexW === true && !entry.vex);
  return {
    name: entry.name,
    map: entry.map,
    opcode: entry.opcode,
    prefix: entry.prefix ? Number.parseInt(entry.prefix, 16) : undefined,
    ext: entry.digit,
    modrm: entry.modrm,
    operands: entry.operandText,
    size64: entry.size64,
    sizes: entry.rexW === false ? sizes?.filter((bits) => bits !== 64) : sizes,
    w: entry.rexW === true,
    oneRegister: operands.some(({ method }) => method === "Z"),
    vex: entry.vex && { l: entry.vex.l, wig: entry.rexW === undefined && !isSized(operands) },
    modes: only64 ? [64] : entry.mode === "no64" ? [32] : undefined,
    lock: entry.lock,
    rep: repeats(entry),
    role: roleOf(entry, operands),
    feature: entry.feature === undefined ? undefined : featureOf(entry.feature),
  };
}

/** @throws {RangeError} for a feature that CPUID is not asked for: a silent skip would hide it for ever. */
function featureOf(text: string): FeatureName {
  const name = text
    .toLowerCase()
    .replace("_", ".")
    .replace(/^sse4([12])$/, "sse4.$1");
  if (!isFeatureName(name)) throw new RangeError(`fromTable: unknown feature ${text}`);
  return name;
}

const UNSUITABLE: readonly (readonly [RegExp, string])[] = [
  [/^(RDTSCP?|RDPMC|RDPID|RDRAND|RDSEED|CPUID|XGETBV)$/, "its result is the host's own"],
  [/^(SYSCALL|SYSENTER|SYSEXIT|SYSRET)Q?$/, "it enters the host's kernel"],
  [
    /^(SGDT|SIDT|SLDT|STR|SMSW|LSL|LAR|VERR|VERW)$/,
    "it reads the host kernel's tables, or Linux emulates it",
  ],
  [
    /^(FXSAVE|FXRSTOR|XSAVE|XRSTOR|FNSAVE|FRSTOR|FNSTENV|FLDENV)/,
    "its image holds fields that vendors fill differently",
  ],
  [/^(VMM?CALL|INV[A-Z]+)$/, "it belongs to the host's hypervisor"],
  [/^(RD|WR)[FG]SBASE$/, "the bases are those of the test"],
  [/^(MONITOR|MWAIT|XBEGIN|XEND|XABORT|XTEST)/, "it depends on the host's configuration"],
];

function unsuitable({ name }: TableEntry): string | undefined {
  return UNSUITABLE.find(([pattern]) => pattern.test(name))?.[1];
}

const STRING = /^(MOVS|STOS|LODS|INS|OUTS)([BWDQ]|)$/;
const COMPARING_STRING = /^(CMPS|SCAS)([BWDQ]|)$/;

/** MOVSD and CMPSD are also SSE2's, in the 0F map. */
function repeats({ name, map }: TableEntry): "rep" | "repe" | undefined {
  if (map !== 0) return undefined;
  return STRING.test(name) ? "rep" : COMPARING_STRING.test(name) ? "repe" : undefined;
}

function roleOf(entry: TableEntry, operands: readonly OperandSpec[]): Role | undefined {
  const { name } = entry;
  const has = (pattern: RegExp): boolean => operands.some(({ code }) => pattern.test(code));
  if (repeats(entry)) return has(/^[XY]/) ? undefined : "string";
  if (/^(JMP|CALL)/.test(name)) {
    if (has(/^Mp?$/)) return "far-branch";
    if (has(/^E/)) return "branch";
  }
  if (/^(RETF|LRET|RET FAR)/.test(name)) return "far-return";
  if (/^IRET/.test(name)) return "interrupt-return";
  if (/^RET/.test(name)) return "return";
  if (/^(ENTER|LEAVE)/.test(name)) return "frame";
  if (/^(PUSH|POP(?!CNT)|CALL)/.test(name)) return "stack";
  if (/^BT[SRC]?$/.test(name) && has(/^G/)) return "bits";
  if (/^CMPXCHG/.test(name)) return "compare";
  if (/^(LEA|NOP|PREFETCH|CLDEMOTE)/.test(name)) return "address";
  if (/^XLAT/.test(name)) return "table";
  if (/^V?MASKMOV(Q|DQU)$/.test(name)) return "masked-store";
  if (/^L[DEFGS]S$/.test(name) || operands.some(({ method, access }) => method === "S" && access !== "read"))
    return "selector";
  return undefined;
}
