// npm run test:svm, npm run test:vtx: a rig for a person, with progress: main.ts svm|vtx [options]
import { parseArgs } from "node:util";
import { isScriptName, type ScriptName } from "./guest/scripts.ts";
import { RIGS } from "./plan.ts";
import type { RigRecord } from "./records.ts";
import { runRig } from "./rig.ts";

const HELP = `npm run test:svm -- [options]; npm run test:vtx -- [options]

  --script NAME    run this script instead of the rig's own list; more than one by commas
  --only TEXT      run the cases whose names contain this
  --timeout S      seconds after which the machine is ended
  --console        show the guest's console as it comes
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    script: { type: "string" },
    only: { type: "string" },
    timeout: { type: "string" },
    console: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const say = (line: string): void => void process.stderr.write(`${line}\n`);
const refuse = (message: string): never => {
  say(message);
  process.exit(2);
};

if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
const name = positionals[0] ?? "";
if (name !== "svm" && name !== "vtx") refuse(`rig: expected svm or vtx, got "${name}"`);
const { machine, scripts, timeoutSeconds } = RIGS[name as "svm" | "vtx"];
const missing = machine.missing();
if (missing !== undefined) {
  say(missing);
  process.exit(1);
}
const wanted = values.script?.split(",") ?? [...scripts];
const unknown = wanted.find((script) => !isScriptName(script));
if (unknown !== undefined) refuse(`--script: expected names of scripts, got "${unknown}"`);
const timeout = Number(values.timeout ?? timeoutSeconds);
if (!(timeout > 0)) refuse(`--timeout: expected a number of seconds, got "${values.timeout}"`);

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
const start = performance.now();
const stamp = (): string => `${((performance.now() - start) / 1000).toFixed(1).padStart(6)} s`;

say(`${machine.title}: ${wanted.join(", ")}`);
const report = await runRig(machine, {
  scripts: wanted as ScriptName[],
  timeoutSeconds: timeout,
  ...(values.only !== undefined && { only: values.only }),
  signal: stop.signal,
  onRecord: show,
  onNote: (line) => say(`${stamp()}  ${line}`),
  ...(values.console && { onConsole: (line: string) => say(`${stamp()}  console: ${line}`) }),
});
const count = (status: RigRecord["status"]): number =>
  report.records.filter((record) => record.status === status).length;
for (const record of report.records) {
  if (record.status === "failed") say(`\nfailed: ${record.script} > ${record.name}\n  ${record.message}`);
}
if (report.problem !== undefined) say(`\n${report.problem}`);
say(`\n${stamp()}  ${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`);
process.exit(report.problem === undefined && count("failed") === 0 ? 0 : 1);

function show({ script, name: title, status, message, ms }: RigRecord): void {
  const detail = status === "skipped" ? `: ${message}` : ` (${ms} ms)`;
  say(`${stamp()}  ${status} ${script} > ${title}${detail}`);
}
