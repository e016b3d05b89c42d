// npm run bench -- kvm: what KVM's engine costs, on this machine's KVM and in the rig.
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { ensureBuilt } from "../../scripts/ensure-built.mjs";
import { microvmCommand, skepCommand } from "./boots.ts";
import { compileExitLoop } from "./exits.ts";
import { type BootFigures, measureBoots, measureExits, measureLatencies } from "./figures.ts";
import { QEMU, writeGuest } from "./guest-files.ts";
import type { KvmFigures } from "./inside-plan.ts";
import { HELP, type KvmBenchOptions, type Place, parseKvmOptions } from "./options.ts";
import { measureInRig, rigMissing } from "./rig.ts";
import { tables } from "./tables.ts";

/** 200,000 exits a side on a host; in the rig, whose processor is emulated, a tenth. */
const EXITS = { host: { rounds: 100, exits: 2000 }, rig: { rounds: 20, exits: 1000 } } as const;
const LATENCIES = {
  host: { busy: 16_000, idle: 1000, pauseUs: 2000 },
  rig: { busy: 4000, idle: 300, pauseUs: 2000 },
} as const;
const MEMORY_MIB = 256;

const say = (line: string): void => void process.stderr.write(`${line}\n`);
const options = readOptions();
if (options.help) {
  process.stdout.write(HELP);
  process.exit(0);
}
// The engine is measured as it is installed: from dist.
ensureBuilt();

const work = mkdtempSync(join(tmpdir(), "skep-bench-kvm-"));
const found: Partial<Record<Place, KvmFigures>> = {};
try {
  const exitLoop = options.parts.has("exits") ? compile(join(work, "exit-loop")) : undefined;
  if (options.places.has("host")) await attempt("host", () => onHost(exitLoop));
  if (options.places.has("rig")) await attempt("rig", () => inRig(exitLoop));
} finally {
  rmSync(work, { recursive: true });
}
report();

function readOptions(): KvmBenchOptions {
  try {
    return parseKvmOptions(process.argv.slice(3));
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    process.exit(2);
  }
}

function compile(output: string): string | undefined {
  const missing = compileExitLoop(output);
  if (missing === undefined) return output;
  say(`left out: exit-loop.c: ${missing}`);
  return undefined;
}

/** The other place's figures are worth having all the same; the status tells. */
async function attempt(place: Place, measure: () => Promise<KvmFigures | undefined>): Promise<void> {
  try {
    const figures = await measure();
    if (figures) found[place] = figures;
  } catch (error) {
    say(`${place}: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  }
}

async function onHost(exitLoop: string | undefined): Promise<KvmFigures | undefined> {
  const engine = createKvmEngine();
  const { usable, evidence } = await engine.probe();
  if (!existsSync("/dev/kvm") || (!usable && !evidence.includes("this KVM emulates"))) {
    say(`left out: host: ${evidence}`);
    return undefined;
  }
  const { parts } = options;
  const figures: KvmFigures = { evidence };
  if (parts.has("exits")) {
    say("host: exits");
    figures.exits = await measureExits(engine, { ...EXITS.host, exitLoop });
  }
  if (parts.has("mailbox")) {
    say("host: mailbox");
    figures.mailbox = await measureLatencies(createKvmEngine, LATENCIES.host);
  }
  if (!parts.has("boot")) return figures;
  if (!usable) say(`left out: boot on the host: ${evidence}`);
  else if (!existsSync(QEMU)) say("left out: boot on the host: qemu-system-x86_64 is not installed");
  else figures.boot = await bootOnHost();
  return figures;
}

function guestOptions(): { memoryMiB: number; commandLine: string } {
  return { memoryMiB: MEMORY_MIB, commandLine: options.commandLine };
}

async function bootOnHost(): Promise<BootFigures> {
  const guest = { ...(await writeGuest(work)), ...guestOptions() };
  const cli = fileURLToPath(new URL("../../packages/skep/dist/cli/index.js", import.meta.url));
  return measureBoots({
    rounds: options.runs,
    timeoutMs: options.timeoutMs,
    commands: { microvm: microvmCommand(QEMU, guest), skep: skepCommand(cli, guest) },
    onBoot: (name, round) => say(`host: boot ${round} of ${options.runs}: ${name}`),
  });
}

async function inRig(exitLoop: string | undefined): Promise<KvmFigures | undefined> {
  const missing = rigMissing();
  if (missing !== undefined) {
    say(`left out: rig: ${missing}`);
    return undefined;
  }
  const { parts, runs, timeoutMs } = options;
  const plan = {
    ...(parts.has("exits") && { exits: { ...EXITS.rig, exitLoop } }),
    ...(parts.has("mailbox") && { mailbox: LATENCIES.rig }),
    ...(parts.has("boot") && { boot: { rounds: runs, timeoutMs, ...guestOptions() } }),
  };
  return measureInRig(plan, (line) => say(`rig: ${line}`));
}

function report(): void {
  const host = { cpu: cpus()[0]?.model, cpus: cpus().length, node: process.version };
  if (options.json) {
    const document = { kind: "skep-bench-kvm", version: 1, host, guest: guestOptions(), ...found };
    process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
    return;
  }
  process.stdout.write(`\n${host.cpu}, ${host.cpus} CPUs, Node ${host.node}\n`);
  for (const [place, figures] of Object.entries(found)) {
    process.stdout.write(`\n== ${place}: ${tables(figures).join("\n")}\n`);
  }
}
