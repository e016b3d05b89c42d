import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** Files of one guest: a kernel and the initramfs whose /init runs the workloads. */
export interface BenchGuest {
  readonly kernel: string;
  readonly initrd: string;
  readonly memoryMiB: number;
}

/** A virtual machine to measure: a command whose standard output is the guest's serial console. */
export interface Machine {
  readonly name: string;
  /** Which guest it runs: v86 has no long mode, so it gets the 32-bit one. */
  readonly architecture: "amd64" | "i386";
  command(guest: BenchGuest): [command: string, ...args: string[]];
  /** Why it cannot be measured here, or `undefined` where it can. */
  missing(): string | undefined;
}

const COMMAND_LINE = "console=ttyS0 panic=-1";

const softvt = ({ kernel, initrd, memoryMiB }: BenchGuest): [string, ...string[]] => [
  process.execPath,
  here("../packages/skep/dist/cli/index.js"),
  "run",
  ...["--engine", "softvt", "--memory", `${memoryMiB}M`, "--append", COMMAND_LINE],
  ...["--kernel", kernel, "--initrd", initrd],
];

export const MACHINES: readonly Machine[] = [
  { name: "softvt", architecture: "amd64", command: softvt, missing: () => undefined },
  {
    name: "softvt-tier0",
    architecture: "amd64",
    command: ({ kernel, initrd, memoryMiB }) => [
      process.execPath,
      here("softvt-tier0.mjs"),
      ...[kernel, initrd, String(memoryMiB), COMMAND_LINE],
    ],
    missing: () => undefined,
  },
  {
    name: "qemu-tcg",
    architecture: "amd64",
    command: ({ kernel, initrd, memoryMiB }) => [
      "/usr/bin/qemu-system-x86_64",
      ...["-accel", "tcg", "-cpu", "max", "-m", String(memoryMiB), "-append", COMMAND_LINE],
      ...["-display", "none", "-no-reboot", "-serial", "stdio", "-monitor", "none"],
      ...["-kernel", kernel, "-initrd", initrd],
    ],
    missing: () =>
      existsSync("/usr/bin/qemu-system-x86_64") ? undefined : "qemu-system-x86_64 is not installed",
  },
  { name: "softvt-i386", architecture: "i386", command: softvt, missing: () => undefined },
  {
    name: "v86",
    architecture: "i386",
    command: ({ kernel, initrd, memoryMiB }) => [
      process.execPath,
      here("v86-machine.mjs"),
      ...[kernel, initrd, String(memoryMiB), COMMAND_LINE],
    ],
    missing: () =>
      existsSync("/usr/share/seabios/bios.bin") ? undefined : "Debian's package seabios is not installed",
  },
];
