import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { serialize } from "node:v8";
import { busyboxInitramfs, execCommandLine } from "@skep/boot";
import { createVm } from "skep";
import { expect, it } from "vitest";
import { debianFile, GUEST_TIMEOUT_MS } from "./support/guests.ts";
import { hashOf } from "./support/state-hash.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const COMMAND_LINE = `console=ttyS0 panic=-1 ${execCommandLine({ nonce: "0" })}`;
const NUMBERS = Array.from({ length: 5000 }, (_, index) => `${index + 1}\n`).join("");

it(
  "a boot that is saved half way goes on in another process",
  async (context) => {
    const kernel = await debianFile(context, "linux-image-cloud-amd64");
    const busybox = await debianFile(context, "busybox-static");
    const initrd = busyboxInitramfs({ busybox, command: "seq 1 5000 | sha256sum" });
    await using machine = await createVm({ kernel, initrd, commandLine: COMMAND_LINE, memoryMiB: 256 });
    const halfWay = machine.console.waitFor("smpboot:");
    const outcome = machine.run();
    await Promise.race([halfWay, outcome]);
    await machine.vm.pause();
    const directory = mkdtempSync(join(tmpdir(), "skep-state-"));
    try {
      const path = (name: string): string => join(directory, name);
      writeFileSync(path("state"), serialize(machine.save()));
      writeFileSync(path("kernel"), kernel);
      writeFileSync(path("initrd"), initrd);
      const args = [
        "--import",
        "tsx",
        "test/support/resume.ts",
        path("state"),
        path("kernel"),
        path("initrd"),
      ];
      const { stdout } = await promisify(execFile)(process.execPath, [...args, COMMAND_LINE], { cwd: root });
      expect(stdout).toContain(createHash("sha256").update(NUMBERS).digest("hex"));
      expect(stdout).toMatch(/skep-end 0 0\r?\n/);
      expect(stdout).toMatch(/outcome poweroff\n$/);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
  GUEST_TIMEOUT_MS,
);

it(
  "two runs by instruction count end in the same state, to the last bit of memory",
  async (context) => {
    const kernel = await debianFile(context, "linux-image-cloud-amd64");
    const busybox = await debianFile(context, "busybox-static");
    const initrd = busyboxInitramfs({ busybox, command: "head -c 64 /dev/urandom | sha256sum; date" });
    const run = async (): Promise<{ hash: string; instructions: number; output: string }> => {
      const options = { kernel, initrd, commandLine: COMMAND_LINE, memoryMiB: 256 };
      await using machine = await createVm({ ...options, clock: "instructions" });
      let output = "";
      machine.channel.on("data", (bytes) => {
        output += new TextDecoder().decode(bytes);
      });
      expect(await machine.run()).toEqual({ kind: "poweroff" });
      return { hash: hashOf(machine.save()), instructions: machine.vm.vcpus[0]!.instructions, output };
    };
    const first = await run();
    const second = await run();
    expect(second.output).toBe(first.output);
    expect(second.instructions).toBe(first.instructions);
    expect(second.hash).toBe(first.hash);
  },
  2 * GUEST_TIMEOUT_MS,
);
