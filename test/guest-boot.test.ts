import { busyboxInitramfs } from "@skep/boot";
import { createVm, type Machine, runCommand } from "skep";
import { afterEach, describe, expect, it } from "vitest";
import { answers, QUESTIONS, QUESTIONS_EXIT_CODE } from "./support/guest-questions.ts";
import { debianFile, GUEST_TIMEOUT_MS, GUESTS } from "./support/guests.ts";

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
      expect(output).toBe(answers({ machine: machineName, cpus: 1 }));
      expect(code).toBe(QUESTIONS_EXIT_CODE);
    },
    GUEST_TIMEOUT_MS,
  );
});

it(
  "x86-64-v3: the kernel finds AVX2 and FMA, and the C library's choice of routines computes the same",
  async (context) => {
    const kernel = await debianFile(context, "linux-image-cloud-amd64");
    const busybox = await debianFile(context, "busybox-static");
    let output = "";
    const code = await runCommand({
      kernel,
      busybox,
      command: `grep -o -w -E 'avx|avx2|bmi2|f16c|fma|xsaveopt' /proc/cpuinfo | sort; ${QUESTIONS}`,
      memoryMiB: 256,
      cpuid: { model: "x86-64-v3" },
      onOutput: (bytes) => {
        output += new TextDecoder().decode(bytes);
      },
    });
    expect(output).toBe(`avx\navx2\nbmi2\nf16c\nfma\nxsaveopt\n${answers({ machine: "x86_64", cpus: 1 })}`);
    expect(code).toBe(QUESTIONS_EXIT_CODE);
  },
  GUEST_TIMEOUT_MS,
);

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
