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

engineConformance(
  "softvt",
  createSoftvtEngine,
  {
    describe,
    it,
    skip: (name, reason) => it.skip(`${name} (${reason})`),
  },
  {
    skip: ({ name }) => {
      const reason = MISSING[name];
      if (reason !== undefined) found.add(name);
      return reason;
    },
  },
);

describe("what is skipped", () => {
  it("is in the suite", ({ expect }) => {
    expect([...found].sort()).toEqual(Object.keys(MISSING).sort());
  });
});
