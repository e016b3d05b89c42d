// What scripts/build.mjs adds to this package's bundle: the engine's WebAssembly module, generated here once rather
// than by every process that starts the engine.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { deflateRawSync } from "node:zlib";
import { build } from "esbuild";

const root = fileURLToPath(new URL(".", import.meta.url));

/** An esbuild plugin that puts the module's bytes in the place of src/engine/prebuilt.ts. */
export const plugins = [
  {
    name: "prebuilt-engine",
    setup({ onLoad }) {
      onLoad({ filter: /[\\/]engine[\\/]prebuilt\.ts$/ }, async () => {
        const packed = deflateRawSync(await generate(), { level: 9 });
        return { contents: `export const PREBUILT = "${packed.toString("base64")}";`, loader: "js" };
      });
    },
  },
];

/** Runs the sources' own generator. */
async function generate() {
  const result = await build({
    entryPoints: [`${root}src/engine/module.ts`],
    bundle: true,
    write: false,
    format: "esm",
    platform: "node",
    target: "node20",
    tsconfig: `${root}../../tsconfig.json`,
    logLevel: "error",
  });
  const directory = mkdtempSync(join(tmpdir(), "skep-build-"));
  try {
    const path = join(directory, "module.mjs");
    writeFileSync(path, result.outputFiles[0].text);
    const { generateEngine } = await import(pathToFileURL(path).href);
    return generateEngine();
  } finally {
    rmSync(directory, { recursive: true });
  }
}
