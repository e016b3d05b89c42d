import { Cpu } from "../../cpu/layout.ts";
import { get32 } from "../../cpu/state.ts";
import { CONVERT } from "../../fpu/convert.ts";
import { Rounding, withRounding } from "../../fpu/env.ts";
import { type Builder, fn, type I32, type I64, type V128 } from "../../ir/builder.ts";
import type { Fn } from "../../ir/ir.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { beginSse, endSse, enterMmx, isPlain, pendingX87, sseCheck } from "../sse-common.ts";
import { choose, exactScalar } from "./arithmetic.ts";
import {
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
  return choose(c, "i64", fast, quick, () => c.call<I64>(exact, x, c.i32(bits), c.i32(truncate ? 1 : 0)));
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
    insn(
      `${name}${suffix}2SI`,
      `${prefix} 0F ${opcode}`,
      `Gy=,W${size}`,
      { feature, sizes: [32, 64], flags: "none" },
      (c) => {
        sseCheck(c);
        c.write(0, toInteger(c, lane, exact, c.read(1), c.bits(0) as 32 | 64, truncate));
      },
    );

  const from = exactScalar(`fromInteger_${lane.name}_exact`, CONVERT[lane.name].fromInteger, 1);
  insn(`CVTSI2${suffix}`, `${prefix} 0F 2A`, `V${size}=,Ey`, { feature, sizes: [32, 64] }, (c) => {
    sseCheck(c);
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
        choose(c, "i64", plain(c).or(small), bits, () => c.call<I64>(from, value)),
      );
    }
  });
}

const narrow = exactScalar("CVTSD2SS_exact", CONVERT.f64.to.f32!, 1);
const widen = exactScalar("CVTSS2SD_exact", CONVERT.f32.to.f64!, 1);

insn("CVTSS2SD", "F3 0F 5A", "Vq=,Wd", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const x = c.read(1);
  const quick = c.op<I64>("i64.reinterpret_f64", [c.op("f64.promote_f32", [asFloat(c, SINGLE, x)])]);
  storeScalar(
    c,
    DOUBLE,
    choose(c, "i64", isOrdinary(SINGLE, x), quick, () => c.call<I64>(widen, x)),
  );
});

insn("CVTSD2SS", "F2 0F 5A", "Vd=,Wq", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const x = c.read(1);
  const number = c.op("f32.demote_f64", [asFloat(c, DOUBLE, x)]);
  const quick = c.let(c.op<I32>("i32.reinterpret_f32", [number]).u64());
  const fast = plain(c).and(isSafeResult(SINGLE, quick));
  storeScalar(
    c,
    SINGLE,
    choose(c, "i64", fast, quick, () => c.call<I64>(narrow, x)),
  );
});

/** A packed conversion lane by lane: (vector) → vector, lanes not converted to are zero. */
function exactLanes(
  name: string,
  from: Lane | "i32",
  to: Lane | "i32",
  count: number,
  convert: (f: Builder, x: I64, env: I32) => I64,
): Fn {
  return fn(name, ["v128"], "v128", (f, v) => {
    const env = beginSse(f);
    let result: V128 = f.v128(0n);
    for (let i = 0; i < count; i++) {
      const x = from === "i32" ? f.op<I32>("i32x4.extract_lane", [v], [i]).s64() : extract(f, from, v, i);
      const value = convert(f, x, env);
      result =
        to !== "i32" && to.bits === 64
          ? f.op("i64x2.replace_lane", [result, value], [i])
          : f.op("i32x4.replace_lane", [result, value.wrap()], [i]);
    }
    f.call(endSse);
    f.return(result);
  });
}

const toSingles = exactLanes("CVTPD2PS_exact", DOUBLE, SINGLE, 2, (f, x, env) =>
  f.call<I64>(CONVERT.f64.to.f32!, x, env),
);
const toDoubles = exactLanes("CVTPS2PD_exact", SINGLE, DOUBLE, 2, (f, x, env) =>
  f.call<I64>(CONVERT.f32.to.f64!, x, env),
);
const integersToSingles = (count: number): Fn =>
  exactLanes(`CVTDQ2PS${count}_exact`, "i32", SINGLE, count, (f, x, env) =>
    f.call<I64>(CONVERT.f32.fromInteger, x, env),
  );
const integerConversions = new Map<string, Fn>();
function toIntegers(lane: Lane, count: number, truncate: boolean): Fn {
  const name = `${lane.name}${count}ToIntegers${truncate ? "T" : ""}_exact`;
  let made = integerConversions.get(name);
  if (made === undefined) {
    made = exactLanes(name, lane, "i32", count, (f, x, env) => {
      const mode = truncate ? withRounding(env, f.i32(Rounding.ZERO)) : env;
      return f.call<I64>(CONVERT[lane.name].toInteger, x, f.i32(32), mode);
    });
    integerConversions.set(name, made);
  }
  return made;
}

/** The low 64 bits of a register or memory as a vector with zero above. */
const low64 = (c: Insn, index: number): V128 => c.op("i64x2.replace_lane", [c.v128(0n), c.read(index)], [0]);

insn("CVTPS2PD", "NP 0F 5A", "Vx=,Wq", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const v = low64(c, 1);
  const quick = c.op("f64x2.promote_low_f32x4", [v]);
  const bad = c.op("v128.or", [c.op("f32x4.ne", [v, v]), packedBad(c, SINGLE, [v])]);
  c.writeVector(
    0,
    choose(c, "v128", anyTrue(c, bad).eqz(), quick, () => c.call<V128>(toDoubles, v)),
  );
});

insn("CVTPD2PS", "66 0F 5A", "Vx=,Wx", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const v = c.readVector(1);
  const quick = c.let(c.op("f32x4.demote_f64x2_zero", [v]));
  const fast = [0, 1]
    .map((i) => isSafeResult(SINGLE, extract(c, SINGLE, quick, i)))
    .reduce((a, b) => a.and(b));
  c.writeVector(
    0,
    choose(c, "v128", plain(c).and(fast), quick, () => c.call<V128>(toSingles, v)),
  );
});

insn("CVTDQ2PD", "F3 0F E6", "Vx=,Wq", { feature: "sse2" }, (c) => {
  sseCheck(c);
  c.writeVector(0, c.op("f64x2.convert_low_i32x4_s", [low64(c, 1)]));
});

const dq2ps = integersToSingles(4);
insn("CVTDQ2PS", "NP 0F 5B", "Vx=,Wx", { feature: "sse2" }, (c) => {
  sseCheck(c);
  const v = c.readVector(1);
  const quick = c.op("f32x4.convert_i32x4_s", [v]);
  c.writeVector(
    0,
    choose(c, "v128", plain(c), quick, () => c.call<V128>(dq2ps, v)),
  );
});

/** Packed conversion to 32-bit integers: native where every lane fits. */
function packedToIntegers(c: Insn, lane: Lane, v: V128, exact: Fn, truncate: boolean): V128 {
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
  const fits = anyTrue(c, c.op("v128.not", [within])).eqz();
  let whole = v;
  if (!truncate) {
    for (let i = 0; i < lane.count; i++) {
      const name = lane.name;
      const x = c.op(`${lane.shape}.extract_lane`, [v], [i]);
      whole = c.op(`${lane.shape}.replace_lane`, [whole, c.op(`${name}.nearest`, [x])], [i]);
    }
  }
  const quick = c.op(wide ? "i32x4.trunc_sat_f64x2_s_zero" : "i32x4.trunc_sat_f32x4_s", [whole]);
  return choose(c, "v128", plain(c).and(fits), quick, () => c.call<V128>(exact, v));
}

for (const [name, encoding, lane, truncate] of [
  ["CVTPS2DQ", "66 0F 5B", SINGLE, false],
  ["CVTTPS2DQ", "F3 0F 5B", SINGLE, true],
  ["CVTPD2DQ", "F2 0F E6", DOUBLE, false],
  ["CVTTPD2DQ", "66 0F E6", DOUBLE, true],
] as const) {
  const exact = toIntegers(lane, lane.count, truncate);
  insn(name, encoding, "Vx=,Wx", { feature: "sse2" }, (c) => {
    sseCheck(c);
    c.writeVector(0, packedToIntegers(c, lane, c.readVector(1), exact, truncate));
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
  const value = c.call<V128>(pi2ps, v);
  c.leaveOnEvent();
  c.write(0, extract(c, DOUBLE, value, 0));
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
    const value = c.call<V128>(exact, v);
    c.leaveOnEvent();
    writeMmx(c, extract(c, DOUBLE, value, 0));
  });
}
