import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import { sse } from "../sse-common.ts";
import { SCALAR, WIDE } from "./arithmetic.ts";
import { extract, native, replace, SINGLE, storeScalar } from "./native.ts";

/*
 * RCP and RSQRT promise a relative error of at most 1.5 · 2^-12 (SDM Vol. 2, RCPPS); each vendor's tables give
 * other digits within it. Here it is the true value rounded to 12 bits of fraction: an error of at most 2^-13,
 * and exact for powers of two. MXCSR plays no part, nothing is ever raised, denormal operands count as zero and
 * results too small to be normal become zero.
 */

const SIGN = 0x8000_0000n;
const INFINITY = 0x7f80_0000n;
const LEAST_NORMAL = 0x80_0000n;
const QUIET = 0x40_0000n;
const INDEFINITE = 0xffc0_0000n;
const ONE = 0x3f80_0000n;
const CUT = 0x7ffn;

function describe(name: string, isRoot: boolean): Fn {
  return fn(name, ["i64"], "i64", (f: Builder, x: I64) => {
    const sign = f.let(x.and(SIGN));
    const magnitude = f.let(x.and(SIGN - 1n));
    f.if(magnitude.gtU(INFINITY), () => f.return(x.or(QUIET)));
    f.if(magnitude.ltU(LEAST_NORMAL), () => f.return(sign.or(INFINITY)));
    if (isRoot) f.if(sign.ne(0), () => f.return(f.i64(INDEFINITE)));
    const of = isRoot ? native(f, SINGLE, "sqrt", x) : x;
    const value = f.let(native(f, SINGLE, "div", f.i64(ONE), of).and(SIGN - 1n));
    const rounded = value.add((CUT + 1n) / 2n).and(0xffff_ffffn ^ CUT);
    const normal: I32 = value.geU(LEAST_NORMAL);
    f.return(sign.or(normal.select(rounded, f.i64(0))));
  });
}

for (const [name, opcode, soft] of [
  ["RCP", "53", describe("rcp", false)],
  ["RSQRT", "52", describe("rsqrt", true)],
] as const) {
  sse(`${name}SS`, `F3 0F ${opcode}`, "Vd=,Wd", { feature: "sse", vexForms: SCALAR }, (c) =>
    storeScalar(c, SINGLE, c.call<I64>(soft, c.read(1))),
  );
  sse(`${name}PS`, `NP 0F ${opcode}`, "Vx=,Wx", { feature: "sse", vexForms: WIDE }, (c) => {
    const part = (source: V128): V128 => {
      let result: V128 = c.v128(0n);
      for (let i = 0; i < 4; i++)
        result = replace(c, SINGLE, result, i, c.call<I64>(soft, extract(c, SINGLE, source, i)));
      return result;
    };
    c.writeHalves(0, c.readHalves(1).map(part));
  });
}
