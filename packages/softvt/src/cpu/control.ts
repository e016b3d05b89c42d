import { type Builder, fn, type I32, type I64 } from "../ir/builder.ts";
import { Cpu, Seg } from "./layout.ts";
import { accessOf, updateMode } from "./mode.ts";
import { flushTlb } from "./paging.ts";
import { Slot } from "./slots.ts";
import { updateSse } from "./sse-state.ts";
import { CR0, CR4, EFER, get64, PHYSICAL_ADDRESS_BITS, set64, Vector } from "./state.ts";
import { longMode, refuse, returnOnEvent, systemReadPhysical } from "./system.ts";

/**
 * Writes of CR0, CR3, CR4, XCR0 and IA32_EFER, with the checks of SDM Vol. 3A sec. 2.5, 2.6, 4.1 and Vol. 2 MOV
 * CR, WRMSR, XSETBV, and what follows from them: entering and leaving IA-32e mode, PAE's page-directory-pointer
 * registers, the TLBs. Each raises #GP(0) with nothing changed, or stores: test EVENT.
 */

/** Bits of CR0 that exist; the others read as zero and are ignored when written. */
const CR0_BITS =
  CR0.PE | CR0.MP | CR0.EM | CR0.TS | CR0.ET | CR0.NE | CR0.WP | CR0.AM | CR0.NW | CR0.CD | CR0.PG;
const RESERVED_ADDRESS = ((1n << 64n) - 1n) ^ ((1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 1n);
/** Reserved in PAE's page-directory-pointer entries: 2:1, 8:5 and the address bits that do not exist. */
const PDPTE_RESERVED = RESERVED_ADDRESS | 0x1e6n;

const has = (value: I32, mask: number): I32 => value.and(mask).ne(0);

/**
 * Loads PDPTE0 to PDPTE3 from the table at `cr3` (SDM Vol. 3A sec. 4.4.1): #GP(0) where a present entry has
 * a reserved bit set, with none changed.
 */
export const loadPdptes = fn("loadPdptes", ["i64"], undefined, (f, cr3) => {
  const base = cr3.and(0xffff_ffe0n);
  const entries = [0, 1, 2, 3].map((i) => f.let(f.call<I64>(systemReadPhysical, base.add(8 * i))));
  for (const entry of entries) refuse(f, entry.bit(0).and(entry.and(PDPTE_RESERVED).ne(0)), Vector.GP);
  entries.forEach((entry, i) => {
    set64(f, Cpu.PDPTR + 8 * i, entry);
  });
});

/** 1 if these CR0, CR4 and IA32_EFER mean PAE paging: 32-bit addresses through the four PDPTEs. */
const isPaePaging = (f: Builder, cr0: I32, cr4: I32): I32 =>
  has(cr0, CR0.PG).and(has(cr4, CR4.PAE)).and(get64(f, Cpu.EFER).wrap().and(EFER.LME).eqz());

/** MOV to CR0 and LMSW. `value`: 64 bits. */
export const writeCr0 = fn("writeCr0", ["i64"], undefined, (f, value) => {
  const old = f.let(get64(f, Cpu.CR0).wrap());
  const now = f.let(value.wrap().and(CR0_BITS).or(CR0.ET));
  const cr4 = get64(f, Cpu.CR4).wrap();
  const efer = get64(f, Cpu.EFER).wrap();
  const changed = now.xor(old);
  const paging = has(now, CR0.PG);
  const bad = value
    .shrU(32)
    .ne(0)
    .or(paging.and(has(now, CR0.PE).eqz()))
    .or(has(now, CR0.NW).and(has(now, CR0.CD).eqz()));
  refuse(f, bad, Vector.GP);
  const starts = f.let(paging.and(has(changed, CR0.PG)));
  const stops = f.let(paging.eqz().and(has(changed, CR0.PG)));
  const toLong = f.let(starts.and(has(efer, EFER.LME)));
  f.if(toLong, () => {
    const tr16 = accessOf(f, Seg.TR).and(0x1000d).eq(1);
    const no = has(cr4, CR4.PAE).eqz().or(accessOf(f, Seg.CS).shrU(13).and(1)).or(tr16);
    refuse(f, no, Vector.GP);
  });
  f.if(stops, () => {
    const in64 = longMode(f).and(accessOf(f, Seg.CS).shrU(13));
    refuse(f, in64.or(has(cr4, CR4.PCIDE)), Vector.GP);
  });
  f.if(isPaePaging(f, now, cr4).and(changed.and(CR0.PG | CR0.CD | CR0.NW).ne(0)), () => {
    f.call(loadPdptes, get64(f, Cpu.CR3));
    returnOnEvent(f);
  });
  set64(f, Cpu.CR0, now.u64());
  f.call(updateSse);
  f.if(toLong, () => set64(f, Cpu.EFER, get64(f, Cpu.EFER).or(EFER.LMA)));
  f.if(stops, () => set64(f, Cpu.EFER, get64(f, Cpu.EFER).and(~BigInt(EFER.LMA))));
  f.if(changed.and(CR0.PE | CR0.WP | CR0.PG).ne(0), () => {
    f.call(flushTlb);
    f.call(updateMode);
  });
});

/** MOV to CR3. The software TLB knows no PCIDs: bit 63 (keep) is honoured only where CR3 stays the same. */
export const writeCr3 = fn("writeCr3", ["i64"], undefined, (f, value) => {
  const cr4 = get64(f, Cpu.CR4).wrap();
  const keep = f.let(value.shrU(63).wrap().and(has(cr4, CR4.PCIDE)));
  const now = f.let(keep.select(value.and((1n << 63n) - 1n), value));
  f.if(longMode(f), () => refuse(f, now.and(RESERVED_ADDRESS).ne(0), Vector.GP));
  f.if(isPaePaging(f, get64(f, Cpu.CR0).wrap(), cr4), () => {
    f.call(loadPdptes, now);
    returnOnEvent(f);
  });
  f.if(keep.and(get64(f, Cpu.CR3).eq(now)).eqz(), () => {
    set64(f, Cpu.CR3, now);
    f.call(flushTlb);
  });
});

/** MOV to CR4. */
export const writeCr4 = fn("writeCr4", ["i64"], undefined, (f, value) => {
  const now = f.let(value.wrap());
  const changed = f.let(now.xor(get64(f, Cpu.CR4).wrap()));
  refuse(f, value.and(get64(f, Slot.CR4_ALLOWED).not()).ne(0), Vector.GP);
  const long = longMode(f);
  refuse(f, long.and(has(now, CR4.PAE).eqz()), Vector.GP);
  const pcidOn = has(changed, CR4.PCIDE).and(has(now, CR4.PCIDE));
  const pcidBad = long.eqz().or(get64(f, Cpu.CR3).and(0xfff).ne(0));
  refuse(f, pcidOn.and(pcidBad), Vector.GP);
  const reload = changed.and(CR4.PAE | CR4.PGE | CR4.PSE | CR4.SMEP).ne(0);
  f.if(isPaePaging(f, get64(f, Cpu.CR0).wrap(), now).and(reload), () => {
    f.call(loadPdptes, get64(f, Cpu.CR3));
    returnOnEvent(f);
  });
  set64(f, Cpu.CR4, value);
  f.call(updateSse);
  f.if(changed.and(CR4.PAE | CR4.PGE | CR4.PSE | CR4.PCIDE | CR4.SMEP | CR4.SMAP).ne(0), () => {
    f.call(flushTlb);
    f.call(updateMode);
  });
});

/** WRMSR of IA32_EFER (SDM Vol. 4 table 2-2). LMA follows CR0.PG and ignores what is written. */
export const writeEfer = fn("writeEfer", ["i64"], undefined, (f, value) => {
  const old = get64(f, Cpu.EFER);
  const allowed = get64(f, Slot.EFER_ALLOWED).or(EFER.LMA);
  const lme = value.xor(old).wrap().and(EFER.LME).ne(0);
  const paging = get64(f, Cpu.CR0).wrap().and(CR0.PG).ne(0);
  refuse(f, value.and(allowed.not()).ne(0).or(lme.and(paging)), Vector.GP);
  const now = value.and(~BigInt(EFER.LMA)).or(old.and(EFER.LMA));
  set64(f, Cpu.EFER, now);
  f.if(now.xor(old).wrap().and(EFER.NXE).ne(0), () => f.call(flushTlb));
});

/** XSETBV of XCR0 (SDM Vol. 1 sec. 13.3): x87 always, AVX (if offered) only with SSE. */
export const writeXcr0 = fn("writeXcr0", ["i64"], undefined, (f, value) => {
  const bad = value
    .and(get64(f, Slot.XCR0_ALLOWED).not())
    .ne(0)
    .or(value.bit(0).eqz())
    .or(value.bit(2).and(value.bit(1).eqz()));
  refuse(f, bad, Vector.GP);
  set64(f, Cpu.XCR0, value);
  f.call(updateSse);
});
