import { createHash } from "node:crypto";
import { busyboxInitramfs } from "@skep/boot";
import { createVm, type Machine, runCommand } from "skep";
import { afterEach, describe, expect, it } from "vitest";
import { debianFile, GUEST_TIMEOUT_MS, GUESTS } from "./support/guests.ts";

/** What the guest is asked, and after it what the host computes for itself. */
const QUESTIONS = `
seq 1 20000 >/tmp/numbers
sha256sum </tmp/numbers
gzip -c /tmp/numbers >/tmp/numbers.gz && gunzip -c /tmp/numbers.gz | sha256sum
sort /tmp/numbers | sha256sum
awk 'BEGIN { for (i = 1; i <= 20; i++) printf "%.12g %.12g %.12g\\n", i / 7, i * 1.1 - 0.3, 1 / (i * i) }'
i=0; while [ $i -lt 100 ]; do /bin/busybox true || exit 9; i=$((i + 1)); done; echo forks $i
uname -m
exit 7
`;

function answers(machine: string): string {
  const numbers = Array.from({ length: 20_000 }, (_, index) => `${index + 1}`);
  const digest = (lines: string[]): string =>
    `${createHash("sha256")
      .update(lines.map((line) => `${line}\n`).join(""))
      .digest("hex")}  -\n`;
  // C's %.12g for numbers in this range: twelve significant digits without trailing zeros.
  const general = (value: number): string => String(Number(value.toPrecision(12)));
  const floats = Array.from({ length: 20 }, (_, index) => index + 1)
    .map((i) => [i / 7, i * 1.1 - 0.3, 1 / (i * i)].map(general).join(" "))
    .map((line) => `${line}\n`);
  const plain = digest(numbers);
  return `${plain}${plain}${digest([...numbers].sort())}${floats.join("")}forks 100\n${machine}\n`;
}

describe.each(GUESTS)("Debian's %s", (kernelName, busyboxName, machineName) => {
  it(
    "reaches userland, computes as the host does and powers off with the command's exit code",
    async (context) => {
      const kernel = await debianFile(context, kernelName);
      const busybox = await debianFile(context, busyboxName);
      let output = "";
      const code = await runCommand({
        kernel,
        busybox,
        command: QUESTIONS,
        memoryMiB: 256,
        onOutput: (bytes) => {
          output += new TextDecoder().decode(bytes);
        },
      });
      expect(output).toBe(answers(machineName));
      expect(code).toBe(7);
    },
    GUEST_TIMEOUT_MS,
  );
});

describe("a shell on the console", () => {
  let machine: Machine | undefined;
  afterEach(() => machine?.close());

  const PROMPT = /root@skep:.*# /;

  it(
    "powers off, and a reset boots again",
    async (context) => {
      const kernel = await debianFile(context, "linux-image-cloud-amd64");
      const busybox = await debianFile(context, "busybox-static");
      machine = await createVm({ kernel, initrd: busyboxInitramfs({ busybox }), memoryMiB: 256 });
      const { console: serial } = machine;

      let prompt = serial.waitFor(PROMPT);
      let outcome = machine.run();
      await Promise.race([prompt, outcome]);
      serial.write("reboot -f\n");
      expect(await outcome).toEqual({ kind: "reset" });

      machine.reboot();
      prompt = serial.waitFor(PROMPT);
      outcome = machine.run();
      await Promise.race([prompt, outcome]);
      const answer = serial.waitFor("answer 42");
      serial.write("echo answer $((6 * 7))\n");
      await Promise.race([answer, outcome]);
      serial.write("poweroff -f\n");
      expect(await outcome).toEqual({ kind: "poweroff" });
    },
    GUEST_TIMEOUT_MS,
  );
});

it(
  "a panic is a typed error that ends with the console's last lines",
  async (context) => {
    const kernel = await debianFile(context, "linux-image-cloud-amd64");
    await using machine = await createVm({ kernel, commandLine: "console=ttyS0 panic=-1", memoryMiB: 256 });
    const outcome = await machine.run();
    expect(outcome).toMatchObject({ kind: "crash", error: { name: "GuestCrashError", code: "GUEST_PANIC" } });
    if (outcome.kind !== "crash") return;
    expect(outcome.error.message).toMatch(/Kernel panic - not syncing: VFS: Unable to mount root fs/);
    expect(outcome.error.message).toMatch(/last lines of its console:\n(?: {2}.*\n?)+$/);
  },
  GUEST_TIMEOUT_MS,
);
