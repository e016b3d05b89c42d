/**
 * SSE4.2's string comparisons against the host's own processor, on strings in which something is found: every
 * immediate, few different characters, ends at every place.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SoftCpu } from "../../../test/differential/soft-cpu.ts";
import { HostCpu, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { Random } from "../../../test/host-cpu/random.ts";
import { type HostState, hostState } from "../../../test/host-cpu/state.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : (opened.features.lacks("sse4.2") ?? "");
const STATUS = 0x8d5;

describe.skipIf(skipped)(`string comparisons${skipped ? ` (${skipped})` : ""}`, () => {
  const host = opened as HostCpu;
  let soft: SoftCpu;
  beforeAll(async () => {
    soft = await SoftCpu.open(host.readOnly);
  });
  afterAll(async () => {
    host.close();
    await soft.close();
  });

  /** A string of few characters, around the sign and the word's middle, that ends somewhere or nowhere. */
  function text(random: Random, words: boolean): bigint {
    const letters = words ? [0x61, 0x62, 0x7fff, 0x8000, 0x6100] : [0x61, 0x62, 0x7f, 0x80, 0xff];
    const count = words ? 8 : 16;
    const end = random.oneIn(4) ? count : random.below(count + 1);
    let value = 0n;
    for (let i = 0; i < count; i++) {
      // Behind the end there is more, which must not be looked at.
      const letter = i === end ? 0 : random.pick(letters.slice(0, random.oneIn(2) ? 2 : 5));
      value |= BigInt(letter) << BigInt(i * (words ? 16 : 8));
    }
    return value;
  }

  it.each([
    ["PCMPESTRM", 0x60],
    ["PCMPESTRI", 0x61],
    ["PCMPISTRM", 0x62],
    ["PCMPISTRI", 0x63],
  ])("%s", (name, opcode) => {
    const random = new Random(opcode);
    for (let imm = 0; imm < 128; imm++)
      for (let i = 0; i < 6; i++) {
        const state: HostState = hostState(STACK_START);
        const words = (imm & 1) !== 0;
        state.fx.setXmm(1, text(random, words));
        state.fx.setXmm(2, random.oneIn(8) ? state.fx.xmm(1) : text(random, words));
        for (const register of [0, 2])
          state.gpr[register] = random.oneIn(4)
            ? random.integer(64)
            : BigInt.asUintN(64, BigInt(random.between(-18, 18)));
        state.gpr[1] = random.u64();
        const wide = random.oneIn(2) && opcode < 0x62;
        const code = Uint8Array.of(0x66, ...(wide ? [0x48] : []), 0x0f, 0x3a, opcode, 0xca, imm);
        const expected = host.run(code, state);
        const actual = soft.run({ code, state, options: { mode: 64, memory: [] } });
        const label = `${name} imm ${imm.toString(16)} ${state.fx.xmm(1).toString(16)} ${state.fx.xmm(2).toString(16)}`;
        expect(actual.gpr[1], label).toBe(expected.gpr[1]);
        expect(actual.fx!.xmm(0), label).toBe(expected.fx.xmm(0));
        expect(actual.rflags & STATUS, label).toBe(expected.rflags & STATUS);
      }
  });
});
