import { Cpu, Gpr } from "../../cpu/layout.ts";
import { Access, probe, wrapLinear, writeSlow } from "../../cpu/memory.ts";
import { get32 } from "../../cpu/state.ts";
import { fn, type I32, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { enterMmx } from "../sse-common.ts";
import { mmx, sse, zeroExtended } from "./define.ts";
import { bytesDown } from "./permute.ts";

/** Stores to the string destination of the bytes that a mask selects (SDM Vol. 2B, MASKMOVQ). */

/**
 * Stores those of the `bytes` bytes of `value` at `va` that have a bit in `mask`. The whole operand must be
 * writable, whatever the mask, before the first is stored (the manual leaves that open): test EVENT.
 */
const maskedStore = fn(
  "maskedStore",
  ["i64", "i32", "v128", "i32"],
  undefined,
  (f, va, bytes, value, mask) => {
    const tlb = get32(f, Cpu.TLB);
    const write = f.i32(Access.WRITE);
    f.if(f.call<I32>(probe, va, write, tlb).eqz(), () => f.return());
    const last = va.add(bytes.sub(1).u64());
    f.if(va.xor(last).and(0x1000).ne(0), () => {
      const second = wrapLinear(f, last.and(~0xfffn));
      f.if(f.call<I32>(probe, second, write, tlb).eqz(), () => f.return());
    });
    const rest = f.variable("i32", mask);
    f.loop((again) => {
      const bits = rest.get();
      f.if(bits.eqz(), () => f.return());
      const index = f.let(bits.ctz());
      const byte = f.op<I32>("i8x16.extract_lane_u", [bytesDown(f, value, index)], [0]);
      f.call(writeSlow[8]!, wrapLinear(f, va.add(index.u64())), byte.u64(), write, tlb);
      f.if(get32(f, Cpu.EVENT), () => f.return());
      rest.set(bits.and(bits.sub(1)));
      f.continue(again);
    });
  },
);

/** Segment and address size are where string instructions have them too. */
function storeMasked(c: Insn, value: V128, mask: V128, bits: number): void {
  const d = c.field("d");
  const size = d.shrU(5).and(3);
  const wide = size.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1));
  const offset = c.readGpr(Gpr.RDI, 64).and(size.eqz().select(c.i64(0xffff), wide));
  const va = c.segmented(d.shrU(2).and(7), offset, bits, true);
  c.call(maskedStore, va, c.i32(bits / 8), value, c.op<I32>("i8x16.bitmask", [mask]));
  c.leaveOnEvent();
}

sse("MASKMOVDQU", "66 0F F7", "Vx,Ux", "sse2", (c) => storeMasked(c, c.readVector(0), c.readVector(1), 128));
mmx("MASKMOVQ", "NP 0F F7", "Pq,Nq", "sse", (c) => {
  // The x87 state changes even if the store then faults, as on processors of the Zen family.
  enterMmx(c);
  storeMasked(c, zeroExtended(c, c.read(0)), zeroExtended(c, c.read(1)), 64);
});
