import type { EngineProbe } from "@skep/vcpu";
import { loadKvmEngine, loadSoftvtEngine } from "../engines.ts";
import { ExitStatus } from "./status.ts";
import { Arguments } from "./usage.ts";

const HELP = `skep doctor

Says which engines this machine can use, and why not the others.
`;

/** `skep doctor`: status 0 where at least one engine can be used, else 1. */
export async function doctor(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, { help: { type: "boolean", short: "h" } });
  if (args.flag("help")) {
    process.stdout.write(HELP);
    return ExitStatus.OK;
  }
  process.stdout.write(`Node ${process.version} on ${process.platform} ${process.arch}\n`);
  const engines: [string, EngineProbe][] = [
    ["kvm", await (await loadKvmEngine()).probe()],
    ["softvt", await (await loadSoftvtEngine()).probe()],
  ];
  for (const [name, { usable, evidence }] of engines) {
    process.stdout.write(`${name.padEnd(8)}${usable ? "usable    " : "not usable"}  ${evidence}\n`);
  }
  return engines.some(([, { usable }]) => usable) ? ExitStatus.OK : ExitStatus.HOST_FAILURE;
}
