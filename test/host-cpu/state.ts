/** Processor state as the host oracle takes and gives it. */

import { REG } from "./encode.ts";

/** Layout of the FXSAVE64 image (SDM Vol. 1 table 10-2). */
const FX = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  FOP: 6,
  FIP: 8,
  FDP: 16,
  MXCSR: 24,
  ST: 32,
  XMM: 160,
  BYTES: 512,
} as const;

const UPPER_BYTES = 256;

/** x87, MMX and SSE state over the bytes of an FXSAVE64 image, and the YMM registers' upper halves. */
export class FxImage {
  readonly bytes: Uint8Array;
  /** Upper halves of YMM0 to YMM15, 16 bytes each: XSAVE's component 2. */
  readonly upper: Uint8Array;
  readonly #view: DataView;

  /** @throws {RangeError} unless `bytes` has 512 bytes, and `upper` 256. */
  constructor(bytes: Uint8Array = new Uint8Array(FX.BYTES), upper: Uint8Array = new Uint8Array(UPPER_BYTES)) {
    if (bytes.length !== FX.BYTES) throw new RangeError(`FxImage: 512 bytes expected, not ${bytes.length}`);
    if (upper.length !== UPPER_BYTES)
      throw new RangeError(`FxImage: 256 bytes expected, not ${upper.length}`);
    this.bytes = bytes;
    this.upper = upper;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, FX.BYTES);
  }

  /** As after FNINIT and with MXCSR's reset value (SDM Vol. 1 secs. 8.1.5, 10.2.3). */
  static reset(): FxImage {
    const fx = new FxImage();
    fx.fcw = 0x37f;
    fx.mxcsr = 0x1f80;
    return fx;
  }

  get fcw(): number {
    return this.#view.getUint16(FX.FCW, true);
  }
  set fcw(value: number) {
    this.#view.setUint16(FX.FCW, value, true);
  }

  get fsw(): number {
    return this.#view.getUint16(FX.FSW, true);
  }
  set fsw(value: number) {
    this.#view.setUint16(FX.FSW, value, true);
  }

  /** The abridged tag word: bit i set where physical register i is not empty. */
  get ftw(): number {
    return this.bytes[FX.FTW]!;
  }
  set ftw(value: number) {
    this.bytes[FX.FTW] = value;
  }

  /** Undefined after an instruction without unmasked exception on AMD, and often on Intel. */
  get fop(): number {
    return this.#view.getUint16(FX.FOP, true);
  }
  get fip(): bigint {
    return this.#view.getBigUint64(FX.FIP, true);
  }
  get fdp(): bigint {
    return this.#view.getBigUint64(FX.FDP, true);
  }

  get mxcsr(): number {
    return this.#view.getUint32(FX.MXCSR, true);
  }
  set mxcsr(value: number) {
    this.#view.setUint32(FX.MXCSR, value, true);
  }

  /** ST(i), 80 bits: sign and exponent in bits 79:64. */
  st(i: number): bigint {
    const at = FX.ST + 16 * i;
    return (BigInt(this.#view.getUint16(at + 8, true)) << 64n) | this.#view.getBigUint64(at, true);
  }
  /** Sets ST(i)'s bits; its tag is `ftw`'s business. */
  setSt(i: number, value: bigint): void {
    const at = FX.ST + 16 * i;
    this.#view.setBigUint64(at, BigInt.asUintN(64, value), true);
    this.#view.setUint16(at + 8, Number((value >> 64n) & 0xffffn), true);
  }

  /** MMi. It is the significand of physical register i, which is ST(i - TOP). */
  mm(i: number): bigint {
    return this.#view.getBigUint64(FX.ST + 16 * ((i - (this.fsw >> 11)) & 7), true);
  }
  setMm(i: number, value: bigint): void {
    this.#view.setBigUint64(FX.ST + 16 * ((i - (this.fsw >> 11)) & 7), value, true);
  }

  xmm(i: number): bigint {
    const at = FX.XMM + 16 * i;
    return (this.#view.getBigUint64(at + 8, true) << 64n) | this.#view.getBigUint64(at, true);
  }
  setXmm(i: number, value: bigint): void {
    const at = FX.XMM + 16 * i;
    this.#view.setBigUint64(at, BigInt.asUintN(64, value), true);
    this.#view.setBigUint64(at + 8, BigInt.asUintN(64, value >> 64n), true);
  }

  /** Bits 255:128 of YMMi. */
  ymmHigh(i: number): bigint {
    const view = new DataView(this.upper.buffer, this.upper.byteOffset + 16 * i, 16);
    return (view.getBigUint64(8, true) << 64n) | view.getBigUint64(0, true);
  }
  setYmmHigh(i: number, value: bigint): void {
    const view = new DataView(this.upper.buffer, this.upper.byteOffset + 16 * i, 16);
    view.setBigUint64(0, BigInt.asUintN(64, value), true);
    view.setBigUint64(8, BigInt.asUintN(64, value >> 64n), true);
  }

  clone(): FxImage {
    return new FxImage(this.bytes.slice(), this.upper.slice());
  }
}

/** What a test starts from. Every field may be changed in place; `run` copies it. */
export interface HostState {
  /** RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. In 32-bit mode the low halves of the first eight count. */
  gpr: BigUint64Array;
  /** CF, PF, AF, ZF, SF, DF, OF, NT, AC, ID; other bits are refused. */
  rflags: number;
  fx: FxImage;
  fsBase: bigint;
  gsBase: bigint;
}

/** RFLAGS bits that a test can set and that results report. */
export const RFLAGS = {
  CF: 1 << 0,
  PF: 1 << 2,
  AF: 1 << 4,
  ZF: 1 << 6,
  SF: 1 << 7,
  TF: 1 << 8,
  IF: 1 << 9,
  DF: 1 << 10,
  OF: 1 << 11,
  NT: 1 << 14,
  AC: 1 << 18,
  ID: 1 << 21,
  /** CF, PF, AF, ZF, SF, OF. */
  STATUS: 0x8d5,
  /** STATUS and DF, TF, NT, AC, ID. */
  REPORTED: 0x244dd5,
} as const;

/** Zeroed registers, RSP as given, no flags, x87 and SSE as reset. */
export function hostState(rsp: number | bigint): HostState {
  const gpr = new BigUint64Array(16);
  gpr[REG.RSP] = BigInt(rsp);
  return { gpr, rflags: 0, fx: FxImage.reset(), fsBase: 0n, gsBase: 0n };
}

export function cloneHostState(state: HostState): HostState {
  return { ...state, gpr: state.gpr.slice(), fx: state.fx.clone() };
}
