// npm run bench -- programs: Debian's programs on softvt and on QEMU's TCG, alternating, medians of ratios.
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { ensureBuilt } from "../../scripts/ensure-built.mjs";
import { type BenchGuest, MACHINES, type Machine } from "../machines.ts";
import { measure, type Run } from "../measure.ts";
import { disagreements, medians, type Round, ratios, table } from "./figures.ts";
import { packPrograms } from "./guest.ts";
import { HELP, type ProgramsOptions, parseProgramsOptions } from "./options.ts";

/** What the others are compared with. */
const REFERENCE = "qemu-tcg";

const say = (line: string): void => void process.stderr.write(`${line}\n`);
const options = readOptions();
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
// softvt is measured as it is installed: from dist.
ensureBuilt();
const machines = MACHINES.filter(({ name }) => options.machines.includes(name)).filter(isHere);

const work = mkdtempSync(join(tmpdir(), "skep-bench-programs-"));
try {
  report(await measureAll(await packPrograms(options.programs, work)));
} finally {
  rmSync(work, { recursive: true });
}

function readOptions(): ProgramsOptions {
  try {
    return parseProgramsOptions(process.argv.slice(3));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    process.exit(2);
  }
}

function isHere(machine: Machine): boolean {
  const missing = machine.missing();
  if (missing !== undefined) say(`left out: ${machine.name}: ${missing}`);
  return missing === undefined;
}

async function measureAll(guest: BenchGuest): Promise<Round[]> {
  const rounds: Round[] = [];
  for (let round = 1; round <= options.runs; round++) {
    const runs: Record<string, Run> = {};
    for (const machine of machines) {
      say(`run ${round} of ${options.runs}: ${machine.name}`);
      const guestRamBytes = guest.memoryMiB * 2 ** 20;
      runs[machine.name] = await measure(machine.command(guest), {
        guestRamBytes,
        timeoutMs: options.timeoutMs,
      });
    }
    rounds.push(runs);
  }
  return rounds;
}

function report(rounds: readonly Round[]): void {
  const { programs } = options;
  for (const line of disagreements(programs, rounds)) {
    say(line);
    process.exitCode = 1;
  }
  const host = { cpu: cpus()[0]?.model, cpus: cpus().length, node: process.version };
  if (!options.json) {
    process.stdout.write(`\n${host.cpu}, ${host.cpus} CPUs, Node ${host.node}; seconds, `);
    process.stdout.write(`median of ${options.runs}\n\n${table(programs, rounds, REFERENCE).join("\n")}\n`);
    return;
  }
  const names = machines.map(({ name }) => name);
  const byProgram = (values: readonly number[]): Record<string, number> =>
    Object.fromEntries(programs.map(({ name }, i) => [name, values[i]!]));
  const byMachine = (of: (name: string) => readonly number[], list: readonly string[]) =>
    Object.fromEntries(list.map((name) => [name, byProgram(of(name))]));
  const compared = names.includes(REFERENCE) ? names.filter((name) => name !== REFERENCE) : [];
  const document = {
    kind: "skep-bench-programs",
    version: 1,
    host,
    rounds: rounds.map((round) =>
      Object.fromEntries(Object.entries(round).map(([name, { seconds }]) => [name, seconds])),
    ),
    medians: byMachine((name) => medians(programs, rounds)[name]!, names),
    ratios: byMachine((name) => ratios(programs, rounds, [name, REFERENCE]), compared),
  };
  process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
}
