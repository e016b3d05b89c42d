import { Cpu, Gpr } from "../../cpu/layout.ts";
import { Access, probe, wrapLinear, writeSlow } from "../../cpu/memory.ts";
import { get32 } from "../../cpu/state.ts";
import { fn, type I32, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { enterMmx, mmx, sse, zeroExtended } from "./define.ts";
import { bytesDown } from "./permute.ts";

/** Stores to the string destination of the bytes that a mask selects (SDM Vol. 2B, MASKMOVQ). */

/** Stores those bytes of `value` at `va` that have a bit in `mask`. Faults before the first: test EVENT. */
const maskedStore = fn("maskedStore", ["i64", "v128", "i32"], undefined, (f, va, value, mask) => {
  f.if(mask.eqz(), () => f.return());
  const tlb = get32(f, Cpu.TLB);
  const write = f.i32(Access.WRITE);
  for (const index of [mask.ctz(), f.i32(31).sub(mask.clz())])
    f.if(f.call<I32>(probe, wrapLinear(f, va.add(index.u64())), write, tlb).eqz(), () => f.return());
  const rest = f.variable("i32", mask);
  f.loop((again) => {
    const bits = rest.get();
    const index = f.let(bits.ctz());
    const byte = f.op<I32>("i8x16.extract_lane_u", [bytesDown(f, value, index)], [0]);
    f.call(writeSlow[8]!, wrapLinear(f, va.add(index.u64())), byte.u64(), write, tlb);
    f.if(get32(f, Cpu.EVENT), () => f.return());
    rest.set(bits.and(bits.sub(1)));
    f.if(rest.get(), () => f.continue(again));
    f.return();
  });
});

/** Segment and address size are where string instructions have them too. */
function storeMasked(c: Insn, value: V128, mask: V128, bits: number): void {
  const d = c.field("d");
  const size = d.shrU(5).and(3);
  const wide = size.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1));
  const offset = c.readGpr(Gpr.RDI, 64).and(size.eqz().select(c.i64(0xffff), wide));
  const va = c.segmented(d.shrU(2).and(7), offset, bits, true);
  c.call(maskedStore, va, value, c.op<I32>("i8x16.bitmask", [mask]));
  c.leaveOnEvent();
}

sse("MASKMOVDQU", "66 0F F7", "Vx,Ux", "sse2", (c) => storeMasked(c, c.readVector(0), c.readVector(1), 128));
mmx("MASKMOVQ", "NP 0F F7", "Pq,Nq", "sse", (c) => {
  storeMasked(c, zeroExtended(c, c.read(0)), zeroExtended(c, c.read(1)), 64);
  enterMmx(c);
});
