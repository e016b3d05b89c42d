import { expect, it } from "vitest";
import { UOP_BYTES, UOPS } from "../src/cpu/layout.ts";
import { InstructionMap } from "../src/engine/instruction-map.ts";

/** Repeats (Park and Miller's generator): 1 to 2^31 - 2. */
function* numbers(seed: number): Generator<number, never> {
  for (let x = seed; ; x = (x * 48_271) % 0x7fff_ffff) yield x;
}

it("does what a Map does, with addresses to 4 GiB, through growth, deletion and clearing", () => {
  const map = new InstructionMap();
  const random = numbers(1);
  for (const round of [1, 2]) {
    const model = new Map<string, { host: number; mode: number; uop: number }>();
    for (let step = 0; step < 120_000; step++) {
      // Runs of neighbours, as code is, at both ends of the arena.
      const host = (step % 2 === 0 ? 0x0400_0000 : 0xffff_0000) + (random.next().value % 0x8000);
      const mode = random.next().value % 4 === 0 ? 31 : 0;
      const key = `${host} ${mode}`;
      if (random.next().value % 3 === 0) {
        map.delete(host, mode);
        model.delete(key);
      } else {
        const uop = UOPS + (1 + (random.next().value % 3_000_000)) * UOP_BYTES;
        map.set(host, mode, uop);
        model.set(key, { host, mode, uop });
      }
    }
    expect(model.size, `round ${round}`).toBeGreaterThan(16_384);
    expect(map.size).toBe(model.size);
    const wrong = [...model.values()].filter(({ host, mode, uop }) => map.get(host, mode) !== uop);
    expect(wrong).toEqual([]);
    map.clear();
    expect(map.size).toBe(0);
    expect(map.get(0x0400_0000, 0)).toBe(0);
  }
});

it("tells the modes of one address apart", () => {
  const map = new InstructionMap();
  for (let mode = 0; mode < 32; mode++) map.set(0x1234, mode, UOPS + (mode + 1) * UOP_BYTES);
  map.delete(0x1234, 7);
  for (let mode = 0; mode < 32; mode++)
    expect(map.get(0x1234, mode)).toBe(mode === 7 ? 0 : UOPS + (mode + 1) * UOP_BYTES);
});
