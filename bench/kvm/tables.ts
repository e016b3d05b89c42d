/** The figures as tables for a person. */
import type { BootTimes } from "./boots.ts";
import type { VcpuPlace } from "./exit-machine.ts";
import type { BootFigures, ExitFigures, LatencyFigures } from "./figures.ts";
import type { KvmFigures } from "./inside-plan.ts";
import { median, medianRatio } from "./statistics.ts";

const PLACES: Readonly<Record<VcpuPlace, string>> = {
  "vm-thread": "in slices",
  "vm-thread-irqchip": "on the VM's thread",
  "own-thread": "by the mailbox",
};
/** Rows of port counts and of exit reasons that are shown. */
const TOP = 6;

/** Lines, without their ends. */
export function tables({ evidence, exits, mailbox, boot }: KvmFigures): string[] {
  return [
    ...(evidence === undefined ? [] : [evidence]),
    ...(exits ? ["", ...exitTable(exits)] : []),
    ...(mailbox ? ["", ...latencyTable(mailbox)] : []),
    ...(boot ? ["", ...bootTable(boot)] : []),
  ];
}

function exitTable({ rounds, exits, engineNs, exitLoopNs, ratio }: ExitFigures): string[] {
  return [
    `exit round trip, ns an exit, median of ${rounds} rounds of ${exits}`,
    row("exit-loop.c", exitLoopNs === undefined ? "-" : exitLoopNs.toFixed(0)),
    row("skep", engineNs.toFixed(0)),
    ...(ratio === undefined ? [] : [row("skep / exit-loop.c", times(ratio))]),
  ];
}

function latencyTable(figures: readonly LatencyFigures[]): string[] {
  return [
    "a port read as the guest sees it, µs",
    row("", "median", "p99", "samples"),
    ...figures.map(({ place, pauseUs, samples, medianUs, p99Us }) => {
      const where = PLACES[place];
      const name = `${where}, ${pauseUs === 0 ? "one after the other" : `every ${pauseUs / 1000} ms`}`;
      return row(name, medianUs.toFixed(1), p99Us.toFixed(1), String(samples));
    }),
  ];
}

function bootTable({ runs, exits }: BootFigures): string[] {
  const lines = [
    "boot, s from the process's start, median",
    row("", "to kernel", "to /init", "to the end", "runs"),
  ];
  const [reference, ...others] = Object.keys(runs);
  for (const [name, list] of Object.entries(runs)) {
    const seconds = (of: keyof BootTimes): string => (median(list.map((run) => run[of])) / 1000).toFixed(2);
    lines.push(row(name, seconds("consoleMs"), seconds("initMs"), seconds("endMs"), String(list.length)));
  }
  for (const name of others) {
    const ratio = (of: keyof BootTimes): string =>
      times(
        medianRatio(
          runs[name]!.map((run) => run[of]),
          runs[reference!]!.map((run) => run[of]),
        ),
      );
    lines.push(row(`${name} / ${reference}`, ratio("consoleMs"), ratio("initMs"), ratio("endMs")));
  }
  lines.push("", "exits of one boot");
  for (const [name, counts] of Object.entries(exits)) {
    if (counts === undefined) {
      lines.push(`${name}: the kernel does not trace them`);
      continue;
    }
    for (const [kind, title] of [
      ["hardware", "of the processor"],
      ["user", "to the hypervisor"],
      ["ports", "ports"],
    ] as const) {
      lines.push(`${name}, ${title}: ${topOf(counts[kind])}`);
    }
  }
  return lines;
}

/** The sum, and the most frequent. */
function topOf(counts: Readonly<Record<string, number>>): string {
  const entries = Object.entries(counts);
  const sum = entries.reduce((total, [, count]) => total + count, 0);
  const shown = entries.slice(0, TOP).map(([name, count]) => `${name} ${count}`);
  return `${sum} (${shown.join(", ")}${entries.length > TOP ? ", …" : ""})`;
}

function row(name: string, ...cells: readonly string[]): string {
  return `${name.padEnd(40)}${cells.map((text) => text.padStart(11)).join("")}`;
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)} x`;
}
