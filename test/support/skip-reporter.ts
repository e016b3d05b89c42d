import type { Reporter, TestModule } from "vitest/node";

/** Prints each skipped test with the reason that it gave: a skip is a claim about this machine, not a pass. */
export default class SkipReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    for (const module of modules) {
      for (const test of module.children.allTests("skipped")) {
        const result = test.result();
        const reason = (result.state === "skipped" && result.note) || "gives no reason";
        process.stdout.write(`skipped: ${module.relativeModuleId} > ${test.fullName}: ${reason}\n`);
      }
    }
  }
}
