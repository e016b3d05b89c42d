import { type Builder, fn, type I32 } from "../ir/builder.ts";
import { Cpu, Mode, Seg, TlbMode } from "./layout.ts";
import { CR0, CR4, get32, get64, RFLAGS, set32 } from "./state.ts";
import { longMode, tlbAt } from "./system.ts";

/** Access rights of a segment register in VMCS format (SDM Vol. 3C sec. 25.4.1). */
export const Rights = {
  TYPE: 0xf,
  ACCESSED: 1,
  /** Data: writable. Code: readable. */
  WRITABLE: 2,
  /** Data: expand-down. Code: conforming. */
  CONFORMING: 4,
  CODE: 8,
  S: 0x10,
  DPL_SHIFT: 5,
  P: 0x80,
  L: 0x2000,
  DB: 0x4000,
  G: 0x8000,
  UNUSABLE: 0x1_0000,
} as const;

export const selectorOf = (f: Builder, seg: number): I32 => get32(f, Cpu.SEG_SELECTOR + 4 * seg);
export const limitOf = (f: Builder, seg: number): I32 => get32(f, Cpu.SEG_LIMIT + 4 * seg);
export const accessOf = (f: Builder, seg: number): I32 => get32(f, Cpu.SEG_ACCESS + 4 * seg);

/** 1 in real-address mode. */
export const realMode = (f: Builder): I32 => get64(f, Cpu.CR0).wrap().and(CR0.PE).eqz();
/** 1 in virtual-8086 mode. */
export const v86Mode = (f: Builder): I32 => get32(f, Cpu.RFLAGS).shrU(17).and(1);
export const iopl = (f: Builder): I32 => get32(f, Cpu.RFLAGS).shrU(RFLAGS.IOPL_SHIFT).and(3);

/** 1 if `seg` has base 0 and limit 4 GiB, and the rights under `mask` are `rights`. */
function isFlat(f: Builder, seg: number, mask: number, rights: number): I32 {
  return get64(f, Cpu.SEG_BASE + 8 * seg)
    .eqz()
    .and(limitOf(f, seg).eq(-1))
    .and(accessOf(f, seg).and(mask).eq(rights));
}

/**
 * Recomputes `Cpu.MODE` and `Cpu.TLB`. Called after anything that they follow from has changed: CS, SS, DS,
 * ES, CPL, CR0.PE, CR4.SMAP, IA32_EFER.LMA, RFLAGS.VM and RFLAGS.AC.
 *
 * In 64-bit mode MODE is always CODE64 | FLAT, so that code is not decoded twice for segment registers
 * that do not matter there. In the others the eight registers that there are have upper halves of zero: their upper
 * halves are undefined after 64-bit mode (SDM Vol. 1 sec. 3.4.1.1), and compiled regions rely on it.
 */
export const updateMode = fn("updateMode", [], undefined, (f) => {
  const smapOpen = get64(f, Cpu.CR4).wrap().and(CR4.SMAP).ne(0).and(get32(f, Cpu.RFLAGS).shrU(18));
  const supervisor = smapOpen.select(tlbAt(f, TlbMode.SUPERVISOR_AC), tlbAt(f, TlbMode.SUPERVISOR));
  set32(f, Cpu.TLB, get32(f, Cpu.CPL).eq(3).select(tlbAt(f, TlbMode.USER), supervisor));

  const cs = accessOf(f, Seg.CS);
  f.if(cs.shrU(13).and(longMode(f)), () => {
    set32(f, Cpu.MODE, Mode.CODE64 | Mode.FLAT);
    f.return();
  });
  for (let i = 0; i < 8; i++) set32(f, Cpu.GPR + 8 * i + 4, 0);
  const data = Rights.UNUSABLE | Rights.P | Rights.S | Rights.CODE | Rights.CONFORMING | Rights.WRITABLE;
  const code = Rights.UNUSABLE | Rights.P | Rights.S | Rights.CODE | Rights.WRITABLE;
  const flat = [Seg.ES, Seg.SS, Seg.DS]
    .map((seg) => isFlat(f, seg, data, Rights.P | Rights.S | Rights.WRITABLE))
    .reduce((a, b) => a.and(b), isFlat(f, Seg.CS, code, code & ~Rights.UNUSABLE));
  const real = realMode(f).or(v86Mode(f));
  set32(
    f,
    Cpu.MODE,
    cs
      .shrU(14)
      .and(Mode.CODE32)
      .or(accessOf(f, Seg.SS).shrU(14).and(1).mul(Mode.STACK32))
      .or(flat.mul(Mode.FLAT))
      .or(real.mul(Mode.REAL)),
  );
});
