// Runs inside the rig: inside.js PLAN.json. Progress and figures are lines on standard output, then the closing record.
import { readFileSync } from "node:fs";
import { createKvmEngine } from "@skep/vcpu/kvm";
import { recordLine } from "../../test/rig/records.ts";
import { microvmCommand, skepCommand } from "./boots.ts";
import { measureBoots, measureExits, measureLatencies } from "./figures.ts";
import { FIGURES_PREFIX, type InsidePlan, type KvmFigures } from "./inside-plan.ts";

const say = (line: string): void => void process.stdout.write(`${line}\n`);
const give = (figures: KvmFigures): void => say(`${FIGURES_PREFIX}${JSON.stringify(figures)}`);

const plan = JSON.parse(readFileSync(process.argv[2]!, "utf8")) as InsidePlan;
const engine = createKvmEngine();
const { evidence } = await engine.probe();
give({ evidence });
if (plan.exits) {
  say("exits");
  give({ exits: await measureExits(engine, plan.exits) });
}
if (plan.mailbox) {
  say("mailbox");
  give({ mailbox: await measureLatencies(createKvmEngine, plan.mailbox) });
}
if (plan.boot) {
  const { guest, cli, qemu, firmware, rounds, timeoutMs } = plan.boot;
  const commands = { microvm: microvmCommand(qemu, guest, firmware), skep: skepCommand(cli, guest) };
  const onBoot = (name: string, round: number): void => say(`boot ${round} of ${rounds}: ${name}`);
  give({ boot: await measureBoots({ rounds, timeoutMs, commands, onBoot }) });
}
process.stdout.write(recordLine({ closed: true, cases: 0 }));
