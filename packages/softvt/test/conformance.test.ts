import { engineConformance } from "@skep/vcpu/testing";
import { describe, it } from "vitest";
import { createSoftvtEngine } from "../src/index.ts";

/** Cases about what the README lists as missing, by name. */
const MISSING: Readonly<Record<string, string>> = {
  "raises #AC in ring 3 for what is not aligned, if asked": "alignment checks are not made",
  "traps after a write to watched memory, not after a read or a miss": "data breakpoints never match",
  "traps after a read where reads are watched too": "data breakpoints never match",
};

const found = new Set<string>();

const tiers = [
  ["softvt", () => createSoftvtEngine({ compileAfter: Number.POSITIVE_INFINITY })],
  ["softvt, compiled", () => createSoftvtEngine({ compileAfter: 0 })],
] as const;

for (const [name, create] of tiers)
  engineConformance(
    name,
    create,
    {
      describe,
      it,
      skip: (title, reason) => it.skip(`${title} (${reason})`),
    },
    {
      skip: (conformanceCase) => {
        const reason = MISSING[conformanceCase.name];
        if (reason !== undefined) found.add(conformanceCase.name);
        return reason;
      },
    },
  );

describe("what is skipped", () => {
  it("is in the suite", ({ expect }) => {
    expect([...found].sort()).toEqual(Object.keys(MISSING).sort());
  });
});
