/** The guest: Debian's cloud kernel, and an initramfs of busybox, the programs' packages and an /init that runs them. */
import { readFileSync, writeFileSync } from "node:fs";
import { lstat, readdir, readFile, readlink } from "node:fs/promises";
import { join, relative } from "node:path";
import { type CpioEntry, createCpio } from "@skep/boot";
import { obtainDebianFile } from "skep/node";
import type { BenchGuest } from "../machines.ts";
import { unpackedPackages } from "./packages.ts";
import { PACKAGES, type Program } from "./programs.ts";

/** The compiler's code alone is 30 MB, and the archive is unpacked while it is there. */
const MEMORY_MIB = 1024;
const APPLETS = ["cat", "cmp", "dd", "md5sum", "mkdir", "mount", "poweroff", "rm", "sh", "tr"];
/** Most of what the packages bring, and no program of ours opens. */
const LEFT_OUT = [
  /^usr\/share\//,
  /^(usr\/)?s?bin\/(?!openssl$|python3|sqlite3$|xz$|as$|x86_64-linux-gnu-as$)/,
  /^usr\/lib\/x86_64-linux-gnu\/(gconv|perl|engines-3|gprofng|bfd-plugins)\//,
  /^usr\/lib\/x86_64-linux-gnu\/lib(stdc\+\+|gprofng|icu)/,
  /^(etc|var)\//,
];

/** Writes `kernel` and `initrd` into `directory`. */
export async function packPrograms(programs: readonly Program[], directory: string): Promise<BenchGuest> {
  const kernel = await obtainDebianFile("linux-image-cloud-amd64");
  const busybox = await obtainDebianFile("busybox-static");
  const files = await treeFiles(await unpackedPackages(PACKAGES));
  const cc1 = files.find(({ path }) => path.endsWith("/cc1"))?.path;
  if (cc1 === undefined) throw new Error(`Debian's ${PACKAGES.join(", ")}: no cc1 among their files`);
  const initrd = createCpio([
    { kind: "file", path: "init", mode: 0o755, data: initScript(programs, `/${cc1}`) },
    { kind: "file", path: "work.c", data: readFileSync(new URL("work.c", import.meta.url)) },
    { kind: "file", path: "bin/busybox", mode: 0o755, data: readFileSync(busybox.path) },
    // The kernel opens the console for /init before anything is mounted.
    { kind: "device", path: "dev/console", type: "character", major: 5, minor: 1 },
    ...APPLETS.map((name): CpioEntry => ({ kind: "symlink", path: `bin/${name}`, target: "busybox" })),
    ...files,
  ]);
  const guest = {
    kernel: join(directory, "kernel"),
    initrd: join(directory, "initrd"),
    memoryMiB: MEMORY_MIB,
  };
  writeFileSync(guest.kernel, readFileSync(kernel.path));
  writeFileSync(guest.initrd, initrd);
  return guest;
}

/** /init: each program between markers that the host times as they come over the console, then its result. */
export function initScript(programs: readonly Program[], cc1: string): string {
  return [
    "#!/bin/busybox sh",
    "/bin/busybox mkdir -p /proc /sys /dev /tmp",
    "/bin/busybox mount -t proc proc /proc",
    "/bin/busybox mount -t devtmpfs devtmpfs /dev",
    "/bin/busybox mount -t tmpfs tmpfs /tmp",
    `export PATH=/usr/bin:/bin HOME=/tmp CC1=${cc1}`,
    'echo "@@ init"',
    ...programs.flatMap(({ name, prepare = ":", run, result = "cat /tmp/out" }) => [
      `{ ${prepare}; } >/dev/null 2>&1`,
      `echo "@@ begin ${name}"`,
      `{ ${run}; } >/tmp/out 2>&1`,
      "status=$?",
      `echo "@@ end ${name}"`,
      `[ $status = 0 ] && result=$(${result}) || result="failed with $status: $(cat /tmp/out)"`,
      `echo "= ${name} $result"`,
    ]),
    'echo "@@ done"',
    "poweroff -f",
    "",
  ].join("\n");
}

async function treeFiles(root: string): Promise<CpioEntry[]> {
  const entries: CpioEntry[] = [];
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    const source = join(entry.path, entry.name);
    const path = relative(root, source);
    if (entry.isDirectory() || LEFT_OUT.some((pattern) => pattern.test(path))) continue;
    if (entry.isSymbolicLink()) {
      entries.push({ kind: "symlink", path, target: await readlink(source) });
    } else {
      const { mode } = await lstat(source);
      entries.push({ kind: "file", path, mode: mode & 0o777, data: await readFile(source) });
    }
  }
  return entries;
}
