import { afterAll, describe, expect, it } from "vitest";
import { HostCpu, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { hostState } from "../../../test/host-cpu/state.ts";
import "../src/isa/x87/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";
const BUFFER = 0x60008000;

/** FIP, FCS, FOP, FDP and FDS in the environment: vendors fill them at different times. */
const POINTERS = { 16: [6, 14], 32: [12, 28] } as const;

describe.skipIf(skipped)(`the x87 environment as the host has it${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  const engine = new FpEngine();
  afterAll(() => cpu.close());

  for (const [name, opcode, digit] of [
    ["FNSTENV", 0xd9, 6],
    ["FNSAVE", 0xdd, 6],
    ["FLDENV", 0xd9, 4],
    ["FRSTOR", 0xdd, 4],
  ] as const)
    for (const size of [16, 32] as const)
      it(`${name} ${size}`, () => {
        const random = new Random(opcode + digit + size);
        for (let i = 0; i < 500; i++) {
          const state = hostState(STACK_START);
          const { fx } = state;
          fx.ftw = random.below(256);
          fx.fsw = random.below(0x10000) & 0x7f7f;
          // Only exceptions that are masked, or the waiting ones would fault.
          fx.fcw = 0x40 | (fx.fsw & 0x3f) | random.below(64) | (random.below(16) << 8);
          if (name === "FNSTENV" && random.oneIn(4)) fx.fcw &= ~0x3f;
          for (let st = 0; st < 8; st++) fx.setSt(st, random.float(80));
          state.gpr[3] = BigInt(BUFFER);
          const code = Uint8Array.of(...(size === 16 ? [0x66] : []), opcode, (digit << 3) | 3);
          const bytes = random.bytes(112);
          const memory = [{ address: BUFFER, bytes }];
          const host = cpu.run(code, state, { memory });
          const ours = engine.run(code, state, memory);
          const image = (writes: typeof host.writes): string => {
            const out = bytes.slice();
            for (const write of writes) out.set(write.bytes, write.address - BUFFER);
            if (digit === 6) out.fill(0, ...POINTERS[size]);
            return Buffer.from(out).toString("hex");
          };
          expect(image(ours.writes)).toBe(image(host.writes));
          for (const field of ["fcw", "fsw", "ftw"] as const)
            expect([field, ours.fx![field]]).toEqual([field, host.fx[field]]);
          for (let st = 0; st < 8; st++) expect(ours.fx!.st(st)).toBe(host.fx.st(st));
        }
      });
});
