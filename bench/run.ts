// npm run bench: boot and five workloads on softvt, QEMU's TCG and v86, alternating, medians and ratios.
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ensureBuilt } from "../scripts/ensure-built.mjs";
import { MEMORY_MIB, packGuest } from "./guest.ts";
import { type BenchGuest, MACHINES, type Machine } from "./machines.ts";
import { bareNodeRss, EXPECTED_LINES, measure, type Run, timeToFirstLine, WORKLOADS } from "./measure.ts";

const HELP = `npm run bench -- [--runs N] [--only NAME,…] [--json] [--timeout SECONDS]

Boots the same Debian kernel and busybox on each machine and times the guest's workloads by the host's clock.
  --runs N     runs of each machine, alternating (default 3)
  --only NAME  ${MACHINES.map(({ name }) => name).join(", ")}; more than one by commas (default: all that are here)
  --json       one JSON document on stdout in place of the table
  --timeout S  seconds after which a run is given up (default 300)
`;

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: "3" },
    only: { type: "string" },
    json: { type: "boolean", default: false },
    timeout: { type: "string", default: "300" },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const MIB = 2 ** 20;
/** The entries that are softvt; the others of the same architecture are compared with them. */
const OURS = /^softvt\b/;
const FIRST_INSTRUCTION_RUNS = 5;

const count = positive("--runs", values.runs);
const timeoutMs = positive("--timeout", values.timeout) * 1000;
const machines = selectMachines(values.only);
// softvt is measured as it is installed: from dist.
if (machines.some(({ name }) => OURS.test(name))) ensureBuilt();

const work = mkdtempSync(join(tmpdir(), "skep-bench-"));
try {
  const runs = new Map<string, Run[]>(machines.map(({ name }) => [name, []]));
  const guests = new Map<string, BenchGuest>();
  for (const { architecture } of machines) {
    if (guests.has(architecture)) continue;
    guests.set(architecture, await packGuest(architecture, join(work, architecture)));
  }
  for (let round = 1; round <= count; round++) {
    for (const machine of machines) {
      process.stderr.write(`run ${round} of ${count}: ${machine.name}\n`);
      const command = machine.command(guests.get(machine.architecture)!);
      try {
        const guestRamBytes = MEMORY_MIB * MIB;
        const run = await measure(command, { guestRamBytes, timeoutMs, expectedLines: EXPECTED_LINES });
        runs.get(machine.name)!.push(run);
      } catch (error) {
        // The others' figures are worth having all the same; the status tells.
        process.stderr.write(`${machine.name}: ${error instanceof Error ? error.message : error}\n`);
        process.exitCode = 1;
      }
    }
  }
  for (const [name, list] of runs) if (list.length === 0) runs.delete(name);
  report(runs, runs.has("softvt") ? await measureSoftvt(runs) : undefined);
} finally {
  rmSync(work, { recursive: true });
}

function positive(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    process.stderr.write(`${option}: expected a whole number of at least 1, got "${text}"\n`);
    process.exit(2);
  }
  return value;
}

function selectMachines(only: string | undefined): Machine[] {
  const wanted = only?.split(",");
  const unknown = wanted?.find((name) => !MACHINES.some((machine) => machine.name === name));
  if (unknown !== undefined) {
    const names = MACHINES.map(({ name }) => name).join(", ");
    process.stderr.write(`--only: expected one of ${names}, got "${unknown}"\n`);
    process.exit(2);
  }
  return MACHINES.filter((machine) => {
    if (wanted && !wanted.includes(machine.name)) return false;
    const missing = machine.missing();
    if (missing) process.stderr.write(`left out: ${machine.name}: ${missing}\n`);
    return !missing;
  });
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** What is measured of softvt alone. */
interface SoftvtFigures {
  /** Milliseconds from the start of a process to the exit of the guest's first instruction, median. */
  readonly firstInstructionMs: number;
  /** Resident MiB beyond the guest's RAM and a bare Node, after the workloads, medians by name; Linux hosts only. */
  readonly overheadMiB: Readonly<Record<string, number>>;
}

async function measureSoftvt(runs: ReadonlyMap<string, readonly Run[]>): Promise<SoftvtFigures> {
  const script = fileURLToPath(new URL("first-instruction.mjs", import.meta.url));
  const times: number[] = [];
  for (let start = 0; start < FIRST_INSTRUCTION_RUNS; start++) {
    times.push(await timeToFirstLine([process.execPath, script, String(MEMORY_MIB * MIB)]));
  }
  const nodeRss = await bareNodeRss();
  const overheadMiB: Record<string, number> = {};
  for (const [name, list] of runs) {
    const memory = OURS.test(name) ? list.flatMap((run) => run.memory ?? []) : [];
    const over = memory.map(({ done }) => (done.rss - done.guestRam - nodeRss) / MIB);
    if (over.length > 0) overheadMiB[name] = Math.round(median(over));
  }
  return { firstInstructionMs: Math.round(median(times)), overheadMiB };
}

function report(runs: ReadonlyMap<string, readonly Run[]>, softvt: SoftvtFigures | undefined): void {
  const medians = new Map<string, Record<string, number>>();
  for (const [name, list] of runs) {
    const row: Record<string, number> = {};
    for (const workload of WORKLOADS) row[workload] = median(list.map(({ seconds }) => seconds[workload]!));
    medians.set(name, row);
  }
  const ours = (architecture: string): [string, Record<string, number>] | undefined => {
    const found = machines.find(
      (machine) => OURS.test(machine.name) && machine.architecture === architecture,
    );
    const row = found && medians.get(found.name);
    return row && [found.name, row];
  };

  if (values.json) {
    const document = {
      kind: "skep-bench",
      version: 1,
      host: { cpu: cpus()[0]?.model, cpus: cpus().length, node: process.version },
      memoryMiB: MEMORY_MIB,
      runs: Object.fromEntries([...runs].map(([name, list]) => [name, list.map(({ seconds }) => seconds)])),
      medians: Object.fromEntries(medians),
      softvt,
    };
    process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
    return;
  }
  const cell = (text: string): string => text.padStart(9);
  const line = (name: string, cells: string[]): void => {
    process.stdout.write(`${name.padEnd(24)}${cells.map(cell).join("")}\n`);
  };
  process.stdout.write(`\n${cpus()[0]?.model}, ${cpus().length} CPUs, Node ${process.version}; seconds, `);
  process.stdout.write(`median of ${values.runs}\n\n`);
  line("", [...WORKLOADS]);
  for (const [name, row] of medians)
    line(
      name,
      WORKLOADS.map((workload) => row[workload]!.toFixed(2)),
    );
  for (const { name, architecture } of machines) {
    const row = medians.get(name);
    const against = ours(architecture);
    if (!row || !against || OURS.test(name)) continue;
    line(
      `${name} / ${against[0]}`,
      WORKLOADS.map((workload) => `${(row[workload]! / against[1][workload]!).toFixed(2)} x`),
    );
  }
  if (softvt === undefined) return;
  process.stdout.write(
    `\nsoftvt: ${softvt.firstInstructionMs} ms from process start to the first instruction\n`,
  );
  for (const [name, mib] of Object.entries(softvt.overheadMiB))
    process.stdout.write(`${name}: ${mib} MiB over guest RAM and a bare Node\n`);
}
