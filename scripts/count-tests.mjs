// Prints "N passed, N failed" from vitest's JSON report; status 1 where anything failed or nothing ran.
// A test file that could not even be loaded counts as one failure.
import { existsSync, readFileSync } from "node:fs";

const path = process.argv[2];
if (!path || !existsSync(path)) {
  process.stdout.write("no test report\n0 passed, 1 failed\n");
  process.exit(1);
}
const report = JSON.parse(readFileSync(path, "utf8"));
const unloaded = report.testResults.filter(
  (file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed"),
);
const passed = report.numPassedTests;
const failed = report.numFailedTests + unloaded.length;
for (const file of unloaded) process.stdout.write(`failed: ${file.name}: ${file.message}\n`);
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
