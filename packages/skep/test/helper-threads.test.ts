/** Who yields to whom within a process that runs a guest. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const skipped = existsSync("/proc/self/task") ? "" : " (no /proc)";
const MODULE = fileURLToPath(new URL("../src/node/helper-threads.ts", import.meta.url));

/** Prints [thread, nice] of each thread of the process. */
const SCRIPT = `
import { readdirSync, readFileSync } from "node:fs";
import { yieldHelperThreads } from ${JSON.stringify(MODULE)};
yieldHelperThreads();
const nice = (thread) => Number(readFileSync(\`/proc/self/task/\${thread}/stat\`, "utf8").split(") ")[1].split(" ")[16]);
const threads = readdirSync("/proc/self/task").map((thread) => [Number(thread), nice(thread)]);
console.log(JSON.stringify({ main: process.pid, threads }));
`;

it.skipIf(skipped)(`Node's own threads get the lowest priority, the main one keeps its${skipped}`, () => {
  const printed = execFileSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "--eval", SCRIPT],
    { encoding: "utf8" },
  );
  const { main, threads } = JSON.parse(printed) as { main: number; threads: [number, number][] };
  const others = threads.filter(([thread]) => thread !== main);
  const own = threads.find(([thread]) => thread === main)![1];
  // Those that came since (a loader's Worker) are made by the main thread, with its priority.
  expect(others.filter(([, nice]) => nice === 19).length).toBeGreaterThanOrEqual(4);
  expect(own).toBeLessThan(19);
});
