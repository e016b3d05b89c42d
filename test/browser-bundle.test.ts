import { fileURLToPath } from "node:url";
import { build, type Metafile } from "esbuild";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

/** Bundles what `source` imports as a browser would be given it; fails where something is Node's. */
async function bundle(source: string): Promise<{ text: string; metafile: Metafile }> {
  const result = await build({
    stdin: { contents: source, resolveDir: root, loader: "ts" },
    bundle: true,
    write: false,
    metafile: true,
    platform: "browser",
    format: "esm",
    target: "es2022",
    tsconfig: `${root}tsconfig.json`,
    logLevel: "silent",
  });
  return { text: result.outputFiles[0]!.text, metafile: result.metafile };
}

it.each(["@skep/memory", "@skep/vcpu", "@skep/softvt", "@skep/chipset", "@skep/pci", "@skep/boot", "skep"])(
  "%s bundles for a browser: nothing of Node's, no koffi",
  async (name) => {
    const { text, metafile } = await bundle(`import * as all from "${name}"; globalThis.all = all;`);
    const imports = Object.values(metafile.outputs).flatMap((output) => output.imports);
    expect(imports.map(({ path }) => path)).toEqual([]);
    expect(Object.keys(metafile.inputs).filter((path) => /koffi/.test(path))).toEqual([]);
    expect(text).not.toMatch(/\bnode:[a-z]+["'`]/);
  },
);

it("would notice Node's modules and koffi", async () => {
  await expect(bundle(`import * as all from "node:fs"; globalThis.all = all;`)).rejects.toThrow(/node:fs/);
  await expect(bundle(`import * as all from "koffi"; globalThis.all = all;`)).rejects.toThrow();
});
