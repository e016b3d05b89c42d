import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { busyboxInitramfs } from "@skep/boot";
import { expect, it } from "vitest";
import { debianFile } from "./support/guests.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

async function runExample(name: string, ...args: string[]): Promise<string> {
  const command = ["--import", "tsx", `examples/${name}/main.ts`, ...args];
  return (await promisify(execFile)(process.execPath, command, { cwd: root })).stdout;
}

it("linux boots to its prompt, runs a command and powers off", async (context) => {
  const kernel = await debianFile(context, "linux-image-cloud-amd64");
  const busybox = await debianFile(context, "busybox-static");
  const directory = mkdtempSync(join(tmpdir(), "skep-example-"));
  try {
    writeFileSync(join(directory, "kernel"), kernel);
    writeFileSync(join(directory, "initrd"), busyboxInitramfs({ busybox }));
    const output = await runExample("linux", join(directory, "kernel"), join(directory, "initrd"));
    expect(output).toMatch(/^Linux \S+-cloud-amd64 x86_64\r?$/m);
    expect(output).toMatch(/the guest's run ended: poweroff\n$/);
  } finally {
    rmSync(directory, { recursive: true });
  }
}, 300_000);
