import { arithmeticFlags, carryFlag } from "../../cpu/flags.ts";
import { Cpu } from "../../cpu/layout.ts";
import { get64, set64 } from "../../cpu/state.ts";
import { fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Shifts and rotates (SDM Vol. 1 sec. 7.3.6). A masked count of 0 leaves the flags alone. */

const CF = 1;
const OF = 0x800;

/** Bit 63 of `x` shifted to OF's place. */
const ofBit = (x: I64): I32 => x.shrU(63).wrap().shl(11);

interface Shifted {
  readonly result: I64;
  /** CF as bit 0, and OF at its place. */
  readonly carryOverflow: () => I32;
}

type Shift = (c: Insn, bits: number, a: I64, count: I64) => Shifted;

const SHIFTS: Record<string, { digit: number; rotate: boolean; shift: Shift }> = {
  ROL: {
    digit: 0,
    rotate: true,
    shift: (c, bits, a, count) => {
      const result = c.let(rotate(bits, a, count));
      return {
        result,
        carryOverflow: () => {
          const carry = result.wrap().and(1);
          return carry.or(
            result
              .shrU(bits - 1)
              .wrap()
              .and(1)
              .xor(carry)
              .shl(11),
          );
        },
      };
    },
  },
  ROR: {
    digit: 1,
    rotate: true,
    shift: (c, bits, a, count) => {
      const result = c.let(
        rotate(
          bits,
          a,
          c
            .i64(bits)
            .sub(count.and(bits - 1))
            .and(bits - 1),
        ),
      );
      return {
        result,
        carryOverflow: () => {
          const top = result
            .shrU(bits - 1)
            .wrap()
            .and(1);
          return top.or(
            top
              .xor(
                result
                  .shrU(bits - 2)
                  .wrap()
                  .and(1),
              )
              .shl(11),
          );
        },
      };
    },
  },
  SHL: { digit: 4, rotate: false, shift: shiftLeft },
  SHR: {
    digit: 5,
    rotate: false,
    shift: (_c, bits, a, count) => ({
      result: a.shrU(count),
      carryOverflow: () =>
        a
          .shrU(count.sub(1))
          .wrap()
          .and(CF)
          .or(ofBit(a.shl(64 - bits))),
    }),
  },
  SAL: { digit: 6, rotate: false, shift: shiftLeft },
  SAR: {
    digit: 7,
    rotate: false,
    shift: (_c, bits, a, count) => {
      const signed = a.signExtend(bits);
      return { result: signed.shrS(count), carryOverflow: () => signed.shrS(count.sub(1)).wrap().and(CF) };
    },
  },
};

function rotate(bits: number, a: I64, count: I64): I64 {
  if (bits === 64) return a.rotl(count);
  if (bits === 32) return a.wrap().rotl(count.wrap()).u64();
  const n = count.and(bits - 1);
  return a.shl(n).or(a.shrU(n.sub(bits).mul(-1)));
}

function shiftLeft(_c: Insn, bits: number, a: I64, count: I64): Shifted {
  const result = a.shl(count);
  return {
    result,
    carryOverflow: () => {
      const carry =
        bits === 64 ? a.shrU(count.sub(1).xor(63)).wrap().and(1) : result.shrU(bits).wrap().and(1);
      return carry.or(
        result
          .shrU(bits - 1)
          .wrap()
          .and(1)
          .xor(carry)
          .shl(11),
      );
    },
  };
}

/** The count operand: masked to 5 bits, or 6 for 64-bit operands. */
const countOf = (c: Insn, bits: number, raw: I64): I64 => c.let(raw.and(bits === 64 ? 63 : 31));

for (const [name, { digit, rotate: isRotate, shift }] of Object.entries(SHIFTS)) {
  const describe = (c: Insn): void => {
    const bits = c.bits(0);
    const count = countOf(c, bits, c.read(1));
    let shifted: Shifted | undefined;
    c.modify(0, (old) => {
      shifted = shift(c, bits, old, count);
      return shifted.result;
    });
    if (c.variant.noFlags) return;
    const { result, carryOverflow } = shifted!;
    const store = (): void => {
      if (isRotate) c.carryOverflow(carryOverflow());
      else c.mixedFlags(bits, result, carryOverflow());
    };
    if (c.variant.spec.operandText.endsWith("1")) store();
    else c.if(count.ne(0), store);
  };
  const label = name === "SAL" ? "SHL" : name;
  for (const [opcode, operands] of [
    ["C0", "Eb+,Ib"],
    ["C1", "Ev+,Ib"],
    ["D0", "Eb+,1"],
    ["D1", "Ev+,1"],
    ["D2", "Eb+,CL"],
    ["D3", "Ev+,CL"],
  ] as const)
    insn(label, `${opcode} /${digit}`, operands, { flags: "partial" }, describe);
}

/** Rotates through carry, bit by bit: the result, with the carry out in `Cpu.TMP`. */
const rotateCarry = fn(
  "rotateCarry",
  ["i64", "i64", "i64", "i32", "i32"],
  "i64",
  (f, a, count, carryIn, bits, left) => {
    const value = f.variable("i64", a);
    const carry = f.variable("i64", carryIn);
    const rest = f.variable("i64", count);
    const top = bits.sub(1).u64();
    f.loop((loop) => {
      f.if(rest.get().eqz(), () => f.break(loop));
      const v = value.get();
      const cin = carry.get();
      f.if(
        left,
        () => {
          carry.set(v.shrU(top).and(1));
          value.set(v.shl(1).or(cin));
        },
        () => {
          carry.set(v.and(1));
          value.set(v.shrU(1).or(cin.shl(top)));
        },
      );
      rest.set(rest.get().sub(1));
    });
    set64(f, Cpu.TMP, carry.get());
    f.return(value.get());
  },
);

for (const [name, digit] of [
  ["RCL", 2],
  ["RCR", 3],
] as const) {
  const describe = (c: Insn): void => {
    const bits = c.bits(0);
    const masked = countOf(c, bits, c.read(1));
    const count = bits < 32 ? masked.remU(bits + 1) : masked;
    const carry = c.call<I32>(carryFlag).u64();
    const all = c.call<I32>(arithmeticFlags);
    let result: I64 = count;
    c.modify(0, (old) => {
      result = c.call<I64>(rotateCarry, old, count, carry, c.i32(bits), c.i32(name === "RCL" ? 1 : 0));
      return result;
    });
    c.if(masked.ne(0), () => {
      const out = get64(c, Cpu.TMP).wrap();
      const top = result
        .shrU(bits - 1)
        .wrap()
        .and(1);
      const overflow =
        name === "RCL"
          ? top.xor(out)
          : top.xor(
              result
                .shrU(bits - 2)
                .wrap()
                .and(1),
            );
      c.explicitFlags(
        all
          .and(~(CF | OF))
          .or(out)
          .or(overflow.shl(11)),
      );
    });
  };
  for (const [opcode, operands] of [
    ["C0", "Eb+,Ib"],
    ["C1", "Ev+,Ib"],
    ["D0", "Eb+,1"],
    ["D1", "Ev+,1"],
    ["D2", "Eb+,CL"],
    ["D3", "Ev+,CL"],
  ] as const)
    insn(name, `${opcode} /${digit}`, operands, {}, describe);
}

for (const [name, opcode] of [
  ["SHLD", 0xa4],
  ["SHRD", 0xac],
] as const) {
  const describe = (c: Insn): void => {
    const bits = c.bits(0);
    const count = countOf(c, bits, c.read(2));
    const filler = c.read(1);
    let before: I64 = filler;
    let result: I64 = filler;
    c.modify(0, (a) => {
      before = a;
      const rest = c.i64(bits).sub(count);
      // With a count of 0 the filler would be shifted by the full width, which the machine takes modulo 64.
      const fill =
        bits === 16
          ? // Counts above 16 are undefined: the operand is taken as dest:src:dest, as processors do.
            undefined
          : name === "SHLD"
            ? filler.shrU(rest)
            : filler.shl(rest);
      if (fill !== undefined)
        result = c.let(count.eqz().select(a, (name === "SHLD" ? a.shl(count) : a.shrU(count)).or(fill)));
      else {
        const wide =
          name === "SHLD" ? a.shl(32).or(filler.shl(16)).or(a) : a.shl(32).or(filler.shl(16)).or(a);
        result = c.let(name === "SHLD" ? wide.rotl(count).shrU(32) : wide.shrU(count));
      }
      return result;
    });
    if (c.variant.noFlags) return;
    c.if(count.ne(0), () => {
      const carry =
        name === "SHLD"
          ? bits === 16
            ? before.shl(32).or(filler.shl(16)).or(before).shrU(c.i64(48).sub(count)).wrap().and(1)
            : before.shrU(c.i64(bits).sub(count)).wrap().and(1)
          : bits === 16
            ? before.shl(32).or(filler.shl(16)).or(before).shrU(count.sub(1)).wrap().and(1)
            : before.shrU(count.sub(1)).wrap().and(1);
      const overflow = before
        .xor(result)
        .shrU(bits - 1)
        .wrap()
        .and(1)
        .shl(11);
      c.mixedFlags(bits, result, carry.or(overflow));
    });
  };
  insn(name, `0F ${opcode.toString(16)}`, "Ev+,Gv,Ib", { flags: "partial" }, describe);
  insn(name, `0F ${(opcode + 1).toString(16)}`, "Ev+,Gv,CL", { flags: "partial" }, describe);
}

for (const [name, prefix, shift] of [
  ["SHLX", "66", (a: I64, n: I64) => a.shl(n)],
  ["SHRX", "F2", (a: I64, n: I64) => a.shrU(n)],
  ["SARX", "F3", (a: I64, n: I64) => a.shrS(n)],
] as const)
  insn(name, `${prefix} 0F 38 F7`, "Gy=,Ey,By", { vex: { l: 0 }, feature: "bmi2", flags: "none" }, (c) => {
    const bits = c.bits(0);
    const a = name === "SARX" ? c.readSigned(1) : c.read(1);
    c.write(0, shift(a, countOf(c, bits, c.read(2))));
  });
insn("RORX", "F2 0F 3A F0", "Gy=,Ey,Ib", { vex: { l: 0 }, feature: "bmi2", flags: "none" }, (c) => {
  const bits = c.bits(0);
  const count = countOf(c, bits, c.read(2));
  c.write(0, rotate(bits, c.read(1), c.i64(bits).sub(count)));
});
