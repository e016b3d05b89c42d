import { parseArgs } from "node:util";
import { names, positive } from "../arguments.ts";
import { MACHINES } from "../machines.ts";
import { PROGRAMS, type Program } from "./programs.ts";

/** softvt first: the others are what it is compared with. */
const MACHINE_NAMES = ["softvt", "softvt-tier0", "qemu-tcg"];
const PROGRAM_NAMES = PROGRAMS.map(({ name }) => name);
/** The interpreter takes several times as long. */
const DEFAULT_MACHINES = "softvt,qemu-tcg";

export const HELP = `npm run bench -- programs [--only PROGRAM,…] [--on MACHINE,…] [--runs N] [--json]

Debian's programs in the same Linux guest on each machine, each a fixed piece of work, timed by the host's clock.
  --only P     one or more of these by commas (default: all)
${PROGRAMS.map(({ name, what }) => `                 ${name.padEnd(9)} ${what}`).join("\n")}
  --on M       ${MACHINE_NAMES.join(", ")} (default ${DEFAULT_MACHINES})
  --runs N     runs of each machine, alternating (default 3)
  --json       one JSON document on stdout in place of the table
  --timeout S  seconds after which a run is given up (default 300)
`;

export interface ProgramsOptions {
  readonly programs: readonly Program[];
  readonly machines: readonly string[];
  readonly runs: number;
  readonly json: boolean;
  readonly timeoutMs: number;
  readonly help: boolean;
}

/** @throws RangeError where a value is not one of its option's; TypeError where there is no such option. */
export function parseProgramsOptions(args: readonly string[]): ProgramsOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string", default: PROGRAM_NAMES.join() },
      on: { type: "string", default: DEFAULT_MACHINES },
      runs: { type: "string", default: "3" },
      json: { type: "boolean", default: false },
      timeout: { type: "string", default: "300" },
      help: { type: "boolean", default: false },
    },
  });
  const only = names("--only", values.only, PROGRAM_NAMES);
  const on = names("--on", values.on, MACHINE_NAMES);
  return {
    programs: PROGRAMS.filter(({ name }) => only.has(name)),
    machines: MACHINES.filter(({ name }) => on.has(name)).map(({ name }) => name),
    runs: positive("--runs", values.runs),
    json: values.json,
    timeoutMs: positive("--timeout", values.timeout) * 1000,
    help: values.help,
  };
}
