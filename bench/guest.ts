import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CpioEntry, createCpio } from "@skep/boot";
import { obtainDebianFile } from "skep/node";
import type { BenchGuest } from "./machines.ts";

/** Guest RAM in MiB. */
export const MEMORY_MIB = 256;

/** What the guest's /init calls; links are packed, so that no machine's boot pays for making them. */
const APPLETS = ["awk", "dd", "gzip", "mount", "poweroff", "sh", "sha256sum", "true"];

/** Obtains Debian's kernel and busybox and writes `kernel` and `initrd` of one guest into `directory`. */
export async function packGuest(architecture: "amd64" | "i386", directory: string): Promise<BenchGuest> {
  const amd64 = architecture === "amd64";
  const kernelFile = await obtainDebianFile(amd64 ? "linux-image-cloud-amd64" : "linux-image-686");
  const busyboxFile = await obtainDebianFile(amd64 ? "busybox-static" : "busybox-static:i386");
  const init = readFileSync(new URL("guest/init", import.meta.url));
  const initrd = createCpio([
    { kind: "file", path: "init", mode: 0o755, data: init },
    { kind: "file", path: "bin/busybox", mode: 0o755, data: readFileSync(busyboxFile.path) },
    // The kernel opens the console for /init before anything is mounted.
    { kind: "device", path: "dev/console", type: "character", major: 5, minor: 1 },
    ...APPLETS.map((name): CpioEntry => ({ kind: "symlink", path: `bin/${name}`, target: "busybox" })),
  ]);
  mkdirSync(directory, { recursive: true });
  const guest = {
    kernel: join(directory, "kernel"),
    initrd: join(directory, "initrd"),
    memoryMiB: MEMORY_MIB,
  };
  writeFileSync(guest.kernel, readFileSync(kernelFile.path));
  writeFileSync(guest.initrd, initrd);
  return guest;
}
