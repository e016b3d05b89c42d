import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { SkepError } from "@skep/vcpu";
import { Apt, type AptPackage } from "./apt.ts";
import { extractFromDeb, HostCommandError } from "./run.ts";

/** A guest file can neither be found in the cache nor obtained (`ERR_GUEST_FILES`): says why and what to do. */
export class GuestFilesError extends SkepError {}

/** The packages of Debian that skep knows how to take guest files from. */
export const DEBIAN_PACKAGES = {
  /** A kernel for virtual machines: fewest drivers, quickest to boot. */
  "linux-image-cloud-amd64": { architecture: "amd64", pattern: "./boot/vmlinuz-*", file: "vmlinuz" },
  "linux-image-amd64": { architecture: "amd64", pattern: "./boot/vmlinuz-*", file: "vmlinuz" },
  "linux-image-686": { architecture: "i386", pattern: "./boot/vmlinuz-*", file: "vmlinuz" },
  "busybox-static": { architecture: "amd64", pattern: "./bin/busybox", file: "busybox" },
  "busybox-static:i386": { architecture: "i386", pattern: "./bin/busybox", file: "busybox" },
} as const;
export type DebianPackageName = keyof typeof DEBIAN_PACKAGES;

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
  kind: "skep-debian-file";
  version: 1;
  package: string;
  packageVersion: string;
  /** Name of the file beside the manifest. */
  file: string;
  /** Its size in bytes and its SHA-256 in lower-case hex. */
  size: number;
  sha256: string;
}

/** The directory that guest files are cached in unless told otherwise. */
export function defaultCacheDirectory(): string {
  return join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "skep", "debian");
}

/**
 * Gives the file that skep wants from one of Debian's packages: from the cache, or else by the host's apt,
 * without root and without any change to the host.
 *
 * The cache is filled by renaming a complete directory into place, so that a run that is killed or races
 * another leaves nothing half made.
 *
 * @throws GuestFilesError where it is not cached and apt cannot obtain it.
 */
export async function obtainDebianFile(
  name: DebianPackageName,
  options: ObtainOptions = {},
): Promise<DebianFile> {
  const cache = options.cacheDirectory ?? defaultCacheDirectory();
  const log = options.log ?? ((line) => process.stderr.write(`${line}\n`));
  const home = join(cache, name.replace(":", "_"));
  if (!options.refresh) {
    const cached = await readCached(home);
    if (cached) return cached;
  }
  try {
    await mkdir(cache, { recursive: true });
    const work = await mkdtemp(join(cache, ".new-"));
    try {
      return await fetchInto(name, cache, home, work, log);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
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

async function fetchInto(
  name: DebianPackageName,
  cache: string,
  home: string,
  work: string,
  log: (line: string) => void,
): Promise<DebianFile> {
  const { architecture, pattern, file } = DEBIAN_PACKAGES[name];
  const found = await download(name.split(":")[0]!, architecture, cache, work, log);
  const tree = join(work, "tree");
  await mkdir(tree);
  await extractFromDeb(found.deb, tree, [pattern]);
  const directory = join(tree, pattern.slice(2, pattern.lastIndexOf("/")));
  const [only, ...more] = await readdir(directory);
  if (!only || more.length > 0) {
    throw new Error(
      `${basename(found.deb)} holds ${more.length + 1} files like ${pattern}, one was expected`,
    );
  }
  const ready = join(work, "ready");
  await mkdir(ready);
  await rename(join(directory, only), join(ready, file));
  const bytes = await readFile(join(ready, file));
  const manifest: CacheManifest = {
    kind: "skep-debian-file",
    version: 1,
    package: found.package.name,
    packageVersion: found.package.version,
    file,
    size: bytes.length,
    sha256: createHash("sha256").update(bytes).digest("hex"),
  };
  await writeFile(join(ready, "manifest.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  await rm(home, { recursive: true, force: true });
  try {
    await rename(ready, home);
  } catch (error) {
    // Another process was quicker; what it put there serves as well.
    const theirs = await readCached(home);
    if (theirs) return theirs;
    throw error;
  }
  return { path: join(home, file), package: manifest.package, version: manifest.packageVersion };
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

/** The file below `home` if it is there as its manifest describes it; `undefined` otherwise. */
async function readCached(home: string): Promise<DebianFile | undefined> {
  try {
    const manifest: Partial<CacheManifest> = JSON.parse(await readFile(join(home, "manifest.json"), "utf8"));
    if (manifest.kind !== "skep-debian-file" || manifest.version !== 1) return undefined;
    const { file, size, package: package_, packageVersion } = manifest;
    if (!file || basename(file) !== file || !package_ || !packageVersion) return undefined;
    const path = join(home, file);
    if ((await stat(path)).size !== size) return undefined;
    return { path, package: package_, version: packageVersion };
  } catch {
    return undefined;
  }
}
