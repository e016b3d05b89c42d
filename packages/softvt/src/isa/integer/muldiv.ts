import { Cpu, Gpr } from "../../cpu/layout.ts";
import { get64, set64, Vector } from "../../cpu/state.ts";
import { type Builder, fn, type I32, type I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Multiplication and division (SDM Vol. 1 sec. 7.3.2.3). */

const LOW = 0xffff_ffffn;

/** Upper 64 bits of the unsigned product. */
export function multiplyHigh(f: Builder, a: I64, b: I64): I64 {
  const a0 = a.and(LOW);
  const a1 = a.shrU(32);
  const b0 = b.and(LOW);
  const b1 = b.shrU(32);
  const low = a0.mul(b0);
  const middle = f.let(a1.mul(b0).add(low.shrU(32)));
  const other = f.let(a0.mul(b1).add(middle.and(LOW)));
  return a1.mul(b1).add(middle.shrU(32)).add(other.shrU(32));
}

/** Upper 64 bits of the signed product. */
export const multiplyHighSigned = (f: Builder, a: I64, b: I64): I64 =>
  multiplyHigh(f, a, b).sub(a.shrS(63).and(b)).sub(b.shrS(63).and(a));

/** CF and OF set where the product does not fit the low half; ZF, SF, PF by the low half (undefined). */
function productFlags(c: Insn, bits: number, low: I64, overflow: I32): void {
  c.mixedFlags(bits, low, overflow.mul(0x801));
}

function wide(c: Insn, signed: boolean): void {
  const bits = c.bits(0);
  const b = signed ? c.readSigned(0) : c.read(0);
  const raw = c.readGpr(Gpr.RAX, bits);
  const a = signed ? raw.signExtend(bits) : raw;
  if (bits === 64) {
    const low = c.let(a.mul(b));
    const high = c.let(signed ? multiplyHighSigned(c, a, b) : multiplyHigh(c, a, b));
    c.writeGpr(Gpr.RAX, 64, low);
    c.writeGpr(Gpr.RDX, 64, high);
    productFlags(c, 64, low, signed ? high.ne(low.shrS(63)) : high.ne(0));
    return;
  }
  const product = c.let(a.mul(b));
  if (bits === 8) c.writeGpr(Gpr.RAX, 16, product);
  else {
    c.writeGpr(Gpr.RAX, bits, product);
    c.writeGpr(Gpr.RDX, bits, product.shrU(bits));
  }
  const overflow = signed
    ? product.signExtend(bits).ne(product.signExtend(bits * 2))
    : product.shrU(bits).ne(0);
  productFlags(c, bits, product, overflow);
}

for (const operand of ["Eb", "Ev"] as const) {
  const opcode = operand === "Eb" ? "F6" : "F7";
  insn("MUL", `${opcode} /4`, operand, { flags: "set" }, (c) => wide(c, false));
  insn("IMUL", `${opcode} /5`, operand, { flags: "set" }, (c) => wide(c, true));
  insn("DIV", `${opcode} /6`, operand, {}, (c) => divide(c, false));
  insn("IDIV", `${opcode} /7`, operand, {}, (c) => divide(c, true));
}

const imul = (c: Insn, a: I64, b: I64): void => {
  const bits = c.bits(0);
  const product = c.let(a.mul(b));
  c.write(0, product);
  if (c.variant.noFlags) return;
  const overflow =
    bits === 64 ? multiplyHighSigned(c, a, b).ne(product.shrS(63)) : product.signExtend(bits).ne(product);
  productFlags(c, bits, product, overflow);
};
insn("IMUL", "0F AF", "Gv+,Ev", { flags: "set" }, (c) => imul(c, c.readSigned(0), c.readSigned(1)));
insn("IMUL", "69", "Gv=,Ev,Iz", { flags: "set" }, (c) => imul(c, c.readSigned(1), c.readSigned(2)));
insn("IMUL", "6B", "Gv=,Ev,Ib", { flags: "set" }, (c) => imul(c, c.readSigned(1), c.readSigned(2)));

insn("MULX", "F2 0F 38 F6", "Gy=,By=,Ey", { vex: { l: 0 }, feature: "bmi2", flags: "none" }, (c) => {
  const bits = c.bits(0);
  const a = c.readGpr(Gpr.RDX, bits);
  const b = c.read(2);
  const low = c.let(a.mul(b));
  const high = bits === 64 ? multiplyHigh(c, a, b) : low.shrU(32);
  const kept = c.let(high);
  c.write(1, low);
  c.write(0, kept);
});

/**
 * 128 by 64 bits, unsigned, for a high half below the divisor: the quotient, with the remainder in
 * `Cpu.TMP`. Long division, a bit at a time; a high half of 0 is one instruction.
 */
const divide128 = fn("divide128", ["i64", "i64", "i64"], "i64", (f, high, low, divisor) => {
  f.if(high.eqz(), () => {
    set64(f, Cpu.TMP, low.remU(divisor));
    f.return(low.divU(divisor));
  });
  const rest = f.variable("i64", high);
  const quotient = f.variable("i64", low);
  const bits = f.variable("i32", f.i32(64));
  f.loop((loop) => {
    const carry = rest.get().shrU(63);
    const shifted = rest.get().shl(1).or(quotient.get().shrU(63));
    const fits = carry.wrap().or(shifted.geU(divisor));
    rest.set(fits.select(shifted.sub(divisor), shifted));
    quotient.set(quotient.get().shl(1).or(fits.u64()));
    bits.set(bits.get().sub(1));
    f.if(bits.get().eqz(), () => f.break(loop));
  });
  set64(f, Cpu.TMP, rest.get());
  f.return(quotient.get());
});

function divide(c: Insn, signed: boolean): void {
  const bits = c.bits(0);
  const divisor = signed ? c.readSigned(0) : c.read(0);
  c.faultIf(divisor.eqz(), Vector.DE);
  const store = (quotient: I64, remainder: I64): void => {
    if (bits === 8) c.writeGpr(Gpr.RAX, 16, quotient.and(0xff).or(remainder.and(0xff).shl(8)));
    else {
      c.writeGpr(Gpr.RAX, bits, quotient);
      c.writeGpr(Gpr.RDX, bits, remainder);
    }
  };
  if (bits === 64) {
    const low = c.readGpr(Gpr.RAX, 64);
    const high = c.readGpr(Gpr.RDX, 64);
    if (!signed) {
      c.faultIf(high.geU(divisor), Vector.DE);
      const quotient = c.call<I64>(divide128, high, low, divisor);
      store(quotient, get64(c, Cpu.TMP));
      return;
    }
    const negative = high.ltS(0);
    const absLow = c.let(negative.select(c.i64(0).sub(low), low));
    const absHigh = c.let(negative.select(high.not().add(low.eqz().u64()), high));
    const absDivisor = c.let(divisor.ltS(0).select(c.i64(0).sub(divisor), divisor));
    c.faultIf(absHigh.geU(absDivisor), Vector.DE);
    const magnitude = c.call<I64>(divide128, absHigh, absLow, absDivisor);
    const minus = c.let(negative.xor(divisor.ltS(0)));
    const limit = minus.select(c.i64(1n << 63n), c.i64((1n << 63n) - 1n));
    c.faultIf(magnitude.gtU(limit), Vector.DE);
    const rest = get64(c, Cpu.TMP);
    store(minus.select(c.i64(0).sub(magnitude), magnitude), negative.select(c.i64(0).sub(rest), rest));
    return;
  }
  const dividend = c.let(
    bits === 8
      ? c.readGpr(Gpr.RAX, 16).signExtend(signed ? 16 : 64)
      : c
          .readGpr(Gpr.RDX, bits)
          .shl(bits)
          .or(c.readGpr(Gpr.RAX, bits))
          .signExtend(signed ? bits * 2 : 64),
  );
  // The only quotient that 64 bits cannot hold; it does not fit 32 either.
  if (signed && bits === 32) c.faultIf(dividend.eq(1n << 63n).and(divisor.eq(-1)), Vector.DE);
  const quotient = c.let(signed ? dividend.divS(divisor) : dividend.divU(divisor));
  const fits = signed ? quotient.signExtend(bits).eq(quotient) : quotient.shrU(bits).eqz();
  c.faultIf(fits.eqz(), Vector.DE);
  store(quotient, signed ? dividend.remS(divisor) : dividend.remU(divisor));
}
