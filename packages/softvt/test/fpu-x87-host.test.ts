import { afterAll, describe, expect, it } from "vitest";
import { HostCpu, type MemoryBytes, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { type HostState, hostState } from "../../../test/host-cpu/state.ts";
import { type InsnSpec, SPECS } from "../src/isa/registry.ts";
import "../src/isa/x87/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";
const CASES = Number(process.env.SKEP_FP_CASES ?? 2000);

/** Results that vendors compute differently; they have tests of their own. */
const ELSEWHERE = /^(F2XM1|FYL2X|FYL2XP1|FPTAN|FPATAN|FSIN|FCOS|FSINCOS|FNSTENV|FNSAVE|FLDENV|FRSTOR)$/;

function randomState(random: Random): HostState {
  const state = hostState(STACK_START);
  const { fx } = state;
  fx.ftw = random.oneIn(3) ? random.below(256) : 0xff;
  // A push wants room.
  const top = random.below(8);
  if (random.oneIn(2)) fx.ftw &= ~(1 << ((top - 1) & 7));
  fx.fsw = (top << 11) | (random.oneIn(2) ? random.below(0x10000) & 0x4700 : 0);
  const masks = random.oneIn(4) ? random.below(64) : 0x3f;
  fx.fcw = 0x40 | masks | (random.oneIn(2) ? random.pick([0, 2, 3]) << 8 : 0x300) | (random.below(4) << 10);
  if (random.oneIn(8)) fx.fsw |= random.below(64) & (random.oneIn(4) ? 63 : masks);
  for (let i = 0; i < 8; i++) fx.setSt(i, random.float(80));
  state.rflags = random.below(0x1000) & 0x8d5;
  state.gpr[0] = random.integer(64);
  state.gpr[3] = 0x60008000n;
  return state;
}

function encode(spec: InsnSpec, random: Random): Uint8Array {
  const memory = spec.operands.some((o) => o.kind === "M");
  if (spec.opcode === 0x9b) return Uint8Array.of(0x9b);
  if (spec.modrm !== undefined) return Uint8Array.of(spec.opcode, spec.modrm);
  const rm = memory ? 3 : 0xc0 | random.below(8);
  return Uint8Array.of(spec.opcode, (spec.digit! << 3) | rm);
}

function randomOperand(spec: InsnSpec, random: Random): bigint {
  if (spec.name === "FBLD") {
    let digits = 0n;
    for (let i = 0; i < 18; i++) digits |= BigInt(random.below(10)) << BigInt(4 * i);
    return digits | (BigInt(random.below(2)) << 79n);
  }
  if (spec.name === "FLDCW") return BigInt(random.below(0x10000));
  if (spec.name.startsWith("FI")) return random.integer(64);
  const { size } = spec.operands[0]!;
  return size === "d" ? random.float(32) : size === "q" ? random.float(64) : random.float(80);
}

describe.skipIf(skipped)(`x87 as the host has it${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  const engine = new FpEngine();
  afterAll(() => cpu.close());

  for (const spec of SPECS.filter((s) => !ELSEWHERE.test(s.name)))
    it(`${spec.name} ${spec.opcode.toString(16)} /${spec.digit ?? spec.modrm?.toString(16)} ${spec.operandText}`, () => {
      const random = new Random(spec.opcode * 8 + (spec.digit ?? spec.modrm ?? 0));
      const failures: string[] = [];
      for (let i = 0; i < CASES && failures.length < 4; i++) {
        const code = encode(spec, random);
        const state = randomState(random);
        const memory = spec.operands.some((o) => o.kind === "M");
        const value = memory ? randomOperand(spec, random) : 0n;
        const bytes = Uint8Array.from({ length: 10 }, (_, b) => Number((value >> BigInt(8 * b)) & 0xffn));
        const image: MemoryBytes[] = memory ? [{ address: 0x60008000, bytes }] : [];
        const host = cpu.run(code, state, { memory: image });
        const ours = engine.run(code, state, image);
        const found: string[] = [];
        const same = (what: string, x: unknown, y: unknown): void => {
          if (x !== y) found.push(`${what} host ${hex(x)} engine ${hex(y)}`);
        };
        const kind = (end: typeof host.end): unknown => (end.kind === "fault" ? end.vector : end.kind);
        same("end", kind(host.end), kind(ours.end));
        same("fcw", host.fx.fcw, ours.fx!.fcw);
        // SDM Vol. 2, FCOMI: C1 is cleared, and flags stay with an unmasked invalid operand. Hosts differ.
        const comparesFlags = /^FU?COMIP?$/.test(spec.name);
        const faulted = (host.fx.fsw & 0x81) === 0x81;
        const status = comparesFlags ? ~0x200 : ~0;
        same("fsw", host.fx.fsw & status, ours.fx!.fsw & status);
        same("ftw", host.fx.ftw, ours.fx!.ftw);
        for (let st = 0; st < 8; st++) same(`st${st}`, host.fx.st(st), ours.fx!.st(st));
        same("rax", host.gpr[0], ours.gpr[0]);
        if (!(comparesFlags && faulted)) same("rflags", host.rflags & 0x8d5, ours.rflags & 0x8d5);
        const text = (writes: MemoryBytes[]): string =>
          writes.map((w) => [w.address.toString(16), hexBytes(w.bytes)]).join();
        same("writes", text(host.writes), text(ours.writes));
        if (found.length > 0)
          failures.push(
            `${hexBytes(code)} fcw ${hex(state.fx.fcw)} fsw ${hex(state.fx.fsw)} ftw ${hex(state.fx.ftw)} st0 ${hex(state.fx.st(0))} st${code[1]! & 7} ${hex(state.fx.st(code[1]! & 7))} mem ${hex(value)}: ${found.join(", ")}`,
          );
      }
      expect(failures).toEqual([]);
    });
});

const hex = (x: unknown): string =>
  typeof x === "number" || typeof x === "bigint" ? x.toString(16) : String(x);
const hexBytes = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
