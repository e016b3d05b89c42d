// tsx bench/pack-guest.ts DIRECTORY: writes the bench guests' files there, DIRECTORY/amd64 and DIRECTORY/i386, for a
// look at them with another machine.
import { join } from "node:path";
import { packGuest } from "./guest.ts";

const directory = process.argv[2];
if (!directory) {
  process.stderr.write("usage: pack-guest.ts DIRECTORY\n");
  process.exit(2);
}
for (const architecture of ["amd64", "i386"] as const) {
  const { kernel, initrd } = await packGuest(architecture, join(directory, architecture));
  process.stdout.write(`${kernel}\n${initrd}\n`);
}
