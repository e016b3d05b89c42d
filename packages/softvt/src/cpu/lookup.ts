import { type Builder, fn, hostFn, type I32, type I64 } from "../ir/builder.ts";
import type { Fn } from "../ir/ir.ts";
import { Cpu, HASH, HASH_ENTRIES, Mode, Seg, TLB_ENTRIES, TlbEntry } from "./layout.ts";
import { Access } from "./memory.ts";
import { fill } from "./paging.ts";
import { get32, get64, raise, set32, set64, Vector } from "./state.ts";

/** Decodes code at an arena address in a mode; returns its first micro-op's address. */
const decode = hostFn("decode", ["i32", "i32"], "i32");

const LOW32 = 0xffff_ffffn;
const CS_BASE = Cpu.SEG_BASE + 8 * Seg.CS;

const is64 = (mode: I32): I32 => mode.and(Mode.CODE_MASK).eq(Mode.CODE64);

/** Linear address of `rip` in the current code segment. */
export function codeLinear(f: Builder, rip: I64): I64 {
  return is64(get32(f, Cpu.MODE)).select(rip, rip.add(get64(f, CS_BASE)).and(LOW32));
}

/** The hash entry for code at arena address `host`. */
export const hashEntry = (host: I32): I32 =>
  host
    .xor(host.shrU(15))
    .and(HASH_ENTRIES - 1)
    .shl(4);

/**
 * Finds the micro-op for `rip` and makes its page the current one. 0 if the fetch faulted: EVENT says why,
 * and `Cpu.RIP` is `rip`.
 */
export const lookupSlow = fn("lookupSlow", ["i64"], "i32", (f, target) => {
  const mode = get32(f, Cpu.MODE);
  const rip = f.let(is64(mode).select(target, target.and(LOW32)));
  set64(f, Cpu.RIP, rip);
  f.if(mode.and(Mode.FLAT).or(is64(mode)).eqz(), () => {
    const limit = f.load("i32.load", f.cpu, Cpu.SEG_LIMIT + 4 * Seg.CS);
    f.if(rip.gtU(limit.u64()), () => {
      raise(f, Vector.GP);
      f.return(f.i32(0));
    });
  });
  const linear = f.let(codeLinear(f, rip));
  const tlb = get32(f, Cpu.TLB);
  const entry = tlb.add(
    linear
      .shrU(7)
      .wrap()
      .and((TLB_ENTRIES - 1) << 5),
  );
  const host = f.variable("i32", f.i32(0));
  f.if(
    f.load("i64.load", entry, TlbEntry.EXECUTE).eq(linear.and(~0xfffn)),
    () => host.set(linear.wrap().add(f.load("i32.load", entry, TlbEntry.ADDEND))),
    () => {
      host.set(f.call<I32>(fill, linear, f.i32(Access.EXECUTE), tlb));
      f.if(host.get().eqz(), () => f.return(f.i32(0)));
    },
  );
  set64(f, Cpu.RIP_BASE, rip.sub(linear.and(0xfff)));
  const at = host.get();
  const slot = f.let(hashEntry(at));
  const uop = f.variable("i32", f.load("i32.load", slot, HASH + 8));
  const found = f
    .load("i32.load", slot, HASH)
    .eq(at)
    .and(f.load("i32.load", slot, HASH + 4).eq(mode.or(0x100)));
  f.if(found.eqz(), () => {
    uop.set(f.call<I32>(decode, at, mode));
  });
  const link = get32(f, Cpu.LINK);
  f.if(link, () => {
    f.store("i32.store", link, uop.get());
    set32(f, Cpu.LINK, 0);
  });
  f.return(uop.get());
});

/**
 * The micro-op for `rip` by TLB and hash alone: where both have it, its page becomes the current one and `found` is
 * emitted, which must not fall through.
 */
export function quickLookup(f: Builder, rip: I64, found: (uop: I32) => void): void {
  const mode = get32(f, Cpu.MODE);
  const linear = f.let(mode.and(2).select(rip, rip.and(LOW32)));
  const entry = f.let(
    get32(f, Cpu.TLB).add(
      linear
        .shrU(7)
        .wrap()
        .and((TLB_ENTRIES - 1) << 5),
    ),
  );
  const flat = mode.and(2 | Mode.FLAT).ne(0);
  f.block((miss) => {
    f.if(f.load("i64.load", entry, TlbEntry.EXECUTE).ne(linear.and(~0xfffn)).or(flat.eqz()), () =>
      f.break(miss),
    );
    const host = f.let(linear.wrap().add(f.load("i32.load", entry, TlbEntry.ADDEND)));
    const slot = f.let(hashEntry(host));
    const hit = f
      .load("i32.load", slot, HASH)
      .eq(host)
      .and(f.load("i32.load", slot, HASH + 4).eq(mode.or(0x100)));
    f.if(hit.eqz(), () => f.break(miss));
    const uop = f.load("i32.load", slot, HASH + 8);
    set64(f, Cpu.RIP_BASE, linear.and(~0xfffn));
    found(uop);
  });
}

/** Calls the region that the `region` micro-op at `uop` stands for: (budget left, uop) → budget left. */
export const callRegion: Fn = {
  name: "callRegion",
  params: ["i32", "i32"],
  result: "i32",
  body: undefined,
};

/** Guest calls between regions that are calls of their functions, too. Each may take some KB of the host's stack. */
const MAX_REGION_DEPTH = 64;

/**
 * A call out of a region: runs regions from `target` on until control comes to `expected`, behind the call, or to what
 * is no region. The budget left; the caller looks whether RIP is `expected` and nothing else is up, and returns
 * the same way if not: state is then as it is when a region is left.
 */
export const enterRegion = fn("enterRegion", ["i32", "i64", "i64"], "i32", (f, budget, target, expected) => {
  const left = f.variable("i32", budget);
  const rip = f.variable("i64", target);
  const depth = get32(f, Cpu.REGION_DEPTH);
  f.block((done) => {
    f.unlikely(depth.geU(MAX_REGION_DEPTH), () => f.break(done));
    set32(f, Cpu.REGION_DEPTH, depth.add(1));
    f.loop((next) => {
      quickLookup(f, rip.get(), (uop) => {
        f.unlikely(f.load("i32.load16_u", uop).ne(get32(f, Cpu.REGION_HANDLER)), () => {
          set64(f, Cpu.REGION_MISSED, rip.get());
          f.break(next);
        });
        left.set(f.call<I32>(callRegion, left.get(), uop));
        const isUp = get32(f, Cpu.EVENT).or(get32(f, Cpu.REGION_UOP)).or(get32(f, Cpu.REGION_STALE));
        rip.set(get64(f, Cpu.RIP));
        const isBack = rip.get().eq(expected).or(left.get().ltS(0));
        f.if(isUp.or(isBack), () => {
          set32(f, Cpu.REGION_DEPTH, depth);
          f.return(left.get());
        });
        f.continue(next);
      });
      f.break(next);
    });
    set32(f, Cpu.REGION_DEPTH, depth);
  });
  set64(f, Cpu.RIP, rip.get());
  set32(f, Cpu.REGION_UOP, 0);
  f.return(left.get());
});

/** Arena address of the code at `rip` if the TLB has it and its segment needs no look, else 0. */
export const codeAddress = fn("codeAddress", ["i64"], "i32", (f, rip) => {
  const mode = get32(f, Cpu.MODE);
  f.if(mode.and(Mode.FLAT).or(is64(mode)).eqz(), () => f.return(f.i32(0)));
  const linear = f.let(codeLinear(f, rip));
  const entry = get32(f, Cpu.TLB).add(
    linear
      .shrU(7)
      .wrap()
      .and((TLB_ENTRIES - 1) << 5),
  );
  f.if(f.load("i64.load", entry, TlbEntry.EXECUTE).ne(linear.and(~0xfffn)), () => f.return(f.i32(0)));
  f.return(linear.wrap().add(f.load("i32.load", entry, TlbEntry.ADDEND)));
});
