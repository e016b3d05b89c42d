/** Debian's packages with what they depend on, unpacked below one directory of the cache, by apt and dpkg. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { access, mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { defaultCacheDirectory } from "skep/node";

const runFile = promisify(execFile);

/** What packages depend on for their installation or their manual, not to run. */
const LEFT_OUT = new Set(["dpkg", "install-info", "readline-common", "debconf"]);
/** `apt-cache depends` names what a package cannot do without. */
const ESSENTIAL = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"].map(
  (relation) => `--no-${relation}`,
);

/**
 * The directory below which `names` and all that they depend on are unpacked: from the cache, or else by the host's apt,
 * in the versions of its lists.
 *
 * @throws Error where apt or dpkg fails: its message says what to do.
 */
export async function unpackedPackages(names: readonly string[]): Promise<string> {
  const cache = join(defaultCacheDirectory(), "..", "bench-programs");
  const key = createHash("sha256")
    .update([...names, ...LEFT_OUT].join())
    .digest("hex")
    .slice(0, 16);
  const home = join(cache, key);
  if (await exists(home)) return home;
  await mkdir(cache, { recursive: true });
  const work = await mkdtemp(join(cache, ".new-"));
  try {
    await unpackInto(await closure(names), work);
    await rename(join(work, "tree"), home);
  } catch (cause) {
    // Another process was quicker; what it put there serves as well.
    if (await exists(home)) return home;
    throw new Error(
      `Debian's ${names.join(", ")} could not be obtained: apt-get update may help, or a host with apt-get and dpkg-deb`,
      { cause },
    );
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  return home;
}

async function unpackInto(names: readonly string[], work: string): Promise<void> {
  const debs = join(work, "debs");
  const tree = join(work, "tree");
  await mkdir(debs);
  await mkdir(tree);
  process.stderr.write(`obtaining ${names.length} of Debian's packages\n`);
  // As root apt would hand the download to user _apt, who may not write here.
  await runFile("apt-get", ["download", "-q", "-o", "APT::Sandbox::User=root", ...names], { cwd: debs });
  for (const deb of await readdir(debs)) await runFile("dpkg-deb", ["-x", join(debs, deb), tree]);
}

/** `names` and what they depend on, theirs too. */
async function closure(names: readonly string[]): Promise<string[]> {
  const found = new Set(names);
  for (let level = [...names]; level.length > 0; ) {
    const { stdout } = await runFile("apt-cache", ["depends", ...ESSENTIAL, ...level], {
      env: { ...process.env, LC_ALL: "C" },
    });
    const needed = [...stdout.matchAll(/^ *\|?(?:Pre)?Depends: ([^<\s]+)$/gm)].map(([, name]) => name!);
    level = [...new Set(needed)].filter((name) => !found.has(name) && !LEFT_OUT.has(name));
    for (const name of level) found.add(name);
  }
  return [...found];
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
