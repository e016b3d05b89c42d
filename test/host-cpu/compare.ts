/** The host's result against an engine's, without what the manuals leave undefined. */

import type { Case } from "./cases.ts";
import type { HostResult } from "./host-cpu.ts";
import { RFLAGS } from "./state.ts";

/** What an engine returns: a HostResult, of which it may leave out what it does not model. */
export type EngineResult = Pick<HostResult, "end" | "rip" | "gpr" | "rflags" | "writes"> &
  Partial<Pick<HostResult, "fx" | "fsBase" | "gsBase">>;

const { CF, PF, AF, ZF, SF, OF, STATUS } = RFLAGS;

/** Status flags that the SDM's instruction pages (Vol. 2, "Flags Affected") leave undefined. */
const UNDEFINED_FLAGS: readonly (readonly [RegExp, number])[] = [
  [/^(AND|OR|XOR|TEST|ANDN)$/, AF],
  [/^I?MUL$/, SF | ZF | AF | PF],
  [/^I?DIV$/, STATUS],
  [/^(SHL|SAL|SHR|SAR)$/, AF],
  [/^SH[LR]D$/, AF],
  [/^BT[SRC]?$/, OF | SF | AF | PF],
  [/^BS[FR]$/, CF | OF | SF | AF | PF],
  [/^(LZCNT|TZCNT)$/, OF | SF | AF | PF],
  [/^(AAA|AAS)$/, OF | SF | ZF | PF],
  [/^(AAM|AAD)$/, OF | AF | CF],
  [/^(DAA|DAS)$/, OF],
  [/^(BLSI|BLSR|BLSMSK|BZHI)$/, AF | PF],
  [/^BEXTR$/, AF | SF | PF],
];

/** Flags that a test must not compare: OF of shifts and rotates by more than one depends on the count. */
export function undefinedFlags(test: Case, host: HostResult): number {
  const { name } = test.form.spec;
  let flags = UNDEFINED_FLAGS.find(([pattern]) => pattern.test(name))?.[1] ?? 0;
  const immediate = test.form.operands.find((operand) => operand.kind === "immediate");
  const shift = /^(RO[LR]|RC[LR]|SH[LR]D?|SAL|SAR)$/.test(name);
  if (shift) {
    const byOne = test.form.operands.some((operand) => operand.kind === "fixed" && operand.name === "1");
    const count = byOne
      ? 1
      : Number(immediate?.kind === "immediate" ? immediate.value : test.state.gpr[1]! & 0xffn);
    const first = test.form.operands[0];
    const bits = first?.kind === "gpr" ? first.bits : first?.kind === "memory" ? 8 * first.bytes : 0;
    const masked = count & (bits === 64 ? 63 : 31);
    if (masked === 0) return 0;
    if (masked !== 1) flags |= OF;
    // CF holds the last bit shifted out only while there is one.
    if (/^(SHL|SAL|SHR)$/.test(name) && masked >= bits) flags |= CF;
    if (/^SH[LR]D$/.test(name) && masked > bits) flags |= STATUS;
  }
  // A fault leaves the flags as they were, but DIV's own may already be changed on some processors.
  return host.end.kind === "fault" && host.end.vector !== 0 ? 0 : flags;
}

/**
 * Differences in words, none where the results agree.
 * FIP, FDP and FOP are not compared: vendors differ. On #PF the error code's present bit is the engine's to match.
 */
export function differences(test: Case, host: HostResult, engine: EngineResult): string[] {
  const found: string[] = [];
  const differ = (what: string, expected: unknown, actual: unknown): void => {
    if (expected !== actual) found.push(`${what}: host ${show(expected)}, engine ${show(actual)}`);
  };
  differ("end", describeEnd(host), describeEnd(engine));
  differ("rip", host.rip, engine.rip);

  const wide = test.options.mode === 64;
  const skip = undefinedRegister(test, host);
  for (let i = 0; i < (wide ? 16 : 8); i++) {
    if (i === skip) continue;
    const mask = wide && !isNarrowed(test, engine, i) ? (1n << 64n) - 1n : 0xffffffffn;
    differ(REGISTERS[i]!, host.gpr[i]! & mask, engine.gpr[i]! & mask);
  }
  const mask = RFLAGS.REPORTED & ~undefinedFlags(test, host);
  differ("rflags", host.rflags & mask, engine.rflags & mask);
  if (skip === undefined) differ("memory", describeWrites(host), describeWrites(engine));

  const { fx, fsBase, gsBase } = engine;
  if (fsBase !== undefined) differ("fs base", host.fsBase, fsBase);
  if (gsBase !== undefined) differ("gs base", host.gsBase, gsBase);
  if (fx) {
    for (const field of ["fcw", "fsw", "ftw", "mxcsr"] as const) differ(field, host.fx[field], fx[field]);
    for (let i = 0; i < 8; i++) differ(`st${i}`, host.fx.st(i), fx.st(i));
    for (let i = 0; i < (wide ? 16 : 8); i++) differ(`xmm${i}`, host.fx.xmm(i), fx.xmm(i));
    for (let i = 0; i < (wide ? 16 : 8); i++) differ(`ymm${i} high`, host.fx.ymmHigh(i), fx.ymmHigh(i));
  }
  return found;
}

/** What `stateDifferences` compares. */
export interface StateComparison {
  readonly mode: 64 | 32;
  /** Status flags that count. */
  readonly flags: number;
}

/** Differences in words between the ends of two runs of any code; `names` are what each result is called. */
export function stateDifferences(
  one: EngineResult,
  other: EngineResult,
  { mode, flags, names }: StateComparison & { readonly names: readonly [string, string] },
): string[] {
  const found: string[] = [];
  const differ = (what: string, a: unknown, b: unknown): void => {
    if (a !== b) found.push(`${what}: ${names[0]} ${show(a)}, ${names[1]} ${show(b)}`);
  };
  const registers = mode === 64 ? 16 : 8;
  differ("end", describeEnd(one), describeEnd(other));
  differ("rip", one.rip, other.rip);
  for (let i = 0; i < registers; i++) differ(REGISTERS[i]!, one.gpr[i], other.gpr[i]);
  const mask = RFLAGS.REPORTED & ~(STATUS & ~flags);
  differ("rflags", one.rflags & mask, other.rflags & mask);
  differ("memory", describeWrites(one), describeWrites(other));
  const { fx: a } = one;
  const { fx: b } = other;
  if (a === undefined || b === undefined) return found;
  for (const field of ["fcw", "fsw", "ftw", "mxcsr"] as const) differ(field, a[field], b[field]);
  for (let i = 0; i < 8; i++) differ(`st${i}`, a.st(i), b.st(i));
  for (let i = 0; i < registers; i++) differ(`xmm${i}`, a.xmm(i), b.xmm(i));
  return found;
}

/**
 * A far transfer may have been to compatibility mode and back: the upper halves of the registers that there are in it are
 * undefined then (SDM Vol. 1 sec. 3.4.1.1). Processors keep them, the engine clears them.
 */
function isNarrowed(test: Case, engine: EngineResult, register: number): boolean {
  const isFar = /^(JMP|CALL|RETF|IRET)$/.test(test.form.spec.name) && register < 8;
  return isFar && engine.gpr[register]! <= 0xffff_ffffn;
}

const REGISTERS = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");

/** The destination of BSF and BSR of zero, of 16-bit BSWAP, and of SHLD and SHRD by too much; -1: in memory. */
function undefinedRegister(test: Case, host: HostResult): number | undefined {
  const { name } = test.form.spec;
  const first = test.form.operands[0];
  const wholly =
    (/^BS[FR]$/.test(name) && (host.rflags & ZF) !== 0) ||
    (name === "BSWAP" && test.form.operandBits === 16) ||
    (/^SH[LR]D$/.test(name) && undefinedFlags(test, host) === STATUS);
  if (!wholly) return undefined;
  return first?.kind === "gpr" ? first.register : -1;
}

function describeEnd({ end }: Pick<EngineResult, "end">): string {
  if (end.kind !== "fault") return end.kind;
  const address = end.address === undefined ? "" : ` at ${show(end.address)}`;
  return `vector ${end.vector}, error code ${show(end.errorCode)}${address}`;
}

function describeWrites({ writes }: Pick<HostResult, "writes">): string {
  return writes
    .map(({ address, bytes }) => `${show(address)} = ${Buffer.from(bytes).toString("hex")}`)
    .join(", ");
}

function show(value: unknown): string {
  return typeof value === "number" || typeof value === "bigint" ? `0x${value.toString(16)}` : String(value);
}
