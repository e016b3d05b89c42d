import { ExitReason } from "@skep/vcpu";
import {
  ConformanceError,
  engineConformance,
  engineGroups,
  FakeEngine,
  processorGroups,
  runCase,
  type TestFramework,
} from "@skep/vcpu/testing";
import { describe, expect, it } from "vitest";

const all = [...processorGroups, ...engineGroups].flatMap(({ cases }) => cases);

/** A framework that collects what it is told. */
function collector(): TestFramework & { names: string[]; bodies: Map<string, () => Promise<void>> } {
  const names: string[] = [];
  const bodies = new Map<string, () => Promise<void>>();
  return {
    names,
    bodies,
    describe: (_, body) => body(),
    it: (name, body) => {
      names.push(name);
      bodies.set(name, body);
    },
  };
}

describe("engineConformance", () => {
  it("defines every case once, each with what it needs", () => {
    const framework = collector();
    engineConformance("fake", () => new FakeEngine(2), framework);
    expect(framework.names).toEqual(all.map(({ name }) => name));
    expect(new Set(framework.names).size).toBe(framework.names.length);
    expect(framework.names.length).toBeGreaterThan(200);
    for (const { name, needs } of all) expect(needs.length, name).toBeGreaterThan(0);
  });

  it("skips by name and need, with the reason", () => {
    const framework = collector();
    engineConformance("fake", () => new FakeEngine(2), framework, {
      skip: ({ needs }) => (needs.includes("task switch") ? "no task switches" : undefined),
    });
    const skipped = framework.names.filter((name) => name.endsWith("(skipped: no task switches)"));
    expect(skipped).toHaveLength(4);
    const calls: string[] = [];
    engineConformance(
      "fake",
      () => new FakeEngine(2),
      { ...collector(), skip: (name, reason) => calls.push(`${name}: ${reason}`) },
      { skip: ({ group }) => (group === "state" ? "no state" : undefined) },
    );
    expect(calls).toContain("RESET: no state");
  });

  it("fails an engine that executes nothing, in every case that runs a guest", async () => {
    // These look at the state alone.
    const withoutGuest = ["RESET", "canTakeInterrupt follows RFLAGS.IF"];
    const passed: string[] = [];
    for (const test of all.filter(({ needs }) => !needs.includes("SMP"))) {
      const engine = new FakeEngine(1);
      engine.vcpus[0]!.run = () => ({ reason: ExitReason.Hlt });
      await runCase(test, () => engine).then(
        () => passed.push(test.name),
        () => {},
      );
    }
    expect(passed.filter((name) => !withoutGuest.includes(name))).toEqual([]);
  });

  it("says what was expected and what came", async () => {
    const reset = all.find(({ name }) => name === "RESET")!;
    const engine = new FakeEngine(1);
    const { save } = engine.vcpus[0]!;
    engine.vcpus[0]!.save = function (this: (typeof engine.vcpus)[0]) {
      return { ...save.call(this!), cr0: 0x10n };
    };
    const failure = runCase(reset, () => engine);
    await expect(failure).rejects.toBeInstanceOf(ConformanceError);
    await expect(failure).rejects.toThrow(/CR0: expected 0x60000010, got 0x10|rflags/);
  });

  it("closes the engine's VM after a case, passed or failed", async () => {
    for (const test of [all[0]!, all.at(-1)!]) {
      const engine = new FakeEngine(2);
      engine.vcpus[0]!.run = () => ({ reason: ExitReason.TripleFault });
      await runCase(test, () => engine).catch(() => {});
      expect(engine.isClosed).toBe(true);
    }
  });
});
