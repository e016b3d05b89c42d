import type { EaKind } from "../cpu/address.ts";
import { Cpu, Mode, Seg } from "../cpu/layout.ts";
import { EA_OVERFLOW, EA_SEGMENT_SHIFT, EA_SIZE_SHIFT, VVVV_SHIFT } from "../cpu/uop.ts";
import type { InsnCoding } from "../isa/registry.ts";
import { type DecodeTable, type Form, type Forms, formIndex, sizesOf } from "../isa/table.ts";

/** One decoded instruction; the decoder reuses a single record. */
export interface Decoded {
  /** Bytes, 1 to 15. */
  length: number;
  /** `undefined`: #UD. */
  form: Form | undefined;
  ea: EaKind;
  a: number;
  b: number;
  c: number;
  d: number;
  imm: number;
  imm2: number;
  /** Offset of a branch target from the start of the page, in bytes; `undefined` for other instructions. */
  target: number | undefined;
}

/** Opcode maps: what may stand at each opcode. */
interface Slot {
  readonly specs: readonly InsnCoding[];
  readonly hasModrm: boolean;
}

interface OpcodeMaps {
  readonly maps: readonly (Slot | undefined)[][];
  readonly forms: Forms;
}

function opcodeMaps(forms: Forms): OpcodeMaps {
  const lists: InsnCoding[][][] = [[], [], [], []];
  for (const spec of forms.keys()) {
    const map = lists[spec.map]!;
    map[spec.opcode] ??= [];
    map[spec.opcode]!.push(spec);
  }
  return { maps: lists.map((map) => map.map(slotOf)), forms };
}

function slotOf(specs: readonly InsnCoding[]): Slot {
  const hasModrm = specs.some(
    (s) =>
      s.digit !== undefined || s.modrm !== undefined || s.operands.some((o) => /^[EGMWVQPSCD]$/.test(o.kind)),
  );
  return { specs: [...specs].sort((x, y) => rank(y) - rank(x)), hasModrm };
}

/** A whole ModRM byte is more specific than a digit, a mandatory prefix than none. */
const rank = (s: InsnCoding): number =>
  (s.modrm !== undefined ? 4 : 0) +
  (s.prefix !== undefined && s.prefix !== "" ? 2 : 0) +
  (s.prefix === "" ? 1 : 0);

const FS_OVERRIDE = 4;
const NO_SEGMENT = -1;

/** `Decoded.d` of instructions without a memory operand: prefixes that they look at themselves. */
export const PrefixBit = { REP: 1, REPNE: 2, SEGMENT_SHIFT: 2, ADDRESS_SHIFT: 5, LOCK: 0x80 } as const;

/**
 * Decodes x86 machine code (SDM Vol. 2A ch. 2) into what a micro-op holds. Which instructions there are,
 * and what their operands look like, comes from the descriptions alone.
 */
export class Decoder {
  readonly #table: DecodeTable;
  readonly #plain: OpcodeMaps;
  /** Of instructions with a VEX prefix, once there was one. */
  #vex: OpcodeMaps | undefined;
  readonly #out: Decoded = {
    length: 0,
    form: undefined,
    ea: "any",
    a: 0,
    b: 0,
    c: 0,
    d: 0,
    imm: 0,
    imm2: 0,
    target: undefined,
  };

  constructor(table: DecodeTable) {
    this.#table = table;
    this.#plain = opcodeMaps(table.forms);
  }

  /**
   * Decodes the instruction at `bytes[at]`; `pos` is its offset in its page and `mode` as `Cpu.MODE`. Reads up
   * to 15 bytes, never beyond them. The result is valid until the next call. Length 16: too long (#GP).
   */
  decode(bytes: Uint8Array, at: number, pos: number, mode: number): Decoded {
    const out = this.#out;
    const code = mode & Mode.CODE_MASK;
    const long = code === Mode.CODE64;
    let p = at;
    const end = at + 15;
    let osize = false;
    let asize = false;
    let lock = false;
    let rep = 0;
    let seg = NO_SEGMENT;
    let rex = 0;
    out.form = undefined;
    out.target = undefined;
    out.ea = "any";
    out.a = out.b = out.c = out.d = out.imm = out.imm2 = 0;

    let byte = 0;
    prefixes: for (;;) {
      if (p >= end) return this.#tooLong();
      byte = bytes[p++]!;
      switch (byte) {
        case 0x66:
          osize = true;
          break;
        case 0x67:
          asize = true;
          break;
        case 0xf0:
          lock = true;
          break;
        case 0xf2:
          rep = 2;
          break;
        case 0xf3:
          rep = 3;
          break;
        case 0x26:
        case 0x2e:
        case 0x36:
        case 0x3e:
          if (!long) seg = (byte >> 3) & 3;
          break;
        case 0x64:
        case 0x65:
          seg = byte - 0x60;
          break;
        default:
          if (long && (byte & 0xf0) === 0x40) {
            rex = byte;
            if (p >= end) return this.#tooLong();
            const next = bytes[p]!;
            // A REX prefix counts only right before the opcode.
            if (isPrefix(next)) {
              rex = 0;
              break;
            }
            if ((next & 0xf0) === 0x40) break;
            byte = next;
            p++;
          }
          break prefixes;
      }
    }

    let map = 0;
    /** VEX.L, where there is a VEX prefix. */
    let vex: 0 | 1 | undefined;
    let vvvv = 0;
    let w = (rex & 8) !== 0;
    let r = (rex & 4) << 1;
    let x = (rex & 2) << 2;
    let b = (rex & 1) << 3;
    let prefix: "" | "66" | "F2" | "F3" = rep === 2 ? "F2" : rep === 3 ? "F3" : osize ? "66" : "";
    if ((byte === 0xc4 || byte === 0xc5) && (long || bytes[p]! >= 0xc0) && (mode & Mode.REAL) === 0) {
      // VEX (SDM Vol. 2A sec. 2.3.5).
      if (rex !== 0 || osize || lock || rep !== 0) return this.#undefined(p - at);
      const first = bytes[p++]!;
      r = (first & 0x80) === 0 ? 8 : 0;
      let last = first;
      map = 1;
      if (byte === 0xc4) {
        x = (first & 0x40) === 0 ? 8 : 0;
        b = (first & 0x20) === 0 ? 8 : 0;
        map = first & 0x1f;
        last = bytes[p++]!;
        w = (last & 0x80) !== 0;
      }
      if (!long) r = x = b = 0;
      vvvv = (~last >> 3) & (long ? 15 : 7);
      prefix = (["", "66", "F3", "F2"] as const)[last & 3]!;
      vex = (last & 4) !== 0 ? 1 : 0;
      if (map < 1 || map > 3) return this.#undefined(p - at);
      byte = bytes[p++]!;
    } else if (byte === 0x0f) {
      map = 1;
      byte = bytes[p++]!;
      if (byte === 0x38 || byte === 0x3a) {
        map = byte === 0x38 ? 2 : 3;
        byte = bytes[p++]!;
      }
    }
    if (vex !== undefined) this.#vex ??= opcodeMaps(this.#table.vexForms());
    const { maps, forms: allForms } = vex === undefined ? this.#plain : this.#vex!;
    const slot = maps[map]![byte];
    if (slot === undefined) return this.#undefined(p - at);
    const modrm = slot.hasModrm ? bytes[p]! : 0;
    const mod = modrm >> 6;
    const reg = (modrm >> 3) & 7;
    const rm = modrm & 7;
    // MOV to and from control and debug registers takes any mod for 3 (SDM Vol. 2, MOV CR).
    const isMemory = slot.hasModrm && mod !== 3 && !(map === 1 && (byte & 0xfc) === 0x20);

    let spec: InsnCoding | undefined;
    const defaultSize = code === Mode.CODE16 ? 16 : 32;
    let opsize = 0;
    for (const candidate of slot.specs) {
      if (candidate.vex?.l !== undefined && candidate.vex.l !== vex) continue;
      if (candidate.modrm !== undefined && candidate.modrm !== modrm) continue;
      if (candidate.digit !== undefined && candidate.digit !== reg) continue;
      if (candidate.prefix !== undefined && candidate.prefix !== prefix) continue;
      if (candidate.rexW !== undefined && candidate.rexW !== w) continue;
      if (candidate.mode === (long ? "no64" : "only64")) continue;
      if (candidate.protectedOnly === true && (mode & Mode.REAL) !== 0) continue;
      const selects66 = candidate.prefix === "66";
      let size: number;
      if (candidate.size64 === "f64" && long) size = 64;
      else if (w && long) size = 64;
      else if (osize && !selects66 && vex === undefined) size = long || defaultSize === 32 ? 16 : 32;
      else if (candidate.size64 === "d64" && long) size = 64;
      else size = defaultSize;
      const forms = allForms.get(candidate)!;
      const sizes = sizesOf(candidate);
      if (!sizes.includes(size)) size = sizes.includes(32) ? 32 : sizes[sizes.length - 1]!;
      const wantsMemory = isMemory || candidate.operands.some((o) => o.kind === "O");
      const form = forms[formIndex(size, wantsMemory)];
      // Instructions on fixed registers take either kind of ModRM byte (none).
      if (form === undefined) continue;
      spec = candidate;
      opsize = size;
      out.form = form;
      break;
    }
    if (spec === undefined) return this.#undefined(p - at + (slot.hasModrm ? 1 : 0));
    if (lock && !(spec.lock === true && isMemory)) return this.#undefined(p - at + 1);
    if (vvvv !== 0 && !spec.operands.some(({ kind }) => kind === "B" || kind === "H"))
      return this.#undefined(p - at + 1);
    const vsib = spec.vex?.vsib === true;
    if (vsib && rm !== 4) return this.#undefined(p - at + 1);

    const addressSize = long ? (asize ? 32 : 64) : (code === Mode.CODE16) === asize ? 32 : 16;
    let ripRelative = false;
    if (slot.hasModrm) {
      p++;
      if (isMemory) {
        if (addressSize === 16) {
          if (vsib) return this.#undefined(p - at);
          p = this.#modrm16(bytes, p, mod, rm, seg);
        } else {
          ripRelative = long && mod === 0 && rm === 5;
          p = this.#modrm32(bytes, p, mod, rm, seg, x, b, long, addressSize, vsib);
        }
        // Destination, mask and index of a gather are three registers.
        const target = (reg | r) * 16;
        if (vsib && (target === vvvv * 16 || target === out.c || vvvv * 16 === out.c))
          return this.#undefined(p - at);
      }
    }
    const prefixBits =
      (rep === 3 ? PrefixBit.REP : rep === 2 ? PrefixBit.REPNE : 0) |
      ((seg < 0 ? Seg.DS : seg) << PrefixBit.SEGMENT_SHIFT) |
      ((addressSize >> 5) << PrefixBit.ADDRESS_SHIFT) |
      (lock ? PrefixBit.LOCK : 0);
    if (!isMemory) out.d = prefixBits;

    const immediates: number[] = [];
    /** The register that VEX.vvvv names. */
    let source: number | undefined;
    for (const operand of spec.operands) {
      const byteRegisters = operand.size === "b";
      switch (operand.kind) {
        case "G":
          out.a = registerOffset(reg | r, byteRegisters, rex !== 0);
          break;
        case "Z":
          out.a = registerOffset((byte & 7) | b, byteRegisters, rex !== 0);
          break;
        case "E":
          if (!isMemory) out.b = registerOffset(rm | b, byteRegisters, rex !== 0);
          break;
        case "V":
          out.a = (reg | r) * 16;
          break;
        case "W":
          if (!isMemory) out.b = (rm | b) * 16;
          break;
        case "P":
          out.a = reg * 16;
          break;
        case "Q":
          if (!isMemory) out.b = rm * 16;
          break;
        case "S":
          out.a = reg;
          break;
        case "C":
        case "D":
          out.a = reg | r;
          break;
        case "B":
          source = vvvv * 8;
          break;
        case "H":
          source = vvvv * 16;
          break;
        case "L":
          immediates.push(bytes[p++]! & (long ? 0xff : 0x7f));
          break;
        case "I":
        case "J": {
          const bits =
            operand.size === "b"
              ? 8
              : operand.size === "w"
                ? 16
                : operand.size === "v"
                  ? opsize
                  : operand.size === "d"
                    ? 32
                    : Math.min(opsize, 32);
          // A near branch's displacement is 32 bits in 64-bit mode, whatever the operand size says (Intel).
          const width = operand.kind === "J" && operand.size === "z" && long ? 32 : bits;
          const low = signed(bytes, p, Math.min(width, 32));
          immediates.push(low);
          p += Math.min(width, 32) / 8;
          if (width === 64) {
            immediates.push(signed(bytes, p, 32));
            p += 4;
          }
          break;
        }
        case "A": {
          immediates.push(opsize === 16 ? signed(bytes, p, 16) & 0xffff : signed(bytes, p, 32));
          p += opsize / 8;
          immediates.push(signed(bytes, p, 16) & 0xffff);
          p += 2;
          break;
        }
        case "O":
          out.ea = "absolute";
          out.d = ((seg < 0 ? Seg.DS : seg) << EA_SEGMENT_SHIFT) | ((addressSize >> 5) << EA_SIZE_SHIFT);
          out.imm = addressSize === 16 ? signed(bytes, p, 16) & 0xffff : signed(bytes, p, 32);
          out.imm2 = addressSize === 64 ? signed(bytes, p + 4, 32) : 0;
          p += addressSize / 8;
          break;
      }
    }
    const length = p - at;
    if (length > 15) return this.#tooLong();
    out.length = length;

    if (spec.operands.some((o) => o.kind === "J")) {
      out.target = pos + length + immediates[0]!;
      out.imm = out.target | 0;
      out.d = prefixBits;
    } else if (isMemory) {
      const immediate = immediates[0] ?? 0;
      out.imm2 = source === undefined ? immediate : (immediate & 0xff) | (source << VVVV_SHIFT);
    } else if (out.ea !== "absolute") {
      out.imm = immediates[0] ?? 0;
      if (immediates.length > 1) out.imm2 = immediates[1]!;
      if (source !== undefined) out.c = source;
    }
    if (isMemory && addressSize !== 16)
      this.#finishAddress(mode, ripRelative, pos + length, seg, long, addressSize);
    return out;
  }

  #undefined(length: number): Decoded {
    this.#out.form = undefined;
    this.#out.length = Math.min(length, 15);
    return this.#out;
  }

  #tooLong(): Decoded {
    this.#out.form = undefined;
    this.#out.length = 16;
    return this.#out;
  }

  /** SDM Vol. 2A table 2-1. */
  #modrm16(bytes: Uint8Array, start: number, mod: number, rm: number, seg: number): number {
    const out = this.#out;
    let p = start;
    const base = [3, 3, 5, 5, -1, -1, 5, 3][rm]!;
    const index = [6, 7, 6, 7, 6, 7, -1, -1][rm]!;
    let disp = 0;
    let absolute = false;
    if (mod === 0 && rm === 6) {
      absolute = true;
      disp = signed(bytes, p, 16);
      p += 2;
    } else if (mod === 1) disp = signed(bytes, p++, 8);
    else if (mod === 2) {
      disp = signed(bytes, p, 16);
      p += 2;
    }
    out.b = absolute || base < 0 ? Cpu.ZERO : base * 8;
    out.c = absolute || index < 0 ? Cpu.ZERO : index * 8;
    const segment = seg >= 0 ? seg : !absolute && base === 5 ? Seg.SS : Seg.DS;
    out.d = segment << EA_SEGMENT_SHIFT;
    out.imm = disp;
    out.ea = "any";
    return p;
  }

  /** SDM Vol. 2A tables 2-2 and 2-3. */
  #modrm32(
    bytes: Uint8Array,
    start: number,
    mod: number,
    rm: number,
    seg: number,
    x: number,
    b: number,
    long: boolean,
    addressSize: number,
    vsib: boolean,
  ): number {
    const out = this.#out;
    let p = start;
    let base: number = rm | b;
    let index = -1;
    let scale = 0;
    if (rm === 4) {
      const sib = bytes[p++]!;
      scale = sib >> 6;
      index = ((sib >> 3) & 7) | x;
      if (index === 4 && !vsib) index = -1;
      base = (sib & 7) | b;
      if (mod === 0 && (sib & 7) === 5) base = -1;
    } else if (mod === 0 && rm === 5) base = long ? -2 : -1;
    let disp = 0;
    if (mod === 1) disp = signed(bytes, p++, 8);
    else if (mod === 2 || base < 0) {
      disp = signed(bytes, p, 32);
      p += 4;
    }
    const segment = seg >= 0 ? seg : base === 4 || base === 5 ? Seg.SS : Seg.DS;
    out.b = base >= 0 ? base * 8 : base === -2 ? Cpu.RIP_BASE : Cpu.ZERO;
    out.c = vsib ? index * 16 : index >= 0 ? index * 8 : Cpu.ZERO;
    out.d = scale | (segment << EA_SEGMENT_SHIFT) | ((addressSize >> 5) << EA_SIZE_SHIFT);
    out.imm = disp;
    return p;
  }

  /** Makes displacements RIP-relative and picks the address kind; needs the instruction's length. */
  #finishAddress(
    mode: number,
    ripRelative: boolean,
    next: number,
    seg: number,
    long: boolean,
    addressSize: number,
  ): void {
    const out = this.#out;
    if (ripRelative) {
      const disp = out.imm + next;
      out.imm = disp | 0;
      if (disp > 0x7fff_ffff) {
        out.d |= EA_OVERFLOW;
        return;
      }
    }
    if (out.form!.spec.vex?.vsib === true) return;
    const indexed = out.c !== Cpu.ZERO;
    if (long) {
      if (addressSize !== 64) return;
      if (seg >= FS_OVERRIDE && out.form!.spec.name !== "LEA") {
        // FS and GS have a base: it takes the place of the index where there is none, if the form has a
        // handler that adds no base of its own.
        if (indexed || out.form!.handlers.index64 === undefined) return;
        out.c = Cpu.SEG_BASE + seg * 8;
        out.d &= ~3;
        out.ea = "index64";
        return;
      }
      out.ea = indexed ? "index64" : "base64";
      return;
    }
    const segment = (out.d >> EA_SEGMENT_SHIFT) & 7;
    if ((mode & Mode.FLAT) === 0 || segment >= FS_OVERRIDE || segment === Seg.CS) return;
    out.ea = indexed ? "index32" : "base32";
  }
}

function isPrefix(byte: number): boolean {
  switch (byte) {
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
      return true;
    default:
      return false;
  }
}

/** Offset of a general register in the vCPU block; without REX, byte registers 4 to 7 are AH, CH, DH, BH. */
function registerOffset(register: number, isByte: boolean, rex: boolean): number {
  return isByte && !rex && register >= 4 && register < 8 ? (register - 4) * 8 + 1 : register * 8;
}

function signed(bytes: Uint8Array, at: number, bits: number): number {
  if (bits === 8) return (bytes[at]! << 24) >> 24;
  const low = bytes[at]! | (bytes[at + 1]! << 8);
  if (bits === 16) return (low << 16) >> 16;
  return low | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
}
