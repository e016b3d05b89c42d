// The pieces of `npm run bench -- programs` that can be wrong. Nothing here is timed.
import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import type { Run } from "../bench/measure.ts";
import { disagreements, medians, type Round, ratios, table } from "../bench/programs/figures.ts";
import { initScript } from "../bench/programs/guest.ts";
import { parseProgramsOptions } from "../bench/programs/options.ts";
import { PROGRAMS } from "../bench/programs/programs.ts";

const programs = [
  { name: "one", what: "", run: "echo 1", expected: "1" },
  { name: "two", what: "", run: "echo 2" },
];
const run = (seconds: readonly [number, number], results: readonly [string, string]): Run => ({
  seconds: { one: seconds[0], two: seconds[1] },
  results: { one: results[0], two: results[1] },
  memory: undefined,
});

describe("bench programs: options", () => {
  it("defaults to all programs on softvt and QEMU", () => {
    const { programs, machines, runs, json, timeoutMs } = parseProgramsOptions([]);
    expect(programs).toEqual(PROGRAMS);
    expect([machines, runs, json, timeoutMs]).toEqual([["softvt", "qemu-tcg"], 3, false, 300_000]);
  });

  it("takes lists, in the guest's order", () => {
    const { programs, machines } = parseProgramsOptions(["--only", "xz,sha256", "--on", "softvt-tier0"]);
    expect(programs.map(({ name }) => name)).toEqual(["sha256", "xz"]);
    expect(machines).toEqual(["softvt-tier0"]);
  });

  it("refuses what is no program and no machine", () => {
    expect(() => parseProgramsOptions(["--only", "perl"])).toThrow(/--only: expected one of .*"perl"/);
    expect(() => parseProgramsOptions(["--on", "v86"])).toThrow(/--on: expected one of softvt, /);
  });
});

describe("bench programs: figures", () => {
  const rounds: Round[] = [
    { softvt: run([2, 4], ["1", "a"]), "qemu-tcg": run([1, 4], ["1", "a"]) },
    { softvt: run([30, 4], ["1", "a"]), "qemu-tcg": run([10, 2], ["1", "a"]) },
    { softvt: run([8, 4], ["1", "a"]), "qemu-tcg": run([2, 1], ["1", "a"]) },
  ];

  it("compares each run with its neighbour", () => {
    expect(medians(programs, rounds)).toEqual({ softvt: [8, 4], "qemu-tcg": [2, 2] });
    expect(ratios(programs, rounds, ["softvt", "qemu-tcg"])).toEqual([3, 2]);
    expect(table(programs, rounds, "qemu-tcg").join("\n")).toMatch(/one +8\.00 +2\.00 +3\.00 x\ntwo +4\.00/);
    expect(table(programs, rounds, "v86").join("\n")).not.toMatch(/ x/);
  });

  it("finds results that are wrong, missing or not the same", () => {
    expect(disagreements(programs, rounds)).toEqual([]);
    const differs = [...rounds, { softvt: run([1, 1], ["1", "b"]), "qemu-tcg": run([1, 1], ["1", "a"]) }];
    expect(disagreements(programs, differs)).toEqual(['two: softvt gave "b", expected "a"']);
    const wrong = [{ softvt: run([1, 1], ["7", "failed with 139: "]) }];
    expect(disagreements(programs, wrong)).toHaveLength(2);
    const missing = [{ softvt: { ...run([1, 1], ["1", "a"]), results: { one: "1" } } }];
    expect(disagreements(programs, missing)).toEqual(['two: softvt gave "undefined", expected "undefined"']);
  });
});

describe("bench programs: the guest's script", () => {
  it("is one that a shell understands, with every program between its markers", () => {
    const script = initScript(PROGRAMS, "/cc1");
    const { status, stderr } = spawnSync("sh", ["-n"], { input: script, encoding: "utf8" });
    expect([status, stderr]).toEqual([0, ""]);
    for (const { name } of PROGRAMS)
      expect(script.indexOf(`"@@ begin ${name}"`)).toBeLessThan(script.indexOf(`"@@ end ${name}"`));
    expect(script).not.toMatch(/undefined/);
  });

  it("names each program once, by a word", () => {
    const names = PROGRAMS.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^\w+$/);
  });
});
