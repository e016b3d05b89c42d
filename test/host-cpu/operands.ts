/**
 * Intel's operand codes (SDM Vol. 2D app. A.2), read into something a generator can use.
 *
 * A code is an addressing method in capitals and a type: `Ev` is a general register or memory by ModRM, of 16, 32 or
 * 64 bits. Behind it stands what the instruction does with it: nothing reads, `=` writes, `+` reads and writes.
 * A plain register name is an implied operand. Beyond the SDM's codes there are:
 * `qq` 256 bits, and `x` those that VEX.L says; `Z` a register in the opcode's low three bits; `STi` by ModRM.rm; and for x87 the types `sr` `dr` `er` (single,
 * double, extended real), `wi` `di` `qi` (integers), `bcd`, `e` (environment), `st` (state), `fx` (FXSAVE image).
 */

export type Access = "read" | "write" | "read-write";
export type OperandBits = 16 | 32 | 64;
/** What a value should look like to be interesting. */
export type Lane = "i8" | "i16" | "i32" | "i64" | "f32" | "f64" | "f80" | "bytes";

export interface OperandSpec {
  code: string;
  /** Capital letter, or "fixed" for an implied operand. */
  method: string;
  type: string;
  access: Access;
}

const METHODS = "ABCDEFGHIJLMNOPQRSUVWXYZ";

/**
 * Reads a list such as "Ev+,Gv".
 * @throws {RangeError} for a code that nobody knows.
 */
export function parseOperands(text: string): OperandSpec[] {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map(parseOperand);
}

function parseOperand(text: string): OperandSpec {
  const access: Access = text.endsWith("+") ? "read-write" : text.endsWith("=") ? "write" : "read";
  const code = access === "read" ? text : text.slice(0, -1);
  if (code === "STi") return { code, method: "STi", type: "er", access };
  const match = /^([A-Z])([a-z]*)$/.exec(code);
  if (match && METHODS.includes(match[1]!)) {
    const [, method, type] = match as unknown as [string, string, string];
    if (type !== "" && !(type in TYPE_BITS)) throw new RangeError(`operand ${text}: no type ${type}`);
    return { code, method, type, access };
  }
  // AL, eAX, rAX, DX, CL, ES, ST, 1, 3
  if (/^([er]?[A-Z]{2,3}\d?|\d)$/.test(code)) return { code, method: "fixed", type: "", access };
  throw new RangeError(`operand ${text}: neither a code nor a register`);
}

type Bits = number | ((operand: OperandBits) => number);

const TYPE_BITS: Readonly<Record<string, Bits>> = {
  a: (bits) => 2 * bits,
  b: 8,
  w: 16,
  d: 32,
  q: 64,
  dq: 128,
  qq: 256,
  x: 128,
  ps: 128,
  pd: 128,
  ss: 32,
  sd: 64,
  si: 32,
  pi: 64,
  v: (bits) => bits,
  y: (bits) => (bits === 64 ? 64 : 32),
  z: (bits) => (bits === 16 ? 16 : 32),
  p: (bits) => bits + 16,
  s: 80,
  sr: 32,
  dr: 64,
  er: 80,
  wi: 16,
  di: 32,
  qi: 64,
  bcd: 80,
  e: (bits) => (bits === 16 ? 14 : 28) * 8,
  st: (bits) => (bits === 16 ? 94 : 108) * 8,
  fx: 512 * 8,
};

/** Bytes that instructions with a type-less `M` access; those that are not here access none. */
const UNTYPED_BYTES: readonly (readonly [RegExp, number | ((operand: OperandBits) => number)])[] = [
  [/^CMPXCHG8B$/, 8],
  [/^CMPXCHG16B$/, 16],
  [/^BOUND$/, (bits) => bits / 4],
  [/^[LS][GI]DT$/, 10],
  [/^(FLD|FSTP|FBLD|FBSTP)$/, 10],
  [/^(CLFLUSH|CLFLUSHOPT|CLWB)$/, 1],
];

/** Width in bits of a type-less `M` of instruction `name`. */
export function untypedBits(name: string, operandBits: OperandBits): number {
  const bytes = UNTYPED_BYTES.find(([pattern]) => pattern.test(name))?.[1] ?? 0;
  return 8 * (typeof bytes === "number" ? bytes : bytes(operandBits));
}

/** Width of an operand under an operand size; 0 for a type-less `M`. */
export function typeBits(type: string, operandBits: OperandBits): number {
  const bits = TYPE_BITS[type] ?? 0;
  return typeof bits === "number" ? bits : bits(operandBits);
}

/** Whether any operand's width follows the operand size. */
export function isSized(operands: readonly OperandSpec[]): boolean {
  return operands.some(
    ({ method, type, code }) =>
      (method === "fixed" && /^[er][A-Z]/.test(code)) || typeof TYPE_BITS[type] === "function",
  );
}

/** Whether 64 bits are the only alternative to 32 (types `y` alone: MOVD, BMI, CVTSI2SD). */
export function isWideOnly(operands: readonly OperandSpec[]): boolean {
  const types = operands.map(({ type }) => type).filter((type) => typeof TYPE_BITS[type] === "function");
  return types.length > 0 && types.every((type) => type === "y");
}

export function lane(type: string, pickInteger: () => Lane): Lane {
  switch (type) {
    case "ps":
    case "ss":
    case "sr":
      return "f32";
    case "pd":
    case "sd":
    case "dr":
      return "f64";
    case "er":
      return "f80";
    case "e":
    case "st":
    case "fx":
    case "bcd":
    case "s":
      return "bytes";
    default:
      return pickInteger();
  }
}
