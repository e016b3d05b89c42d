// Builds the packages unless their dist is there and newer than every source: what runs from dist is what the
// sources say. Without type declarations, which nothing that runs needs.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function newest(directory) {
  let latest = 0;
  for (const entry of readdirSync(directory, { withFileTypes: true, recursive: true })) {
    if (entry.isFile())
      latest = Math.max(latest, statSync(`${entry.parentPath ?? entry.path}/${entry.name}`).mtimeMs);
  }
  return latest;
}

/** Names of the packages that have to be built. */
export function stalePackages() {
  return readdirSync(`${root}packages`).filter((name) => {
    const built = `${root}packages/${name}/dist/index.js`;
    if (!existsSync(built)) return true;
    const hook = `${root}packages/${name}/build.mjs`;
    const changed = existsSync(hook) ? statSync(hook).mtimeMs : 0;
    return statSync(built).mtimeMs < Math.max(changed, newest(`${root}packages/${name}/src`));
  });
}

/** Builds what is stale; ends the process where that fails. Says so on stderr. */
export function ensureBuilt() {
  const stale = stalePackages();
  if (stale.length === 0) return;
  process.stderr.write(`building ${stale.join(", ")}\n`);
  const built = spawnSync(process.execPath, [`${root}scripts/build.mjs`, "--no-dts", ...stale], {
    stdio: ["ignore", 2, 2],
  });
  if (built.status !== 0) process.exit(built.status ?? 1);
}
