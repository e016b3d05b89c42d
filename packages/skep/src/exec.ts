import { busyboxInitramfs, ExecOutputParser, execCommandLine } from "@skep/boot";
import { SkepError, type VmOutcome } from "@skep/vcpu";
import { type CreateVmOptions, createVm, type Machine } from "./create-vm.ts";

/** The guest ended before its command did (`COMMAND_UNFINISHED`), or never began it (`COMMAND_NOT_STARTED`). */
export class GuestCommandError extends SkepError {}

export interface RunCommandOptions extends CreateVmOptions {
  /** A statically linked busybox for the guest's architecture. */
  readonly busybox: Uint8Array;
  /** Shell command line. */
  readonly command: string;
  /** The command's stdout and stderr, byte for byte, as they come. */
  readonly onOutput: (bytes: Uint8Array) => void;
  /** Told of the machine before it runs: to watch its console, or to stop it. */
  readonly onMachine?: (machine: Machine) => void;
}

const NONCE_BYTES = 16;
const QUIET = "console=ttyS0 quiet panic=-1";

/**
 * Boots Linux, runs one command in it and gives the command's exit code, 0 to 255; the guest is powered off then.
 *
 * The command's output comes over the second serial port, apart from what the kernel prints. An `initrd` that
 * is given stays the guest's root; busybox and its `/init` are laid over it (Linux unpacks archives in order).
 *
 * @throws GuestCrashError where the guest crashes or panics: with the console's last lines.
 * @throws GuestCommandError where it ends in another way before the command does.
 */
export async function runCommand(options: RunCommandOptions): Promise<number> {
  const bytes = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
  const nonce = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const own = busyboxInitramfs({ busybox: options.busybox, command: options.command });
  const machine = await createVm({
    ...options,
    initrd: options.initrd ? joinArchives(options.initrd, own) : own,
    commandLine: `${options.commandLine ?? QUIET} ${execCommandLine({ nonce })}`,
  });
  try {
    const parser = new ExecOutputParser(nonce, { output: options.onOutput });
    machine.channel.on("data", (output) => parser.push(output));
    options.onMachine?.(machine);
    const outcome = await machine.run();
    machine.channel.flush();
    if (outcome.kind === "crash") throw outcome.error;
    if (parser.exitCode === undefined) throw unfinished(outcome, parser.state, machine);
    return parser.exitCode;
  } finally {
    await machine.close();
  }
}

/** One archive behind the other; the second one begins at a multiple of 4, as the kernel looks for it. */
export function joinArchives(first: Uint8Array, second: Uint8Array): Uint8Array {
  const start = Math.ceil(first.length / 4) * 4;
  const joined = new Uint8Array(start + second.length);
  joined.set(first);
  joined.set(second, start);
  return joined;
}

function unfinished(outcome: VmOutcome, state: "waiting" | "running" | "done", machine: Machine): Error {
  const how = { poweroff: "powered off", reset: "reset itself", halted: "halted", stopped: "was stopped" };
  const ended = outcome.kind === "crash" ? "crashed" : how[outcome.kind];
  const lines = machine.console.tail(10).map((line) => `\n  ${line}`);
  return state === "waiting"
    ? new GuestCommandError(
        "COMMAND_NOT_STARTED",
        `the guest ${ended} and never began the command${lines.join("")}`,
      )
    : new GuestCommandError(
        "COMMAND_UNFINISHED",
        `the guest ${ended} before the command ended${lines.join("")}`,
      );
}
