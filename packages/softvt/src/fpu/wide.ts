import type { Builder, I32, I64, V128 } from "../ir/builder.ts";

/** A 128-bit number in two halves. */
export interface Wide {
  readonly hi: I64;
  readonly lo: I64;
}

const LOW32 = 0xffff_ffffn;

/** The product of two 64-bit numbers, whole. */
export function multiplyWide(f: Builder, a: I64, b: I64): Wide {
  const [al, ah, bl, bh] = [a.and(LOW32), a.shrU(32), b.and(LOW32), b.shrU(32)];
  const cross1 = f.let(al.mul(bh));
  const cross2 = f.let(ah.mul(bl));
  const middle = al.mul(bl).shrU(32).add(cross1.and(LOW32)).add(cross2.and(LOW32));
  const hi = ah.mul(bh).add(cross1.shrU(32)).add(cross2.shrU(32)).add(middle.shrU(32));
  return { hi: f.let(hi), lo: f.let(a.mul(b)) };
}

/** Shifts left by 0 to 63. */
export function shiftLeftWide(a: Wide, count: I64): Wide {
  const across = a.lo.shrU(1).shrU(count.xor(63));
  return { hi: a.hi.shl(count).or(across), lo: a.lo.shl(count) };
}

/** 1 where `a` is not zero, as a 64-bit number: what is left of bits shifted out. */
export const sticky = (a: I64): I64 => a.ne(0).u64();

/** Shifts `a` right by any `count` ≥ 0; in the lower half the last bit stays 1 where bits were lost. */
export function shiftRightSticky(f: Builder, a: Wide, count: I32): Wide {
  const hi = f.variable("i64", a.hi);
  const lo = f.variable("i64", a.lo);
  const n = count.u64();
  f.if(
    count.ltU(64),
    () => {
      f.if(count.ne(0), () => {
        const lost = sticky(a.lo.shl(1).shl(n.xor(63)));
        lo.set(a.hi.shl(1).shl(n.xor(63)).or(a.lo.shrU(n)).or(lost));
        hi.set(a.hi.shrU(n));
      });
    },
    () => {
      hi.set(f.i64(0));
      f.if(
        count.eq(64),
        () => lo.set(a.hi.or(sticky(a.lo))),
        () => {
          const kept = count.ltU(128).select(a.hi.shrU(n), f.i64(0));
          const all = a.hi.shl(1).shl(n.xor(63)).or(a.lo);
          lo.set(kept.or(sticky(count.ltU(128).select(all, a.hi.or(a.lo)))));
        },
      );
    },
  );
  return { hi: hi.get(), lo: lo.get() };
}

/** 128 bits as one value. */
export const pair = (f: Builder, lo: I64, hi: I64): V128 =>
  f.op("i64x2.replace_lane", [f.op("i64x2.splat", [lo]), hi], [1]);

export const lowHalf = (f: Builder, v: V128): I64 => f.op<I64>("i64x2.extract_lane", [v], [0]);
export const highHalf = (f: Builder, v: V128): I64 => f.op<I64>("i64x2.extract_lane", [v], [1]);
