/** The guest that both machines boot: Debian's cloud kernel, busybox, and an /init that ends at once. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createCpio } from "@skep/boot";
import { obtainDebianFile } from "skep/node";

export const QEMU = "/usr/bin/qemu-system-x86_64";

export async function guestKernel(): Promise<Uint8Array> {
  return readFileSync((await obtainDebianFile("linux-image-cloud-amd64")).path);
}

export async function guestInitrd(): Promise<Uint8Array> {
  const busybox = readFileSync((await obtainDebianFile("busybox-static")).path);
  const init = readFileSync(new URL("guest-init", import.meta.url));
  return createCpio([
    { kind: "file", path: "init", mode: 0o755, data: init },
    { kind: "file", path: "bin/busybox", mode: 0o755, data: busybox },
    // The kernel opens the console for /init before anything is mounted.
    { kind: "device", path: "dev/console", type: "character", major: 5, minor: 1 },
  ]);
}

/** Writes both into `directory`; their paths. */
export async function writeGuest(directory: string): Promise<{ kernel: string; initrd: string }> {
  const guest = { kernel: join(directory, "vmlinuz"), initrd: join(directory, "initrd") };
  writeFileSync(guest.kernel, await guestKernel());
  writeFileSync(guest.initrd, await guestInitrd());
  return guest;
}
