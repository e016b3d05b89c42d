import { parseArgs } from "node:util";
import { names, positive } from "../arguments.ts";

export const PARTS = ["exits", "mailbox", "boot"] as const;
export type Part = (typeof PARTS)[number];
export const PLACES = ["host", "rig"] as const;
export type Place = (typeof PLACES)[number];

const DEFAULT_COMMAND_LINE = "console=ttyS0 panic=-1";

export const HELP = `npm run bench -- kvm [--only PART,…] [--on PLACE,…] [--runs N] [--json] [--append TEXT]

What KVM's engine costs: exits against a loop in C, exits by the mailbox, a boot against QEMU's microvm.
  --only PART  ${PARTS.join(", ")}; more than one by commas (default: all)
  --on PLACE   ${PLACES.join(", ")}: this machine's KVM, or KVM in an emulated machine (default: both);
               on a host whose KVM emulates, boots are measured in the rig alone
  --runs N     boots of each machine, alternating (default 5)
  --append T   the booted kernel's command line (default "${DEFAULT_COMMAND_LINE}")
  --json       one JSON document on stdout in place of the tables
  --timeout S  seconds after which a boot is given up (default 120)
`;

export interface KvmBenchOptions {
  readonly parts: ReadonlySet<Part>;
  readonly places: ReadonlySet<Place>;
  readonly runs: number;
  readonly commandLine: string;
  readonly json: boolean;
  readonly timeoutMs: number;
  readonly help: boolean;
}

/** @throws RangeError where a value is not one of its option's; TypeError where there is no such option. */
export function parseKvmOptions(args: readonly string[]): KvmBenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: "string", default: PARTS.join() },
      on: { type: "string", default: PLACES.join() },
      runs: { type: "string", default: "5" },
      append: { type: "string", default: DEFAULT_COMMAND_LINE },
      json: { type: "boolean", default: false },
      timeout: { type: "string", default: "120" },
      help: { type: "boolean", default: false },
    },
  });
  return {
    parts: names("--only", values.only, PARTS),
    places: names("--on", values.on, PLACES),
    runs: positive("--runs", values.runs),
    commandLine: values.append,
    json: values.json,
    timeoutMs: positive("--timeout", values.timeout) * 1000,
    help: values.help,
  };
}
