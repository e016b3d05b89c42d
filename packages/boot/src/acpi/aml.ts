/**
 * ACPI Machine Language, written: each function returns the bytes of one term, to be nested as ASL is
 * (ACPI 6.5 sec. 20.2, "AML grammar specification"). Names are checked, lengths worked out; whether a program
 * makes sense is not (iasl's disassembler says so in the tests).
 *
 * ```ts
 * device("COM1", name("_HID", eisaId("PNP0501")), name("_CRS", resources(io(0x3f8, 8), irq(4))))
 * ```
 */
import { concat } from "../bytes.ts";

/** Encoded terms; concatenation is sequence. */
export type Aml = Uint8Array;
/** A term, or an integer for one. */
export type Operand = Aml | number | bigint;

const Op = {
  ZERO: 0x00,
  ONE: 0x01,
  NAME: 0x08,
  BYTE_PREFIX: 0x0a,
  WORD_PREFIX: 0x0b,
  DWORD_PREFIX: 0x0c,
  STRING_PREFIX: 0x0d,
  QWORD_PREFIX: 0x0e,
  SCOPE: 0x10,
  BUFFER: 0x11,
  PACKAGE: 0x12,
  METHOD: 0x14,
  DUAL_NAME: 0x2e,
  MULTI_NAME: 0x2f,
  EXT: 0x5b,
  LOCAL0: 0x60,
  ARG0: 0x68,
  STORE: 0x70,
  ADD: 0x72,
  SUBTRACT: 0x74,
  SHIFT_LEFT: 0x79,
  SHIFT_RIGHT: 0x7a,
  AND: 0x7b,
  OR: 0x7d,
  XOR: 0x7f,
  NOT: 0x80,
  NOTIFY: 0x86,
  INDEX: 0x88,
  CREATE_DWORD_FIELD: 0x8a,
  LAND: 0x90,
  LOR: 0x91,
  LNOT: 0x92,
  LEQUAL: 0x93,
  LGREATER: 0x94,
  LLESS: 0x95,
  IF: 0xa0,
  ELSE: 0xa1,
  WHILE: 0xa2,
  RETURN: 0xa4,
  ONES: 0xff,
} as const;

/** Second bytes behind `Op.EXT`. */
const ExtOp = {
  MUTEX: 0x01,
  ACQUIRE: 0x23,
  RELEASE: 0x27,
  OP_REGION: 0x80,
  FIELD: 0x81,
  DEVICE: 0x82,
} as const;

const NULL_NAME = 0x00;
const ROOT_CHAR = 0x5c;
const PARENT_CHAR = 0x5e;

/** An integer in its shortest form: 0, 1 and ~0 have opcodes of their own. */
export function integer(value: number | bigint): Aml {
  const v = BigInt.asUintN(64, BigInt(value));
  if (v === 0n) return Uint8Array.of(Op.ZERO);
  if (v === 1n) return Uint8Array.of(Op.ONE);
  if (v === 0xffff_ffff_ffff_ffffn) return Uint8Array.of(Op.ONES);
  if (v <= 0xffn) return Uint8Array.of(Op.BYTE_PREFIX, Number(v));
  if (v <= 0xffffn) return Uint8Array.of(Op.WORD_PREFIX, ...littleEndian(v, 2));
  if (v <= 0xffff_ffffn) return Uint8Array.of(Op.DWORD_PREFIX, ...littleEndian(v, 4));
  return Uint8Array.of(Op.QWORD_PREFIX, ...littleEndian(v, 8));
}

/** A string; ASCII 1 to 0x7F only. */
export function string(value: string): Aml {
  const bytes = Array.from(value, (char) => char.charCodeAt(0));
  if (bytes.some((byte) => byte === 0 || byte > 0x7f)) throw new RangeError(`"${value}": expected ASCII`);
  return Uint8Array.of(Op.STRING_PREFIX, ...bytes, 0);
}

export function buffer(bytes: Uint8Array): Aml {
  return withLength([Op.BUFFER], [integer(bytes.length), bytes]);
}

/** A package of at most 255 elements. */
export function pkg(...elements: Operand[]): Aml {
  if (elements.length > 255) throw new RangeError(`package: expected at most 255, got ${elements.length}`);
  return withLength([Op.PACKAGE], [Uint8Array.of(elements.length), ...elements.map(operand)]);
}

/**
 * A name string: segments of 1 to 4 characters (A to Z, 0 to 9, _) joined by dots, after an optional `\` or one or
 * more `^`. Short segments are padded with `_`.
 */
export function path(value: string): Aml {
  const prefix = /^(\\|\^*)/.exec(value)?.[0] ?? "";
  const rest = value.slice(prefix.length);
  const segments = rest === "" ? [] : rest.split(".");
  for (const segment of segments) {
    if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(segment)) {
      throw new RangeError(`"${value}": expected ACPI name segments, got "${segment}"`);
    }
  }
  const lead = [[NULL_NAME], [], [Op.DUAL_NAME]][segments.length] ?? [Op.MULTI_NAME, segments.length];
  const padded = segments.map((segment) => segment.padEnd(4, "_")).join("");
  return Uint8Array.of(
    ...Array.from(prefix, (char) => (char === "\\" ? ROOT_CHAR : PARENT_CHAR)),
    ...lead,
    ...Array.from(padded, (char) => char.charCodeAt(0)),
  );
}

/**
 * A compressed EISA identifier: "PNP0501" (ACPI 6.5 sec. 19.3.4, EISAID). Three letters of five bits and four hex
 * digits, most significant byte first in memory.
 */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw new RangeError(`"${id}": expected an EISA identifier`);
  const letter = (i: number): number => id.charCodeAt(i) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  const inMemory = new DataView(new ArrayBuffer(4));
  inMemory.setUint16(0, vendor);
  inMemory.setUint16(2, product);
  return integer(inMemory.getUint32(0, true));
}

// Objects

export function scope(at: string, ...terms: Aml[]): Aml {
  return withLength([Op.SCOPE], [path(at), ...terms]);
}

export function device(at: string, ...terms: Aml[]): Aml {
  return withLength([Op.EXT, ExtOp.DEVICE], [path(at), ...terms]);
}

export function name(at: string, value: Operand): Aml {
  return concat([Uint8Array.of(Op.NAME), path(at), operand(value)]);
}

export interface MethodOptions {
  /** Number of arguments, 0 to 7. */
  readonly args?: number;
  readonly serialized?: boolean;
}

export function method(at: string, options: MethodOptions, ...terms: Aml[]): Aml {
  const { args = 0, serialized = false } = options;
  if (args < 0 || args > 7) throw new RangeError(`${at}: expected 0 to 7 arguments, got ${args}`);
  return withLength([Op.METHOD], [path(at), Uint8Array.of(args | (serialized ? 0x08 : 0)), ...terms]);
}

export function mutex(at: string): Aml {
  return concat([Uint8Array.of(Op.EXT, ExtOp.MUTEX), path(at), Uint8Array.of(0)]);
}

/** Address spaces of operation regions (ACPI 6.5 sec. 19.6.100). */
export const RegionSpace = { SYSTEM_MEMORY: 0, SYSTEM_IO: 1, PCI_CONFIG: 2 } as const;

export function operationRegion(at: string, space: number, offset: Operand, bytes: Operand): Aml {
  const head = Uint8Array.of(Op.EXT, ExtOp.OP_REGION);
  return concat([head, path(at), Uint8Array.of(space), operand(offset), operand(bytes)]);
}

/** Widths in which a field's region is accessed. */
export const FieldAccess = { ANY: 0, BYTE: 1, WORD: 2, DWORD: 3, QWORD: 4 } as const;

/** A field list: `[name, bits]`, or `[undefined, bits]` for a gap. Bits outside a written field are kept. */
export function field(
  region: string,
  access: number,
  units: readonly (readonly [string | undefined, number])[],
): Aml {
  const list = units.map(([unit, bits]) =>
    concat([unit === undefined ? Uint8Array.of(0x00) : path(unit), packageLength(bits)]),
  );
  return withLength([Op.EXT, ExtOp.FIELD], [path(region), Uint8Array.of(access), ...list]);
}

/** Makes `at` a 32-bit field at `byteOffset` of the buffer `source`. */
export function createDwordField(source: Operand, byteOffset: Operand, at: string): Aml {
  return concat([Uint8Array.of(Op.CREATE_DWORD_FIELD), operand(source), operand(byteOffset), path(at)]);
}

// Statements and expressions. A `target` left out discards the result.

export const arg = (i: 0 | 1 | 2 | 3 | 4 | 5 | 6): Aml => Uint8Array.of(Op.ARG0 + i);
export const local = (i: 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7): Aml => Uint8Array.of(Op.LOCAL0 + i);
export const ret = (value: Operand): Aml => code(Op.RETURN, value);
export const store = (value: Operand, target: Aml): Aml => code(Op.STORE, value, target);
export const add = (a: Operand, b: Operand, target?: Aml): Aml => code(Op.ADD, a, b, targetOf(target));
export const subtract = (a: Operand, b: Operand, target?: Aml): Aml =>
  code(Op.SUBTRACT, a, b, targetOf(target));
export const and = (a: Operand, b: Operand, target?: Aml): Aml => code(Op.AND, a, b, targetOf(target));
export const or = (a: Operand, b: Operand, target?: Aml): Aml => code(Op.OR, a, b, targetOf(target));
export const xor = (a: Operand, b: Operand, target?: Aml): Aml => code(Op.XOR, a, b, targetOf(target));
export const not = (a: Operand, target?: Aml): Aml => code(Op.NOT, a, targetOf(target));
export const shiftLeft = (a: Operand, by: Operand, target?: Aml): Aml =>
  code(Op.SHIFT_LEFT, a, by, targetOf(target));
export const shiftRight = (a: Operand, by: Operand, target?: Aml): Aml =>
  code(Op.SHIFT_RIGHT, a, by, targetOf(target));
export const index = (source: Operand, at: Operand, target?: Aml): Aml =>
  code(Op.INDEX, source, at, targetOf(target));
export const equal = (a: Operand, b: Operand): Aml => code(Op.LEQUAL, a, b);
export const greater = (a: Operand, b: Operand): Aml => code(Op.LGREATER, a, b);
export const less = (a: Operand, b: Operand): Aml => code(Op.LLESS, a, b);
export const both = (a: Operand, b: Operand): Aml => code(Op.LAND, a, b);
export const either = (a: Operand, b: Operand): Aml => code(Op.LOR, a, b);
export const isFalse = (a: Operand): Aml => code(Op.LNOT, a);
export const notify = (target: Aml, value: Operand): Aml => code(Op.NOTIFY, target, value);
/** Waits for a mutex for ever; its result (timed out) is false then. */
export const acquire = (target: Aml): Aml =>
  concat([Uint8Array.of(Op.EXT, ExtOp.ACQUIRE), target, Uint8Array.of(0xff, 0xff)]);
export const release = (target: Aml): Aml => concat([Uint8Array.of(Op.EXT, ExtOp.RELEASE), target]);
export const when = (condition: Operand, ...terms: Aml[]): Aml =>
  withLength([Op.IF], [operand(condition), ...terms]);
/** Directly behind a `when`. */
export const otherwise = (...terms: Aml[]): Aml => withLength([Op.ELSE], terms);
export const loop = (condition: Operand, ...terms: Aml[]): Aml =>
  withLength([Op.WHILE], [operand(condition), ...terms]);
/** Calls a method. */
export const call = (at: string, ...args: Operand[]): Aml => concat([path(at), ...args.map(operand)]);

function code(op: number, ...operands: Operand[]): Aml {
  return concat([Uint8Array.of(op), ...operands.map(operand)]);
}

function operand(value: Operand): Aml {
  return value instanceof Uint8Array ? value : integer(value);
}

function targetOf(target: Aml | undefined): Aml {
  return target ?? Uint8Array.of(NULL_NAME);
}

function withLength(opcode: readonly number[], parts: readonly Aml[]): Aml {
  const body = concat(parts);
  return concat([Uint8Array.of(...opcode), blockLength(body.length), body]);
}

/** First value that a PkgLength of `own` bytes cannot hold: 6 bits in one byte, else 4 and 8 a further byte. */
const packageLengthEnd = (own: number): number => (own === 1 ? 0x40 : 2 ** (8 * own - 4));

/** PkgLength of a block, which counts itself. */
function blockLength(bodyBytes: number): Aml {
  for (let own = 1; own <= 4; own++) {
    if (bodyBytes + own < packageLengthEnd(own)) return encodeLength(bodyBytes + own, own);
  }
  throw new RangeError(`AML block: expected less than 256 MiB, got ${bodyBytes} bytes`);
}

/** PkgLength of a field unit: bits, itself not counted. */
function packageLength(value: number): Aml {
  const own = [1, 2, 3, 4].find((bytes) => value < packageLengthEnd(bytes));
  if (own === undefined) throw new RangeError(`field: expected less than 2^28 bits, got ${value}`);
  return encodeLength(value, own);
}

function encodeLength(value: number, own: number): Aml {
  if (own === 1) return Uint8Array.of(value);
  return Uint8Array.of(((own - 1) << 6) | (value & 0x0f), ...littleEndian(BigInt(value >>> 4), own - 1));
}

function littleEndian(value: bigint, bytes: number): number[] {
  return Array.from({ length: bytes }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
