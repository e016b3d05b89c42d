import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { GuestFilesError, obtainDebianFile, obtainDebianFiles } from "skep/node";
import { afterEach, beforeEach, expect, it } from "vitest";

// A host with apt and dpkg-deb as shell scripts: the index has a cloud kernel for amd64 in the host's lists
// and a busybox for i386 in private lists only; a ".deb" is a plain tar archive.
const STANZAS: Record<string, string> = {
  "linux-image-cloud-amd64":
    "Package: linux-image-cloud-amd64\nVersion: 6.1-1\nArchitecture: amd64\n" +
    "Depends: linux-image-6.1.0-1-cloud-amd64 (= 6.1-1)\nSize: 1\nSHA256: 00\n",
  "linux-image-6.1.0-1-cloud-amd64":
    "Package: linux-image-6.1.0-1-cloud-amd64\nVersion: 6.1-1\nArchitecture: amd64\n" +
    "Depends: kmod, linux-base (>= 4)\nSize: @SIZE@\nSHA256: 00\nDescription: text\n more: text\n",
};

/** tar's archive of them, in whole blocks. */
const DEB_BYTES = 20480;

let home: string;
let path: string | undefined;
const log: string[] = [];

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "skep-debian-"));
  path = process.env.PATH;
  log.length = 0;
});
afterEach(() => {
  process.env.PATH = path;
  rmSync(home, { recursive: true });
});

const obtain = (name: Parameters<typeof obtainDebianFile>[0]) =>
  obtainDebianFile(name, { cacheDirectory: join(home, "cache"), log: (line) => log.push(line) });

function fakeHost(options: { size?: number } = {}): void {
  const bin = join(home, "bin");
  mkdirSync(bin, { recursive: true });
  mkdirSync(join(home, "index"), { recursive: true });
  mkdirSync(join(home, "root/boot"), { recursive: true });
  mkdirSync(join(home, "root/bin"), { recursive: true });
  const modules = join(home, "root/lib/modules/6.1/kernel");
  mkdirSync(join(modules, "arch/x86/kvm"), { recursive: true });
  mkdirSync(join(modules, "virt/lib"), { recursive: true });
  for (const name of ["kvm", "kvm-amd", "kvm-intel", "kvm-not-wanted"]) {
    writeFileSync(join(modules, `arch/x86/kvm/${name}.ko`), name);
  }
  writeFileSync(join(modules, "virt/lib/irqbypass.ko"), "irqbypass");
  writeFileSync(join(home, "root/boot/vmlinuz-6.1"), "kernel");
  writeFileSync(join(home, "root/boot/System.map-6.1"), "not wanted");
  writeFileSync(join(home, "root/bin/busybox"), "busybox");
  for (const [name, text] of Object.entries(STANZAS)) {
    writeFileSync(
      join(home, "index", `${name}:amd64`),
      text.replace("@SIZE@", String(options.size ?? DEB_BYTES)),
    );
  }
  const script = (name: string, body: string): void => {
    writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  // The last argument of each call names the package.
  script("apt-cache", `for last; do :; done; cat "${home}/index/$last" 2>&1 || exit 100`);
  script(
    "apt-get",
    `echo "$*" >>"${home}/calls"
for last; do :; done
case $last in
update)
  : >"$(dirname "$APT_CONFIG")/state/lists/debian_Packages"
  printf 'Package: busybox-static\\nVersion: 1-1\\nArchitecture: i386\\nSize: ${DEB_BYTES}\\nSHA256: 00\\n' \\
    >"${home}/index/busybox-static:i386"
  echo "one source of several failed" >&2; exit 100;;
*) tar -C "${home}/root" --format=ustar -cf package.deb . ;;
esac`,
  );
  script("dpkg-deb", 'exec cat "$2"');
  process.env.PATH = `${bin}:${path}`;
}

it("follows the meta package, keeps the kernel alone and takes it from the cache the next time", async () => {
  fakeHost();
  const first = await obtain("linux-image-cloud-amd64");
  expect(first).toEqual({
    path: join(home, "cache/linux-image-cloud-amd64/vmlinuz"),
    package: "linux-image-6.1.0-1-cloud-amd64",
    version: "6.1-1",
  });
  expect(readFileSync(first.path, "utf8")).toBe("kernel");
  expect(log[0]).toMatch(/linux-image-6\.1\.0-1-cloud-amd64/);
  rmSync(join(home, "bin"), { recursive: true });
  expect(await obtain("linux-image-cloud-amd64")).toEqual(first);
});

it("takes a kernel and its modules out of one package, and all of them from the cache the next time", async () => {
  fakeHost();
  const options = { cacheDirectory: join(home, "cache"), log: (line: string) => log.push(line) };
  const first = await obtainDebianFiles("linux-image-cloud-amd64+kvm", options);
  const contents = Object.entries(first.paths).map(([name, path]) => [name, readFileSync(path, "utf8")]);
  expect(contents).toEqual([
    ["vmlinuz", "kernel"],
    ["irqbypass.ko", "irqbypass"],
    ["kvm.ko", "kvm"],
    ["kvm-amd.ko", "kvm-amd"],
    ["kvm-intel.ko", "kvm-intel"],
  ]);
  expect(first.package).toBe("linux-image-6.1.0-1-cloud-amd64");
  rmSync(join(home, "bin"), { recursive: true });
  expect(await obtainDebianFiles("linux-image-cloud-amd64+kvm", options)).toEqual(first);
  // One file short is not cached at all.
  rmSync(first.paths["kvm-amd.ko"]);
  process.env.PATH = join(home, "empty");
  await expect(obtainDebianFiles("linux-image-cloud-amd64+kvm", options)).rejects.toThrow(
    /could not be obtained/,
  );
});

it("says which member a package lacks", async () => {
  fakeHost();
  rmSync(join(home, "root/boot/vmlinuz-6.1"));
  writeFileSync(join(home, "root/boot/vmlinuz"), "not the kernel");
  await expect(obtain("linux-image-cloud-amd64")).rejects.toThrow(/vmlinuz-\*/);
});

it("takes the kernel from a cache whose manifest names a single file", async () => {
  const directory = join(home, "cache/linux-image-cloud-amd64");
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, "vmlinuz"), "kernel");
  const manifest = {
    kind: "skep-debian-file",
    version: 1,
    package: "linux-image-6.1",
    packageVersion: "6.1-1",
  };
  writeFileSync(
    join(directory, "manifest.json"),
    JSON.stringify({ ...manifest, file: "vmlinuz", size: 6, sha256: "00" }),
  );
  process.env.PATH = join(home, "empty");
  expect(await obtain("linux-image-cloud-amd64")).toEqual({
    path: join(directory, "vmlinuz"),
    package: "linux-image-6.1",
    version: "6.1-1",
  });
});

it("fetches lists of its own for an architecture that the host has not enabled", async () => {
  fakeHost();
  const file = await obtain("busybox-static:i386");
  expect(readFileSync(file.path, "utf8")).toBe("busybox");
  expect(readFileSync(join(home, "cache/.apt-i386/apt.conf"), "utf8")).toContain('APT::Architecture "i386"');
});

it("obtains a cached file again that has lost bytes", async () => {
  fakeHost();
  const { path } = await obtain("linux-image-cloud-amd64");
  writeFileSync(path, "ker");
  await obtain("linux-image-cloud-amd64");
  expect(readFileSync(path, "utf8")).toBe("kernel");
});

it("refuses a download of another size than the list's, and leaves nothing behind", async () => {
  fakeHost({ size: 12345 });
  await expect(obtain("linux-image-cloud-amd64")).rejects.toThrow(/20480 bytes, apt's list says 12345/);
  expect(existsSync(join(home, "cache/linux-image-cloud-amd64"))).toBe(false);
});

it("says what to do where there is no apt and nothing cached", async () => {
  process.env.PATH = join(home, "empty");
  const error = await obtain("linux-image-cloud-amd64").catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(GuestFilesError);
  expect(error).toMatchObject({ code: "ERR_GUEST_FILES" });
  expect(String(error)).toMatch(/apt-cache is not installed here.*--kernel FILE --initrd FILE/);
});
