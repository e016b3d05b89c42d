import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

async function runExample(name: string): Promise<string> {
  const command = ["--import", "tsx", `examples/${name}/main.ts`];
  return (await promisify(execFile)(process.execPath, command, { cwd: root })).stdout;
}

/** The output that an example's README shows. */
function shownOutput(name: string): string {
  const readme = readFileSync(`${root}examples/${name}/README.md`, "utf8");
  return /```text\n([\s\S]*?)```/.exec(readme)![1]!;
}

it.each(["first-exit", "custom-device"])("%s prints what its README shows", async (name) => {
  expect(await runExample(name)).toBe(shownOutput(name));
});
