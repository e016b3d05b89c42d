// Adds to package-lock.json the optional per-platform packages that npm left out.
//
// npm drops an optional dependency from the lock when the registry it asked does not carry that platform's
// build, and `npm ci` then refuses the lock on every machine ("Missing: … from lock file"). The entries'
// names and versions are in the dependents' own manifests; os and cpu are in the name. Run it after a change
// of dependencies: node scripts/complete-lock.mjs
import { readFileSync, writeFileSync } from "node:fs";

const path = new URL("../package-lock.json", import.meta.url);
const lock = JSON.parse(readFileSync(path, "utf8"));
const OS = [
  "android",
  "darwin",
  "freebsd",
  "linux",
  "netbsd",
  "openbsd",
  "openharmony",
  "sunos",
  "win32",
  "aix",
];
const CPU = ["arm64", "x64", "ia32", "arm", "loong64", "mips64el", "ppc64", "riscv64", "s390x"];

let added = 0;
for (const [dependent, entry] of Object.entries(lock.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    if (`node_modules/${name}` in lock.packages || `${dependent}/node_modules/${name}` in lock.packages)
      continue;
    if (!/^\d+\.\d+\.\d+/.test(version)) {
      process.stderr.write(`${name}@${version} of ${dependent}: not an exact version, left out\n`);
      continue;
    }
    const words = name.split(/[/_-]/);
    const os = OS.find((word) => words.includes(word));
    const cpu = CPU.find((word) =>
      words.some((part) => part === word || (word === "arm" && /^arm(v\d|$)/.test(part))),
    );
    const made = { version };
    if (cpu) made.cpu = [cpu];
    if (entry.dev) made.dev = true;
    if (words.includes("musl")) made.libc = ["musl"];
    made.optional = true;
    if (os) made.os = [os];
    if (entry.engines) made.engines = entry.engines;
    lock.packages[`node_modules/${name}`] = made;
    added++;
  }
}
const sorted = Object.entries(lock.packages).sort(([a], [b]) =>
  a === "" ? -1 : b === "" ? 1 : a.localeCompare(b, "en"),
);
lock.packages = Object.fromEntries(sorted);
writeFileSync(path, `${JSON.stringify(lock, undefined, 2)}\n`);
process.stderr.write(`${added} entries added\n`);
