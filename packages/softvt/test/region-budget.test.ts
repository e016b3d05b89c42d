/** Compiled code that a guest makes without end: it stays within its room, V8 gets it back, and nothing else changes. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { ExitReason, type VcpuStateV1 } from "@skep/vcpu";
import { afterEach, describe, expect, it, vi } from "vitest";
import { HotPages } from "../src/engine/hot-pages.ts";
import { RegionBudget } from "../src/engine/region-budget.ts";
import type { SoftvtOptions } from "../src/index.ts";
// Loaded before the guests run, which are short.
import "../src/region/index.ts";
import { CODE, Guest } from "./guest.ts";

const RBX = 3;
const RSI = 6;
const R12 = 12;
/** Where the guest writes its code: the upper 2 MiB of its memory. */
const AREA = 0x20_0000;
/** A module's least size with what it counts for besides is more than this. */
const MIN_COST = 4096;

/**
 * Writes a function, calls it, and goes on with the next, r12 times; each adds 20 times a constant of its own to eax:
 *
 *     main: [rsi] = mov ecx, 20; a: add eax, r12d; dec ecx; jnz a; ret
 *           mov eax, ebx; call rsi; mov ebx, eax; rsi += 256 within the area; dec r12d; jnz main; hlt
 */
const WRITER = [
  ...[0x48, 0xb8, 0xb9, 20, 0, 0, 0, 0x81, 0xc0, 0, 0x4c, 0x89, 0xe2, 0x48, 0xc1, 0xe2, 56, 0x48, 0x09, 0xd0],
  ...[0x48, 0x89, 0x06, 0x48, 0xb8, 0, 0, 0, 0xff, 0xc9, 0x75, 0xf6, 0xc3, 0x44, 0x89, 0xe2, 0xc1, 0xea, 8],
  ...[
    0x48, 0x09, 0xd0, 0x48, 0x89, 0x46, 8, 0x89, 0xd8, 0xff, 0xd6, 0x89, 0xc3, 0x48, 0x81, 0xc6, 0, 1, 0, 0,
  ],
  ...[0x81, 0xe6, 0xff, 0xff, 0x1f, 0, 0x81, 0xce, 0, 0, 0x20, 0, 0x41, 0xff, 0xcc],
];
const JNZ_BYTES = 6;
const BACK = -(WRITER.length + JNZ_BYTES);
const PROGRAM = [...WRITER, ...[0x0f, 0x85, ...[0, 8, 16, 24].map((shift) => (BACK >>> shift) & 0xff)], 0xf4];

interface Outcome {
  readonly state: VcpuStateV1;
  readonly memory: Uint8Array;
  readonly stats: Guest["regionStats"];
  readonly maxUsed: number;
}

/** Runs the guest through `rounds` functions, in slices of odd lengths. */
async function write(rounds: number, options: SoftvtOptions): Promise<Outcome> {
  const guest = await Guest.open(options);
  guest.code(CODE, ...PROGRAM);
  guest.set((state) => {
    state.gpr[RBX] = 0n;
    state.gpr[RSI] = BigInt(AREA);
    state.gpr[R12] = BigInt(rounds);
  });
  let maxUsed = 0;
  for (let slice = 0; ; slice++) {
    const exit = guest.run({ budget: 20 + ((slice * 7919) % 97), tsc: BigInt(guest.vcpu.instructions) });
    maxUsed = Math.max(maxUsed, guest.regionStats.usedBytes);
    if (exit.reason === ExitReason.Hlt) break;
    expect(exit.reason).toBe(ExitReason.PreemptionTimer);
    // Compilation that is not waited for gets its turn.
    if (slice % 8 === 0) await new Promise((done) => setImmediate(done));
  }
  const memory = new Uint8Array(AREA);
  guest.memory.dma.read(AREA, memory);
  const state = guest.vcpu.save();
  const { regionStats: stats } = guest;
  await guest.close();
  return { state, memory, stats, maxUsed };
}

describe("a guest that makes code without end", () => {
  const rounds = 400;
  const compiledBytes = 2 ** 17;
  it.each([
    ["before it runs", 0],
    ["after a sample", 1],
  ])("stays within its room where code is compiled %s, and runs right", async (_when, compileAfter) => {
    const interpreted = await write(rounds, { compileAfter: Number.POSITIVE_INFINITY });
    const { state, memory, stats, maxUsed } = await write(rounds, { compileAfter, compiledBytes });
    expect(state).toEqual(interpreted.state);
    expect(Buffer.compare(memory, interpreted.memory)).toBe(0);
    expect(state.gpr[RBX]).toBe(BigInt((10 * rounds * (rounds + 1)) % 2 ** 32));
    expect(maxUsed).toBeLessThanOrEqual(compiledBytes);
    expect(maxUsed).toBeGreaterThan(compiledBytes / 2);
    expect(stats.evicted).toBeGreaterThan(20);
    expect(stats.failed).toBe(0);
  });

  it("has all of it compiled where there is room", async () => {
    const { stats } = await write(100, { compileAfter: 0 });
    expect(stats.evicted).toBe(0);
    expect(stats.usedBytes).toBeGreaterThan(100 * MIN_COST);
  });

  it("has bounds", async () => {
    await expect(Guest.open({ compiledBytes: 1000 })).rejects.toThrow(RangeError);
    await expect(Guest.open({ compiledBytes: 2 ** 30 })).rejects.toThrow(RangeError);
  });
});

describe("modules of regions that were dropped", () => {
  afterEach(() => {
    vi.unstubAllGlobals();
  });

  it("are collected, with nothing that holds them", async () => {
    setFlagsFromString("--expose-gc");
    const gc = runInNewContext("gc") as () => void;
    const compiledBytes = 2 ** 17;
    let made = 0;
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    const { Module } = WebAssembly;
    const Watched = class extends Module {
      constructor(bytes: Uint8Array<ArrayBuffer>) {
        super(bytes);
        made++;
        registry.register(this, undefined);
      }
    };
    vi.stubGlobal("WebAssembly", Object.create(WebAssembly, { Module: { value: Watched } }));
    const settle = async (): Promise<void> => {
      for (let turn = 0; turn < 10; turn++) {
        gc();
        await new Promise((done) => setTimeout(done, 5));
      }
    };
    const guest = await Guest.open({ compileAfter: 0, compiledBytes });
    guest.code(CODE, ...PROGRAM);
    guest.set((state) => {
      state.gpr[RSI] = BigInt(AREA);
      state.gpr[R12] = 300n;
    });
    expect(guest.run({ budget: 1_000_000 }).reason).toBe(ExitReason.Hlt);
    await settle();
    expect(made).toBeGreaterThan(300);
    expect(made - collected).toBeGreaterThan(0);
    expect(made - collected).toBeLessThanOrEqual(compiledBytes / MIN_COST);
    await guest.close();
  });
});

describe("the clock of compiled code", () => {
  const batch = (name: string) => ({ name, bytes: 1000, isUsed: false });
  const put = (budget: RegionBudget<ReturnType<typeof batch>>, made: ReturnType<typeof batch>): string[] => {
    const gone: string[] = [];
    budget.begin(made);
    budget.compiled(made);
    budget.installed(made);
    for (let victim = budget.victim(); victim !== undefined; victim = budget.victim()) {
      gone.push(victim.name);
      budget.end(victim);
    }
    return gone;
  };

  it("spares what runs, and drops the oldest of the others", () => {
    const budget = new RegionBudget<ReturnType<typeof batch>>(3 * (1000 + MIN_COST));
    const kernel = batch("kernel");
    expect([kernel, batch("a"), batch("b")].flatMap((made) => put(budget, made))).toEqual([]);
    for (const [name, gone] of [
      ["c", "a"],
      ["d", "b"],
      ["e", "c"],
    ] as const) {
      kernel.isUsed = true;
      expect(put(budget, batch(name))).toEqual([gone]);
    }
    // It runs no more: spared once, gone when the hand comes again.
    expect(["f", "g", "h", "i"].flatMap((name) => put(budget, batch(name)))).toContain("kernel");
    expect(budget.used).toBe(3 * (1000 + MIN_COST));
  });

  it("drops what is larger than all the room", () => {
    const budget = new RegionBudget<ReturnType<typeof batch>>(2000);
    expect(put(budget, batch("large"))).toEqual(["large"]);
    expect(budget.used).toBe(0);
  });

  it("takes no more while half of the room is being compiled", () => {
    const budget = new RegionBudget<ReturnType<typeof batch>>(4 * (1000 + MIN_COST));
    const batches = ["a", "b", "c"].map(batch);
    const states = batches.map((made) => {
      budget.begin(made);
      return budget.isBusy;
    });
    expect(states).toEqual([false, false, true]);
    budget.compiled(batches[0]!);
    expect(budget.isBusy).toBe(false);
  });
});

describe("hot pages", () => {
  it("are hot after so many samples, and take longer each time", () => {
    const pages = new HotPages(4);
    const until = (): number => {
      for (let samples = 1; ; samples++)
        if (pages.sample(0x5000 + (samples & 1), 2) !== undefined) return samples;
    };
    const rounds = [0, 1, 2].map(() => {
      const samples = until();
      const seeds = pages.take({ page: 5, mode: 2, seeds: new Map() });
      expect(seeds.sort()).toEqual([0, 1]);
      return samples;
    });
    expect(rounds).toEqual([4, 6, 9]);
  });

  it("are forgotten, the first first, where a guest runs everywhere", () => {
    const pages = new HotPages(2);
    pages.sample(0x1000, 2);
    for (let page = 2; page < 100_000; page++) pages.sample(page * 4096, 2);
    expect(pages.sample(0x1000, 2)).toBeUndefined();
    expect(pages.sample(99_999 * 4096, 2)).toBeDefined();
  });
});
