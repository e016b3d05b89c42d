import { Access, checkWritable } from "../../cpu/memory.ts";
import { singleToHalf } from "../../fpu/convert.ts";
import { Env, Flag, note, roundingOf, withRounding } from "../../fpu/env.ts";
import { fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { imm8, low64, zeroExtended } from "../sse/define.ts";
import { exactHalves } from "../sse-float/arithmetic.ts";
import { extract, SINGLE } from "../sse-float/native.ts";
import { vexOnly } from "./define.ts";
import { accessOf } from "./element-access.ts";

/** F16C (SDM Vol. 1 sec. 14.4): between single precision and IEEE 754's binary16. */

/**
 * (half) → single, exact. DAZ does not count, and a denormal number is converted without a word; a signaling NaN is IE.
 */
const halfToSingle = fn("halfToSingle", ["i32"], "i32", (f, half) => {
  const sign = f.let(half.and(0x8000).shl(16));
  const magnitude = f.let(half.and(0x7fff));
  const widened = magnitude.shl(13);
  f.if(magnitude.geU(0x7c00), () => {
    f.if(magnitude.gtU(0x7c00).and(magnitude.ltU(0x7e00)), () => note(f, Flag.IE));
    const quiet = magnitude.gtU(0x7c00).select(f.i32(0x40_0000), f.i32(0));
    f.return(sign.or(widened).or(0x7f80_0000).or(quiet));
  });
  // The exponents' biases differ by 112.
  f.if(magnitude.geU(0x400), () => f.return(sign.or(widened.add(112 << 23))));
  f.if(magnitude.eqz(), () => f.return(sign));
  // A multiple of 2^-24, which as a number of its own has an exponent too great by 24.
  const bits = f.op<I32>("i32.reinterpret_f32", [f.op("f32.convert_i32_u", [magnitude])]);
  f.return(sign.or(bits.sub(24 << 23)));
});

/** The four halves in `source` as singles. */
const toSingles = fn("VCVTPH2PS_exact", ["i64"], "v128", (f, source) => {
  let result: V128 = f.v128(0n);
  for (let i = 0; i < 4; i++) {
    const single = f.call<I32>(
      halfToSingle,
      source
        .shrU(16 * i)
        .wrap()
        .and(0xffff),
    );
    result = f.op("i32x4.replace_lane", [result, single], [i]);
  }
  f.return(result);
});

vexOnly("VCVTPH2PS", "66 W0 0F 38 13", "Vx=,Wq", { narrow: "f16c" }, (c) => {
  const source = c.read(1);
  c.writeHalves(
    0,
    exactHalves(c, 1, () => c.call<V128>(toSingles, source)),
  );
});
vexOnly("VCVTPH2PS", "66 W0 0F 38 13", "Vx=,Wdq", { wide: "f16c" }, (c) => {
  const source = c.readVector(1);
  const quarter = (half: number): I64 => c.op<I64>("i64x2.extract_lane", [source], [half]);
  c.writeHalves(
    0,
    exactHalves(c, 2, (half) => c.call<V128>(toSingles, quarter(half))),
  );
});

/** (singles, immediate, mxcsr) → four halves. The immediate has a rounding mode, or says that MXCSR's counts. */
const toHalves = fn("VCVTPS2PH_exact", ["v128", "i32", "i32"], "i64", (f, source, imm, mxcsr) => {
  const mode = imm.and(4).select(roundingOf(mxcsr), imm.and(3));
  const env = f.let(withRounding(mxcsr, mode).and(~Env.FTZ));
  const halves = Array.from({ length: 4 }, (_, i) =>
    f.call<I64>(singleToHalf, extract(f, SINGLE, source, i), env).shl(16 * i),
  );
  f.return(halves.reduce((a, b) => a.or(b)));
});

vexOnly("VCVTPS2PH", "66 W0 0F 3A 1D", "Wq=,Vx,Ib", { narrow: "f16c" }, (c) => {
  const [value] = convert(c);
  // A register is cleared above it.
  if (c.isMemory(0)) c.write(0, low64(c, value!));
  else c.writeVector(0, value!);
});
vexOnly("VCVTPS2PH", "66 W0 0F 3A 1D", "Wdq=,Vx,Ib", { wide: "f16c" }, (c) => {
  const [low, high] = convert(c);
  c.writeVector(0, c.op("i64x2.replace_lane", [low!, low64(c, high!)], [1]));
});

/** Each half of the source, converted to 64 bits with zeros above. A destination that cannot be written is found first. */
function convert(c: Insn): V128[] {
  if (c.isMemory(0)) {
    const bits = c.bits(0);
    c.call(checkWritable, c.address(bits, true), c.i32(bits / 8), accessOf(c, Access.WRITE));
    c.leaveOnEvent();
  }
  const source = c.readHalves(1);
  const imm = imm8(c);
  return exactHalves(c, source.length, (half, env) =>
    zeroExtended(c, c.call<I64>(toHalves, source[half]!, imm, env)),
  );
}
