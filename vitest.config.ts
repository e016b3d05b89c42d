import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const source = (path: string): string => fileURLToPath(new URL(`packages/${path}`, import.meta.url));
const packages = ["memory", "vcpu", "softvt", "chipset", "pci", "boot"];

export default defineConfig({
  resolve: {
    alias: [
      ...packages.flatMap((name) => [
        { find: new RegExp(`^@skep/${name}$`), replacement: source(`${name}/src/index.ts`) },
        { find: new RegExp(`^@skep/${name}/(.+)$`), replacement: source(`${name}/src/$1/index.ts`) },
      ]),
      { find: /^skep$/, replacement: source("skep/src/index.ts") },
      { find: /^skep\/(.+)$/, replacement: source("skep/src/$1/index.ts") },
    ],
  },
  test: {
    include: ["packages/*/test/**/*.test.ts", "test/**/*.test.ts"],
    testTimeout: 60_000,
  },
});
