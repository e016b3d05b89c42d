/** The same guest under skep and under QEMU's microvm, each a process of its own, timed by what it prints. */
import { spawn } from "node:child_process";

/** What the guest's init prints first; the kernel may print into the middle of a line of it. */
const MARKER = "@@ init";

/** Files of the guest, and what both machines are given. */
export interface BootGuest {
  readonly kernel: string;
  readonly initrd: string;
  readonly memoryMiB: number;
  readonly commandLine: string;
}

export interface BootTimes {
  /** Milliseconds from the process's start to the kernel's first word on the console. */
  readonly consoleMs: number;
  /** To the marker of the guest's init. */
  readonly initMs: number;
  /** To the process's end, after the guest powered off. */
  readonly endMs: number;
}

/** A command that runs the guest with standard output as its serial console. */
export type BootCommand = readonly [command: string, ...args: string[]];

/** @param cli skep's command, as installed. */
export function skepCommand(cli: string, guest: BootGuest): BootCommand {
  const { kernel, initrd, memoryMiB, commandLine } = guest;
  return [
    process.execPath,
    cli,
    ...["run", "--engine", "kvm", "--memory", `${memoryMiB}M`, "--append", commandLine],
    ...["--kernel", kernel, "--initrd", initrd],
  ];
}

/** @param firmware a directory with bios-microvm.bin where QEMU's own is not to be used. */
export function microvmCommand(qemu: string, guest: BootGuest, firmware?: string): BootCommand {
  const { kernel, initrd, memoryMiB, commandLine } = guest;
  return [
    qemu,
    ...["-M", "microvm,accel=kvm,rtc=on", "-cpu", "host", "-m", String(memoryMiB)],
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"],
    ...(firmware === undefined ? [] : ["-L", firmware]),
    ...["-kernel", kernel, "-initrd", initrd, "-append", commandLine],
  ];
}

/**
 * Runs a machine once.
 *
 * @throws Error where the guest ends without the marker or another way than by powering off, or takes longer than
 * `timeoutMs`.
 */
export function boot([command, ...args]: BootCommand, timeoutMs: number): Promise<BootTimes> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let consoleMs: number | undefined;
    let initMs: number | undefined;
    let text = "";
    let errors = "";
    const timer = setTimeout(() => child.kill("SIGKILL"), timeoutMs);
    child.stdout.setEncoding("latin1").on("data", (piece: string) => {
      const ms = performance.now() - start;
      text += piece;
      consoleMs ??= ms;
      if (initMs === undefined && text.includes(MARKER)) initMs = ms;
    });
    child.stderr.setEncoding("utf8").on("data", (piece: string) => {
      errors = (errors + piece).slice(-2000);
    });
    child.on("error", reject);
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      const endMs = performance.now() - start;
      if (consoleMs !== undefined && initMs !== undefined && status === 0) {
        resolve({ consoleMs, initMs, endMs });
        return;
      }
      const how = signal ?? `status ${status}`;
      reject(new Error(`${command}: ended with ${how}\n${text.slice(-1500)}\n${errors}`));
    });
  });
}
