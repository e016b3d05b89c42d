import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));

const importOf = (from: string): string => `import { x } from "${from}";`;

const REFUSED: readonly [directory: string, line: string, rule: string][] = [
  ["packages/memory/src", importOf("@skep/vcpu"), "noRestrictedImports"],
  ["packages/memory/src", `import type { x } from "@skep/vcpu";`, "noRestrictedImports"],
  ["packages/vcpu/src", importOf("@skep/chipset"), "noRestrictedImports"],
  ["packages/softvt/src", importOf("@skep/chipset"), "noRestrictedImports"],
  ["packages/chipset/src", importOf("@skep/boot"), "noRestrictedImports"],
  ["packages/pci/src", importOf("@skep/chipset"), "noRestrictedImports"],
  ["packages/boot/src", importOf("@skep/pci"), "noRestrictedImports"],
  ["packages/boot/src/deep", importOf("skep"), "noRestrictedImports"],
  ["packages/chipset/src", importOf("node:fs"), "noRestrictedImports"],
  ["packages/chipset/src", importOf("fs"), "noRestrictedImports"],
  ["packages/vcpu/src", importOf("koffi"), "noRestrictedImports"],
  ["packages/skep/src", importOf("node:fs"), "noRestrictedImports"],
  ["packages/boot/src", importOf("../../memory/src/ept.ts"), "noRestrictedImports"],
  ["packages/boot/src", importOf("@skep/memory/src/ept.ts"), "noRestrictedImports"],
  ["packages/boot/test", importOf("../../memory/src/ept.ts"), "noRestrictedImports"],
  ["packages/chipset/src", "const x = setTimeout(() => {}, 1);", "noRestrictedGlobals"],
  ["packages/vcpu/src", "const x = Buffer.alloc(1);", "noRestrictedGlobals"],
];

const ALLOWED: readonly [directory: string, line: string][] = [
  ["packages/chipset/src", importOf("@skep/vcpu")],
  ["packages/pci/src", importOf("@skep/memory")],
  ["packages/chipset/src/deep", importOf("../layout.ts")],
  ["packages/chipset/test", importOf("../src/layout.ts")],
  ["packages/skep/src", importOf("@skep/boot")],
  ["packages/skep/src/cli", importOf("node:fs")],
  ["packages/skep/src/node", "const x = process.env;"],
  ["packages/vcpu/src/kvm", importOf("koffi")],
];

/** Rules broken in each file of a tree that has this repository's biome.json and one file for each case. */
const broken = new Map<string, string[]>();
let tree: string;

const refusedPath = (index: number): string => `${REFUSED[index]![0]}/refused${index}.ts`;
const allowedPath = (index: number): string => `${ALLOWED[index]![0]}/allowed${index}.ts`;

beforeAll(() => {
  tree = realpathSync(mkdtempSync(join(tmpdir(), "skep-lint-")));
  cpSync(join(root, "biome.json"), join(tree, "biome.json"));
  const write = (path: string, line: string): void => {
    mkdirSync(join(tree, dirname(path)), { recursive: true });
    writeFileSync(join(tree, path), `${line}\nexport const used = x;\n`);
  };
  for (const [index, [, line]] of REFUSED.entries()) write(refusedPath(index), line);
  for (const [index, [, line]] of ALLOWED.entries()) write(allowedPath(index), line);
  const args = ["lint", "--vcs-enabled=false", "--reporter=github", "--max-diagnostics=none", "packages"];
  const biome = spawnSync(join(root, "node_modules/.bin/biome"), args, { cwd: tree, encoding: "utf8" });
  for (const line of biome.stdout.split("\n")) {
    const found = /title=lint\/\w+\/(\w+),file=([^,]+),/.exec(line);
    if (!found) continue;
    const path = relative(tree, found[2]!);
    broken.set(path, [...(broken.get(path) ?? []), found[1]!]);
  }
});
afterAll(() => rmSync(tree, { recursive: true }));

describe("the linter refuses", () => {
  it.each(REFUSED.map(([directory, line, rule], index) => ({ directory, line, rule, index })))(
    "in $directory: $line",
    ({ rule, index }) => expect(broken.get(refusedPath(index)) ?? []).toContain(rule),
  );
});

describe("the linter allows", () => {
  it.each(ALLOWED.map(([directory, line], index) => ({ directory, line, index })))(
    "in $directory: $line",
    ({ index }) => expect(broken.get(allowedPath(index)) ?? []).toEqual([]),
  );
});

describe("a package's manifest", () => {
  /** The table of rooms, README.md: what each package may depend on. */
  const arrows: Record<string, string[]> = {
    memory: [],
    vcpu: ["@skep/memory"],
    softvt: ["@skep/memory", "@skep/vcpu"],
    chipset: ["@skep/memory", "@skep/vcpu"],
    pci: ["@skep/memory", "@skep/vcpu"],
    boot: ["@skep/memory", "@skep/vcpu", "@skep/chipset"],
    skep: ["@skep/memory", "@skep/vcpu", "@skep/softvt", "@skep/chipset", "@skep/pci", "@skep/boot"],
  };
  it.each(Object.keys(arrows))("of %s depends on no other package than it may import", (name) => {
    const manifest = JSON.parse(readFileSync(`${root}packages/${name}/package.json`, "utf8"));
    const own = Object.keys(manifest.dependencies ?? {}).filter((dependency) => /skep/.test(dependency));
    expect(arrows[name]).toEqual(expect.arrayContaining(own));
  });
});
