import type { Builder, I32, I64, V128 } from "../../ir/builder.ts";
import { insn } from "../registry.ts";
import { constant, low64, range } from "./define.ts";

/**
 * CRC32 (SDM Vol. 2A): the CRC of iSCSI, polynomial 11EDC6F41h, bits reflected.
 *
 * The new CRC is linear in the bits of (old CRC xor data): the sum of one constant for each bit that is set. Four
 * of these at a time, without a table in memory.
 */
const POLYNOMIAL = 0x82f6_3b78n;

/** What bit `bit` of `bits` bits of input contributes. */
function contribution(bit: number, bits: number): number {
  let rest = 1n << BigInt(bit);
  for (let i = 0; i < bits; i++) rest = (rest >> 1n) ^ ((rest & 1n) === 1n ? POLYNOMIAL : 0n);
  return Number(rest);
}

/** CRC of the low `bits` of `input`, which already has the old CRC in it. */
function crc(c: Builder, input: I64, bits: number): I32 {
  let sum: V128 = c.v128(0n);
  for (let first = 0; first < bits; first += 4) {
    const half = first < 32 ? input.wrap() : input.shrU(32).wrap();
    const select = constant(
      c,
      32,
      range(4).map((i) => 1 << ((first + i) % 32)),
    );
    const isSet = c.op("i32x4.eq", [c.op("v128.and", [c.op("i32x4.splat", [half]), select]), select]);
    const terms = constant(
      c,
      32,
      range(4).map((i) => contribution(first + i, bits)),
    );
    sum = c.op("v128.xor", [sum, c.op("v128.and", [isSet, terms])]);
  }
  const swapped = c.op("i8x16.shuffle", [sum, sum], [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
  const two = low64(c, c.op("v128.xor", [sum, swapped]));
  return two.xor(two.shrU(32)).wrap();
}

for (const [opcode, operands] of [
  ["F0", "Gy+,Eb"],
  ["F1", "Gy+,Ev"],
] as const)
  insn("CRC32", `F2 0F 38 ${opcode}`, operands, { feature: "sse4.2", flags: "none" }, (c) => {
    const bits = c.bits(1);
    const data = c.read(1);
    const old = c.read(0).zeroExtend(32);
    // What is left of the old CRC moves down by as many bits as come in.
    const rest = bits < 32 ? old.shrU(bits).wrap() : c.i32(0);
    c.write(
      0,
      crc(c, c.let(old.xor(data)), bits)
        .xor(rest)
        .u64(),
    );
  });
