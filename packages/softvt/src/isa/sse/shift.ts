import type { Builder, I32, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { both, imm8, low64, mmx, sse, WIDE_INTEGER, writeMmx } from "./define.ts";
import { atMost, bytesDown, bytesUp } from "./permute.ts";

/**
 * Packed shifts (SDM Vol. 2B, PSLLW and on). WebAssembly takes counts modulo the lane, the processor does
 * not: a count of the lane's width or more gives zeros, or copies of the sign.
 */
type Shift = (c: Builder, x: V128, count: I32) => V128;

const logical =
  (op: string, bits: number): Shift =>
  (c, x, count) =>
    count.geU(bits).select(c.v128(0n), c.op(op, [x, count]));
const arithmetic =
  (op: string, bits: number): Shift =>
  (c, x, count) =>
    c.op(op, [x, atMost(count, bits - 1)]);

/** A 64-bit count as 32 bits that are as great as any shift makes a difference for. */
const countOf = (c: Insn): I32 => {
  const count = c.read(1);
  return count.gtU(255).select(c.i32(255), count.wrap());
};

/** The destination's parts, each shifted. */
const shiftHalves = (c: Insn, shift: (x: V128) => V128): void => c.writeHalves(0, c.readHalves(0).map(shift));

// Opcode for a count in a register, opcode and digit for an immediate.
for (const [name, byRegister, byImmediate, shift] of [
  ["PSRLW", "D1", "71 /2", logical("i16x8.shr_u", 16)],
  ["PSRLD", "D2", "72 /2", logical("i32x4.shr_u", 32)],
  ["PSRLQ", "D3", "73 /2", logical("i64x2.shr_u", 64)],
  ["PSRAW", "E1", "71 /4", arithmetic("i16x8.shr_s", 16)],
  ["PSRAD", "E2", "72 /4", arithmetic("i32x4.shr_s", 32)],
  ["PSLLW", "F1", "71 /6", logical("i16x8.shl", 16)],
  ["PSLLD", "F2", "72 /6", logical("i32x4.shl", 32)],
  ["PSLLQ", "F3", "73 /6", logical("i64x2.shl", 64)],
] as const) {
  sse(
    name,
    `66 0F ${byRegister}`,
    "Vx+,Wdq",
    "sse2",
    (c) => {
      const src = c.readVector(1);
      const wide = low64(c, src);
      const count = c.let(wide.gtU(255).select(c.i32(255), wide.wrap()));
      shiftHalves(c, (x) => shift(c, x, count));
    },
    { vexForms: WIDE_INTEGER },
  );
  sse(name, `66 0F ${byImmediate}`, "Ux+,Ib", "sse2", (c) => shiftHalves(c, (x) => shift(c, x, imm8(c))), {
    vexForms: WIDE_INTEGER,
  });
  mmx(name, `NP 0F ${byRegister}`, "Pq+,Qq", "mmx", (c) => {
    const count = countOf(c);
    writeMmx(c, "a", low64(c, shift(c, both(c, c.read(0)), count)));
  });
  mmx(name, `NP 0F ${byImmediate}`, "Nq+,Ib", "mmx", (c) =>
    writeMmx(c, "b", low64(c, shift(c, both(c, c.read(0)), imm8(c)))),
  );
}

for (const [name, digit, move] of [
  ["PSRLDQ", 3, bytesDown],
  ["PSLLDQ", 7, bytesUp],
] as const)
  sse(
    name,
    `66 0F 73 /${digit}`,
    "Ux+,Ib",
    "sse2",
    (c) => shiftHalves(c, (x) => move(c, x, atMost(imm8(c), 16))),
    { vexForms: WIDE_INTEGER },
  );
