import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { SkepError } from "@skep/vcpu";
import { Apt, type AptPackage } from "./apt.ts";
import { extractFromDeb, HostCommandError } from "./run.ts";

/** A guest file can neither be found in the cache nor obtained (`ERR_GUEST_FILES`): says why and what to do. */
export class GuestFilesError extends SkepError {}

const KERNEL = { vmlinuz: "./boot/vmlinuz-*" } as const;
const MODULES = "./lib/modules/*/kernel";

/**
 * What skep knows to take from Debian's packages: the files of one entry are of one version. A key is the package's
 * name; what follows a colon or a plus sign tells apart entries that take different things from it.
 */
export const DEBIAN_PACKAGES = {
  /** A kernel for virtual machines: fewest drivers, quickest to boot. */
  "linux-image-cloud-amd64": { architecture: "amd64", files: KERNEL },
  /** The same with its modules for running guests, in loading order (one of the last two). */
  "linux-image-cloud-amd64+kvm": {
    architecture: "amd64",
    files: {
      ...KERNEL,
      "irqbypass.ko": `${MODULES}/virt/lib/irqbypass.ko`,
      "kvm.ko": `${MODULES}/arch/x86/kvm/kvm.ko`,
      "kvm-amd.ko": `${MODULES}/arch/x86/kvm/kvm-amd.ko`,
      "kvm-intel.ko": `${MODULES}/arch/x86/kvm/kvm-intel.ko`,
    },
  },
  "linux-image-amd64": { architecture: "amd64", files: KERNEL },
  "linux-image-686": { architecture: "i386", files: KERNEL },
  "busybox-static": { architecture: "amd64", files: { busybox: "./bin/busybox" } },
  "busybox-static:i386": { architecture: "i386", files: { busybox: "./bin/busybox" } },
} as const satisfies Record<string, DebianEntry>;
export type DebianPackageName = keyof typeof DEBIAN_PACKAGES;
type FileNames<Name extends DebianPackageName> = keyof (typeof DEBIAN_PACKAGES)[Name]["files"] & string;

interface DebianEntry {
  readonly architecture: string;
  /** Name in the cache, and the member of the package: a `*` stands for any part of one name. */
  readonly files: Readonly<Record<string, `./${string}`>>;
}

/** Files from one Debian package, in the cache. */
export interface DebianFiles<FileName extends string = string> {
  /** Absolute path of each file. */
  readonly paths: Readonly<Record<FileName, string>>;
  /** The package that held them: the versioned one for a kernel. */
  readonly package: string;
  readonly version: string;
}

/** A file from a Debian package, in the cache. */
export interface DebianFile {
  /** Absolute path of the file. */
  readonly path: string;
  /** The package that held it: the versioned one for a kernel. */
  readonly package: string;
  readonly version: string;
}

export interface ObtainOptions {
  /** Where files are kept; default `$XDG_CACHE_HOME/skep/debian` or `~/.cache/skep/debian`. */
  readonly cacheDirectory?: string;
  /** Told, line by line, what is going on; default: stderr. */
  readonly log?: (line: string) => void;
  /** Fetch anew what is cached already (the mirror may have a newer version). */
  readonly refresh?: boolean;
}

interface CacheManifest {
  kind: "skep-debian-files";
  version: 1;
  package: string;
  packageVersion: string;
  /** Files beside the manifest: size in bytes, SHA-256 in lower-case hex. */
  files: { file: string; size: number; sha256: string }[];
}

/** The directory that guest files are cached in unless told otherwise. */
export function defaultCacheDirectory(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "skep", "debian");
}

/**
 * Gives the file that skep wants from one of Debian's packages, the first where it wants several, as
 * `obtainDebianFiles` does.
 *
 * @throws GuestFilesError where it is not cached and apt cannot obtain it.
 */
export async function obtainDebianFile(
  name: DebianPackageName,
  options: ObtainOptions = {},
): Promise<DebianFile> {
  const { paths, package: package_, version } = await obtainDebianFiles(name, options);
  return { path: Object.values<string>(paths)[0]!, package: package_, version };
}

/**
 * Gives the files that skep wants from one of Debian's packages, all of one version: from the cache, or else by the
 * host's apt, without root and without any change to the host.
 *
 * The cache is filled by renaming a complete directory into place, so that a run that is killed or races
 * another leaves nothing half made.
 *
 * @throws GuestFilesError where they are not cached and apt cannot obtain them.
 */
export async function obtainDebianFiles<Name extends DebianPackageName>(
  name: Name,
  options: ObtainOptions = {},
): Promise<DebianFiles<FileNames<Name>>> {
  const cache = options.cacheDirectory ?? defaultCacheDirectory();
  const log = options.log ?? ((line) => process.stderr.write(`${line}\n`));
  const home = join(cache, name.replace(":", "_"));
  const files = Object.keys(DEBIAN_PACKAGES[name].files) as FileNames<Name>[];
  if (!options.refresh) {
    const cached = await readCached(home, files);
    if (cached) return cached;
  }
  try {
    await mkdir(cache, { recursive: true });
    const work = await mkdtemp(join(cache, ".new-"));
    try {
      await fetchInto(name, cache, home, work, log);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    const fetched = await readCached(home, files);
    if (!fetched) throw new Error("another process took the files away again");
    return fetched;
  } catch (cause) {
    if (cause instanceof GuestFilesError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new GuestFilesError(
      "ERR_GUEST_FILES",
      `Debian's ${name} is not in the cache (${home}) and could not be obtained: ${reason}. ` +
        "Give a kernel and an initramfs of your own with --kernel FILE --initrd FILE, or run this where " +
        "Debian's apt-get and dpkg-deb are installed and its mirror can be reached.",
      { cause },
    );
  }
}

/** Makes the directory `home` with the files of entry `name`, by way of the temporary directory `work`. */
async function fetchInto(
  name: DebianPackageName,
  cache: string,
  home: string,
  work: string,
  log: (line: string) => void,
): Promise<void> {
  const { architecture, files }: DebianEntry = DEBIAN_PACKAGES[name];
  const found = await download(name.split(/[:+]/)[0]!, architecture, cache, work, log);
  const tree = join(work, "tree");
  await mkdir(tree);
  await extractFromDeb(found.deb, tree, Object.values(files));
  const members = await readdir(tree, { recursive: true, withFileTypes: true });
  const paths = members.filter((member) => member.isFile()).map((member) => join(member.path, member.name));
  const ready = join(work, "ready");
  await mkdir(ready);
  const manifest: CacheManifest = {
    kind: "skep-debian-files",
    version: 1,
    package: found.package.name,
    packageVersion: found.package.version,
    files: [],
  };
  for (const [file, pattern] of Object.entries(files)) {
    const matches = paths.filter((path) => matchesPattern(path.slice(tree.length + 1), pattern.slice(2)));
    if (matches.length !== 1) {
      const count = `${matches.length} files like ${pattern}`;
      throw new Error(`${basename(found.deb)} holds ${count}, one was expected`);
    }
    await rename(matches[0]!, join(ready, file));
    const bytes = await readFile(join(ready, file));
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    manifest.files.push({ file, size: bytes.length, sha256 });
  }
  await writeFile(join(ready, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  await rm(home, { recursive: true, force: true });
  try {
    await rename(ready, home);
  } catch (error) {
    // Another process was quicker; what it put there serves as well.
    if (!(await readCached(home, Object.keys(files)))) throw error;
  }
}

/** Whether a path's names are the pattern's, one by one; a `*` stands for any part of a name. */
function matchesPattern(path: string, pattern: string): boolean {
  const names = path.split("/");
  const wanted = pattern.split("/");
  return (
    names.length === wanted.length &&
    wanted.every((part, i) => {
      const [start, end] = part.split("*") as [string, string?];
      if (end === undefined) return names[i] === part;
      return names[i]!.length >= part.length - 1 && names[i]!.startsWith(start) && names[i]!.endsWith(end);
    })
  );
}

/** Downloads `name`, or the image that a kernel's meta package names, by the host's lists or by fresh ones. */
async function download(
  name: string,
  architecture: string,
  cache: string,
  work: string,
  log: (line: string) => void,
): Promise<{ deb: string; package: AptPackage }> {
  const attempt = async (apt: Apt): Promise<{ deb: string; package: AptPackage } | undefined> => {
    const package_ = await resolve(apt, name);
    if (!package_) return undefined;
    const target = join(work, "deb");
    await rm(target, { recursive: true, force: true });
    await mkdir(target);
    const megabytes = (package_.size / 1e6).toFixed(1);
    const what = `${package_.name} ${package_.version} (${architecture}, ${megabytes} MB)`;
    log(`obtaining Debian's ${what}`);
    let shown = 0;
    await apt.download(package_, target, (percent) => {
      if (percent < shown + 25) return;
      shown = Math.floor(percent / 25) * 25;
      if (shown < 100) log(`  ${shown} %`);
    });
    const deb = join(target, (await readdir(target))[0] ?? "nothing");
    const { size } = await stat(deb);
    if (size !== package_.size) {
      throw new Error(`${basename(deb)} has ${size} bytes, apt's list says ${package_.size}`);
    }
    return { deb, package: package_ };
  };

  // The host's own lists first: they are there on most Debian hosts and cost nothing. Where they lack the
  // architecture, are missing, or are so old that the mirror has moved on, lists of our own follow.
  try {
    const found = await attempt(Apt.host(architecture));
    if (found) return found;
  } catch (error) {
    if (!(error instanceof HostCommandError) || error.code === "ERR_HOST_COMMAND_MISSING") throw error;
  }
  log(`fetching Debian's package lists for ${architecture}`);
  const found = await attempt(await Apt.private(architecture, join(cache, `.apt-${architecture}`)));
  if (!found) throw new Error(`none of this host's apt sources has ${name} for ${architecture}`);
  return found;
}

/** Follows a meta package (linux-image-amd64) to the versioned image that it depends on. */
async function resolve(apt: Apt, name: string): Promise<AptPackage | undefined> {
  const package_ = await apt.show(name);
  const image = package_?.depends.find((dependency) => /^linux-image-\d/.test(dependency));
  return image && name.startsWith("linux-image-") ? apt.show(image) : package_;
}

/** The files below `home` if all are there as the manifest describes them; `undefined` otherwise. */
async function readCached<FileName extends string>(
  home: string,
  files: readonly FileName[],
): Promise<DebianFiles<FileName> | undefined> {
  try {
    const manifest: unknown = JSON.parse(await readFile(join(home, "manifest.json"), "utf8"));
    const { kind, version, package: package_, packageVersion, files: listed } = upToDate(manifest);
    if (kind !== "skep-debian-files" || version !== 1 || !package_ || !packageVersion) return undefined;
    const paths = {} as Record<FileName, string>;
    for (const file of files) {
      paths[file] = join(home, file);
      const size = listed?.find((entry) => entry.file === file)?.size;
      if ((await stat(paths[file])).size !== size) return undefined;
    }
    return { paths, package: package_, version: packageVersion };
  } catch {
    return undefined;
  }
}

/** The manifest in today's form: caches that were filled earlier have one that names a single file. */
function upToDate(manifest: unknown): Partial<CacheManifest> {
  const { kind, ...rest } = manifest as { kind: string; file: string; size: number; sha256: string };
  if (kind !== "skep-debian-file") return manifest as Partial<CacheManifest>;
  const { file, size, sha256, ...common } = rest;
  return { ...common, kind: "skep-debian-files", files: [{ file, size, sha256 }] };
}
