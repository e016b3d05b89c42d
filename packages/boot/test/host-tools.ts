/** Programs of the host that check our work, where they are installed. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Undefined where `program` runs, else why a test that needs it is skipped. */
export function missing(program: string, args: readonly string[]): string | undefined {
  const { error } = spawnSync(program, args, { stdio: "ignore" });
  return error ? `${program} is not installed` : undefined;
}

/** Runs `action` with a directory that is gone afterwards. */
export function inTemporaryDirectory<T>(action: (directory: string) => T): T {
  const directory = mkdtempSync(join(tmpdir(), "skep-boot-"));
  try {
    return action(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Runs a program to its end; what it printed on both streams, and its exit code. */
export function run(
  program: string,
  args: readonly string[],
  options: { cwd?: string; input?: Uint8Array } = {},
): { code: number | null; text: string } {
  const result = spawnSync(program, args, { ...options, encoding: "latin1", maxBuffer: 1 << 26 });
  if (result.error) throw result.error;
  return { code: result.status, text: result.stdout + result.stderr };
}
