import { readFile } from "node:fs/promises";
import { type DebianPackageName, GuestFilesError, obtainDebianFile } from "skep/node";
import type { TestContext } from "vitest";

/**
 * A file of Debian's. On a developer's machine without Debian's packages the test is skipped with the reason; in
 * continuous integration (CI=true), where they have to be there, it fails.
 */
export async function debianFile(context: TestContext, name: DebianPackageName): Promise<Uint8Array> {
  try {
    return await readFile((await obtainDebianFile(name)).path);
  } catch (error) {
    if (error instanceof GuestFilesError && process.env.CI !== "true") context.skip(error.message);
    throw error;
  }
}
