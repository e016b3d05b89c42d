// Builds packages into their dist: build.mjs [--no-dts] [NAME …]; all of them by default, and skep in any case: its
// command has the others inside.
//
// tsup bundles the code of each. Declarations come from one TypeScript program for all packages: bundled by
// tsup, package by package, they took five times as long (45 s of processor time for 9 s).
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build as bundle } from "esbuild";
import { build } from "tsup";
import ts from "typescript";

const root = fileURLToPath(new URL("..", import.meta.url));
const packages = ["memory", "vcpu", "softvt", "chipset", "pci", "boot", "skep"];
const only = process.argv.slice(2).filter((arg) => !arg.startsWith("-"));
const dts = !process.argv.includes("--no-dts");

const built = packages.filter((name) => only.length === 0 || only.includes(name) || name === "skep");
const entries = [];

for (const name of built) {
  const dir = `${root}packages/${name}`;
  const manifest = JSON.parse(readFileSync(`${dir}/package.json`, "utf8"));
  const entry = {};
  const commands = Object.values(manifest.bin ?? {});
  const commandEntry = {};
  for (const [subpath, target] of Object.entries(manifest.exports)) {
    if (typeof target === "string") continue;
    const key = subpath === "." ? "index" : `${subpath.slice(2)}/index`;
    const source = `${dir}/src/${key}.ts`;
    if (!existsSync(source))
      throw new Error(`${manifest.name}: ${subpath} is exported, ${source} is missing`);
    (commands.includes(target.default) ? commandEntry : entry)[key] = source;
    entries.push(source);
  }
  // A package may have esbuild plugins of its own: what it generates ahead of time.
  const hook = `${dir}/build.mjs`;
  const { plugins = [], commandPlugins = [] } = existsSync(hook)
    ? await import(pathToFileURL(hook).href)
    : {};
  await buildOrExit({
    entry,
    outDir: `${dir}/dist`,
    format: ["esm"],
    target: "node20",
    platform: "neutral",
    sourcemap: true,
    clean: true,
    dts: false,
    tsconfig: `${root}tsconfig.json`,
    external: [/^@skep\//, /^node:/, "koffi", "eventemitter3"],
    // An import for its effects (a table's rows registering themselves) that "sideEffects" of package.json lets the
    // bundler drop would only be missed when a guest runs.
    esbuildOptions: (options) => {
      options.logOverride = { "ignored-bare-import": "error" };
    },
    esbuildPlugins: plugins,
    silent: true,
    config: false,
  });
  if (commands.length > 0) await buildCommand(`${dir}/dist`, commandEntry, commandPlugins);
  process.stderr.write(`built ${manifest.name}\n`);
}

if (dts) emitDeclarations();

/** tsup; the compiler has said on stderr what was wrong, its stack trace would hide that. */
async function buildOrExit(options, run = build) {
  try {
    await run(options);
  } catch (error) {
    if (!Array.isArray(error.errors)) throw error;
    process.exit(1);
  }
}

/**
 * A command, with every package that it uses inside: finding, opening and reading each one's files took a tenth of the
 * processor time from the start of `skep run` to the guest's first output.
 */
async function buildCommand(outdir, entryPoints, plugins) {
  await buildOrExit(
    {
      entryPoints,
      outdir,
      chunkNames: "cli/[name]-[hash]",
      bundle: true,
      splitting: true,
      format: "esm",
      platform: "node",
      target: "node20",
      external: ["koffi"],
      plugins,
      sourcemap: true,
      // A fifth of the text is indentation, which is read at every start; names stay, for stack traces.
      minifyWhitespace: true,
      // Not the workspace's: its paths lead to the packages' sources, which generate the engine at every start.
      tsconfigRaw: {},
      logLevel: "error",
    },
    bundle,
  );
}

/** Writes each source's declarations to the same place below its package's dist. */
function emitDeclarations() {
  const config = ts.readConfigFile(`${root}tsconfig.json`, ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config.config, ts.sys, root);
  const program = ts.createProgram([...entries, `${root}types/webassembly.d.ts`], {
    ...options,
    noEmit: false,
    declaration: true,
    emitDeclarationOnly: true,
    stripInternal: true,
  });
  const result = program.emit(undefined, (path, text, _mark, _onError, sources) => {
    const source = sources?.[0]?.fileName ?? path;
    const match = /\/packages\/([^/]+)\/src\/(.+)\.ts$/.exec(source);
    if (!match || !built.includes(match[1])) return;
    const target = `${root}packages/${match[1]}/dist/${match[2]}.d.ts`;
    mkdirSync(dirname(target), { recursive: true });
    // An installed package has no .ts files: "./x.js" finds x.d.ts whatever the reader's settings.
    writeFileSync(target, text.replace(/((?:from|import\(?) ?["']\.[^"']*)\.ts(["'])/g, "$1.js$2"));
  });
  if (result.diagnostics.length === 0) return;
  const host = {
    getCanonicalFileName: (name) => name,
    getCurrentDirectory: () => root,
    getNewLine: () => "\n",
  };
  process.stderr.write(ts.formatDiagnostics(result.diagnostics, host));
  process.exitCode = 1;
}
