import { Cpu, Gpr } from "../../cpu/layout.ts";
import { RFLAGS } from "../../cpu/state.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { constant, imm8, range, sse, zeroExtended } from "./define.ts";
import { swizzle } from "./permute.ts";

/**
 * SSE4.2's string comparisons (SDM Vol. 1 ch. 12.2, Vol. 2B sec. 4.1). Each compares elements of two vectors in
 * one of four ways; what comes out is a bit for each element of the second, as i32 masks here.
 *
 * Immediate: 0 words, 1 signed, 3:2 aggregation, 4 negate, 5 negate valid elements only, 6 output.
 */
const IMM = {
  WORDS: 1,
  SIGNED: 2,
  AGGREGATION_SHIFT: 2,
  NEGATE: 0x10,
  VALID_ONLY: 0x20,
  OUTPUT: 0x40,
} as const;

interface Elements {
  readonly shape: "i8x16" | "i16x8";
  readonly count: 8 | 16;
  /** Element `index` of `x` in every element. */
  broadcast(f: Builder, x: V128, index: I32): V128;
}

const BYTES: Elements = {
  shape: "i8x16",
  count: 16,
  broadcast: (f, x, index) => swizzle(f, x, f.op("i8x16.splat", [index])),
};
const WORDS: Elements = {
  shape: "i16x8",
  count: 8,
  broadcast: (f, x, index) => swizzle(f, x, f.op("i16x8.splat", [index.mul(0x202).add(0x100)])),
};

/** The bits of valid elements: 1 for each index below `length`. */
const valid = (f: Builder, length: I32): I32 => f.i32(1).shl(length).sub(1);

/** IntRes2: the aggregated comparisons of `b`'s elements with `a`, after polarity. */
const compareOf = (e: Elements) =>
  fn(
    `compareStrings_${e.shape}`,
    ["v128", "v128", "i32", "i32", "i32"],
    "i32",
    (f, a, b, aLength, bLength, imm) => {
      const all = (1 << e.count) - 1;
      const bValid = f.let(valid(f, bLength));
      const mask = (x: V128): I32 => f.op<I32>(`${e.shape}.bitmask`, [x]);
      const equals = (x: V128, y: V128): V128 => f.op(`${e.shape}.eq`, [x, y]);
      const result = f.variable("i32", f.i32(0));
      /** Runs `body` for indices 0, `step`, … while `index + step <= aLength`. */
      const each = (step: number, body: (index: I32) => void): void => {
        const index = f.variable("i32", f.i32(0));
        f.loop((again) => {
          const at = index.get();
          f.if(at.add(step).gtU(aLength), () => f.break(again));
          body(at);
          index.set(at.add(step));
        });
      };

      const equalAny = (): void => {
        const found = f.variable("v128", f.v128(0n));
        each(1, (i) => found.set(f.op("v128.or", [found.get(), equals(b, e.broadcast(f, a, i))])));
        result.set(mask(found.get()).and(bValid));
      };
      const ranges = (): void => {
        // Unsigned order is signed order with the top bits flipped.
        const flip = imm
          .and(IMM.SIGNED)
          .select(f.v128(0n), f.op(`${e.shape}.splat`, [f.i32(1 << (128 / e.count - 1))]));
        const bounds = f.let(f.op("v128.xor", [a, flip]));
        const values = f.let(f.op("v128.xor", [b, flip]));
        const found = f.variable("v128", f.v128(0n));
        each(2, (i) => {
          const above = f.op(`${e.shape}.ge_s`, [values, e.broadcast(f, bounds, i)]);
          const below = f.op(`${e.shape}.le_s`, [values, e.broadcast(f, bounds, i.add(1))]);
          found.set(f.op("v128.or", [found.get(), f.op("v128.and", [above, below])]));
        });
        result.set(mask(found.get()).and(bValid));
      };
      const equalEach = (): void => {
        // Both past their ends: equal.
        const aValid = valid(f, aLength);
        const neither = aValid.or(bValid).xor(all);
        result.set(mask(equals(a, b)).and(aValid).and(bValid).or(neither));
      };
      const equalOrdered = (): void => {
        // Bit i: `a` is found at `b`'s element i. What lies past the end of the register counts as equal.
        result.set(f.i32(all));
        each(1, (i) => {
          const here = mask(equals(b, e.broadcast(f, a, i))).and(bValid);
          const past = f.i32(all).shrU(i).xor(all);
          result.set(result.get().and(here.shrU(i).or(past)));
        });
      };
      f.switch(imm.shrU(IMM.AGGREGATION_SHIFT).and(3), [equalAny, ranges, equalEach], equalOrdered);
      const negated = imm.and(IMM.VALID_ONLY).select(bValid, f.i32(all));
      f.return(result.get().xor(imm.and(IMM.NEGATE).select(negated, f.i32(0))));
    },
  );

const compareBytes = compareOf(BYTES);
const compareWords = compareOf(WORDS);

/** Index of the first zero element, or their count. */
const implicitLength = (c: Builder, x: V128, e: Elements): I32 =>
  c
    .op<I32>(`${e.shape}.bitmask`, [c.op(`${e.shape}.eq`, [x, c.v128(0n)])])
    .or(1 << e.count)
    .ctz();

/** Absolute value of a register, at most the count of elements. */
function explicitLength(c: Insn, register: number, e: Elements): I32 {
  const value = c.let(c.readGpr(register, c.opsize).signExtend(c.opsize));
  const absolute: I64 = c.let(value.ltS(0).select(c.i64(0).sub(value), value));
  return absolute.gtU(e.count).select(c.i32(e.count), absolute.wrap());
}

function compare(c: Insn, explicit: boolean, output: "index" | "mask"): void {
  const b = c.readVector(1, "never");
  const a = c.readVector(0);
  const imm = imm8(c);
  const with_ = (e: Elements): void => {
    const aLength = c.let(explicit ? explicitLength(c, Gpr.RAX, e) : implicitLength(c, a, e));
    const bLength = c.let(explicit ? explicitLength(c, Gpr.RDX, e) : implicitLength(c, b, e));
    const found = c.call<I32>(e === WORDS ? compareWords : compareBytes, a, b, aLength, bLength, imm);
    const select = imm.and(IMM.OUTPUT);
    if (output === "index") {
      const first = found.or(1 << e.count).ctz();
      const last = found.eqz().select(c.i32(e.count), c.i32(31).sub(found.clz()));
      c.writeGpr(Gpr.RCX, 32, select.select(last, first).u64());
    } else {
      const mask = select.select(expanded(c, found, e), zeroExtended(c, found.u64()));
      c.store("v128.store", c.cpu, mask, Cpu.XMM);
      if (c.isVex) c.store("v128.store", c.cpu, c.v128(0n), Cpu.YMM_HIGH);
    }
    const flag = (cond: I32, bit: number): I32 => cond.mul(bit);
    c.explicitFlags(
      flag(found.ne(0), RFLAGS.CF)
        .or(flag(bLength.ltU(e.count), RFLAGS.ZF))
        .or(flag(aLength.ltU(e.count), RFLAGS.SF))
        .or(flag(found.and(1), RFLAGS.OF)),
    );
  };
  c.if(
    imm.and(IMM.WORDS),
    () => with_(WORDS),
    () => with_(BYTES),
  );
}

/** Each bit as a whole element of ones. */
function expanded(c: Builder, bits: I32, e: Elements): V128 {
  const copies = swizzle(
    c,
    c.op("i32x4.splat", [bits]),
    constant(c, 8, e === BYTES ? range(16).map((i) => i >> 3) : range(16).map((i) => (i & 1 ? 16 : 0))),
  );
  const select = constant(
    c,
    e === BYTES ? 8 : 16,
    range(e.count).map((i) => 1 << (i & 7)),
  );
  return c.op(`${e.shape}.eq`, [c.op("v128.and", [copies, select]), select]);
}

for (const [name, opcode, explicit, output] of [
  ["PCMPESTRM", "60", true, "mask"],
  ["PCMPESTRI", "61", true, "index"],
  ["PCMPISTRM", "62", false, "mask"],
  ["PCMPISTRI", "63", false, "index"],
] as const)
  sse(name, `66 0F 3A ${opcode}`, "Vx,Wx,Ib", "sse4.2", (c) => compare(c, explicit, output), {
    flags: "set",
    // REX.W makes the explicit lengths 64 bits wide.
    ...(explicit ? { sizes: [32, 64] } : {}),
  });
