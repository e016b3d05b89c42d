/** x87, SSE and beyond, between the engine-neutral shape and the XSAVE area (SDM Vol. 1 sec. 10.5.1, 13.4). */
import type { FpuState } from "../state.ts";
import { type Struct, Xsave } from "./structs.ts";

/** XSTATE_BV bits: x87 and SSE. */
const LEGACY = 3n;
const ST_BYTES = 16;
const XMM_BYTES = 16;
const TAG = { VALID: 0, ZERO: 1, SPECIAL: 2, EMPTY: 3 } as const;

/** Where a component lies in the standard format: CPUID leaf 0xD, subleaf the component's number. */
export interface XsaveComponent {
  readonly number: number;
  readonly offset: number;
  readonly bytes: number;
}

/** Reads the area; `xcr0` comes from elsewhere. */
export function readFpu(area: Struct, xcr0: bigint, components: readonly XsaveComponent[]): FpuState {
  const fsw = area.u16(Xsave.FSW);
  const top = (fsw >> 11) & 7;
  const abridged = area.u8(Xsave.FTW);
  const registers = Array.from({ length: 8 }, (_, physical) => {
    const at = Xsave.ST + ST_BYTES * ((physical - top) & 7);
    return { significand: area.u64(at), signExponent: area.u16(at + 8) };
  });
  let ftw = 0;
  registers.forEach((register, i) => {
    ftw |= ((abridged >> i) & 1 ? tagOf(register) : TAG.EMPTY) << (2 * i);
  });
  const fpu: FpuState = {
    fcw: area.u16(Xsave.FCW),
    fsw,
    ftw,
    fop: area.u16(Xsave.FOP),
    fip: area.u64(Xsave.FIP),
    fdp: area.u64(Xsave.FDP),
    registers,
    mxcsr: area.u32(Xsave.MXCSR),
    xmm: Array.from(
      { length: 16 },
      (_, i) => area.u64(Xsave.XMM + XMM_BYTES * i) | (area.u64(Xsave.XMM + XMM_BYTES * i + 8) << 64n),
    ),
    xcr0,
  };
  const present = area.u64(Xsave.XSTATE_BV);
  const beyond: Record<string, Uint8Array> = {};
  for (const { number, offset, bytes } of components) {
    if (((present >> BigInt(number)) & 1n) === 0n) continue;
    const component = area.bytes.slice(offset, offset + bytes);
    // All zeros is the initial state of each; some processors call it used all the same.
    if (component.some((byte) => byte !== 0)) beyond[number] = component;
  }
  return Object.keys(beyond).length === 0 ? fpu : { ...fpu, components: beyond };
}

/** Writes the area whole: components that the state does not have are in their initial state. */
export function writeFpu(area: Struct, fpu: FpuState, components: readonly XsaveComponent[]): void {
  area.clear();
  const top = (fpu.fsw >> 11) & 7;
  let abridged = 0;
  fpu.registers.forEach(({ significand, signExponent }, physical) => {
    const at = Xsave.ST + ST_BYTES * ((physical - top) & 7);
    area.setU64(at, significand);
    area.setU16(at + 8, signExponent);
    if (((fpu.ftw >> (2 * physical)) & 3) !== TAG.EMPTY) abridged |= 1 << physical;
  });
  area.setU16(Xsave.FCW, fpu.fcw);
  area.setU16(Xsave.FSW, fpu.fsw);
  area.setU8(Xsave.FTW, abridged);
  area.setU16(Xsave.FOP, fpu.fop);
  area.setU64(Xsave.FIP, fpu.fip);
  area.setU64(Xsave.FDP, fpu.fdp);
  area.setU32(Xsave.MXCSR, fpu.mxcsr);
  fpu.xmm.forEach((value, i) => {
    area.setU64(Xsave.XMM + XMM_BYTES * i, BigInt.asUintN(64, value));
    area.setU64(Xsave.XMM + XMM_BYTES * i + 8, value >> 64n);
  });
  let present = LEGACY;
  for (const { number, offset } of components) {
    const bytes = fpu.components?.[number];
    if (bytes === undefined) continue;
    area.bytes.set(bytes, offset);
    present |= 1n << BigInt(number);
  }
  area.setU64(Xsave.XSTATE_BV, present);
}

/** The tag that FSTENV would give a register that is not empty (SDM Vol. 1 sec. 8.1.7). */
function tagOf({ significand, signExponent }: FpuState["registers"][number]): number {
  const exponent = signExponent & 0x7fff;
  if (exponent === 0) return significand === 0n ? TAG.ZERO : TAG.SPECIAL;
  if (exponent === 0x7fff || significand >> 63n === 0n) return TAG.SPECIAL;
  return TAG.VALID;
}
