import { describe, expect, it } from "vitest";
import { STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { hostState } from "../../../test/host-cpu/state.ts";
import "../src/isa/sse-float/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

/** MXCSR at reset, and with PE set: only with the latter is native arithmetic tried (isa/sse-common.ts). */
const EXACT = 0x1f80;
const NATIVE = 0x1fa0;
const PE = 0x20;

/** Every instruction with a native way: bytes with xmm1 (or ecx) as destination, xmm2 (or edx) as source. */
const INSTRUCTIONS: [string, "f32" | "f64" | "i32", ...number[]][] = [];
for (const [lane, scalar, packed] of [
  ["f32", [0xf3], []],
  ["f64", [0xf2], [0x66]],
] as const) {
  const suffix = lane === "f32" ? "S" : "D";
  for (const [name, opcode] of [
    ["ADD", 0x58],
    ["MUL", 0x59],
    ["SUB", 0x5c],
    ["DIV", 0x5e],
    ["SQRT", 0x51],
    ["MIN", 0x5d],
    ["MAX", 0x5f],
  ] as const) {
    INSTRUCTIONS.push([`${name}S${suffix}`, lane, ...scalar, 0x0f, opcode, 0xca]);
    INSTRUCTIONS.push([`${name}P${suffix}`, lane, ...packed, 0x0f, opcode, 0xca]);
  }
  for (let predicate = 0; predicate < 8; predicate++) {
    INSTRUCTIONS.push([`CMPS${suffix} ${predicate}`, lane, ...scalar, 0x0f, 0xc2, 0xca, predicate]);
    INSTRUCTIONS.push([`CMPP${suffix} ${predicate}`, lane, ...packed, 0x0f, 0xc2, 0xca, predicate]);
  }
  for (let mode = 0; mode < 16; mode++)
    INSTRUCTIONS.push([
      `ROUNDS${suffix} ${mode}`,
      lane,
      0x66,
      0x0f,
      0x3a,
      lane === "f32" ? 0x0a : 0x0b,
      0xca,
      mode,
    ]);
  INSTRUCTIONS.push([`UCOMIS${suffix}`, lane, ...packed, 0x0f, 0x2e, 0xca]);
  INSTRUCTIONS.push([`COMIS${suffix}`, lane, ...packed, 0x0f, 0x2f, 0xca]);
  for (const wide of [[], [0x48]]) {
    INSTRUCTIONS.push([`CVTS${suffix}2SI`, lane, ...scalar, ...wide, 0x0f, 0x2d, 0xca]);
    INSTRUCTIONS.push([`CVTTS${suffix}2SI`, lane, ...scalar, ...wide, 0x0f, 0x2c, 0xca]);
    INSTRUCTIONS.push([`CVTSI2S${suffix}`, "i32", ...scalar, ...wide, 0x0f, 0x2a, 0xca]);
  }
  const sums = lane === "f32" ? 0xf2 : 0x66;
  for (const opcode of [0x7c, 0x7d, 0xd0])
    INSTRUCTIONS.push([`horizontal ${opcode.toString(16)} ${lane}`, lane, sums, 0x0f, opcode, 0xca]);
}
INSTRUCTIONS.push(
  ["CVTSS2SD", "f32", 0xf3, 0x0f, 0x5a, 0xca],
  ["CVTSD2SS", "f64", 0xf2, 0x0f, 0x5a, 0xca],
  ["CVTPS2PD", "f32", 0x0f, 0x5a, 0xca],
  ["CVTPD2PS", "f64", 0x66, 0x0f, 0x5a, 0xca],
  ["CVTDQ2PS", "i32", 0x0f, 0x5b, 0xca],
  ["CVTDQ2PD", "i32", 0xf3, 0x0f, 0xe6, 0xca],
  ["CVTPS2DQ", "f32", 0x66, 0x0f, 0x5b, 0xca],
  ["CVTTPS2DQ", "f32", 0xf3, 0x0f, 0x5b, 0xca],
  ["CVTPD2DQ", "f64", 0xf2, 0x0f, 0xe6, 0xca],
  ["CVTTPD2DQ", "f64", 0x66, 0x0f, 0xe6, 0xca],
);

describe("native and exact SSE arithmetic agree", () => {
  const engine = new FpEngine();

  it.each(INSTRUCTIONS)("%s (%s)", (_, lane, ...code) => {
    const random = new Random(code.reduce((sum, byte) => sum * 31 + byte, 7));
    for (let i = 0; i < 400; i++) {
      const state = hostState(STACK_START);
      state.fx.setXmm(1, random.vector(lane));
      state.fx.setXmm(2, random.vector(lane));
      state.gpr[1] = random.integer(64);
      state.gpr[2] = random.integer(64);
      state.fx.mxcsr = EXACT;
      const exact = engine.run(Uint8Array.from(code), state);
      state.fx.mxcsr = NATIVE;
      const native = engine.run(Uint8Array.from(code), state);
      const seen = [exact, native].map((r) => [r.fx!.xmm(1), r.gpr[1], r.rflags, r.fx!.mxcsr | PE]);
      expect(seen[1]).toEqual(seen[0]);
    }
  });
});
