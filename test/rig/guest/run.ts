// Runs the cases of the scripts named in the arguments and writes a record for each: run.js SCRIPT…
//
// It may be killed or crash in any case. Then supervise.sh starts it again, and it goes on behind that case:
//   $RIG_STATE/progress  "INDEX DEADLINE": the case that runs, and when by /proc/uptime it is overdue; gone between cases
//   RIG_ENDED          how the process before this one ended
//   RIG_ONLY           runs the cases whose names contain it
import { readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { uptime } from "node:os";
import { type RigClosing, type RigRecord, recordLine } from "../records.ts";
import { CaseSkipped, type RigCase } from "./case.ts";
import { isScriptName, SCRIPTS } from "./scripts.ts";

const DEFAULT_LIMIT_SECONDS = 60;
const STDOUT = 1;
const only = process.env.RIG_ONLY ?? "";
const progressPath = `${process.env.RIG_STATE}/progress`;

const cases: (readonly [script: string, test: RigCase])[] = [];
for (const name of process.argv.slice(2)) {
  if (!isScriptName(name)) {
    throw new RangeError(`script: expected one of ${Object.keys(SCRIPTS).join(", ")}, got "${name}"`);
  }
  for (const test of await SCRIPTS[name]()) if (test.name.includes(only)) cases.push([name, test]);
}

let index = 0;
const broken = interruptedCase();
if (broken !== undefined) {
  const [script, { name }] = cases[broken]!;
  const message = `its process ${process.env.RIG_ENDED ?? "ended"}`;
  send({ script, name, status: "failed", message, ms: 0 });
  index = broken + 1;
}
for (; index < cases.length; index++) send(await runCase(...cases[index]!));
rmSync(progressPath, { force: true });
send({ closed: true, cases: cases.length });

function interruptedCase(): number | undefined {
  try {
    return Number.parseInt(readFileSync(progressPath, "utf8"), 10);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

async function runCase(script: string, test: RigCase): Promise<RigRecord> {
  const { name } = test;
  if (test.skip !== undefined) return { script, name, status: "skipped", message: test.skip, ms: 0 };
  const limit = test.limitSeconds ?? DEFAULT_LIMIT_SECONDS;
  writeFileSync(progressPath, `${index} ${Math.ceil(uptime()) + limit}\n`);
  const start = performance.now();
  const elapsed = (): number => Math.round(performance.now() - start);
  try {
    await test.run();
    if (test.deviation === undefined) return { script, name, status: "passed", ms: elapsed() };
    const message = `passes, which was not expected: ${test.deviation}`;
    return { script, name, status: "failed", message, ms: elapsed() };
  } catch (error) {
    const skipped = error instanceof CaseSkipped ? error.message : test.deviation;
    if (skipped !== undefined) return { script, name, status: "skipped", message: skipped, ms: elapsed() };
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { script, name, status: "failed", message, ms: elapsed() };
  } finally {
    // The deadline was this case's; a crash from here on is not its doing either.
    rmSync(progressPath);
  }
}

/** At once and whole: what is buffered is lost with the process. */
function send(record: RigRecord | RigClosing): void {
  const bytes = new TextEncoder().encode(recordLine(record));
  for (let sent = 0; sent < bytes.length; ) sent += writeSync(STDOUT, bytes, sent);
}
