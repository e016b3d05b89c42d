import { BootError } from "@skep/boot";
import { GuestCrashError, SkepError } from "@skep/vcpu";
import { VmOptionsError } from "../errors.ts";
import { GuestCommandError } from "../exec.ts";
import { run } from "./run.ts";
import { ExitStatus } from "./status.ts";
import { UsageError } from "./usage.ts";

const HELP = `skep: virtual machines from TypeScript

  skep run     boot a Linux kernel, with this terminal as its serial console
  skep demo    boot Debian's kernel to a shell, or run one command in it
  skep doctor  which engines this machine can use

skep COMMAND --help says more. Exit status: 0 the guest powered off; 1 this machine cannot do it; 2 bad input;
3 the guest crashed; with --exec the command's own.
`;

/** `run` is what has to be quick; the others bring child processes and downloads with them. */
const COMMANDS: Readonly<Record<string, (argv: readonly string[]) => Promise<number>>> = {
  run,
  demo: async (argv) => (await import("./demo.ts")).demo(argv),
  doctor: async (argv) => (await import("./doctor.ts")).doctor(argv),
};

/** The `skep` command: gives its exit status; errors become one line on stderr. */
export async function main(argv: readonly string[]): Promise<number> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    process.stdout.write(HELP);
    return name === undefined ? ExitStatus.USAGE : ExitStatus.OK;
  }
  try {
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
    if (!command) {
      throw new UsageError("command", `one of ${Object.keys(COMMANDS).join(", ")}`, JSON.stringify(name));
    }
    return await command(rest);
  } catch (error) {
    if (error instanceof UsageError) return fail(`skep: ${error.message}`, ExitStatus.USAGE);
    // A kernel or an initrd that cannot be booted is bad input too.
    if (error instanceof VmOptionsError || error instanceof BootError) {
      return fail(`skep: ${error.message}`, ExitStatus.USAGE);
    }
    if (error instanceof GuestCrashError) {
      return fail(`skep: the guest crashed (${error.code}): ${error.message}`, ExitStatus.GUEST_FAILURE);
    }
    if (error instanceof SkepError) {
      const isGuests = error instanceof GuestCommandError;
      return fail(`skep: ${error.message}`, isGuests ? ExitStatus.GUEST_FAILURE : ExitStatus.HOST_FAILURE);
    }
    throw error;
  }
}

function fail(line: string, status: number): number {
  process.stderr.write(`${line}\n`);
  return status;
}
