import { effectiveAddress } from "../../cpu/address.ts";
import { arithmeticFlags, setCarryKeepZero } from "../../cpu/flags.ts";
import { Seg } from "../../cpu/layout.ts";
import { modifyMemory, readMemory } from "../../cpu/memory.ts";
import { EA_SEGMENT_SHIFT } from "../../cpu/uop.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Bit instructions (SDM Vol. 1 sec. 7.3.7), BMI1, BMI2, POPCNT, LZCNT, TZCNT. */

const ZF = 0x40;

const BIT_OPS: Record<string, ((old: I64, mask: I64) => I64) | undefined> = {
  BT: undefined,
  BTS: (old, mask) => old.or(mask),
  BTR: (old, mask) => old.and(mask.not()),
  BTC: (old, mask) => old.xor(mask),
};

/** Sets CF to bit `index` of `value`, and leaves ZF. */
function carryFromBit(c: Insn, value: I64, index: I64): void {
  setCarryKeepZero(c, value.shrU(index).wrap().and(1));
}

Object.entries(BIT_OPS).forEach(([name, change], i) => {
  const access = change === undefined ? "" : "+";
  const options = change === undefined ? {} : { lock: true };
  // A register index reaches beyond the operand: it selects the word in memory as well as the bit.
  insn(name, `0F ${(0xa3 + 8 * i).toString(16)}`, `Ev${access},Gv`, options, (c) => {
    const bits = c.bits(0);
    const raw = c.read(1);
    const index = c.let(raw.and(bits - 1));
    if (!c.isMemory(0)) {
      const old = c.read(0);
      if (change !== undefined) c.write(0, change(old, c.i64(1).shl(index)));
      carryFromBit(c, old, index);
      return;
    }
    const word = raw
      .signExtend(bits)
      .shrS(bits === 64 ? 6 : bits === 32 ? 5 : 4)
      .mul(bits / 8);
    const size = c.field("d").shrU(5).and(3);
    const mask = size.eqz().select(c.i64(0xffff), size.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1)));
    const offset = effectiveAddress(c, c.variant.ea).add(word).and(mask);
    const seg = c.field("d").shrU(EA_SEGMENT_SHIFT).and(7);
    const va = c.segmented(seg, offset, bits, change !== undefined);
    const options = { onEvent: () => c.leave(), stack: seg.eq(Seg.SS) };
    let old: I64 = raw;
    if (change === undefined) old = readMemory(c, bits, va, options);
    else
      modifyMemory(
        c,
        bits,
        va,
        (value) => {
          old = value;
          return change(value, c.i64(1).shl(index));
        },
        options,
      );
    carryFromBit(c, old, index);
  });
  insn(name, `0F BA /${4 + i}`, `Ev${access},Ib`, options, (c) => {
    const index = c.let(c.read(1).and(c.bits(0) - 1));
    if (change === undefined) {
      carryFromBit(c, c.read(0), index);
      return;
    }
    let old: I64 = index;
    c.modify(0, (value) => {
      old = value;
      return change(value, c.i64(1).shl(index));
    });
    carryFromBit(c, old, index);
  });
});

// BSF and BSR leave the destination alone where the source is 0 (documented by AMD, done by all); a 32-bit
// destination then keeps its upper half too.
const scan = (c: Insn, position: (x: I64) => I64): void => {
  const x = c.read(1);
  const flags = c.call<I32>(arithmeticFlags).and(~ZF);
  c.if(
    x.eqz(),
    () => c.explicitFlags(flags.or(ZF)),
    () => {
      c.write(0, position(x));
      c.explicitFlags(flags);
    },
  );
};
insn("BSF", "0F BC", "Gv+,Ev", {}, (c) => scan(c, (x) => x.ctz()));
insn("BSR", "0F BD", "Gv+,Ev", {}, (c) => scan(c, (x) => c.i64(63).sub(x.clz())));

const counted = (c: Insn, count: (x: I64, bits: number) => I64): void => {
  const bits = c.bits(0);
  const x = c.read(1);
  const n = c.let(count(x, bits));
  c.write(0, n);
  c.explicitFlags(n.eq(bits).or(n.eqz().mul(ZF)));
};
insn("TZCNT", "F3 0F BC", "Gv=,Ev", { feature: "bmi1" }, (c) =>
  counted(c, (x, bits) => (bits === 64 ? x.ctz() : x.or(1n << BigInt(bits)).ctz())),
);
insn("LZCNT", "F3 0F BD", "Gv=,Ev", { feature: "lzcnt" }, (c) =>
  counted(c, (x, bits) => x.clz().sub(64 - bits)),
);
insn("POPCNT", "F3 0F B8", "Gv=,Ev", { feature: "popcnt" }, (c) => {
  const x = c.read(1);
  c.write(0, x.popcnt());
  c.explicitFlags(x.eqz().mul(ZF));
});

const vex = { vex: { l: 0 }, feature: "bmi1" } as const;
/** Logic flags, with CF as given. */
function bmiFlags(c: Insn, result: I64, carry: I32): void {
  c.mixedFlags(c.bits(0), result, carry);
}

insn("ANDN", "NP 0F 38 F2", "Gy=,By,Ey", vex, (c) => {
  const result = c.let(c.read(1).not().zeroExtend(c.bits(0)).and(c.read(2)));
  c.write(0, result);
  bmiFlags(c, result, c.i32(0));
});
insn("BLSR", "NP 0F 38 F3 /1", "By=,Ey", vex, (c) => {
  const x = c.read(1);
  const result = c.let(x.and(x.sub(1)));
  c.write(0, result);
  bmiFlags(c, result, x.eqz());
});
insn("BLSMSK", "NP 0F 38 F3 /2", "By=,Ey", vex, (c) => {
  const x = c.read(1);
  const result = c.let(x.xor(x.sub(1)).zeroExtend(c.bits(0)));
  c.write(0, result);
  bmiFlags(c, result, x.eqz());
});
insn("BLSI", "NP 0F 38 F3 /3", "By=,Ey", vex, (c) => {
  const x = c.read(1);
  const result = c.let(x.and(c.i64(0).sub(x)));
  c.write(0, result);
  bmiFlags(c, result, x.ne(0));
});
insn("BEXTR", "NP 0F 38 F7", "Gy=,Ey,By", vex, (c) => {
  const control = c.read(2);
  const start = control.and(0xff);
  const length = control.shrU(8).and(0xff);
  const shifted = start.geU(64).select(c.i64(0), c.read(1).shrU(start));
  const result = c.let(length.geU(64).select(shifted, shifted.and(c.i64(1).shl(length).sub(1))));
  c.write(0, result);
  c.explicitFlags(result.eqz().mul(ZF));
});

const bmi2 = { vex: { l: 0 }, feature: "bmi2" } as const;
insn("BZHI", "NP 0F 38 F5", "Gy=,Ey,By", bmi2, (c) => {
  const bits = c.bits(0);
  const x = c.read(1);
  const n = c.let(c.read(2).and(0xff));
  const over = n.geU(bits);
  const result = c.let(over.select(x, x.and(c.i64(1).shl(n).sub(1))));
  c.write(0, result);
  bmiFlags(c, result, over);
});

/** PDEP and PEXT walk the mask's set bits. */
function scatter(c: Insn, deposit: boolean): void {
  const source = c.read(1);
  const mask = c.variable("i64", c.read(2));
  const result = c.variable("i64", c.i64(0));
  const bit = c.variable("i64", c.i64(0));
  c.loop((loop) => {
    const rest = mask.get();
    c.if(rest.eqz(), () => c.break(loop));
    const at = rest.ctz();
    const n = bit.get();
    const moved = deposit ? source.shrU(n).and(1).shl(at) : source.shrU(at).and(1).shl(n);
    result.set(result.get().or(moved));
    mask.set(rest.and(rest.sub(1)));
    bit.set(n.add(1));
  });
  c.write(0, result.get());
}
insn("PDEP", "F2 0F 38 F5", "Gy=,By,Ey", bmi2, (c) => scatter(c, true));
insn("PEXT", "F3 0F 38 F5", "Gy=,By,Ey", bmi2, (c) => scatter(c, false));
