import { readdirSync } from "node:fs";
import { constants, setPriority } from "node:os";

const THREADS = "/proc/self/task";

/**
 * Puts the threads that Node has for itself behind all others: V8 compiles on them what softvt found to be hot, and on a
 * machine of few processors would take the one that runs the guest. Call it before Workers are made, which it would
 * slow down as well. Linux only; elsewhere nothing happens.
 */
export function yieldHelperThreads(): void {
  let threads: string[];
  try {
    threads = readdirSync(THREADS);
  } catch {
    return;
  }
  for (const thread of threads.map(Number)) {
    if (thread === process.pid) continue;
    try {
      setPriority(thread, constants.priority.PRIORITY_LOW);
    } catch {
      // It has ended since it was listed.
    }
  }
}
