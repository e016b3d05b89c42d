import { readFile } from "node:fs/promises";
import { busyboxInitramfs } from "@skep/boot";
import { createVm, type Machine } from "../create-vm.ts";
import { runCommand } from "../exec.ts";
import { obtainDebianFile } from "../node/debian.ts";
import { GUEST_OPTIONS, GUEST_OPTIONS_HELP, printNotice, readGuestOptions, startSoftvt } from "./options.ts";
import { runSession } from "./session.ts";
import { ExitStatus } from "./status.ts";
import { Arguments } from "./usage.ts";

const HELP = `skep demo [--exec COMMAND] [options]

Boots Debian's own 64-bit kernel, as its package has it, to a busybox shell in this terminal. Kernel and busybox
come from Debian's packages by apt, without root, the first time; then from the cache.
Ctrl-A x quits, Ctrl-A h helps.

  --exec COMMAND  run one shell command instead, print its output alone, exit with its exit code
${GUEST_OPTIONS_HELP}
`;

/** The console's settings beside what `--append` adds: a panic is to end the run, not to hang it. */
const COMMAND_LINE = "console=ttyS0 panic=-1";
/** A shell's prompt at the end of what was printed; busybox asks the terminal where its cursor is behind it. */
const PROMPT = /[#$] (?:.\[6n)?$/s;
const CLEAR_LINE = "\r\x1b[K";

/** `skep demo`: gives the exit status, with `--exec` the command's. */
export async function demo(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, { ...GUEST_OPTIONS, exec: { type: "string" } });
  if (args.flag("help")) {
    process.stdout.write(HELP);
    return ExitStatus.OK;
  }
  startSoftvt(args);
  const command = args.text("exec");
  const { kernel, initrd, commandLine, ...options } = readGuestOptions(args);
  const guestKernel = kernel ?? (await debianFile("linux-image-cloud-amd64"));
  const quiet = command === undefined ? "" : " quiet";
  const append = commandLine === undefined ? "" : ` ${commandLine}`;
  const guest = { ...options, kernel: guestKernel, commandLine: `${COMMAND_LINE}${quiet}${append}` };

  if (command !== undefined) {
    const busybox = await debianFile("busybox-static");
    return runCommand({
      ...guest,
      ...(initrd && { initrd }),
      busybox,
      command,
      onOutput: (bytes) => process.stdout.write(bytes),
      onMachine: stopOnSignal,
    });
  }
  const shell = initrd ?? busyboxInitramfs({ busybox: await debianFile("busybox-static") });
  const start = performance.now();
  const machine = await createVm({ ...guest, initrd: shell, onNotice: printNotice });
  sayWhenBooted(machine, start);
  return runSession(machine);
}

async function debianFile(name: Parameters<typeof obtainDebianFile>[0]): Promise<Uint8Array> {
  return readFile((await obtainDebianFile(name)).path);
}

/** Ctrl-C in the terminal ends a command's machine as it ends any command. */
function stopOnSignal(machine: Machine): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => void machine.vm.stop());
  }
}

/** Tells how long the boot took as soon as the shell's first prompt is there, and prints the prompt again below. */
function sayWhenBooted(machine: Machine, start: number): void {
  const abort = new AbortController();
  machine.vm.on("state", (state) => {
    if (state === "stopped" || state === "closed") abort.abort();
  });
  machine.console.waitFor(PROMPT, abort.signal).then(
    (output) => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      const prompt = output.slice(output.lastIndexOf("\n") + 1).replace("\x1b[6n", "");
      process.stderr.write(
        `${CLEAR_LINE}skep: booted to a shell in ${seconds} s (engine ${machine.engine.name}); Ctrl-A x quits\r\n${prompt}`,
      );
    },
    () => {},
  );
}
