import { afterAll, describe, expect, it } from "vitest";
import { HostCpu, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { hostState } from "../../../test/host-cpu/state.ts";
import "../src/isa/x87/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";
const CASES = Number(process.env.SKEP_FP_CASES ?? 4000);
const LOW64 = (1n << 64n) - 1n;

const exponentOf = (x: bigint): number => Number((x >> 64n) & 0x7fffn);
const isUnsupported = (x: bigint): boolean => exponentOf(x) !== 0 && (x >> 63n) % 2n === 0n;
const isNumber = (x: bigint): boolean => exponentOf(x) !== 0x7fff && !isUnsupported(x);

/** Units in the last place between two results of the same sign. */
function distance(a: bigint, b: bigint): bigint {
  const ordered = (x: bigint): bigint => {
    const magnitude = (BigInt(exponentOf(x)) << 63n) | (x & (LOW64 >> 1n));
    return x >> 79n === 1n ? -magnitude : magnitude;
  };
  const d = ordered(a) - ordered(b);
  return d < 0n ? -d : d;
}

describe.skipIf(skipped)(`transcendentals near the host's${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  const engine = new FpEngine();
  afterAll(() => cpu.close());

  for (const [name, modrm, limit] of [
    ["F2XM1", 0xf0, 0],
    ["FYL2X", 0xf1, undefined],
    ["FYL2XP1", 0xf9, -2],
    ["FPTAN", 0xf2, 63],
    ["FPATAN", 0xf3, undefined],
    ["FSIN", 0xfe, 63],
    ["FCOS", 0xff, 63],
    ["FSINCOS", 0xfb, 63],
  ] as const)
    it(name, () => {
      const random = new Random(modrm);
      const failures: string[] = [];
      let differing = 0;
      for (let i = 0; i < CASES && failures.length < 6; i++) {
        const state = hostState(STACK_START);
        const { fx } = state;
        fx.ftw = random.oneIn(8) ? random.below(256) : 0x3f;
        fx.fsw = random.oneIn(8) ? (random.below(8) << 11) | (random.below(0x10000) & 0x4700) : 0;
        const masks = random.oneIn(8) ? random.below(64) : 0x3f;
        fx.fcw = 0x340 | masks | (random.oneIn(2) ? 0 : random.below(4) << 10);
        for (let st = 0; st < 8; st++) fx.setSt(st, random.float(80));
        const x = fx.st(0);
        // Beyond a function's range the manuals define nothing.
        if (limit !== undefined && isNumber(x) && exponentOf(x) - 16383 >= limit && limit < 63) {
          const exponent = BigInt(16383 + limit - 1 - random.below(random.oneIn(2) ? 4 : 80));
          fx.setSt(0, (x & ~(0x7fffn << 64n)) | (exponent << 64n));
        }
        const code = Uint8Array.of(0xd9, modrm);
        const host = cpu.run(code, state);
        const ours = engine.run(code, state);
        const found: string[] = [];
        for (let st = 0; st < 8; st++) {
          const [a, b] = [host.fx.st(st), ours.fx!.st(st)];
          if (a === b) continue;
          if (isNumber(a) && isNumber(b) && distance(a, b) <= 1n) differing++;
          else found.push(`st${st} host ${a.toString(16)} engine ${b.toString(16)}`);
        }
        // C1 tells how the result was rounded, which one unit more or less changes.
        const status = 0xffff & ~0x200;
        if ((host.fx.fsw & status) !== (ours.fx!.fsw & status))
          found.push(`fsw host ${host.fx.fsw.toString(16)} engine ${ours.fx!.fsw.toString(16)}`);
        if (host.fx.ftw !== ours.fx!.ftw)
          found.push(`ftw host ${host.fx.ftw.toString(16)} engine ${ours.fx!.ftw.toString(16)}`);
        if (found.length > 0)
          failures.push(
            `fcw ${fx.fcw.toString(16)} fsw ${fx.fsw.toString(16)} ftw ${fx.ftw.toString(16)} st0 ${fx.st(0).toString(16)} st1 ${fx.st(1).toString(16)}: ${found.join(", ")}`,
          );
      }
      expect(failures).toEqual([]);
      expect(differing).toBeLessThan(CASES / 4);
    });
});
