import { createSoftvtEngine } from "@skep/softvt";
import { engineConformance } from "@skep/vcpu/testing";
import type { RigCase, RigScript } from "./case.ts";

const cases: RigCase[] = [];
const titles: string[] = [];

engineConformance("softvt", createSoftvtEngine, {
  describe: (title, body) => {
    titles.push(title);
    body();
    titles.pop();
  },
  it: (name, run) => cases.push({ name: fullName(name), run }),
  skip: (name, reason) => cases.push({ name: fullName(name), skip: reason, run: () => {} }),
});

/** The name below its group's; the suite's own title says nothing more. */
function fullName(name: string): string {
  return [...titles.slice(1), name].join(" > ");
}

export const conformance: RigScript = { name: "conformance", cases };
