import { GuestFilesError } from "skep/node";
import { beforeAll, describe, expect, it, type TestContext } from "vitest";
import type { RigCase } from "./guest/case.ts";
import { SCRIPTS, type ScriptName } from "./guest/scripts.ts";
import type { Rig } from "./plan.ts";
import { type RigReport, runRig } from "./rig.ts";

/** Beyond the machine's own time: building, packing. */
const PREPARATION_SECONDS = 300;

/**
 * Defines a test for each case of a rig's scripts. The machine boots once, before the first of them; a test is what the
 * record of its case says.
 */
export async function defineRigTests({ machine, scripts, timeoutSeconds }: Rig): Promise<void> {
  const missing = machine.missing();
  if (missing !== undefined) {
    it(machine.title, (context) => context.skip(missing));
    return;
  }
  const lists: (readonly [ScriptName, readonly RigCase[]])[] = [];
  for (const name of scripts) lists.push([name, await SCRIPTS[name]()]);

  describe(machine.title, () => {
    let report: RigReport;
    let unavailable: string | undefined;
    beforeAll(
      async () => {
        try {
          report = await runRig(machine, { scripts, timeoutSeconds });
        } catch (error) {
          if (!(error instanceof GuestFilesError) || process.env.CI === "true") throw error;
          unavailable = error.message;
        }
      },
      (timeoutSeconds + PREPARATION_SECONDS) * 1000,
    );
    const check = (context: TestContext, script: ScriptName, name: string): void => {
      if (unavailable !== undefined) context.skip(unavailable);
      const record = report.records.find((found) => found.script === script && found.name === name);
      if (record === undefined) throw new Error(`no record came: see "the machine's run" below`);
      if (record.status === "skipped") context.skip(record.message);
      if (record.status === "failed") throw new Error(record.message);
    };

    for (const [script, cases] of lists) {
      describe(script, () => {
        for (const { name } of cases) it(name, (context) => check(context, script, name));
      });
    }
    it("the machine's run ends with a full list of records, each of a case of its own", (context) => {
      if (unavailable !== undefined) context.skip(unavailable);
      if (report.problem !== undefined) throw new Error(report.problem);
      const listed = lists.flatMap(([script, cases]) => cases.map(({ name }) => `${script} > ${name}`));
      const reported = report.records.map(({ script, name }) => `${script} > ${name}`);
      expect(reported).toEqual(listed);
      expect(new Set(listed).size).toBe(listed.length);
    });
  });
}
