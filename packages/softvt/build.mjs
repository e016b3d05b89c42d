// What scripts/build.mjs adds to this package's bundle: the engine's WebAssembly module, generated here once rather
// than by every process that starts the engine.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { deflateRawSync } from "node:zlib";
import { build } from "esbuild";

const root = fileURLToPath(new URL(".", import.meta.url));

/** An esbuild plugin that puts the module itself in the place of src/engine/bytes.ts, which generates it. */
export const plugins = [
  {
    name: "engine-bytes",
    setup({ onLoad }) {
      onLoad({ filter: /[\\/]engine[\\/]bytes\.ts$/ }, async () => {
        const bytes = await generate();
        const base64 = deflateRawSync(bytes, { level: 9 }).toString("base64");
        return {
          contents: `import { inflateBase64 } from "./inflate.ts";
export const engineBytes = () => inflateBase64("${base64}", ${bytes.length});`,
          loader: "ts",
          resolveDir: `${root}src/engine`,
        };
      });
    },
  },
];

/** Runs the sources' own generator. */
async function generate() {
  const result = await build({
    entryPoints: [`${root}src/engine/generate.ts`],
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
    const path = join(directory, "generate.mjs");
    writeFileSync(path, result.outputFiles[0].text);
    const { generateEngine } = await import(pathToFileURL(path).href);
    return generateEngine();
  } finally {
    rmSync(directory, { recursive: true });
  }
}
