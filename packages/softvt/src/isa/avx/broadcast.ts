import type { I32, I64, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { AVX, AVX_WIDE, AVX2, AVX2_WIDE, type Lengths, vexOnly } from "./define.ts";

/** VBROADCAST and VPBROADCAST: one element, or 128 bits, in every place of the destination. */

const both = (c: Insn, value: V128): void =>
  c.writeHalves(
    0,
    Array.from({ length: c.halves }, () => value),
  );

for (const [name, opcode, bits, sourceSize, memory, register] of [
  ["VBROADCASTSS", "18", 32, "d", AVX, AVX2],
  ["VBROADCASTSD", "19", 64, "q", AVX_WIDE, AVX2_WIDE],
  ["VPBROADCASTB", "78", 8, "b", AVX2, AVX2],
  ["VPBROADCASTW", "79", 16, "w", AVX2, AVX2],
  ["VPBROADCASTD", "58", 32, "d", AVX2, AVX2],
  ["VPBROADCASTQ", "59", 64, "q", AVX2, AVX2],
] as const)
  for (const [kind, lengths] of [
    ["M", memory],
    ["U", register],
  ] as [string, Lengths][])
    vexOnly(name, `66 W0 0F 38 ${opcode}`, `Vx=,${kind}${sourceSize}`, lengths, (c) => {
      const value = c.read(1);
      const lane: I32 | I64 = bits === 64 ? value : value.wrap();
      both(c, c.let(c.op(`i${bits}x${128 / bits}.splat`, [lane])));
    });

for (const [name, opcode, lengths] of [
  ["VBROADCASTF128", "1A", AVX_WIDE],
  ["VBROADCASTI128", "5A", AVX2_WIDE],
] as const)
  vexOnly(name, `66 W0 0F 38 ${opcode}`, "Vx=,Mdq", lengths, (c) => both(c, c.readVector(1)));
