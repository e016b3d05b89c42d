import { Cpu, Mode, Seg } from "../cpu/layout.ts";
import { codeLinear } from "../cpu/lookup.ts";
import { Access, probe } from "../cpu/memory.ts";
import { limitOf } from "../cpu/mode.ts";
import { get32, get64, raise, Vector } from "../cpu/state.ts";
import { Builder, hostFn, type I32, type I64 } from "../ir/builder.ts";
import type { Stmt } from "../ir/ir.ts";

/** Micro-ops that stand for no instruction, placed by the decoder. */
export type SpecialName = "stale" | "pageEnd" | "goto" | "straddle" | "undefined" | "tooLong" | "region";

/** Decodes the instruction at an arena address that goes on at another, in a mode, for the micro-op at the last. */
export const decodeStraddling = hostFn("decodeStraddling", ["i32", "i32", "i32", "i32"], "i32");

function record(describe: (f: Builder) => void): () => { stmts: Stmt[]; temps: number } {
  return () => {
    const f = new Builder();
    describe(f);
    return { stmts: f.stmts, temps: f.tempCount };
  };
}

const here = (f: Builder): I64 => get64(f, Cpu.RIP_BASE).add(f.field("pos").and(0xfff).u64());

export const SPECIAL: Record<SpecialName, () => { stmts: Stmt[]; temps: number }> = {
  /** Code that was overwritten, or forgotten: look it up again. */
  stale: record((f) => f.end({ kind: "lookup", rip: here(f).node })),

  /** The end of decoded code: go on with what follows `pos`. */
  pageEnd: record((f) => {
    const after = here(f).add(f.field("pos").shrU(12).u64());
    f.end({ kind: "lookup", rip: after.node });
  }),

  /** Go on at micro-op imm2: the code that follows was decoded before. */
  goto: record((f) => f.end({ kind: "goto", to: f.field("imm2").node })),

  /** An instruction that goes on in the next page: where that page is can change under it. */
  straddle: record((f) => {
    f.if(get32(f, Cpu.MODE).and(Mode.FLAT).eqz(), () => {
      // Its bytes in the next page begin there; the linear address says where the page ends.
      const rest = f.i64(4096).sub(codeLinear(f, here(f)).and(0xfff));
      f.unlikely(here(f).add(rest).and(0xffff_ffffn).gtU(limitOf(f, Seg.CS).u64()), () => {
        raise(f, Vector.GP);
        f.end({ kind: "leave" });
      });
    });
    const tlb = get32(f, Cpu.TLB);
    const start = f.let(codeLinear(f, here(f)));
    const next = f.call<I32>(probe, start.add(4096).and(~0xfffn), f.i32(Access.EXECUTE), tlb);
    f.unlikely(next.eqz(), () => f.end({ kind: "leave" }));
    f.unlikely(next.eq(1), () => {
      raise(f, Vector.GP);
      f.end({ kind: "leave" });
    });
    const first = f.call<I32>(probe, start, f.i32(Access.EXECUTE), tlb);
    f.unlikely(first.leU(1), () => f.end({ kind: "leave" }));
    f.if(f.field("imm").eq(next), () => f.end({ kind: "goto", to: f.field("imm2").node }));
    const uop = f.call<I32>(decodeStraddling, first, next, get32(f, Cpu.MODE), f.uop);
    f.store("i32.store", f.uop, next, 8);
    f.store("i32.store", f.uop, uop, 12);
    f.end({ kind: "goto", to: uop.node });
  }),

  /** Where a compiled region may be entered; its number and the entry's stand in the place of a to d. */
  region: record((f) => f.end({ kind: "region" })),

  undefined: record((f) => {
    raise(f, Vector.UD);
    f.end({ kind: "leave" });
  }),

  /** Longer than 15 bytes (SDM Vol. 2A sec. 2.3.11). */
  tooLong: record((f) => {
    raise(f, Vector.GP);
    f.end({ kind: "leave" });
  }),
};
