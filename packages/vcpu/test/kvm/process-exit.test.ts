import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { kvmHere } from "./host.ts";

it("a process ends while its guest runs and never exits", (test) => {
  if (kvmHere.missing !== undefined) test.skip(kvmHere.missing);
  const script = fileURLToPath(new URL("endless-guest.ts", import.meta.url));
  const cwd = fileURLToPath(new URL("../../../..", import.meta.url));
  // A thread that nobody kicks out of the guest would keep the process for ever.
  const child = spawnSync(process.execPath, ["--import", "tsx", script], {
    cwd,
    encoding: "utf8",
    timeout: 50_000,
  });
  expect(child.stderr).toBe("");
  expect([child.status, child.signal]).toEqual([7, null]);
});
