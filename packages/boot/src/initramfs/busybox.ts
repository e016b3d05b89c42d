/** An initramfs around a statically linked busybox: a shell to look around with, or one command and out. */
import { type CpioEntry, createCpio } from "./cpio.ts";
import { INIT_SCRIPT } from "./init-script.ts";

export interface BusyboxInitramfsOptions {
  /** The busybox executable, statically linked, for the guest's architecture. */
  readonly busybox: Uint8Array;
  /**
   * Names to link to it in /bin. Default: the guest makes them all at boot (`busybox --install`), some 300 system
   * calls. Must then hold what `/init` uses: see init-script.ts.
   */
  readonly applets?: readonly string[];
  /** Shell script that is run instead of a shell, as exec-protocol.ts describes; the guest then powers off. */
  readonly command?: string;
  /** Shell lines that `/init` runs before the shell or the command: network set-up. */
  readonly setup?: string;
  /** Kernel modules in loading order; `name` is a file name such as "virtio_blk.ko". */
  readonly modules?: readonly { readonly name: string; readonly data: Uint8Array }[];
  /** Default "skep". */
  readonly hostname?: string;
  /** Further files; one of a path that is here already replaces it. */
  readonly files?: readonly CpioEntry[];
}

/**
 * Builds the archive; the same options give the same bytes.
 *
 * @throws RangeError for malformed names and paths.
 * @example
 * const initrd = busyboxInitramfs({ busybox, command: "uname -a" });
 */
export function busyboxInitramfs(options: BusyboxInitramfsOptions): Uint8Array {
  const { hostname = "skep" } = options;
  if (!/^[A-Za-z0-9-]{1,63}$/.test(hostname)) {
    throw new RangeError(`hostname: expected letters, digits and hyphens, got "${hostname}"`);
  }
  const own: CpioEntry[] = [
    { kind: "file", path: "init", mode: 0o755, data: INIT_SCRIPT },
    { kind: "file", path: "bin/busybox", mode: 0o755, data: options.busybox },
    { kind: "symlink", path: "bin/sh", target: "busybox" },
    // The kernel opens the console for /init before anything is mounted.
    { kind: "device", path: "dev/console", type: "character", major: 5, minor: 1 },
    { kind: "device", path: "dev/null", mode: 0o666, type: "character", major: 1, minor: 3 },
    { kind: "directory", path: "root", mode: 0o700 },
    { kind: "file", path: "etc/hostname", data: `${hostname}\n` },
    { kind: "file", path: "etc/hosts", data: `127.0.0.1 localhost ${hostname}\n::1 localhost\n` },
    // Not an empty password field: glibc as linked into busybox takes such a line for malformed.
    { kind: "file", path: "etc/passwd", data: "root:x:0:0:root:/root:/bin/sh\n" },
    { kind: "file", path: "etc/group", data: "root:x:0:\n" },
    { kind: "file", path: "etc/profile", data: "PS1='\\u@\\h:\\w\\$ '\n" },
    ...["proc", "sys", "tmp", "run"].map((path): CpioEntry => ({ kind: "directory", path })),
    ...(options.applets ?? []).filter((name) => name !== "busybox").map(applet),
    ...(options.modules ?? []).map((module, i): CpioEntry => {
      const order = String(i).padStart(3, "0");
      return { kind: "file", path: `skep/modules/${order}-${module.name}`, data: module.data };
    }),
  ];
  if (options.command !== undefined) {
    own.push({ kind: "file", path: "skep/command", data: options.command });
  }
  if (options.setup !== undefined) own.push({ kind: "file", path: "skep/setup", data: options.setup });
  const entries = new Map<string, CpioEntry>();
  for (const entry of [...own, ...(options.files ?? [])]) entries.set(entry.path, entry);
  return createCpio([...entries.values()]);
}

function applet(name: string): CpioEntry {
  if (!/^[A-Za-z0-9_.[+-]+$/.test(name) || name.startsWith(".")) {
    throw new RangeError(`applet: expected a command's name, got "${name}"`);
  }
  return { kind: "symlink", path: `bin/${name}`, target: "busybox" };
}
