import { afterAll, describe, expect, it } from "vitest";
import { encode } from "../../../test/host-cpu/encode.ts";
import type { FeatureName } from "../../../test/host-cpu/features.ts";
import { HostCpu, type MemoryBytes, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { type HostState, hostState } from "../../../test/host-cpu/state.ts";
import { type InsnSpec, SPECS } from "../src/isa/registry.ts";
import "../src/isa/avx/fused.ts";
import "../src/isa/avx/half.ts";
import "../src/isa/sse-float/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";

/** Approximations, which every vendor makes its own way: fpu-approximations.test.ts. */
const APPROXIMATE = /^V?R(CP|SQRT)[PS]S$/;
const CASES = Number(process.env.SKEP_FP_CASES ?? 3000);

/** Registers 1 (or the opcode's extension), 3 by VEX.vvvv, and 2 or [RBX]. */
function encoded(spec: InsnSpec, w: boolean, memory: boolean, imm: number | undefined): Uint8Array {
  const hasVvvv = spec.operands.some((o) => o.kind === "H");
  return encode({
    map: spec.map,
    mandatory: spec.prefix === undefined || spec.prefix === "" ? undefined : Number.parseInt(spec.prefix, 16),
    opcode: spec.opcode,
    w,
    reg: spec.digit ?? 1,
    rm: memory ? { base: 3 } : 2,
    immediates: imm === undefined ? [] : [{ value: imm, bytes: 1 }],
    ...(spec.vex && { vex: { l: spec.vex.l ?? 0, vvvv: hasVvvv ? 3 : undefined } }),
  });
}

const MXCSR_BASES = [0x1f80, 0x1fa0, 0x1fbf, 0x1fc0, 0x9f80, 0x9fc0, 0x1fa0, 0x1fa0];
const randomMxcsr = (random: Random): number => {
  const base = random.pick(MXCSR_BASES) | (random.oneIn(2) ? random.below(4) << 13 : 0);
  return random.oneIn(4) ? base & ~(random.below(64) << 7) : base;
};

describe.skipIf(skipped)(`SSE floating point as the host has it${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  const engine = new FpEngine();
  afterAll(() => cpu.close());

  for (const spec of SPECS.filter((s) => !APPROXIMATE.test(s.name)))
    it(`${spec.name} ${spec.operandText}${spec.vex?.l === 1 ? " (256 bits)" : ""}`, (context) => {
      const feature = spec.feature as FeatureName;
      if (spec.vex && cpu.features.lacks(feature)) return context.skip(cpu.features.lacks(feature));
      const random = new Random(spec.opcode * 8 + spec.name.length);
      const memoryOnly = spec.operands.some((o) => o.kind === "M");
      const registerOnly = spec.operands.some((o) => o.forms === "reg");
      const kinds = spec.operands.some((o) => o.kind === "E")
        ? [false, true]
        : [spec.operandText.includes("y")];
      const failures: string[] = [];
      for (let i = 0; i < CASES && failures.length < 5; i++) {
        const rexW = random.pick(kinds) && random.oneIn(2);
        const memory = memoryOnly || (!registerOnly && random.oneIn(3));
        const hasImm = spec.operandText.includes("Ib");
        const imm = random.oneIn(2) ? random.below(8) : random.below(256);
        const code = encoded(spec, spec.rexW ?? rexW, memory, hasImm ? imm : undefined);
        const state: HostState = hostState(STACK_START);
        const lane = random.pick(["f32", "f64", "i32", "f32", "f64"] as const);
        for (const register of [1, 2, 3]) {
          state.fx.setXmm(register, random.vector(lane));
          state.fx.setYmmHigh(register, random.vector(lane));
        }
        state.fx.mxcsr = randomMxcsr(random);
        state.fx.ftw = random.below(256);
        for (let st = 0; st < 8; st++) state.fx.setSt(st, random.float(80));
        state.fx.fsw = random.below(8) << 11;
        state.gpr[0] = random.integer(64);
        state.gpr[1] = random.integer(64);
        state.gpr[2] = random.integer(64);
        const misaligned = random.oneIn(16) ? 4 : 0;
        state.gpr[3] = BigInt(0x60008000 + misaligned);
        const bytes = new Uint8Array(32);
        const value = spec.name.endsWith("LDMXCSR")
          ? BigInt(random.below(0x10000) & (random.oneIn(4) ? 0x1ffff : 0xffff))
          : (random.vector(lane) << 128n) | random.vector(lane);
        for (let b = 0; b < 32; b++) bytes[b] = Number((value >> BigInt(8 * b)) & 0xffn);
        const image: MemoryBytes[] = [{ address: 0x60008000 + misaligned, bytes }];
        const host = cpu.run(code, state, { memory: image });
        const ours = engine.run(code, state, image);
        const found: string[] = [];
        const same = (what: string, x: unknown, y: unknown): void => {
          if (x !== y) found.push(`${what} host ${hex(x)} engine ${hex(y)}`);
        };
        same(
          "end",
          host.end.kind === "fault" ? host.end.vector : host.end.kind,
          ours.end.kind === "fault" ? ours.end.vector : ours.end.kind,
        );
        same("mxcsr", host.fx.mxcsr, ours.fx!.mxcsr);
        for (let x = 0; x < 4; x++) {
          same(`xmm${x}`, host.fx.xmm(x), ours.fx!.xmm(x));
          same(`ymm${x} high`, host.fx.ymmHigh(x), ours.fx!.ymmHigh(x));
        }
        same("rcx", host.gpr[1], ours.gpr[1]);
        same("rflags", host.rflags & 0x8d5, ours.rflags & 0x8d5);
        same("ftw", host.fx.ftw, ours.fx!.ftw);
        same("fsw", host.fx.fsw, ours.fx!.fsw);
        for (let st = 0; st < 8; st++) same(`st${st}`, host.fx.st(st), ours.fx!.st(st));
        same(
          "writes",
          String(host.writes.map((w) => [w.address, w.bytes])),
          String(ours.writes.map((w) => [w.address, w.bytes])),
        );
        if (found.length > 0)
          failures.push(
            `${Buffer.from(code).toString("hex")} mxcsr ${hex(state.fx.mxcsr)} xmm1 ${hex(state.fx.xmm(1))} xmm2 ${hex(memory ? value : state.fx.xmm(2))} xmm3 ${hex(state.fx.xmm(3))} rdx ${hex(state.gpr[2])}: ${found.join(", ")}`,
          );
      }
      expect(failures).toEqual([]);
    });
});

const hex = (x: unknown): string =>
  typeof x === "number" || typeof x === "bigint" ? x.toString(16) : String(x);
