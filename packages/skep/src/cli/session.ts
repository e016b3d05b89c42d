import type { VmOutcome } from "@skep/vcpu";
import type { Machine } from "../create-vm.ts";
import { ExitStatus } from "./status.ts";
import { attachTerminal } from "./terminal.ts";

/** Signals that end the process unless somebody listens: the terminal has to be put back first. */
const SIGNALS = ["SIGTERM", "SIGHUP"] as const;

/**
 * Runs a machine with this terminal as its serial console, until it is off or Ctrl-A x is typed; a guest that
 * resets itself is booted again. Gives the exit status.
 */
export async function runSession(machine: Machine): Promise<number> {
  let quit = false;
  const stop = (): void => {
    quit = true;
    void machine.vm.stop();
  };
  machine.console.on("data", (bytes) => process.stdout.write(bytes));
  const detach = attachTerminal({ onInput: (bytes) => machine.console.write(bytes), onQuit: stop });
  for (const signal of SIGNALS) process.on(signal, stop);
  try {
    for (;;) {
      const outcome = await machine.run();
      machine.console.flush();
      if (quit || outcome.kind !== "reset") return report(outcome, quit);
      machine.reboot();
    }
  } finally {
    for (const signal of SIGNALS) process.off(signal, stop);
    detach();
    await machine.close();
  }
}

function report(outcome: VmOutcome, quit: boolean): number {
  if (quit) {
    process.stderr.write("\r\nskep: the guest was switched off\r\n");
    return ExitStatus.OK;
  }
  switch (outcome.kind) {
    case "crash":
      process.stderr.write(
        `\r\nskep: the guest crashed (${outcome.error.code}): ${outcome.error.message}\r\n`,
      );
      return ExitStatus.GUEST_FAILURE;
    case "halted":
      process.stderr.write("\r\nskep: the guest halted for good, with interrupts off\r\n");
      return ExitStatus.GUEST_FAILURE;
    default:
      return ExitStatus.OK;
  }
}
