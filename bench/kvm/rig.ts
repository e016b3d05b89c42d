/** The parts inside the rig, where KVM runs guests on an emulated SVM: a machine that every host can have. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CpioEntry } from "@skep/boot";
import { build } from "esbuild";
import { libraryFiles } from "../../test/rig/initramfs.ts";
import { qemuSvm } from "../../test/rig/qemu-svm.ts";
import { runRig } from "../../test/rig/rig.ts";
import type { BootGuest } from "./boots.ts";
import type { LatencyPlan } from "./figures.ts";
import { guestInitrd, guestKernel, QEMU } from "./guest-files.ts";
import { FIGURES_PREFIX, type InsidePlan, type KvmFigures } from "./inside-plan.ts";

/** What QEMU's microvm machine boots with, and where Debian has it. */
const FIRMWARE_DIRECTORY = "/usr/share/qemu";
const FIRMWARE = ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin"];
const TIMEOUT_SECONDS = 1800;
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

/** What is measured inside. */
export interface RigPlan {
  /** @see ExitPlan; `exitLoop` is the program on the host. */
  readonly exits?: { readonly rounds: number; readonly exits: number; readonly exitLoop: string | undefined };
  readonly mailbox?: LatencyPlan;
  readonly boot?: { readonly rounds: number; readonly timeoutMs: number } & Pick<
    BootGuest,
    "commandLine" | "memoryMiB"
  >;
}

/** Why the rig cannot be used here, or `undefined`. */
export function rigMissing(): string | undefined {
  return qemuSvm.missing();
}

/** Boots the rig once and measures inside. @throws Error where it does not come to the end of the plan. */
export async function measureInRig(plan: RigPlan, onNote: (line: string) => void): Promise<KvmFigures> {
  const figures: KvmFigures = {};
  const report = await runRig(qemuSvm, {
    scripts: [],
    payload: { command: "exec node /rig/bench/inside.js /rig/bench/plan.json", files: await rigFiles(plan) },
    timeoutSeconds: TIMEOUT_SECONDS,
    onNote: (line) => {
      if (!line.startsWith(FIGURES_PREFIX)) onNote(line);
      else Object.assign(figures, JSON.parse(line.slice(FIGURES_PREFIX.length)) as KvmFigures);
    },
  });
  if (report.problem !== undefined) throw new Error(report.problem);
  return figures;
}

async function rigFiles({ exits, mailbox, boot }: RigPlan): Promise<CpioEntry[]> {
  const files: CpioEntry[] = [await bundle()];
  const programs: string[] = [];
  if (exits?.exitLoop !== undefined) {
    files.push(file("rig/bench/exit-loop", readFileSync(exits.exitLoop), 0o755));
    programs.push(exits.exitLoop);
  }
  if (boot) {
    files.push(file("rig/bench/qemu", readFileSync(QEMU), 0o755), ...firmwareFiles());
    files.push(file("rig/bench/vmlinuz", await guestKernel()));
    files.push(file("rig/bench/initrd", await guestInitrd()));
    programs.push(QEMU);
  }
  const inside: InsidePlan = {
    ...(exits && { exits: { ...exits, exitLoop: exits.exitLoop && "/rig/bench/exit-loop" } }),
    ...(mailbox && { mailbox }),
    ...(boot && { boot: insideBoot(boot) }),
  };
  files.push(file("rig/bench/plan.json", JSON.stringify(inside)));
  return [...files, ...(await libraryFiles(programs))];
}

function insideBoot({
  rounds,
  timeoutMs,
  ...machine
}: NonNullable<RigPlan["boot"]>): NonNullable<InsidePlan["boot"]> {
  return {
    rounds,
    timeoutMs,
    guest: { ...machine, kernel: "/rig/bench/vmlinuz", initrd: "/rig/bench/initrd" },
    cli: "/rig/node_modules/skep/dist/cli/index.js",
    qemu: "/rig/bench/qemu",
    firmware: "/rig/bench/firmware",
  };
}

function firmwareFiles(): CpioEntry[] {
  return FIRMWARE.filter((name) => existsSync(join(FIRMWARE_DIRECTORY, name))).map((name) =>
    file(`rig/bench/firmware/${name}`, readFileSync(join(FIRMWARE_DIRECTORY, name))),
  );
}

async function bundle(): Promise<CpioEntry> {
  const { outputFiles } = await build({
    entryPoints: [here("inside.ts")],
    bundle: true,
    write: false,
    platform: "node",
    target: "node20",
    format: "esm",
    external: ["@skep/*", "koffi"],
    logLevel: "warning",
  });
  return file("rig/bench/inside.js", outputFiles[0]!.contents);
}

function file(path: string, data: string | Uint8Array, mode = 0o644): CpioEntry {
  return { kind: "file", path, mode, data };
}
