import { readFile } from "node:fs/promises";
import { busyboxInitramfs, ExecOutputParser, execCommandLine } from "@skep/boot";
import type { VmOutcome } from "@skep/vcpu";
import { type CreateVmOptions, createVm, type Machine } from "skep";
import { type DebianPackageName, GuestFilesError, obtainDebianFile } from "skep/node";
import type { TestContext } from "vitest";

/** Kernel and userland of one architecture, and what `uname -m` calls it. */
export type Guest = readonly [kernel: DebianPackageName, busybox: DebianPackageName, machine: string];

export const GUESTS: readonly Guest[] = [
  ["linux-image-cloud-amd64", "busybox-static", "x86_64"],
  ["linux-image-amd64", "busybox-static", "x86_64"],
  ["linux-image-686", "busybox-static:i386", "i686"],
];

/** For one boot, on a machine that is busy with others. */
export const GUEST_TIMEOUT_MS = 300_000;

/**
 * A file of Debian's. On a developer's machine without Debian's packages the test is skipped with the reason; in
 * continuous integration (CI=true), where they have to be there, it fails.
 */
export async function debianFile(context: TestContext, name: DebianPackageName): Promise<Uint8Array> {
  try {
    return await readFile((await obtainDebianFile(name)).path);
  } catch (error) {
    if (error instanceof GuestFilesError && process.env.CI !== "true") context.skip(error.message);
    throw error;
  }
}

/** How a guest that ran one command ended. */
export interface GuestRun {
  /** The command's stdout and stderr. */
  readonly output: string;
  /** The command's; `undefined` where the guest ended before it did. */
  readonly exitCode: number | undefined;
  readonly outcome: VmOutcome;
}

/**
 * Boots Debian's kernel and busybox, and runs one shell command: `runCommand()` with the machine's end told too.
 * `prepare` gets the machine before it runs.
 */
export async function runInGuest(
  context: TestContext,
  [kernelName, busyboxName]: Guest,
  command: string,
  options: Partial<CreateVmOptions> & { readonly prepare?: (machine: Machine) => void } = {},
): Promise<GuestRun> {
  const kernel = await debianFile(context, kernelName);
  const busybox = await debianFile(context, busyboxName);
  const nonce = "0";
  await using machine = await createVm({
    kernel,
    initrd: busyboxInitramfs({ busybox, command }),
    commandLine: `console=ttyS0 panic=-1 ${execCommandLine({ nonce })}`,
    memoryMiB: 256,
    ...options,
  });
  options.prepare?.(machine);
  let output = "";
  const parser = new ExecOutputParser(nonce, {
    output: (bytes) => {
      output += new TextDecoder().decode(bytes);
    },
  });
  machine.channel.on("data", (bytes) => parser.push(bytes));
  const outcome = await machine.run();
  machine.channel.flush();
  return { output, exitCode: parser.exitCode, outcome };
}
