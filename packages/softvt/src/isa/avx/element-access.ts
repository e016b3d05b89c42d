import { segmentAddress } from "../../cpu/address.ts";
import { Cpu } from "../../cpu/layout.ts";
import { Access, probe, readSlow, wrapLinear, writeSlow } from "../../cpu/memory.ts";
import { get32 } from "../../cpu/state.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";

/** Memory operands that are accessed an element at a time. */

/** The operand's segment, as `segmentAddress` takes it. */
export const segmentOf = (c: Insn): I32 => c.field("d").shrU(2).and(7);

/** How the operand is accessed, as `probe` takes it: where it goes by SS, what would be #GP is #SS. */
export const accessOf = (c: Insn, access: number): I32 => c.bySs().shl(3).or(access);

type Bits = 32 | 64;
const byBits = (make: (bits: Bits) => Fn): Readonly<Record<Bits, Fn>> => ({ 32: make(32), 64: make(64) });

/** (segment, offset, access) → an element of 32 or 64 bits. Test EVENT. */
export const readElement = byBits((bits) =>
  fn(`readElement${bits}`, ["i32", "i64", "i32"], "i64", (f, seg, offset, access) => {
    const va = f.call<I64>(segmentAddress, seg, offset, f.i32(bits / 8), f.i32(0));
    f.if(get32(f, Cpu.EVENT), () => f.return(f.i64(0)));
    f.return(f.call<I64>(readSlow[bits]!, va, access, get32(f, Cpu.TLB)));
  }),
);

/** Runs `body` with the place, in bytes from the vector's start, of each element that has a bit in `elements`. */
function each(f: Builder, elements: I32, bits: Bits, body: (at: I64) => void): void {
  const rest = f.variable("i32", elements);
  f.loop((again) => {
    const left = rest.get();
    f.if(left.eqz(), () => f.break(again));
    body(
      f.let(
        left
          .ctz()
          .mul(bits / 8)
          .u64(),
      ),
    );
    rest.set(left.and(left.sub(1)));
  });
}

/** Returns where an element may not be accessed: EVENT says why. */
function checkElements(
  f: Builder,
  elements: I32,
  bits: Bits,
  { seg, offset, access }: { readonly seg: I32; readonly offset: I64; readonly access: I32 },
): void {
  const tlb = f.let(get32(f, Cpu.TLB));
  const returnOnEvent = (): void => f.if(get32(f, Cpu.EVENT), () => f.return());
  each(f, elements, bits, (at) => {
    const va = f.call<I64>(segmentAddress, seg, offset.add(at), f.i32(bits / 8), access.and(1));
    returnOnEvent();
    f.call(probe, va, access, tlb);
    returnOnEvent();
    const last = f.let(wrapLinear(f, va.add(bits / 8 - 1)).and(~0xfffn));
    f.if(last.ne(va.and(~0xfffn)), () => f.call(probe, last, access, tlb));
    returnOnEvent();
  });
}

/** (segment, offset, access, elements): those elements to `Cpu.STAGE`, zeros in the place of the others. Test EVENT. */
export const readElements = byBits((bits) =>
  fn(`readElements${bits}`, ["i32", "i64", "i32", "i32"], undefined, (f, seg, offset, access, elements) => {
    checkElements(f, elements, bits, { seg, offset, access });
    f.fill(f.cpu.add(Cpu.STAGE), f.i32(0), f.i32(32));
    each(f, elements, bits, (at) => {
      const value = f.call<I64>(readElement[bits], seg, offset.add(at), access);
      f.if(get32(f, Cpu.EVENT), () => f.return());
      f.store(bits === 32 ? "i64.store32" : "i64.store", f.cpu.add(at.wrap()), value, Cpu.STAGE);
    });
  }),
);

/** (segment, offset, access, elements): stores those elements of `Cpu.STAGE`, all or none of them. Test EVENT. */
export const writeElements = byBits((bits) =>
  fn(`writeElements${bits}`, ["i32", "i64", "i32", "i32"], undefined, (f, seg, offset, access, elements) => {
    checkElements(f, elements, bits, { seg, offset, access });
    each(f, elements, bits, (at) => {
      const va = f.call<I64>(segmentAddress, seg, offset.add(at), f.i32(bits / 8), f.i32(Access.WRITE));
      const value = f.load(bits === 32 ? "i64.load32_u" : "i64.load", f.cpu.add(at.wrap()), Cpu.STAGE);
      f.call(writeSlow[bits]!, va, value, access, get32(f, Cpu.TLB));
      f.if(get32(f, Cpu.EVENT), () => f.return());
    });
  }),
);
