import { RFLAGS } from "../../cpu/state.ts";
import type { I32, V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { type Binary, lanewise, packed, sse, sseBinary, WIDE_FLOAT } from "./define.ts";

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
  sseBinary(`${stem}PS`, `NP 0F ${opcode}`, "sse", op, WIDE_FLOAT);
  sseBinary(`${stem}PD`, `66 0F ${opcode}`, "sse2", op, WIDE_FLOAT);
}
packed("PAND", "0F DB", and);
packed("PANDN", "0F DF", andNot);
packed("POR", "0F EB", or);
packed("PXOR", "0F EF", xor);

/** ZF where `dst & src` has none of the bits in `mask` (all by default), CF where `~dst & src` has none. */
export function testBits(c: Insn, mask?: V128): void {
  const src = c.readHalves(1);
  const dst = c.readHalves(0);
  const none = (op: Binary): I32 => {
    const found = src.map((x, half) => op(c, dst[half]!, x)).reduce((a, b) => or(c, a, b));
    return c.op<I32>("v128.any_true", [mask === undefined ? found : and(c, found, mask)]).eqz();
  };
  c.explicitFlags(none(andNot).mul(RFLAGS.CF).or(none(and).mul(RFLAGS.ZF)));
}

sse("PTEST", "66 0F 38 17", "Vx,Wx", "sse4.1", testBits, { flags: "set", vexForms: WIDE_FLOAT });
