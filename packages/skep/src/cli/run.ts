import { createVm } from "../create-vm.ts";
import { GUEST_OPTIONS, GUEST_OPTIONS_HELP, printNotice, readGuestOptions, startSoftvt } from "./options.ts";
import { runSession } from "./session.ts";
import { ExitStatus } from "./status.ts";
import { Arguments, UsageError } from "./usage.ts";

const HELP = `skep run --kernel FILE [options]

Boots a Linux kernel with this terminal as its serial console (ttyS0). Ctrl-A x quits, Ctrl-A h helps.

${GUEST_OPTIONS_HELP}
`;

/** `skep run`: gives the exit status. */
export async function run(argv: readonly string[]): Promise<number> {
  const args = new Arguments(argv, GUEST_OPTIONS);
  if (args.flag("help")) {
    process.stdout.write(HELP);
    return ExitStatus.OK;
  }
  startSoftvt(args);
  const { kernel, initrd, commandLine, ...options } = readGuestOptions(args);
  if (!kernel) throw new UsageError("--kernel", "a kernel to boot", "none");
  const machine = await createVm({
    ...options,
    kernel,
    ...(initrd && { initrd }),
    ...(commandLine !== undefined && { commandLine }),
    onNotice: printNotice,
  });
  return runSession(machine);
}
