/**
 * Random programs out of the single instructions that the differential tests generate: each with registers that lead its
 * operands into the data window, one behind the other, in a loop around a function, across a page's end.
 *
 * ```text
 *   start:  jmp main
 *   f:      pieces; mov rsp, …; ret
 *   main:   pieces; mov rsp, …; call f; pieces; dec dword [counter]; jnz main
 * ```
 */
import { type Case, cases, randomState } from "../../../../test/host-cpu/cases.ts";
import { undefinedFlags } from "../../../../test/host-cpu/compare.ts";
import { encode, PREFIX, REG } from "../../../../test/host-cpu/encode.ts";
import type { HostFeatures } from "../../../../test/host-cpu/features.ts";
import { HOST_LAYOUT, type HostResult, type RunOptions } from "../../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../../test/host-cpu/random.ts";
import { type HostState, RFLAGS } from "../../../../test/host-cpu/state.ts";
import { fromTable } from "../../../../test/host-cpu/table.ts";
import { type InsnSpec, SPECS } from "../../src/isa/registry.ts";

const { CF, PF, AF, ZF, SF, OF } = RFLAGS;
export const ALL_FLAGS = CF | PF | AF | ZF | SF | OF;
/** Flags that conditions 0 to 15 read, in pairs (SDM Vol. 1 app. B). */
const CONDITION_FLAGS = [OF, CF, ZF, CF | ZF, SF, PF, SF | OF, ZF | SF | OF];

/** What a program is made of, by the part of the processor that it is about. */
export const KINDS = {
  integer: new RegExp(
    `^(${[
      "ADD|OR|ADC|SBB|AND|SUB|XOR|CMP|TEST|INC|DEC|NEG|NOT|MOV|MOVZX|MOVSX|MOVSXD|XCHG|BSWAP|SETcc|CMOVcc|MOVBE",
      "ROL|ROR|SHL|SHR|SAR|RCL|RCR|SHLD|SHRD|MUL|IMUL|LEA|CBW|CWD|BT|BTS|BTR|BTC|BSF|BSR|TZCNT|LZCNT|POPCNT",
      "XADD|CMPXCHG|CMPXCHG8B|CMPXCHG16B|CMC|CLC|STC|CLD|STD|LAHF|SAHF|ADCX|ADOX|ANDN|BLSR|BLSI|BLSMSK|BZHI|BEXTR",
      "SHLX|SHRX|SARX|RORX|MULX|PDEP|PEXT|CRC32|XLAT|MOVNTI|DIV|IDIV",
    ].join("|")})$`,
  ),
  stack: /^(PUSH|POP|PUSHA|POPA|ENTER|LEAVE)$/,
  string: /^(MOVS|STOS|LODS|CMPS|SCAS)([BWDQ]|)$/,
} as const;

/** Vendors' own results, or not the same on the host's kernel: see known-differences.ts. */
const NOT_COMPARABLE =
  /^(R(CP|SQRT)[PS]S|F2XM1|FYL2X|FYL2XP1|FPTAN|FPATAN|FSIN|FCOS|FSINCOS|FU?COMIP?|FN?(STENV|SAVE)|FLDENV|FRSTOR)$/;
/** The low bytes of the data window, which the generator keeps operands out of. */
const COUNTER = HOST_LAYOUT.DATA + 8;
const CALL_STACK = HOST_LAYOUT.DATA + 0x30;

interface Piece {
  readonly entry: InsnSpec;
  readonly test: Case;
  /** Moves that put its operands into the window, and the instruction. */
  readonly code: readonly number[];
}

export interface Sequence {
  readonly names: readonly string[];
  readonly code: Uint8Array;
  readonly state: HostState;
  readonly options: RunOptions & { mode: 64 | 32; memory: { address: number; bytes: Uint8Array }[] };
  /** Flags that have one value on all processors at the end, and wherever it may fault. */
  readonly flags: number;
}

/** Makes programs for one mode out of what the table has in all forms, drawn from `seed`. */
export class Sequences {
  readonly pools: Readonly<Record<string, readonly Piece[]>>;
  readonly #mode: 64 | 32;
  readonly #random: Random;

  constructor(mode: 64 | 32, seed: number, features: HostFeatures) {
    this.#mode = mode;
    this.#random = new Random(seed);
    this.pools = this.#pools(new Random(seed), features);
  }

  #pools(random: Random, features: HostFeatures): Record<string, Piece[]> {
    const pools: Record<string, Piece[]> = {
      integer: [],
      register: [],
      stack: [],
      string: [],
      vector: [],
      x87: [],
    };
    for (const entry of SPECS) {
      const kind = kindOf(entry);
      const spec = fromTable(entry);
      if (kind === undefined || "unsuitable" in spec || NOT_COMPARABLE.test(entry.name)) continue;
      if (spec.feature !== undefined && features.lacks(spec.feature)) continue;
      if (spec.role === "selector" || (spec.modes && !spec.modes.includes(this.#mode))) continue;
      for (const test of cases(spec, random, { mode: this.#mode, perForm: 1, faults: false }))
        if (isSuitable(test)) {
          const piece = { entry, test, code: this.#prepared(test) };
          pools[kind]!.push(piece);
          // Nothing stands between these, as there does where an operand's address has to be loaded.
          if (kind === "integer" && test.form.addressing === undefined) pools.register!.push(piece);
        }
    }
    return pools;
  }

  #prepared(test: Case): number[] {
    const registers = new Map(test.form.registers);
    const { role } = test.form.spec;
    if (role === "stack" || role === "frame") registers.set(REG.RSP, test.state.gpr[REG.RSP]!);
    if (role === "frame") registers.set(REG.RBP, test.state.gpr[REG.RBP]!);
    const offset = test.form.operands[1];
    if (role === "bits" && offset?.kind === "gpr")
      registers.set(offset.register, test.state.gpr[offset.register]!);
    return [...[...registers].flatMap(([register, value]) => this.#move(register, value)), ...test.code];
  }

  /** mov register, value: no flags. */
  #move(register: number, value: bigint): number[] {
    const isWide = this.#mode === 64;
    const immediates = [{ value: BigInt.asUintN(isWide ? 64 : 32, value), bytes: isWide ? 8 : 4 } as const];
    return [...encode({ opcode: 0xb8, w: isWide, opcodeReg: register, immediates }, 0, this.#mode)];
  }

  /** The next program. */
  next(): Sequence {
    const random = this.#random;
    const kinds = this.#kinds();
    const writer = new Writer(this.#mode, random, kinds);
    const main = writer.pieces(random.between(1, 5));
    const inside = writer.pieces(random.between(1, 3));
    const rest = writer.pieces(random.between(0, 3));
    const stack = (offset: number): number[] => this.#move(REG.RSP, BigInt(CALL_STACK + offset));
    const body = [...inside, ...stack(-this.#mode / 8), 0xc3];
    const head = [0xe9, ...u32(body.length)];
    const call = [...main, ...stack(0)];
    const back = [0xe8, ...u32(-(call.length + 5 + body.length))];
    const count = this.#mode === 64 ? [0xff, 0x0c, 0x25] : [0xff, 0x0d];
    const loop = [...call, ...back, ...rest, ...count, ...u32(COUNTER)];
    const code = Uint8Array.from([...head, ...body, ...loop, 0x0f, 0x85, ...u32(-(loop.length + 6))]);
    const rounds = random.pick([1, 1, 2, 3]);
    return {
      names: writer.names,
      code,
      state: randomState(random),
      options: {
        mode: this.#mode,
        address: HOST_LAYOUT.CODE + 0x9000 - random.below(code.length + 1),
        memory: [{ address: COUNTER, bytes: Uint8Array.from(u32(rounds)) }],
      },
      // The last instruction sets all but CF; a fault may come anywhere.
      flags: ALL_FLAGS & ~writer.everVague,
    };
  }

  /** One kind, or all mixed. */
  #kinds(): readonly (readonly Piece[])[] {
    const { integer, register, stack, string, vector, x87 } = this.pools as Record<string, readonly Piece[]>;
    return this.#random.pick([
      [register!],
      [integer!],
      [integer!, integer!, integer!, stack!, string!],
      [integer!, vector!, vector!],
      [integer!, x87!, x87!],
      [integer!, integer!, stack!, string!, vector!, x87!],
    ]);
  }
}

/** Strings pieces together so that no flag is read that vendors leave different. */
class Writer {
  readonly names: string[] = [];
  /** Flags that are vague anywhere. */
  everVague = 0;
  /** Of the last round's end: its DEC leaves CF as it was. */
  #vague = CF;

  constructor(
    readonly mode: 64 | 32,
    readonly random: Random,
    readonly kinds: readonly (readonly Piece[])[],
  ) {}

  pieces(count: number): number[] {
    const code: number[] = [];
    for (let i = 0; i < count; i++) {
      code.push(...this.#piece());
      if (this.random.oneIn(3)) code.push(...this.#branch());
    }
    return code;
  }

  #piece(): readonly number[] {
    const { entry, test, code } = this.random.pick(this.random.pick(this.kinds));
    const undefinedNow = undefinedAtWorst(test);
    if (undefinedNow === undefined || (flagsRead(test) & this.#vague) !== 0) return [];
    this.#note((this.#vague & ~flagsSet(test, entry)) | undefinedNow);
    this.names.push(test.name);
    return code;
  }

  #note(vague: number): void {
    this.#vague = vague;
    this.everVague |= vague;
  }

  /** A branch over `inc eax`: both ways lead on. One way all but CF is set, the other way nothing is. */
  #branch(): number[] {
    const condition = this.random.below(16);
    if ((CONDITION_FLAGS[condition >> 1]! & this.#vague) !== 0) return [];
    this.names.push(`Jcc ${condition}`);
    const inc = this.mode === 64 ? [0x48, 0xff, 0xc0] : [0xff, 0xc0];
    return [0x70 | condition, inc.length, ...inc];
  }
}

function kindOf({ name, map, opcode, operandText, feature }: InsnSpec): string | undefined {
  if (KINDS.string.test(name) && map === 0) return "string";
  // Without an operand it is a segment register's: its bytes differ between vendors (known-differences.ts).
  if (KINDS.stack.test(name)) return /^(PUSH|POP)$/.test(name) && operandText === "" ? undefined : "stack";
  if (KINDS.integer.test(name)) return "integer";
  if (map === 0 && opcode >= 0xd8 && opcode <= 0xdf) return "x87";
  return /^(mmx|sse|sse2|sse3|ssse3|sse4\.[12]|aes|pclmulqdq)$/i.test(feature ?? "") ? "vector" : undefined;
}

/**
 * Whether it may stand anywhere, and most probably leads on: nothing relative to where it was encoded for, no segment's
 * base, no #UD by LOCK, no #GP for privilege, a write to the code segment or what is not aligned.
 */
function isSuitable({ form, name }: Case): boolean {
  const { addressing, operands, spec } = form;
  if (addressing?.shape.rip || addressing?.fsBase !== undefined || addressing?.gsBase !== undefined)
    return false;
  // In 32-bit code narrow addresses have 16 bits: nothing is mapped there.
  if (form.mode === 32 && (name.includes("narrow") || addressing?.shape.segment === PREFIX.CS)) return false;
  if (operands.some(({ kind }) => kind === "segment" || kind === "control" || kind === "debug")) return false;
  const isUnaligned = operands.some((o) => o.kind === "memory" && o.bytes === 16 && (o.address & 15n) !== 0n);
  if (isUnaligned && !/^(MOVDQU|MOVUP[SD]|LDDQU)$/.test(spec.name)) return false;
  // A bit offset that is part of the address as well leads anywhere, also into this process's heap.
  const offset = operands[1];
  if (spec.role === "bits" && offset?.kind === "gpr" && form.registers.has(offset.register)) return false;
  return !name.includes("lock") || (spec.lock === true && addressing !== undefined);
}

function flagsRead({ form }: Case): number {
  const { name, opcode } = form.spec;
  if (/^(SETcc|CMOVcc)$/.test(name)) return CONDITION_FLAGS[(opcode >> 1) & 7]!;
  if (/^FCMOV/.test(name)) return CF | ZF | PF;
  if (/^(ADC|SBB|RCL|RCR|CMC|ADCX)$/.test(name)) return CF;
  if (name === "ADOX") return OF;
  // LAHF shows them.
  return name === "LAHF" ? ALL_FLAGS & ~OF : 0;
}

/** Flags that an instruction writes with defined values, whatever they held before. */
function flagsSet({ form }: Case, { flags }: InsnSpec): number {
  const { name } = form.spec;
  // A count of zero compares nothing.
  if (/^(CMPS|SCAS)/.test(name)) return 0;
  if (flags === "set") return ALL_FLAGS;
  if (/^(INC|DEC)$/.test(name)) return ALL_FLAGS & ~CF;
  if (/^(CLC|STC)$/.test(name)) return CF;
  return name === "SAHF" ? ALL_FLAGS & ~OF : 0;
}

/** Status flags that the instruction may leave undefined with some count; `undefined`: its result, too. */
function undefinedAtWorst(test: Case): number | undefined {
  const { name } = test.form.spec;
  const first = test.form.operands[0];
  if (/^BS[FR]$/.test(name) || (name === "BSWAP" && test.form.operandBits === 16)) return undefined;
  if (/^SH[LR]D$/.test(name) && test.form.operandBits === 16) return undefined;
  if (/^(SHL|SHR|SAR|ROL|ROR|RCL|RCR|SHLD|SHRD)$/.test(name)) {
    const isNarrow =
      (first?.kind === "gpr" && first.bits < 32) || (first?.kind === "memory" && first.bytes < 4);
    return /^R/.test(name) ? OF : OF | AF | (isNarrow && name !== "SAR" ? CF : 0);
  }
  const landed = { end: { kind: "landed" }, rflags: 0 } as HostResult;
  return undefinedFlags(test, landed);
}

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
