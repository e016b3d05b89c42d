import { type Engine, ExitReason } from "@skep/vcpu";
import { engineConformance } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { createSoftvtEngine } from "../src/index.ts";

/** Cases about what the README lists as missing, by name. */
const MISSING: Readonly<Record<string, string>> = {
  "raises #AC in ring 3 for what is not aligned, if asked": "alignment checks are not made",
  "traps after a write to watched memory, not after a read or a miss": "data breakpoints never match",
  "traps after a read where reads are watched too": "data breakpoints never match",
};

const found = new Set<string>();

const BETWEEN_INSTRUCTIONS = new Set<number>([
  ExitReason.InterruptWindow,
  ExitReason.Hlt,
  ExitReason.MonitorTrapFlag,
  ExitReason.PreemptionTimer,
]);
const CS_LONG = 0x2000;
const EFER_LMA = 0x400n;

/** An engine that finds registers wider than the mode that they are used in. */
function checked(engine: Engine): Engine {
  const createVm: Engine["createVm"] = async (options) => {
    const vm = await engine.createVm(options);
    const createVcpu = vm.createVcpu.bind(vm);
    vm.createVcpu = (index) => {
      const vcpu = createVcpu(index);
      const run = vcpu.run.bind(vcpu);
      vcpu.run = (options) => {
        const exit = run(options);
        // To save is to end the instruction: not where that still wants an answer.
        if (!BETWEEN_INSTRUCTIONS.has(exit.reason)) return exit;
        const state = vcpu.save();
        const is64 = (state.cs.access & CS_LONG) !== 0 && ((state.msrs.c0000080 ?? 0n) & EFER_LMA) !== 0n;
        if (!is64 && state.gpr.slice(0, 8).some((value) => value > 0xffff_ffffn))
          throw new Error(`registers wider than the mode: ${state.gpr.map((value) => value.toString(16))}`);
        return exit;
      };
      return vcpu;
    };
    return vm;
  };
  return { ...engine, createVm };
}

const tiers = [
  ["softvt", () => checked(createSoftvtEngine({ compileAfter: Number.POSITIVE_INFINITY }))],
  ["softvt, compiled", () => checked(createSoftvtEngine({ compileAfter: 0 }))],
] as const;

for (const [name, create] of tiers)
  engineConformance(
    name,
    create,
    {
      describe,
      it,
      skip: (title, reason) => it.skip(`${title} (${reason})`),
    },
    {
      skip: (conformanceCase) => {
        const reason = MISSING[conformanceCase.name];
        if (reason !== undefined) found.add(conformanceCase.name);
        return reason;
      },
    },
  );

describe("what is skipped", () => {
  it("is in the suite", ({ expect }) => {
    expect([...found].sort()).toEqual(Object.keys(MISSING).sort());
  });
});
