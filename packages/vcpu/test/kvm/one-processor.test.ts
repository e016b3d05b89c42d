import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { kvmHere } from "./host.ts";

it.for(["always", "auto"])(
  "on one processor, a guest that only exits and one that only computes leave the event loop its turn: vcpuThreads %s",
  (way, test) => {
    if (kvmHere.missing !== undefined) test.skip(kvmHere.missing);
    const processor = /^Cpus_allowed_list:\s*(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))![1]!;
    const script = fileURLToPath(new URL("one-processor-guest.ts", import.meta.url));
    const cwd = fileURLToPath(new URL("../../../..", import.meta.url));
    const args = ["-c", processor, process.execPath, "--import", "tsx", script, way];
    const child = spawnSync("taskset", args, { cwd, encoding: "utf8", timeout: 50_000 });
    if (child.error) test.skip(`taskset: ${child.error.message}`);
    expect(child.stderr).toBe("");
    expect([child.status, child.signal]).toEqual([7, null]);
  },
);
