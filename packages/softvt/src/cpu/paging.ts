import { type Builder, fn, type I32, type I64, type Variable } from "../ir/builder.ts";
import {
  Cpu,
  Event,
  NTLB_ENTRIES,
  TLB_BYTES,
  TLB_ENTRIES,
  TLB_ENTRY_BYTES,
  TLB_INVALID,
  TlbEntry,
  TlbMode,
} from "./layout.ts";
import { CR0, CR4, EFER, get32, get64, PHYSICAL_ADDRESS_BITS, raise, set32, set64, Vector } from "./state.ts";

/**
 * Linear-address translation: the guest's page tables (SDM Vol. 3A ch. 4) and EPT (Vol. 3C sec. 29.3) in
 * one walk, and the software TLBs that remember it.
 *
 * Not done: 5-level paging, protection keys, and EPT's memory types (RAM is RAM here).
 */

/** Permissions of an EPT translation, in the low bits of its page address. */
export const EptPermission = { READ: 1, WRITE: 2, EXECUTE: 4 } as const;

const ACCESSED = 0x20;
const DIRTY = 0x40;
const LARGE = 0x80;
const EPT_ACCESSED = 0x100;
const EPT_DIRTY = 0x200;

/** Eight TLB entries: a bit of `Cpu.TLB_FILLED`. */
const GROUP_SHIFT = 8;

const tlbOf = (f: Builder, mode: number): I32 => f.cpu.add(Cpu.TLBS + mode * TLB_BYTES);

/** Walks EPT for guest-physical `gpa`: arena page | permissions, or 0 where nothing is mapped. */
const walkEpt = fn("walkEpt", ["i64"], "i32", (f, gpa) => {
  const table = f.variable("i32", get32(f, Cpu.EPT));
  const rights = f.variable("i32", f.i32(7));
  const shift = f.variable("i64", f.i64(39));
  f.loop((level) => {
    const entry = table.get().add(gpa.shrU(shift.get()).and(0x1ff).wrap().shl(3));
    const value = f.load("i64.load", entry);
    f.if(value.and(7).eqz(), () => f.return(f.i32(0)));
    rights.set(rights.get().and(value.wrap().and(7)));
    f.store("i64.store", entry, value.or(EPT_ACCESSED));
    const large = value.wrap().and(LARGE).ne(0);
    f.if(shift.get().eq(12).or(large), () => {
      f.if(rights.get().and(2), () => f.store("i64.store", entry, value.or(EPT_ACCESSED | EPT_DIRTY)));
      const inside = f.i64(1).shl(shift.get()).sub(1);
      const page = value.and(0xf_ffff_ffff_f000n).and(inside.not()).or(gpa.and(inside));
      f.return(page.wrap().and(-4096).or(rights.get()));
    });
    table.set(value.wrap().and(-4096));
    shift.set(shift.get().sub(9));
    f.continue(level);
  });
  f.return(f.i32(0));
});

/** As `walkEpt`, remembered in NTLB. */
export const translateGpa = fn("translateGpa", ["i64"], "i32", (f, gpa) => {
  f.if(gpa.shrU(PHYSICAL_ADDRESS_BITS).ne(0), () => f.return(f.i32(0)));
  const page = gpa.shrU(12).wrap().add(1);
  const slot = f.cpu.add(page.and(NTLB_ENTRIES - 1).shl(3));
  f.if(f.load("i32.load", slot, Cpu.NTLB).eq(page), () => f.return(f.load("i32.load", slot, Cpu.NTLB + 4)));
  const result = f.call(walkEpt, gpa);
  f.if(result, () => {
    f.store("i32.store", slot, page, Cpu.NTLB);
    f.store("i32.store", slot, result, Cpu.NTLB + 4);
  });
  f.return(result);
});

/** Reads a paging-structure entry of `bits`; where there is no RAM, all ones, which has reserved bits set. */
function readEntry(f: Builder, bits: 32 | 64, gpa: I64): { value: I64; host: I32 } {
  const page = f.call(translateGpa, gpa);
  const host = page.and(-4096).or(gpa.wrap().and(0xfff));
  const value = f.variable("i64", f.i64(-1));
  f.if(page, () => value.set(f.load(bits === 64 ? "i64.load" : "i64.load32_u", host)));
  return { value: value.get(), host: page.eqz().select(f.i32(0), host) };
}

const pageFault = fn("pageFault", ["i64", "i32", "i32", "i32"], undefined, (f, va, access, tlb, cause) => {
  set64(f, Cpu.CR2, va);
  const user = tlb.eq(tlbOf(f, TlbMode.USER)).shl(2);
  const fetch = access
    .and(3)
    .eq(2)
    .and(get64(f, Cpu.EFER).and(EFER.NXE).ne(0).or(get64(f, Cpu.CR4).and(CR4.SMEP).ne(0)))
    .shl(4);
  raise(f, Vector.PF, cause.or(access.and(3).eq(1).shl(1)).or(user).or(fetch));
});

/** What the walk of the guest's own tables accumulates. */
interface Walk {
  readonly user: Variable<"i32">;
  readonly write: Variable<"i32">;
  readonly noExecute: Variable<"i32">;
  readonly page: Variable<"i64">;
  /** Last entry's arena address (0: not in RAM) and value, and its width in bits. */
  readonly leaf: Variable<"i32">;
  readonly leafValue: Variable<"i64">;
}

const MASK = ((1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 1n) & ~0xfffn;
const RESERVED = ((1n << 52n) - 1n) & ~((1n << BigInt(PHYSICAL_ADDRESS_BITS)) - 1n);

/**
 * Makes the TLB entry for one access: the arena address of `va` where RAM is behind it, 1 where nothing is
 * (MISS_GPA), 0 where the access faults (the exception is noted). `access` as `Access` of cpu/memory.ts.
 */
export const fill = fn("fill", ["i64", "i32", "i32"], "i32", (f, va, access, tlb) => {
  const cr0 = get64(f, Cpu.CR0).wrap();
  const cr4 = get64(f, Cpu.CR4).wrap();
  const efer = get64(f, Cpu.EFER).wrap();
  const kind = access.and(3);
  const isUser = tlb.eq(tlbOf(f, TlbMode.USER));
  const walk: Walk = {
    user: f.variable("i32", f.i32(1)),
    write: f.variable("i32", f.i32(1)),
    noExecute: f.variable("i32", f.i32(0)),
    page: f.variable("i64", va.and(~0xfffn)),
    leaf: f.variable("i32", f.i32(0)),
    leafValue: f.variable("i64", f.i64(DIRTY)),
  };
  const dirtyable = f.variable("i32", f.i32(0));
  /** Log2 of the page's size, where it is large. */
  const pageShift = f.variable("i64", f.i64(0));
  const fault = (cause: number): void => {
    f.call(pageFault, va, access, tlb, f.i32(cause));
    f.return(f.i32(0));
  };
  f.if(efer.and(EFER.LMA), () => {
    f.if(va.shl(16).shrS(16).ne(va), () => {
      f.if(
        access.and(8),
        () => raise(f, Vector.SS),
        () => raise(f, Vector.GP),
      );
      f.return(f.i32(0));
    });
  });
  f.if(cr0.and(CR0.PG), () => {
    f.if(
      cr4.and(CR4.PAE),
      () => {
        const table = f.variable("i64", f.i64(0));
        const shift = f.variable("i64", f.i64(39));
        f.if(
          efer.and(EFER.LMA),
          () => table.set(get64(f, Cpu.CR3).and(MASK)),
          () => {
            const index = va.shrU(30).wrap().and(3);
            const pdpte = f.load("i64.load", f.cpu.add(index.shl(3)), Cpu.PDPTR);
            f.if(pdpte.and(1).eqz(), () => fault(0));
            table.set(pdpte.and(MASK));
            shift.set(f.i64(21));
          },
        );
        const reserved = f.let(efer.and(EFER.NXE).select(f.i64(RESERVED), f.i64(RESERVED | (1n << 63n))));
        f.block((done) => {
          f.loop((level) => {
            const gpa = table.get().add(va.shrU(shift.get()).and(0x1ff).shl(3));
            const { value, host } = readEntry(f, 64, gpa);
            f.if(value.and(1).eqz(), () => fault(0));
            const low = value.wrap();
            const large = low.and(LARGE).ne(0).and(shift.get().eq(12).eqz());
            const bad = f.variable("i32", value.and(reserved).ne(0));
            f.if(large, () => {
              f.if(shift.get().eq(39), () => bad.set(f.i32(1)));
              f.if(shift.get().eq(30), () => bad.set(bad.get().or(low.and(0x3fff_e000).ne(0))));
              f.if(shift.get().eq(21), () => bad.set(bad.get().or(low.and(0x001f_e000).ne(0))));
            });
            f.if(bad.get(), () => fault(9));
            walk.user.set(walk.user.get().and(low.shrU(2)));
            walk.write.set(walk.write.get().and(low.shrU(1)));
            walk.noExecute.set(walk.noExecute.get().or(value.shrU(63).wrap()));
            f.if(large.or(shift.get().eq(12)), () => {
              const inside = f.i64(1).shl(shift.get()).sub(1);
              walk.page.set(value.and(MASK).and(inside.not()).or(va.and(inside).and(~0xfffn)));
              walk.leaf.set(host);
              walk.leafValue.set(value);
              f.if(large, () => pageShift.set(shift.get()));
              f.break(done);
            });
            f.if(low.and(ACCESSED).eqz().and(host.ne(0)), () =>
              f.store("i64.store", host, value.or(ACCESSED)),
            );
            table.set(value.and(MASK));
            shift.set(shift.get().sub(9));
            f.continue(level);
          });
        });
      },
      () => {
        const base = get64(f, Cpu.CR3).and(0xffff_f000n);
        const pde = readEntry(f, 32, base.add(va.shrU(22).and(0x3ff).shl(2)));
        f.if(pde.value.and(1).eqz(), () => fault(0));
        const low = pde.value.wrap();
        walk.user.set(low.shrU(2));
        walk.write.set(low.shrU(1));
        f.if(
          low.and(LARGE).and(cr4.and(CR4.PSE).shl(3)),
          () => {
            // PSE-36: bits 39:32 of the 4 MiB page's address stand in bits 20:13.
            f.if(low.and(0x20_0000), () => fault(9));
            const high = pde.value.shrU(13).and(0xff).shl(32);
            walk.page.set(pde.value.and(0xffc0_0000n).or(high).or(va.and(0x3f_f000)));
            walk.leaf.set(pde.host);
            walk.leafValue.set(pde.value);
            pageShift.set(f.i64(22));
          },
          () => {
            f.if(low.and(ACCESSED).eqz().and(pde.host.ne(0)), () =>
              f.store("i32.store", pde.host, low.or(ACCESSED)),
            );
            const pte = readEntry(f, 32, pde.value.and(0xffff_f000n).add(va.shrU(12).and(0x3ff).shl(2)));
            f.if(pte.value.and(1).eqz(), () => fault(0));
            walk.user.set(walk.user.get().and(pte.value.wrap().shrU(2)));
            walk.write.set(walk.write.get().and(pte.value.wrap().shrU(1)));
            walk.page.set(pte.value.and(0xffff_f000n));
            walk.leaf.set(pte.host);
            walk.leafValue.set(pte.value);
          },
        );
      },
    );
    const user = f.let(walk.user.get().and(1));
    const write = f.let(walk.write.get().and(1));
    const execute = f.let(walk.noExecute.get().eqz());
    f.if(
      isUser,
      () => {
        f.if(user.eqz(), () => fault(1));
        walk.write.set(write);
        walk.noExecute.set(execute.eqz());
      },
      () => {
        const mayWrite = f.let(write.or(cr0.and(CR0.WP).eqz()));
        walk.write.set(mayWrite);
        const smep = user.and(cr4.shrU(20));
        walk.noExecute.set(execute.eqz().or(smep));
        const smap = user.and(cr4.shrU(21)).and(tlb.eq(tlbOf(f, TlbMode.SUPERVISOR)));
        f.if(smap.and(kind.ne(2)), () => fault(1));
        // A user page that SMAP keeps from data accesses may still be fetched from: no read or write tag.
        f.if(smap, () => dirtyable.set(f.i32(2)));
      },
    );
    f.if(kind.eq(1).and(walk.write.get().eqz()), () => fault(1));
    f.if(kind.eq(2).and(walk.noExecute.get()), () => fault(1));
    const value = walk.leafValue.get();
    const wanted = value.or(ACCESSED).or(kind.eq(1).shl(6).u64());
    f.if(wanted.ne(value).and(walk.leaf.get().ne(0)), () => {
      f.if(
        cr4.and(CR4.PAE),
        () => f.store("i64.store", walk.leaf.get(), wanted),
        () => f.store("i32.store", walk.leaf.get(), wanted.wrap()),
      );
    });
    walk.leafValue.set(wanted);
  });
  const gpa = walk.page.get();
  const translated = f.call(translateGpa, gpa);
  const rights = f.let(translated.and(7));
  // No RAM, or RAM that EPT keeps from this access (ROM): the exit says where.
  f.if(rights.and(f.i32(1).shl(kind)).eqz(), () => {
    set64(f, Cpu.MISS_GPA, gpa.or(va.and(0xfff)));
    f.if(kind.eq(2), () => {
      set32(f, Cpu.EXIT_REASON, 48);
      set32(f, Cpu.EXIT_A, gpa.or(va.and(0xfff)).wrap());
      set32(f, Cpu.EXIT_B, gpa.shrU(32).wrap());
      set32(f, Cpu.EXIT_C, 0x201);
      set32(f, Cpu.EVENT, Event.EXIT_RETRY);
      f.return(f.i32(0));
    });
    f.return(f.i32(1));
  });
  const page = translated.and(-4096);
  const flagsAt = get32(f, Cpu.PAGE_FLAGS).add(page.shrU(12));
  const flags = f.variable("i32", f.load("i32.load8_u", flagsAt));
  f.if(kind.eq(1), () => {
    flags.set(flags.get().or(1));
    f.store("i32.store8", flagsAt, flags.get());
  });
  const entry = tlb.add(
    va
      .shrU(7)
      .wrap()
      .and((TLB_ENTRIES - 1) << 5),
  );
  const tag = f.let(va.and(~0xfffn));
  const data = dirtyable.get().eqz();
  const canWrite = walk.write
    .get()
    .and(walk.leafValue.get().wrap().shrU(6))
    .and(rights.shrU(1))
    .and(flags.get())
    .and(1)
    .and(flags.get().and(2).eqz())
    .and(data);
  const canRead = rights.and(data);
  const canExecute = rights.shrU(2).and(walk.noExecute.get().eqz());
  const group = f.let(entry.sub(tlbOf(f, 0)).shrU(GROUP_SHIFT));
  const filledAt = f.let(f.cpu.add(group.shrU(6).shl(3)));
  const filled = f.load("i64.load", filledAt, Cpu.TLB_FILLED);
  f.store("i64.store", filledAt, filled.or(f.i64(1).shl(group.u64())), Cpu.TLB_FILLED);
  f.store("i64.store", entry, canRead.select(tag, f.i64(TLB_INVALID)), TlbEntry.READ);
  f.store("i64.store", entry, canWrite.select(tag, f.i64(TLB_INVALID)), TlbEntry.WRITE);
  f.store("i64.store", entry, canExecute.select(tag, f.i64(TLB_INVALID)), TlbEntry.EXECUTE);
  f.store("i32.store", entry, page.sub(tag.wrap()), TlbEntry.ADDEND);
  f.store("i32.store", entry, page.shrU(12), TlbEntry.PAGE);
  f.if(pageShift.get().ne(0), () => {
    f.if(
      pageShift.get().eq(30),
      () => set64(f, Cpu.LARGE_1G, get64(f, Cpu.LARGE_1G).or(f.i64(1).shl(va.shrU(30)))),
      () => {
        // A 4 MiB page is two 2 MiB regions.
        const regions = pageShift.get().eq(22).select(f.i64(3), f.i64(1));
        const first = va.shrU(pageShift.get()).shl(pageShift.get()).shrU(21);
        const word = f.cpu.add(first.shrU(6).wrap().and(63).shl(3));
        f.store(
          "i64.store",
          word,
          f.load("i64.load", word, Cpu.LARGE_2M).or(regions.shl(first)),
          Cpu.LARGE_2M,
        );
      },
    );
  });
  f.return(page.or(va.wrap().and(0xfff)));
});

/** Forgets every translation of this vCPU: CR3, CR0, CR4 and EFER writes, and changes of EPT. */
export const flushTlb = fn("flushTlb", [], undefined, (f) => {
  f.fill(f.cpu.add(Cpu.LARGE_2M), f.i32(0), f.i32(65 * 8));
  const invalid = f.v128(TLB_INVALID | (TLB_INVALID << 64n));
  for (let word = 0; word < 6; word++) {
    const filled = f.variable("i64", get64(f, Cpu.TLB_FILLED + 8 * word));
    f.block((done) => {
      f.loop((again) => {
        const bits = filled.get();
        f.if(bits.eqz(), () => f.break(done));
        const group = f.let(f.cpu.add(bits.ctz().wrap().shl(GROUP_SHIFT)));
        for (let i = 0; i < 8; i++) {
          const at = Cpu.TLBS + (word << (6 + GROUP_SHIFT)) + i * TLB_ENTRY_BYTES;
          f.store("v128.store", group, invalid, at + TlbEntry.READ);
          f.store("i64.store", group, f.i64(TLB_INVALID), at + TlbEntry.EXECUTE);
        }
        filled.set(bits.and(bits.sub(1)));
        f.continue(again);
      });
    });
    set64(f, Cpu.TLB_FILLED + 8 * word, 0);
  }
});

/** Forgets the cached EPT translations. */
export const flushNtlb = fn("flushNtlb", [], undefined, (f) => {
  f.fill(f.cpu.add(Cpu.NTLB), f.i32(0), f.i32(NTLB_ENTRIES * 8));
});

/** Forgets the translation of the page that `va` is in, in every access mode (INVLPG). */
export const flushPage = fn("flushPage", ["i64"], undefined, (f, va) => {
  const region = va.shrU(21);
  const word = f.load("i64.load", f.cpu.add(region.shrU(6).wrap().and(63).shl(3)), Cpu.LARGE_2M);
  const large = word.shrU(region).or(get64(f, Cpu.LARGE_1G).shrU(va.shrU(30)));
  f.if(large.wrap().and(1), () => {
    f.call(flushTlb);
    f.return();
  });
  for (let mode = 0; mode < 3; mode++) {
    const entry = f.let(
      tlbOf(f, mode).add(
        va
          .shrU(7)
          .wrap()
          .and((TLB_ENTRIES - 1) << 5),
      ),
    );
    for (const tag of [TlbEntry.READ, TlbEntry.WRITE, TlbEntry.EXECUTE])
      f.store("i64.store", entry, f.i64(TLB_INVALID), tag);
  }
});

/** Takes write permission for arena page `page` out of the TLBs: it holds decoded code now, or is clean again. */
export const dropWriteTags = fn("dropWriteTags", ["i32"], undefined, (f, page) => {
  const entry = f.variable("i32", tlbOf(f, 0));
  const end = f.let(tlbOf(f, 3));
  f.loop((loop) => {
    const at = entry.get();
    f.if(f.load("i32.load", at, TlbEntry.PAGE).eq(page), () =>
      f.store("i64.store", at, f.i64(TLB_INVALID), TlbEntry.WRITE),
    );
    entry.set(at.add(TLB_ENTRY_BYTES));
    f.if(at.add(TLB_ENTRY_BYTES).eq(end), () => f.break(loop));
  });
});
