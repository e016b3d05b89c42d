// The pieces of `npm run bench -- kvm` that can be wrong. Nothing here is timed.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { afterAll, describe, expect, it } from "vitest";
import { microvmCommand, skepCommand } from "../bench/kvm/boots.ts";
import { compileExitLoop, type ExitRunner, engineRunner, exitLoopRunner } from "../bench/kvm/exits.ts";
import { exitLatencies } from "../bench/kvm/mailbox.ts";
import { parseKvmOptions } from "../bench/kvm/options.ts";
import { median, medianRatio, quantile } from "../bench/kvm/statistics.ts";
import { tables } from "../bench/kvm/tables.ts";
import { parseHistogram } from "../bench/kvm/trace.ts";
import { kvmHere } from "../packages/vcpu/test/kvm/host.ts";

const EXITS = 500;
const directory = mkdtempSync(join(tmpdir(), "skep-bench-kvm-test-"));
afterAll(() => rmSync(directory, { recursive: true }));

describe("bench kvm: options", () => {
  it("defaults to all parts in both places", () => {
    const { parts, places, runs, json, timeoutMs } = parseKvmOptions([]);
    expect([...parts]).toEqual(["exits", "mailbox", "boot"]);
    expect([...places]).toEqual(["host", "rig"]);
    expect([runs, json, timeoutMs]).toEqual([5, false, 120_000]);
    expect(parseKvmOptions([]).commandLine).toBe("console=ttyS0 panic=-1");
    expect(parseKvmOptions(["--append", "quiet"]).commandLine).toBe("quiet");
  });

  it("takes lists, numbers and --json", () => {
    const options = parseKvmOptions(["--only", "boot,exits", "--on", "rig", "--runs", "2", "--json"]);
    expect([...options.parts]).toEqual(["boot", "exits"]);
    expect([...options.places]).toEqual(["rig"]);
    expect([options.runs, options.json]).toEqual([2, true]);
  });

  it("refuses what is no part, no place, no count and no option", () => {
    expect(() => parseKvmOptions(["--only", "exits,boots"])).toThrow(/--only: expected one of .*"boots"/);
    expect(() => parseKvmOptions(["--on", "moon"])).toThrow(/--on: expected one of host, rig, got "moon"/);
    expect(() => parseKvmOptions(["--runs", "0"])).toThrow(/--runs: expected a whole number/);
    expect(() => parseKvmOptions(["--timeout", "1.5"])).toThrow(/--timeout: expected a whole number/);
    expect(() => parseKvmOptions(["--verbose"])).toThrow(TypeError);
  });
});

describe("bench kvm: statistics", () => {
  it("takes the middle, whatever the order", () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([10, 2, 4, 1])).toBe(3);
    expect(() => median([])).toThrow(RangeError);
  });

  it("takes quantiles between neighbours in proportion", () => {
    const values = Array.from({ length: 101 }, (_, i) => 100 - i);
    expect(quantile(values, 0)).toBe(0);
    expect(quantile(values, 0.99)).toBe(99);
    expect(quantile([1, 2], 0.25)).toBe(1.25);
    expect(quantile([7], 1)).toBe(7);
    expect(() => quantile([1], 1.5)).toThrow(RangeError);
  });

  it("compares each value with its neighbour, not the medians", () => {
    expect(medianRatio([2, 40, 6], [1, 10, 2])).toBe(3);
    expect(() => medianRatio([1], [1, 2])).toThrow(RangeError);
  });
});

describe("bench kvm: what is read and shown", () => {
  it("reads the kernel's histograms, the most frequent first", () => {
    const text = [
      "# event histogram",
      "#",
      "# trigger info: hist:keys=reason:vals=hitcount:sort=hitcount:size=2048 [active]",
      "{ reason:          5 } hitcount:          3",
      "{ reason:          2 } hitcount:      31337",
      "",
      "Totals:",
      "    Hits: 31340",
    ].join("\n");
    expect(Object.entries(parseHistogram(text, "reason"))).toEqual([
      ["2", 31337],
      ["5", 3],
    ]);
    const symbolic = "{ reason: KVM_EXIT_IO              [          2] } hitcount:         12\n";
    expect(parseHistogram(symbolic, "port")).toEqual({});
  });

  it("gives both machines the same guest", () => {
    const guest = { kernel: "/k", initrd: "/i", memoryMiB: 128, commandLine: "console=ttyS0 quiet" };
    for (const command of [skepCommand("/cli.js", guest), microvmCommand("/qemu", guest)]) {
      expect(command).toEqual(expect.arrayContaining(["/k", "/i", "console=ttyS0 quiet"]));
      expect(command.join(" ")).toMatch(/(--memory 128M|-m 128) /);
    }
  });

  it("shows ratios where there is something to compare with", () => {
    const exits = { rounds: 3, exits: 10, engineNs: 300, exitLoopNs: 200, ratio: 1.5 };
    expect(tables({ exits }).join("\n")).toMatch(
      /exit-loop\.c +200\nskep +300\nskep \/ exit-loop\.c +1\.50 x$/,
    );
    const alone = tables({ exits: { ...exits, exitLoopNs: undefined, ratio: undefined } }).join("\n");
    expect(alone).toMatch(/exit-loop\.c +-\nskep +300$/);
    const run = (initMs: number) => ({ consoleMs: initMs / 2, initMs, endMs: 2 * initMs });
    const boot = { runs: { a: [run(1000)], b: [run(3000)] }, exits: { a: undefined } };
    expect(tables({ boot }).join("\n")).toMatch(/b \/ a +3\.00 x +3\.00 x +3\.00 x/);
  });
});

describe("bench kvm: exits", () => {
  const { missing } = kvmHere;

  const count = async (runner: ExitRunner): Promise<void> => {
    try {
      for (const exits of [1, EXITS]) {
        const round = await runner.round(exits);
        expect(round.exits).toBe(exits);
        expect(round.ns).toBeGreaterThan(0);
      }
    } finally {
      await runner.close();
    }
  };

  it("the C loop compiles and counts its guest's exits", async (context) => {
    if (missing !== undefined) context.skip(missing);
    const program = join(directory, "exit-loop");
    const problem = compileExitLoop(program);
    if (problem?.startsWith("no C compiler")) context.skip(problem);
    expect(problem).toBeUndefined();
    await count(exitLoopRunner(program));
  });

  for (const [place, vcpuThreads] of [
    ["vm-thread", "auto"],
    ["vm-thread-irqchip", "never"],
    ["own-thread", "always"],
  ] as const) {
    it(`the engine counts the same, ${place}`, async (context) => {
      if (missing !== undefined) context.skip(missing);
      await count(await engineRunner(createKvmEngine({ vcpuThreads }), place));
    });

    it(`every sampled exit is measured, ${place}`, async (context) => {
      if (missing !== undefined) context.skip(missing);
      const engine = createKvmEngine({ vcpuThreads });
      const samples = await exitLatencies(engine, place, { samples: 50, pauseUs: 100 });
      expect(samples).toHaveLength(50);
      for (const us of samples) expect(us).toBeGreaterThan(0);
    });
  }

  it("refuses more samples than the guest can store", async () => {
    const plan = { samples: 0x4001, pauseUs: 0 };
    await expect(exitLatencies(createKvmEngine(), "vm-thread", plan)).rejects.toThrow(/samples: expected/);
  });
});
