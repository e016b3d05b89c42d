/** What the runs of all machines say together. */
import { median, medianRatio } from "../kvm/statistics.ts";
import type { Run } from "../measure.ts";
import type { Program } from "./programs.ts";

/** A round is one run of each machine, one after the other. */
export type Round = Readonly<Record<string, Run>>;

/**
 * What the machines do not agree on, or what is known and comes out otherwise; one line each.
 *
 * A program's result is a digest of all that it computed, so any wrong instruction that matters shows.
 */
export function disagreements(programs: readonly Program[], rounds: readonly Round[]): string[] {
  const found: string[] = [];
  for (const { name, expected } of programs) {
    const results = rounds.flatMap((round) =>
      Object.entries(round).map(([machine, run]) => [machine, run.results[name]] as const),
    );
    const right = expected ?? results.at(-1)?.[1];
    for (const [machine, result] of results)
      if (result === undefined || result !== right || result.startsWith("failed "))
        found.push(`${name}: ${machine} gave "${result}", expected "${right}"`);
  }
  return [...new Set(found)];
}

/** Median seconds of each program by machine. */
export function medians(programs: readonly Program[], rounds: readonly Round[]): Record<string, number[]> {
  const machines = Object.keys(rounds[0] ?? {});
  return Object.fromEntries(
    machines.map((machine) => [
      machine,
      programs.map(({ name }) => median(rounds.map((round) => round[machine]!.seconds[name]!))),
    ]),
  );
}

/** How many times as long `machine` takes as `reference`: the median of the rounds' ratios, for each program. */
export function ratios(
  programs: readonly Program[],
  rounds: readonly Round[],
  [machine, reference]: readonly [string, string],
): number[] {
  const seconds = (of: string, name: string): number[] => rounds.map((round) => round[of]!.seconds[name]!);
  return programs.map(({ name }) => medianRatio(seconds(machine, name), seconds(reference, name)));
}

/** A table, programs down and machines across: lines without their ends. */
export function table(programs: readonly Program[], rounds: readonly Round[], reference: string): string[] {
  const rows = medians(programs, rounds);
  const machines = Object.keys(rows);
  const compared = machines.includes(reference) ? machines.filter((name) => name !== reference) : [];
  const times = compared.map((name) => ratios(programs, rounds, [name, reference]));
  const line = (name: string, cells: string[]): string =>
    `${name.padEnd(10)}${cells.map((text) => text.padStart(24)).join("")}`.trimEnd();
  return [
    line("", [...machines, ...compared.map((name) => `${name} / ${reference}`)]),
    ...programs.map(({ name }, i) =>
      line(name, [
        ...machines.map((machine) => rows[machine]![i]!.toFixed(2)),
        ...times.map((list) => `${list[i]!.toFixed(2)} x`),
      ]),
    ),
  ];
}
