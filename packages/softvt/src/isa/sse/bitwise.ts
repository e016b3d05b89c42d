import { RFLAGS } from "../../cpu/state.ts";
import type { I32 } from "../../ir/builder.ts";
import { type Binary, lanewise, packed, sse, sseBinary } from "./define.ts";

/** Bitwise operations: whatever the lanes are called, the bits are the same. */
const and = lanewise("v128.and");
const or = lanewise("v128.or");
const xor = lanewise("v128.xor");
/** The destination is what is complemented; in WebAssembly the second operand is. */
const andNot: Binary = (c, dst, src) => c.op("v128.andnot", [src, dst]);

for (const [stem, opcode, op] of [
  ["AND", "54", and],
  ["ANDN", "55", andNot],
  ["OR", "56", or],
  ["XOR", "57", xor],
] as const) {
  sseBinary(`${stem}PS`, `NP 0F ${opcode}`, "sse", op);
  sseBinary(`${stem}PD`, `66 0F ${opcode}`, "sse2", op);
}
packed("PAND", "0F DB", and);
packed("PANDN", "0F DF", andNot);
packed("POR", "0F EB", or);
packed("PXOR", "0F EF", xor);

sse(
  "PTEST",
  "66 0F 38 17",
  "Vx,Wx",
  "sse4.1",
  (c) => {
    const src = c.readVector(1);
    const dst = c.readVector(0);
    const zero = c.op<I32>("v128.any_true", [and(c, dst, src)]).eqz();
    const carry = c.op<I32>("v128.any_true", [andNot(c, dst, src)]).eqz();
    c.explicitFlags(carry.mul(RFLAGS.CF).or(zero.mul(RFLAGS.ZF)));
  },
  { flags: "set" },
);
