// Builds every package with tsup, in the order in which they import one another.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "tsup";

const root = fileURLToPath(new URL("..", import.meta.url));
const order = ["memory", "vcpu", "softvt", "chipset", "boot", "skep"];
const only = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const dts = !process.argv.includes("--no-dts");

for (const name of order) {
  if (only.length > 0 && !only.includes(name)) continue;
  const dir = `${root}packages/${name}`;
  const manifest = JSON.parse(readFileSync(`${dir}/package.json`, "utf8"));
  const entry = {};
  for (const [subpath, target] of Object.entries(manifest.exports)) {
    if (typeof target === "string") continue;
    const key = subpath === "." ? "index" : `${subpath.slice(2)}/index`;
    const source = `${dir}/src/${key}.ts`;
    if (!existsSync(source))
      throw new Error(`${manifest.name}: ${subpath} is exported, ${source} is missing`);
    entry[key] = source;
  }
  await build({
    entry,
    outDir: `${dir}/dist`,
    format: ["esm"],
    target: "node20",
    platform: "neutral",
    sourcemap: true,
    clean: true,
    dts: dts && { compilerOptions: { incremental: false, composite: false } },
    tsconfig: `${root}tsconfig.json`,
    external: [/^@skep\//, /^node:/, "koffi", "eventemitter3"],
    silent: true,
    config: false,
  });
  process.stderr.write(`built ${manifest.name}\n`);
}
