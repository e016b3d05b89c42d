import { Cpu } from "../../cpu/layout.ts";
import { get32 } from "../../cpu/state.ts";
import { CONVERT } from "../../fpu/convert.ts";
import { Rounding, withRounding } from "../../fpu/env.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { beginSse, endSse, enterMmx, isPlain, pendingX87, sse, sseCheck } from "../sse-common.ts";
import { choose, chooseHalves, exactHalves, exactScalar, packedFast, SCALAR, WIDE } from "./arithmetic.ts";
import {
  anyOf,
  anyTrue,
  DOUBLE,
  extract,
  isOrdinary,
  isSafeResult,
  type Lane,
  packedBad,
  SINGLE,
  storeScalar,
} from "./native.ts";

const plain = (f: Builder): I32 => isPlain(get32(f, Cpu.MXCSR));
const asFloat = (f: Builder, lane: Lane, x: I64) =>
  lane.bits === 64 ? f.op("f64.reinterpret_i64", [x]) : f.op("f32.reinterpret_i32", [x.wrap()]);

/** (bits, width of the integer, 1 to truncate) → the integer; exceptions raised. */
const exactToInteger = (lane: Lane): Fn =>
  fn(`toInteger_${lane.name}_exact`, ["i64", "i32", "i32"], "i64", (f, x, bits, truncate) => {
    const env = beginSse(f);
    const mode = truncate.select(withRounding(env, f.i32(Rounding.ZERO)), env);
    const value = f.call<I64>(CONVERT[lane.name].toInteger, x, bits, mode);
    f.call(endSse);
    f.return(value);
  });

/** A scalar to a signed integer of `bits`, sign-extended. */
function toInteger(c: Insn, lane: Lane, exact: Fn, x: I64, bits: 32 | 64, truncate: boolean): I64 {
  const type = bits === 64 ? "i64" : "i32";
  const value = asFloat(c, lane, x);
  const whole = truncate ? value : c.op(`${lane.name}.nearest`, [value]);
  const raw = c.let(c.op<I32 | I64>(`${type}.trunc_sat_${lane.name}_s`, [whole]));
  const quick = bits === 64 ? (raw as I64) : (raw as I32).s64();
  // Saturated results, and the least integer, which may stand for one, are left to the exact way.
  const inRange = quick
    .add(1n << BigInt(bits - 1))
    .add(1)
    .and(bits === 64 ? -1n : 0xffff_ffffn)
    .gtU(1);
  const back = c.op(`${lane.name}.convert_${type}_s`, [raw]);
  const isExact = c.op<I32>(`${lane.name}.eq`, [back, value]);
  const ordered = c.op<I32>(`${lane.name}.eq`, [value, value]);
  const fast = inRange.and(isExact.or(plain(c).and(ordered)));
  return choose(c, fast, quick, () => c.call<I64>(exact, x, c.i32(bits), c.i32(truncate ? 1 : 0)));
}

for (const [lane, prefix, feature] of [
  [SINGLE, "F3", "sse"],
  [DOUBLE, "F2", "sse2"],
] as const) {
  const suffix = lane === SINGLE ? "SS" : "SD";
  const size = lane === SINGLE ? "d" : "q";
  const exact = exactToInteger(lane);
  for (const [name, opcode, truncate] of [
    ["CVT", "2D", false],
    ["CVTT", "2C", true],
  ] as const)
    sse(
      `${name}${suffix}2SI`,
      `${prefix} 0F ${opcode}`,
      `Gy=,W${size}`,
      { feature, sizes: [32, 64], flags: "none", vexForms: SCALAR },
      (c) => c.write(0, toInteger(c, lane, exact, c.read(1), c.bits(0) as 32 | 64, truncate)),
    );

  const from = exactScalar(`fromInteger_${lane.name}_exact`, CONVERT[lane.name].fromInteger, 1);
  const options = { feature, sizes: [32, 64], vexForms: SCALAR } as const;
  sse(`CVTSI2${suffix}`, `${prefix} 0F 2A`, `V${size}=,Ey`, options, (c) => {
    const value = c.readSigned(1);
    const number = c.op(`${lane.name}.convert_i64_s`, [value]);
    const bits =
      lane.bits === 64
        ? c.op<I64>("i64.reinterpret_f64", [number])
        : c.op<I32>("i32.reinterpret_f32", [number]).u64();
    const alwaysExact = lane.bits === 64 && c.bits(1) === 32;
    if (alwaysExact) storeScalar(c, lane, bits);
    else {
      // Within the precision nothing is rounded: an odd multiple of a power of two that has few enough bits.
      const limit = 1n << (lane.bits === 64 ? 53n : 24n);
      const small = value.add(limit).leU(limit * 2n);
      storeScalar(
        c,
        lane,
        choose(c, plain(c).or(small), bits, () => c.call<I64>(from, value)),
      );
    }
  });
}

const narrow = exactScalar("CVTSD2SS_exact", CONVERT.f64.to.f32!, 1);
const widen = exactScalar("CVTSS2SD_exact", CONVERT.f32.to.f64!, 1);

sse("CVTSS2SD", "F3 0F 5A", "Vq=,Wd", { feature: "sse2", vexForms: SCALAR }, (c) => {
  const x = c.read(1);
  const quick = c.op<I64>("i64.reinterpret_f64", [c.op("f64.promote_f32", [asFloat(c, SINGLE, x)])]);
  storeScalar(
    c,
    DOUBLE,
    choose(c, isOrdinary(SINGLE, x), quick, () => c.call<I64>(widen, x)),
  );
});

sse("CVTSD2SS", "F2 0F 5A", "Vd=,Wq", { feature: "sse2", vexForms: SCALAR }, (c) => {
  const x = c.read(1);
  const number = c.op("f32.demote_f64", [asFloat(c, DOUBLE, x)]);
  const quick = c.let(c.op<I32>("i32.reinterpret_f32", [number]).u64());
  const fast = plain(c).and(isSafeResult(SINGLE, quick));
  storeScalar(
    c,
    SINGLE,
    choose(c, fast, quick, () => c.call<I64>(narrow, x)),
  );
});

/** A packed conversion lane by lane: (vector, env) → vector, lanes not converted to are zero. */
function convertLanes(
  name: string,
  from: Lane | "i32",
  to: Lane | "i32",
  count: number,
  convert: (f: Builder, x: I64, env: I32) => I64,
): Fn {
  return fn(name, ["v128", "i32"], "v128", (f, v, env) => {
    let result: V128 = f.v128(0n);
    for (let i = 0; i < count; i++) {
      const x = from === "i32" ? f.op<I32>("i32x4.extract_lane", [v], [i]).s64() : extract(f, from, v, i);
      const value = convert(f, x, env);
      result =
        to !== "i32" && to.bits === 64
          ? f.op("i64x2.replace_lane", [result, value], [i])
          : f.op("i32x4.replace_lane", [result, value.wrap()], [i]);
    }
    f.return(result);
  });
}

const toSingles = convertLanes("CVTPD2PS_exact", DOUBLE, SINGLE, 2, (f, x, env) =>
  f.call<I64>(CONVERT.f64.to.f32!, x, env),
);
const toDoubles = convertLanes("CVTPS2PD_exact", SINGLE, DOUBLE, 2, (f, x, env) =>
  f.call<I64>(CONVERT.f32.to.f64!, x, env),
);
const integersToSingles = (count: number): Fn =>
  convertLanes(`CVTDQ2PS${count}_exact`, "i32", SINGLE, count, (f, x, env) =>
    f.call<I64>(CONVERT.f32.fromInteger, x, env),
  );
const integerConversions = new Map<string, Fn>();
function toIntegers(lane: Lane, count: number, truncate: boolean): Fn {
  const name = `${lane.name}${count}ToIntegers${truncate ? "T" : ""}_exact`;
  let made = integerConversions.get(name);
  if (made === undefined) {
    made = convertLanes(name, lane, "i32", count, (f, x, env) => {
      const mode = truncate ? withRounding(env, f.i32(Rounding.ZERO)) : env;
      return f.call<I64>(CONVERT[lane.name].toInteger, x, f.i32(32), mode);
    });
    integerConversions.set(name, made);
  }
  return made;
}

/** The low 64 bits of a register or memory as a vector with zero above. */
const low64 = (c: Insn, index: number): V128 => c.op("i64x2.replace_lane", [c.v128(0n), c.read(index)], [0]);

/** What each half of the destination is made from: 64 bits, the rest of the vector zero. */
function narrowSources(c: Insn): V128[] {
  if (c.halves === 1) return [low64(c, 1)];
  const all = c.readVector(1);
  return [all, c.op("i8x16.shuffle", [all, all], [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7])].map(
    (v) => c.op("i64x2.replace_lane", [v, c.i64(0)], [1]),
  );
}

/** Writes what has 64 bits for each half of the source: one vector, whatever their number. */
function writeNarrowed(c: Insn, [low, high]: readonly V128[]): void {
  const whole =
    high === undefined
      ? low!
      : c.op("i64x2.replace_lane", [low!, c.op<I64>("i64x2.extract_lane", [high], [0])], [1]);
  c.writeVector(0, whole);
}

const FROM_HALF = { wide: "avx", wideOperands: "Vx=,Wdq" } as const;
const TO_HALF = { wide: "avx", wideOperands: "Vdq=,Wx" } as const;

sse("CVTPS2PD", "NP 0F 5A", "Vx=,Wq", { feature: "sse2", vexForms: FROM_HALF }, (c) => {
  const sources = narrowSources(c).map((v) => c.let(v));
  const quick = sources.map((v) => c.op("f64x2.promote_low_f32x4", [v]));
  const bad = sources.flatMap((v) => [c.op("f32x4.ne", [v, v]), packedBad(c, SINGLE, [v])]);
  const exact = (half: number, env: I32): V128 => c.call<V128>(toDoubles, sources[half]!, env);
  c.writeHalves(0, chooseHalves(c, anyTrue(c, anyOf(c, bad)).eqz(), quick, exact));
});

sse("CVTPD2PS", "66 0F 5A", "Vx=,Wx", { feature: "sse2", vexForms: TO_HALF }, (c) => {
  const sources = c.readHalves(1);
  const quick = sources.map((v) => c.let(c.op("f32x4.demote_f64x2_zero", [v])));
  const fast = quick
    .flatMap((v) => [0, 1].map((i) => isSafeResult(SINGLE, extract(c, SINGLE, v, i))))
    .reduce((a, b) => a.and(b));
  const exact = (half: number, env: I32): V128 => c.call<V128>(toSingles, sources[half]!, env);
  writeNarrowed(c, chooseHalves(c, plain(c).and(fast), quick, exact));
});

sse("CVTDQ2PD", "F3 0F E6", "Vx=,Wq", { feature: "sse2", vexForms: FROM_HALF }, (c) =>
  c.writeHalves(
    0,
    narrowSources(c).map((v) => c.op("f64x2.convert_low_i32x4_s", [v])),
  ),
);

const dq2ps = integersToSingles(4);
sse("CVTDQ2PS", "NP 0F 5B", "Vx=,Wx", { feature: "sse2", vexForms: WIDE }, (c) => {
  const sources = c.readHalves(1);
  const quick = sources.map((v) => c.op("f32x4.convert_i32x4_s", [v]));
  const exact = (half: number, env: I32): V128 => c.call<V128>(dq2ps, sources[half]!, env);
  c.writeHalves(0, chooseHalves(c, plain(c), quick, exact));
});

/** Lanes that do not fit in 32-bit integers, or might not once they are rounded. */
function tooGreat(c: Insn, lane: Lane, v: V128): V128 {
  const wide = lane.bits === 64;
  const limit = (sign: 1 | -1): V128 => {
    // 2^31 - 1, and the greatest single below 2^31: no rounding carries them further.
    const one = wide
      ? sign > 0
        ? 0x41df_ffff_ffc0_0000n
        : 0xc1e0_0000_0000_0000n
      : sign > 0
        ? 0x4eff_ffffn
        : 0xcf00_0000n;
    return c.v128(wide ? (one << 64n) | one : (one << 96n) | (one << 64n) | (one << 32n) | one);
  };
  const within = c.op("v128.and", [
    c.op(`${lane.shape}.le`, [v, limit(1)]),
    c.op(`${lane.shape}.ge`, [v, limit(-1)]),
  ]);
  return c.op("v128.not", [within]);
}

/** Packed conversion to 32-bit integers: native where every lane fits. */
function packedToIntegers(
  c: Insn,
  lane: Lane,
  sources: readonly V128[],
  exact: Fn,
  truncate: boolean,
): V128[] {
  const bad = sources.map((v) => tooGreat(c, lane, v));
  const quick = sources.map((v) => {
    let whole = v;
    if (!truncate)
      for (let i = 0; i < lane.count; i++) {
        const x = c.op(`${lane.shape}.extract_lane`, [v], [i]);
        whole = c.op(`${lane.shape}.replace_lane`, [whole, c.op(`${lane.name}.nearest`, [x])], [i]);
      }
    return c.op(lane.bits === 64 ? "i32x4.trunc_sat_f64x2_s_zero" : "i32x4.trunc_sat_f32x4_s", [whole]);
  });
  return chooseHalves(c, packedFast(c, bad), quick, (half, env) => c.call<V128>(exact, sources[half]!, env));
}

for (const [name, encoding, lane, truncate] of [
  ["CVTPS2DQ", "66 0F 5B", SINGLE, false],
  ["CVTTPS2DQ", "F3 0F 5B", SINGLE, true],
  ["CVTPD2DQ", "F2 0F E6", DOUBLE, false],
  ["CVTTPD2DQ", "66 0F E6", DOUBLE, true],
] as const) {
  const exact = toIntegers(lane, lane.count, truncate);
  const vexForms = lane === SINGLE ? WIDE : TO_HALF;
  sse(name, encoding, "Vx=,Wx", { feature: "sse2", vexForms }, (c) => {
    const values = packedToIntegers(c, lane, c.readHalves(1), exact, truncate);
    if (lane === SINGLE) c.writeHalves(0, values);
    else writeNarrowed(c, values);
  });
}

/*
 * Conversions between XMM and MMX registers. They count as MMX instructions where they touch one: #MF, and the
 * x87 state becomes MMX's (SDM Vol. 1 sec. 11.6.3).
 */

/** An MMX register or memory as a vector. In memory it leaves the x87 state alone, even with CVTPI2PS. */
function mmxSource(c: Insn): V128 {
  if (!c.isMemory(1)) {
    pendingX87(c);
    enterMmx(c);
  }
  return low64(c, 1);
}

/** Writes MMX register ModRM.reg. */
function writeMmx(c: Insn, value: I64): void {
  const address = c.cpu.add(c.field("a"));
  c.store("i64.store", address, value, Cpu.FPR);
  c.store("i32.store16", address, c.i32(0xffff), Cpu.FPR + 8);
}

const pi2ps = integersToSingles(2);
insn("CVTPI2PS", "NP 0F 2A", "Vq=,Qq", { feature: "sse" }, (c) => {
  sseCheck(c);
  const v = mmxSource(c);
  const [value] = exactHalves(c, 1, (_, env) => c.call<V128>(pi2ps, v, env));
  c.write(0, extract(c, DOUBLE, value!, 0));
});

insn("CVTPI2PD", "66 0F 2A", "Vx=,Qq", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const v = mmxSource(c);
  c.writeVector(0, c.op("f64x2.convert_low_i32x4_s", [v]));
});

for (const [name, encoding, lane, truncate] of [
  ["CVTPS2PI", "NP 0F 2D", SINGLE, false],
  ["CVTTPS2PI", "NP 0F 2C", SINGLE, true],
  ["CVTPD2PI", "66 0F 2D", DOUBLE, false],
  ["CVTTPD2PI", "66 0F 2C", DOUBLE, true],
] as const) {
  const exact = toIntegers(lane, 2, truncate);
  const feature = lane === SINGLE ? "sse" : "sse2";
  insn(name, encoding, lane === SINGLE ? "Pq=,Wq" : "Pq=,Wx", { feature }, (c) => {
    sseCheck(c);
    pendingX87(c);
    const v = lane === SINGLE ? low64(c, 1) : c.readVector(1);
    // The x87 state changes even where #XM follows.
    enterMmx(c);
    const [value] = exactHalves(c, 1, (_, env) => c.call<V128>(exact, v, env));
    writeMmx(c, extract(c, DOUBLE, value!, 0));
  });
}
