/**
 * What a rig's guest runs, as one initramfs:
 *
 * ```text
 *   /init, /bin/busybox        of @skep/boot: loads the modules, runs one command, powers off
 *   /bin/node, /lib…           this process's Node with the libraries that ldd names
 *   /rig/run.js, chunks        the scripts, bundled; the packages stay outside the bundle:
 *   /rig/guest/vmlinuz         for the script that boots it
 *   /rig/node_modules/         the packages as they are built (dist), koffi, eventemitter3
 * ```
 */
import { execFile } from "node:child_process";
import { readdir, readFile, realpath } from "node:fs/promises";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { busyboxInitramfs, type CpioEntry } from "@skep/boot";
import { build } from "esbuild";
import { obtainDebianFile } from "skep/node";
import type { ScriptName } from "./guest/scripts.ts";
import type { RigKernel, RigMachine } from "./machine.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const runFile = promisify(execFile);

/** Where koffi's packages keep the binary for this process's platform. */
const KOFFI_BINARY = "@koromix/koffi-linux-x64";
/** What the packages run from, below node_modules, and which of its files. */
const MODULES: readonly [name: string, wanted: RegExp][] = [
  ...["memory", "vcpu", "softvt", "chipset", "pci", "boot"].map((name): [string, RegExp] => [
    `@skep/${name}`,
    /^(package\.json|dist\/.*\.js)$/,
  ]),
  ["skep", /^(package\.json|dist\/.*\.js)$/],
  ["eventemitter3", /^(package\.json|index\.m?js)$/],
  ["koffi", /^(package\.json|(?!doc|vendor).*\.c?js)$/],
  [KOFFI_BINARY, /^(package\.json|index\.js|linux_x64\/koffi\.node)$/],
];

/** What a rig runs in place of its scripts. */
export interface RigPayload {
  readonly files: readonly CpioEntry[];
  /** A line of the shell's, in the root directory. It prints the record that closes the list. */
  readonly command: string;
}

/** Scripts that boot a guest of their own. */
const BOOTING: ReadonlySet<ScriptName> = new Set(["linux", "two-engines"]);

export interface PackOptions {
  readonly scripts: readonly ScriptName[];
  readonly only?: string;
  readonly payload?: RigPayload;
  /** What cases made on the host beforehand. */
  readonly before?: readonly { readonly name: string; readonly data: Uint8Array }[];
}

/** Packs the archive; the packages have to be built. */
export async function packInitramfs(
  machine: RigMachine,
  kernel: RigKernel,
  { scripts, only = "", before = [], payload }: PackOptions,
): Promise<Uint8Array> {
  const busybox = await readFile((await obtainDebianFile("busybox-static")).path);
  const modules = machine.modules.map(async (name) => ({ name, data: await readFile(kernel.paths[name]) }));
  return busyboxInitramfs({
    busybox,
    modules: await Promise.all(modules),
    hostname: machine.name,
    command:
      payload?.command ??
      [`export RIG_ONLY=${quoted(only)}`, `exec sh /rig/supervise.sh ${scripts.join(" ")}`].join("\n"),
    files: [
      { kind: "file", path: "rig/supervise.sh", data: await readFile(here("guest/supervise.sh")) },
      { kind: "file", path: "rig/package.json", data: '{ "type": "module" }\n' },
      ...(await bundleScripts()),
      ...(scripts.some((name) => BOOTING.has(name)) ? [await guestKernel(kernel)] : []),
      ...before.map(({ name, data }): CpioEntry => ({ kind: "file", path: `rig/before/${name}`, data })),
      ...(payload?.files ?? []),
      ...(await nodeFiles()),
      ...(await Promise.all(MODULES.map(([name, wanted]) => moduleFiles(name, wanted)))).flat(),
    ],
  });
}

/** The kernel again, for the guests of the guest. */
async function guestKernel(kernel: RigKernel): Promise<CpioEntry> {
  return { kind: "file", path: "rig/guest/vmlinuz", data: await readFile(kernel.paths.vmlinuz) };
}

/** A word of the shell's. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** run.js and its chunks, below the directory rig. */
export async function bundleScripts(): Promise<{ kind: "file"; path: string; data: Uint8Array }[]> {
  const { outputFiles } = await build({
    entryPoints: [here("guest/run.ts")],
    outdir: "/rig",
    bundle: true,
    splitting: true,
    write: false,
    platform: "node",
    target: "node20",
    format: "esm",
    external: ["@skep/*", "skep", "skep/*", "koffi"],
    logLevel: "warning",
  });
  return outputFiles.map(({ path, contents }) => ({ kind: "file", path: path.slice(1), data: contents }));
}

/** Node and every shared library that it and koffi ask for. */
async function nodeFiles(): Promise<CpioEntry[]> {
  const binary = join(root, "node_modules", KOFFI_BINARY, "linux_x64/koffi.node");
  const node = {
    kind: "file",
    path: "bin/node",
    mode: 0o755,
    data: await readFile(process.execPath),
  } as const;
  return [node, ...(await libraryFiles([process.execPath, binary]))];
}

/** Every shared library that `binaries` ask for, each at the path that the loader looks for it. */
export async function libraryFiles(binaries: readonly string[]): Promise<CpioEntry[]> {
  const libraries = new Set<string>();
  for (const path of binaries) {
    const { stdout } = await runFile("ldd", [path]);
    for (const [, library] of stdout.matchAll(/(\/\S+) \(0x[0-9a-f]+\)/g)) libraries.add(library!);
  }
  return Promise.all(
    [...libraries].map(async (source) => ({
      kind: "file",
      path: source.slice(1),
      mode: 0o755,
      data: await readFile(source),
    })),
  );
}

async function moduleFiles(name: string, wanted: RegExp): Promise<CpioEntry[]> {
  const directory = await realpath(join(root, "node_modules", name));
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files: CpioEntry[] = [];
  for (const entry of entries) {
    const source = join(entry.path, entry.name);
    const path = relative(directory, source);
    if (!entry.isFile() || !wanted.test(path)) continue;
    files.push({ kind: "file", path: `rig/node_modules/${name}/${path}`, data: await readFile(source) });
  }
  if (files.length < 2)
    throw new Error(`${directory}: expected a built package, found ${files.length} files`);
  return files;
}
