/**
 * A whole Linux guest, interpreted and with regions: by instruction count both end in the same state, to the last bit of
 * memory, and print the same. Some minutes for each architecture, so SKEP_TIER_STATE=1 asks for it.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createSoftvtEngine } from "@skep/softvt";
import type { Engine, EngineVm } from "@skep/vcpu";
import { createVm } from "skep";
import { expect, it } from "vitest";
import { packGuest } from "../bench/guest.ts";
import { EXPECTED_LINES } from "../bench/measure.ts";
import { hashOf } from "./support/state-hash.ts";

const isAsked = process.env.SKEP_TIER_STATE === "1";
const title = isAsked ? "" : " (skipped: SKEP_TIER_STATE is not 1)";
/** Sooner than by default: more regions, made earlier. */
const COMPILE_AFTER = 24;
const TIMEOUT_MS = 3_600_000;

interface End {
  readonly state: string;
  readonly instructions: number;
  readonly console: string;
}

/** Counts its VM's regions. */
function counting(compileAfter: number): { engine: Engine; regions: () => number } {
  const engine = createSoftvtEngine({ compileAfter });
  let vm: (EngineVm & { readonly regionStats: { readonly compiled: number } }) | undefined;
  const createVm: Engine["createVm"] = async (options) => {
    vm = (await engine.createVm(options)) as NonNullable<typeof vm>;
    return vm;
  };
  return { engine: { ...engine, createVm }, regions: () => vm!.regionStats.compiled };
}

it.skipIf(!isAsked).each(["amd64", "i386"] as const)(
  `the bench guest ends the same on both tiers, %s${title}`,
  async (architecture) => {
    const directory = mkdtempSync(join(tmpdir(), "skep-tier-state-"));
    const guest = await packGuest(architecture, directory);
    const run = async (compileAfter: number): Promise<End & { regions: number }> => {
      const { engine, regions } = counting(compileAfter);
      await using machine = await createVm({
        kernel: readFileSync(guest.kernel),
        initrd: readFileSync(guest.initrd),
        commandLine: "console=ttyS0 panic=-1",
        memoryMiB: guest.memoryMiB,
        clock: "instructions",
        engine,
      });
      let output = "";
      machine.console.on("data", (bytes) => {
        output += new TextDecoder().decode(bytes);
      });
      expect(await machine.run()).toEqual({ kind: "poweroff" });
      return {
        state: hashOf(machine.save()),
        instructions: machine.vm.vcpus[0]!.instructions,
        console: output,
        regions: regions(),
      };
    };
    try {
      const { regions: none, ...interpreted } = await run(Number.POSITIVE_INFINITY);
      const { regions, ...compiled } = await run(COMPILE_AFTER);
      const { instructions, state } = interpreted;
      console.log(`${architecture}: ${instructions} instructions, ${regions} regions, state ${state}`);
      for (const line of EXPECTED_LINES) expect(interpreted.console).toContain(line);
      expect(none).toBe(0);
      expect(regions).toBeGreaterThan(100);
      expect(compiled).toEqual(interpreted);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
  TIMEOUT_MS,
);
