/**
 * Instruction forms for differential tests: from an abstract description of an instruction to every encoding that
 * behaves differently somewhere, each with a state in which it stays inside the test's memory.
 *
 *     spec {map, opcode, prefix, ext, "Ev+,Gv"}  --expand-->  forms (bytes, operands)  --fill-->  cases (states)
 *
 * A form is an encoding: operand size, registers (extended, high-byte), memory operand shape, immediates, LOCK, REP.
 * A case adds values: boundary integers, floating-point specials, addresses that fault.
 */

import {
  type Addressing,
  addressing16,
  addressingFor,
  type Place,
  pickPlace,
  placeAddress,
  SHAPES,
  type Shape,
} from "./addressing.ts";
import { type Encoding, encode, type Immediate, type OpcodeMap, PREFIX, REG } from "./encode.ts";
import type { FeatureName } from "./features.ts";
import { CODE_START, HOST_LAYOUT } from "./host-cpu.ts";
import {
  type Access,
  isSized,
  isWideOnly,
  type Lane,
  lane,
  type OperandBits,
  type OperandSpec,
  parseOperands,
  typeBits,
  untypedBits,
} from "./operands.ts";
import type { Random } from "./random.ts";

/** What a generator must know of an instruction's meaning to keep it inside the windows, and to hit its cases. */
export type Role =
  /** The E operand is a near branch target. */
  | "branch"
  /** The M operand is a far pointer that is jumped to. */
  | "far-branch"
  /** The stack's top is a near return address. */
  | "return"
  /** RSP is used: PUSH, POP, CALL. */
  | "stack"
  /** RSP and RBP are used: ENTER, LEAVE. */
  | "frame"
  /** The G operand addresses bits around a memory operand: BT, BTS. */
  | "bits"
  /** The accumulator is compared with the first operand: CMPXCHG. */
  | "compare"
  /** The operand is a segment selector, or a far pointer to load: MOV Sw, LES. */
  | "selector"
  /** The address is computed and not accessed: LEA, NOP Ev, PREFETCH. */
  | "address"
  /** [rBX + AL] is read: XLAT. */
  | "table"
  /** [rDI] is written: MASKMOVDQU. */
  | "masked-store"
  /** [rSI] or [rDI] or both, without operand codes: MOVS, STOS. */
  | "string"
  /** The stack holds a far return address, or a whole interrupt frame. */
  | "far-return"
  | "interrupt-return";

/** One instruction as a decoder's table describes it. */
export interface InstructionSpec {
  name: string;
  map?: OpcodeMap | undefined;
  opcode: number;
  /** Mandatory prefix 66, F2 or F3. */
  prefix?: number | undefined;
  /** ModRM.reg as opcode extension. */
  ext?: number | undefined;
  /** The whole ModRM byte (D9 E8 is FLD1). */
  modrm?: number | undefined;
  /** Intel operand codes, see operands.ts. */
  operands: string;
  /** Operand size in 64-bit mode: "d64" defaults to 64 and has no 32; "f64" is always 64. */
  size64?: "d64" | "f64" | undefined;
  /** Instead of the operand sizes that the codes imply. */
  sizes?: readonly OperandBits[] | undefined;
  /** REX.W or VEX.W fixed to one. */
  w?: boolean | undefined;
  /** `Z` is the register that the opcode's low bits already name (or the one eight above it). */
  oneRegister?: boolean | undefined;
  /** `l`: VEX.L, or `undefined` where it is ignored; `wig`: VEX.W is. */
  vex?: { l: 0 | 1 | undefined; wig?: boolean } | undefined;
  modes?: readonly (64 | 32)[] | undefined;
  /** LOCK is allowed on a memory destination. */
  lock?: boolean | undefined;
  /** REP, or REPE and REPNE. */
  rep?: "rep" | "repe" | undefined;
  role?: Role | undefined;
  /** What the processor must offer; `HostFeatures.lacks` gives the reason to skip it. */
  feature?: FeatureName | undefined;
}

/** An operand as one form has it. */
export type FormOperand = { access: Access } & (
  | { kind: "gpr"; register: number; bits: number; high: boolean; lane: Lane }
  | { kind: "xmm" | "mm" | "st"; register: number; lane: Lane }
  | { kind: "segment" | "control" | "debug"; register: number }
  | { kind: "memory"; address: bigint; bytes: number; lane: Lane }
  | { kind: "immediate"; value: bigint; bits: number }
  | { kind: "target"; address: number }
  | { kind: "fixed"; name: string }
);

export interface Form {
  spec: InstructionSpec;
  mode: 64 | 32;
  operandBits: OperandBits;
  /** For a test's title: "ADD Ev+,Gv o32 [base+d8]". */
  name: string;
  encoding: Encoding;
  /** The bytes, encoded for CODE_START. */
  code: Uint8Array;
  operands: FormOperand[];
  /** Of the ModRM memory operand. */
  addressing: Addressing | undefined;
  /** Registers that must hold what they hold here, so that operands lie where they should. */
  registers: ReadonlyMap<number, bigint>;
}

export interface ExpandOptions {
  mode?: 64 | 32;
  /** Memory operands at addresses that fault, about one in four. Default true. */
  faults?: boolean;
}

interface Variant {
  name: string;
  shape?: Shape;
  lock?: boolean;
  rep?: number;
  /** AH to BH, or SPL to DIL, where there is a byte register. */
  bytes?: "high" | "rex";
  narrow?: boolean;
}

const MEMORY_METHODS = "EMQW";
const REGISTER_METHODS = "EQWRNU";

/** All forms of an instruction in one mode, with registers and values drawn from `random`; none where it is absent. */
export function expand(spec: InstructionSpec, random: Random, options: ExpandOptions = {}): Form[] {
  const { mode = 64, faults = true } = options;
  if (spec.modes && !spec.modes.includes(mode)) return [];
  const operands = parseOperands(spec.operands);
  const forms: Form[] = [];
  for (const operandBits of operandSizes(spec, operands, mode)) {
    for (const variant of variants(spec, operands, mode, random)) {
      forms.push(new FormBuilder(spec, operands, mode, operandBits, variant, random, faults).build());
    }
  }
  return forms;
}

function operandSizes(spec: InstructionSpec, operands: OperandSpec[], mode: 64 | 32): readonly OperandBits[] {
  const sized = isSized(operands);
  const wideOnly = sized && isWideOnly(operands);
  const sizes = spec.sizes ?? (wideOnly ? [32, 64] : sized || spec.size64 ? [16, 32, 64] : [32]);
  if (mode === 32) return sizes.filter((bits) => bits !== 64);
  if (spec.size64 === "f64") return [64];
  return spec.size64 === "d64" ? sizes.filter((bits) => bits !== 32) : sizes;
}

function variants(spec: InstructionSpec, operands: OperandSpec[], mode: 64 | 32, random: Random): Variant[] {
  const has = (methods: string): boolean =>
    operands.some(({ method }) => method.length === 1 && methods.includes(method));
  const byteRegister = hasByteRegister(operands);
  const shapes = SHAPES.filter((shape) => shape.modes.includes(mode));
  const result: Variant[] = [];
  if (has(MEMORY_METHODS) && spec.modrm === undefined) {
    for (const shape of shapes) result.push({ name: shape.name, shape });
    const shape = random.pick(shapes);
    // Without permission LOCK is #UD.
    result.push({ name: `lock ${shape.name}`, shape, lock: true });
    if (byteRegister) result.push({ name: `${shapes[1]!.name} high byte`, shape: shapes[1]!, bytes: "high" });
    if (spec.role === "address" && mode === 32) result.push({ name: "a16", narrow: true });
  }
  if (has(REGISTER_METHODS) || !has(MEMORY_METHODS)) {
    const times =
      has(REGISTER_METHODS) || has("GZPV") || operands.some(({ method }) => method === "STi") ? 3 : 1;
    for (let i = 0; i < times; i++) result.push({ name: "register" });
    if (byteRegister) result.push({ name: "high byte", bytes: "high" });
    if (byteRegister && mode === 64) result.push({ name: "rex byte", bytes: "rex" });
    if (spec.lock) result.push({ name: "lock register", lock: true });
  }
  if (has("OXY") || spec.role === "table" || spec.role === "masked-store")
    result.push({ name: "narrow", narrow: true });
  if (spec.rep) {
    const prefixes = spec.rep === "rep" ? [PREFIX.REP] : [PREFIX.REP, PREFIX.REPNE];
    for (const rep of prefixes) {
      result.push(
        { name: rep === PREFIX.REP ? "rep" : "repne", rep },
        { name: "rep narrow", rep, narrow: true },
      );
    }
  }
  return result;
}

function hasByteRegister(operands: readonly OperandSpec[]): boolean {
  return operands.some(({ method, type }) => "EGRZ".includes(method) && type === "b");
}

/** Resolves one form's operands one after another into the fields of its encoding. */
class FormBuilder {
  readonly #prefixes: number[] = [];
  readonly #immediates: Immediate[] = [];
  readonly #operands: FormOperand[] = [];
  readonly #registers = new Map<number, bigint>();
  readonly #count: number;
  readonly #wide: boolean;
  #addressing: Addressing | undefined;
  #encoding: Encoding;

  constructor(
    readonly spec: InstructionSpec,
    readonly specs: OperandSpec[],
    readonly mode: 64 | 32,
    readonly bits: OperandBits,
    readonly variant: Variant,
    readonly random: Random,
    readonly faults: boolean,
  ) {
    this.#wide = Boolean(spec.w || (mode === 64 && bits === 64 && !spec.size64));
    // AH to BH exist only without REX: no extended registers then, and no REX.W.
    const chosen = variant.bytes ?? (random.oneIn(2) ? "high" : "rex");
    const withoutRex = hasByteRegister(specs) && chosen === "high" && !this.#wide;
    this.#count = mode === 32 || withoutRex ? 8 : 16;
    const rex = mode === 64 && !spec.vex && !withoutRex && (hasByteRegister(specs) || random.oneIn(8));
    this.#encoding = {
      opcode: spec.opcode,
      map: spec.map,
      mandatory: spec.prefix,
      w: this.#wide && mode === 64,
      rex,
    };
    if (spec.vex) {
      const l = spec.vex.l ?? (random.below(2) as 0 | 1);
      const w = spec.vex.wig ? random.oneIn(4) : this.#wide;
      this.#encoding = { ...this.#encoding, w, vex: { l } };
    }
    if (spec.ext !== undefined) this.#encoding.reg = spec.ext;
  }

  build(): Form {
    const { spec, variant, mode, bits } = this;
    if (variant.lock) this.#prefixes.push(PREFIX.LOCK);
    if (variant.rep !== undefined) this.#prefixes.push(variant.rep);
    const sized = spec.sizes || spec.size64 || isSized(this.specs);
    if (bits === 16 && sized) this.#prefixes.push(PREFIX.OPERAND_SIZE);
    if (variant.narrow && !variant.shape && spec.role !== "address") this.#prefixes.push(PREFIX.ADDRESS_SIZE);
    for (const operand of this.specs) this.#operands.push(this.#resolve(operand));
    if (spec.modrm !== undefined) {
      this.#encoding.reg = (spec.modrm >> 3) & 7;
      this.#encoding.rm = spec.modrm & 7;
    }
    this.#implied();

    const encoding = { ...this.#encoding, prefixes: this.#prefixes, immediates: this.#immediates };
    this.#aim(encoding);
    const size = sized ? ` o${bits}` : "";
    return {
      spec,
      mode,
      operandBits: bits,
      name: `${spec.name} ${spec.operands}${size} ${variant.name}${mode === 32 ? " (32-bit code)" : ""}`,
      encoding,
      code: encode(encoding, CODE_START, mode),
      operands: this.#operands,
      addressing: this.#addressing,
      registers: this.#registers,
    };
  }

  #resolve(operand: OperandSpec): FormOperand {
    const { method, type, access, code } = operand;
    const untyped = method === "M" && type === "";
    const sized = type === "x" && this.spec.vex?.l === 1 ? 256 : typeBits(type, this.bits);
    const bits = untyped ? untypedBits(this.spec.name, this.bits) : sized;
    const kind = lane(type, () => this.random.pick(["i8", "i16", "i32", "i64"] as const));
    const memory = this.variant.shape || (this.variant.narrow && this.spec.role === "address");
    if (MEMORY_METHODS.includes(method) && memory) return this.#memory(operand, Math.ceil(bits / 8), kind);
    switch (method) {
      case "E":
      case "R":
        this.#encoding.rm = this.#pickGpr(bits);
        return this.#gpr(this.#encoding.rm as number, bits, access);
      case "G":
        this.#encoding.reg = this.#pickGpr(bits);
        return this.#gpr(this.#encoding.reg, bits, access);
      case "Z":
        this.#encoding.opcodeReg = this.spec.oneRegister
          ? (this.spec.opcode & 7) | (this.#count === 16 ? 8 * this.random.below(2) : 0)
          : this.#pickGpr(bits);
        return this.#gpr(this.#encoding.opcodeReg, bits, access);
      case "B":
        return this.#gpr(this.#pickVvvv(), bits, access);
      case "M":
        // A memory-only operand in its register form: #UD on the processor too.
        this.#encoding.rm = this.random.below(this.#count);
        return { kind: "gpr", register: this.#encoding.rm, bits: 64, high: false, lane: kind, access };
      case "W":
      case "U":
        this.#encoding.rm = this.random.below(this.#count);
        return { kind: "xmm", register: this.#encoding.rm, lane: kind, access };
      case "V":
        this.#encoding.reg = this.random.below(this.#count);
        return { kind: "xmm", register: this.#encoding.reg, lane: kind, access };
      case "H":
        return { kind: "xmm", register: this.#pickVvvv(), lane: kind, access };
      case "L": {
        const register = this.random.below(this.#count);
        // In 32-bit code the top bit is ignored.
        const ignored = this.mode === 32 ? this.random.below(2) * 0x80 : 0;
        const low = this.random.below(16);
        this.#immediates.push({ value: BigInt((register << 4) | ignored | low), bytes: 1 });
        return { kind: "xmm", register, lane: kind, access };
      }
      case "Q":
      case "N":
        this.#encoding.rm = this.random.below(8);
        return { kind: "mm", register: this.#encoding.rm, lane: kind, access };
      case "P":
        this.#encoding.reg = this.random.below(8);
        return { kind: "mm", register: this.#encoding.reg, lane: kind, access };
      case "STi":
        this.#encoding.rm = this.random.below(8);
        return { kind: "st", register: this.#encoding.rm, lane: "f80", access };
      case "S":
        this.#encoding.reg = this.random.below(this.random.oneIn(4) ? 8 : 6);
        return { kind: "segment", register: this.#encoding.reg, access };
      case "C":
      case "D":
        this.#encoding.reg = this.random.pick(method === "C" ? [0, 2, 3, 4] : [0, 1, 2, 3, 6, 7]);
        return { kind: method === "C" ? "control" : "debug", register: this.#encoding.reg, access };
      case "I":
        return this.#immediate(this.random.integer(bits as 8), bits, access);
      case "J":
        this.#immediates.push({ value: 0, bytes: type === "b" ? 1 : bits === 16 ? 2 : 4 });
        return { kind: "target", address: 0, access };
      case "A":
        return this.#farPointer(access);
      case "O":
        return this.#offset(Math.ceil(bits / 8), kind, access);
      case "X":
      case "Y":
        return this.#string(method === "X" ? REG.RSI : REG.RDI, Math.ceil(bits / 8), kind, access);
      case "fixed":
        return { kind: "fixed", name: code, access };
      default:
        throw new RangeError(`expand: ${this.spec.name} has ${code}, which no rule covers`);
    }
  }

  #gpr(register: number, bits: number, access: Access): FormOperand {
    const high = bits === 8 && register >= 4 && register < 8 && !this.#encoding.rex && !this.spec.vex;
    return { kind: "gpr", register: high ? register - 4 : register, bits, high, access, lane: "i64" };
  }

  #pickGpr(bits: number): number {
    const { random, variant } = this;
    if (bits !== 8 || this.random.oneIn(3)) return random.below(this.#count);
    if (variant.bytes && !this.#wide) return random.between(4, 7);
    return random.below(this.#count);
  }

  #pickVvvv(): number {
    this.#encoding.vex!.vvvv = this.random.below(this.#count);
    return this.#encoding.vex!.vvvv;
  }

  /** 32-bit addresses are never non-canonical. */
  #harmless(place: Place): Place {
    const wide = this.mode === 64 && !this.variant.narrow;
    return place === "non-canonical" && !wide ? "anywhere" : place;
  }

  #place(): Place {
    // A jump through bytes that the case does not choose could lead into this process's own code.
    const chosen = this.spec.role !== "branch" && this.spec.role !== "far-branch";
    const place = this.faults ? pickPlace(this.random) : undefined;
    if (place !== undefined && (chosen || place !== "read-only")) return place;
    return this.random.pick(["aligned", "anywhere", "page"] as const);
  }

  #memory({ access }: OperandSpec, bytes: number, kind: Lane): FormOperand {
    const { variant, spec, random } = this;
    if (!variant.shape) {
      const { rm, prefixes, name } = addressing16(random);
      this.#encoding.rm = rm;
      this.#prefixes.push(...prefixes);
      return { kind: "fixed", name, access };
    }
    const span = spec.role === "bits" ? 0x1100 : undefined;
    const options = { mode: this.mode, registers: this.#count, bytes, span };
    const addressing = addressingFor(variant.shape, this.#place(), random, options);
    this.#addressing = addressing;
    this.#encoding.rm = addressing.rm;
    this.#prefixes.push(...addressing.prefixes);
    if (spec.role === "address") return { kind: "fixed", name: variant.name, access };
    for (const [register, value] of addressing.registers) this.#registers.set(register, value);
    return { kind: "memory", address: addressing.address, bytes, lane: kind, access };
  }

  #immediate(value: bigint, bits: number, access: Access): FormOperand {
    this.#immediates.push({ value, bytes: (bits / 8) as Immediate["bytes"] });
    return { kind: "immediate", value, bits, access };
  }

  /** ptr16:16 or ptr16:32 into the code window. A 16-bit offset cannot reach it and faults. */
  #farPointer(access: Access): FormOperand {
    const address = landing(this.random);
    this.#immediates.push({ value: address, bytes: this.bits === 16 ? 2 : 4 }, { value: 0x23, bytes: 2 });
    return { kind: "target", address, access };
  }

  #offset(bytes: number, kind: Lane, access: Access): FormOperand {
    const addressBytes =
      this.mode === 64 && !this.variant.narrow ? 8 : this.mode === 64 ? 4 : this.variant.narrow ? 2 : 4;
    const place = this.#place();
    const address = placeAddress(
      place === "non-canonical" && addressBytes < 8 ? "anywhere" : place,
      bytes,
      this.random,
    );
    this.#immediates.push({ value: address, bytes: addressBytes });
    const reached = addressBytes === 2 ? address & 0xffffn : address;
    return { kind: "memory", address: reached, bytes, lane: kind, access };
  }

  /** RSI or RDI at an address with room for the repetitions on both sides. */
  #string(register: number, bytes: number, kind: Lane, access: Access): FormOperand {
    const place = this.#place();
    const wide = this.mode === 64 && !this.variant.narrow;
    const address = placeAddress(
      place === "non-canonical" && !wide ? "anywhere" : place,
      bytes,
      this.random,
      256,
    );
    this.#pin(register, address);
    return { kind: "memory", address, bytes, lane: kind, access };
  }

  /** Fixes a register, with garbage above what the address size reads. */
  #pin(register: number, value: bigint): void {
    const garbage = this.mode === 64 && this.variant.narrow ? this.random.u64() & ~0xffffffffn : 0n;
    this.#registers.set(register, value | garbage);
  }

  /** Addresses in registers that no operand code names. */
  #implied(): void {
    const { spec, random, variant } = this;
    if (variant.rep !== undefined) this.#pin(REG.RCX, BigInt(random.below(17)));
    if (spec.role === "table") this.#pin(REG.RBX, BigInt(HOST_LAYOUT.DATA + random.below(0xff00)));
    if (spec.role === "masked-store")
      this.#pin(REG.RDI, placeAddress(this.#harmless(this.#place()), 16, random));
    if (spec.role === "string") {
      for (const register of [REG.RSI, REG.RDI]) {
        this.#pin(register, placeAddress(this.#harmless(this.#place()), this.bits / 8, random, 256));
      }
    }
  }

  /** Gives a relative branch its displacement, once the length is known: never into its own bytes. */
  #aim(encoding: Encoding): void {
    const index = this.#operands.findIndex(({ kind }) => kind === "target");
    if (index < 0 || this.specs[index]!.method !== "J") return;
    const length = encode(encoding, CODE_START, this.mode).length;
    const immediate = this.#immediates.at(-1)!;
    const reach = immediate.bytes === 1 ? 0x80 : 0x7000;
    const relative = this.random.oneIn(2)
      ? this.random.below(reach)
      : this.random.between(-reach, -length - 1);
    immediate.value = relative;
    const target = CODE_START + length + relative;
    // A 16-bit branch loses the upper half of EIP.
    this.#operands[index] = {
      kind: "target",
      address: immediate.bytes === 2 ? target & 0xffff : target,
      access: "read",
    };
  }
}

/** An address in the code window where a trap waits, away from CODE_START. */
export function landing(random: Random): number {
  return HOST_LAYOUT.CODE + random.below(0x7000);
}
