import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";

/** What one run of a guest gave. */
export interface Run {
  /** Seconds by workload ("boot" is from process start to /init's first line), host's clock at the console. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Memory of the process in bytes when /init began and when the workloads were done; Linux hosts only. */
  readonly memory: { readonly init: ProcessMemory; readonly done: ProcessMemory } | undefined;
  /** What the guest computed, by the lines `= NAME RESULT` of its console. */
  readonly results: Readonly<Record<string, string>>;
}

export interface MeasureOptions {
  /** Size by which the guest's RAM is told among the process's mappings. */
  readonly guestRamBytes: number;
  readonly timeoutMs: number;
  /** Lines that the console must have: a machine that computes wrongly has no time. */
  readonly expectedLines?: readonly string[];
}

export interface ProcessMemory {
  /** Resident set in bytes. */
  readonly rss: number;
  /** Of it, the largest writable mapping of at least the guest's RAM: the guest's RAM as far as touched. */
  readonly guestRam: number;
}

export const WORKLOADS = ["boot", "sha256", "gzip", "awk", "sh", "forks"] as const;

/** What sha256sum, awk and the shell of the bench guest must print. */
export const EXPECTED_LINES = [
  "080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e  /tmp/zeros",
  "978742",
  "30000",
];

/**
 * Runs a machine once and times what its console says.
 *
 * @throws Error where the guest ends early, prints a wrong result or is not done after `timeoutMs`.
 */
export function measure(
  command: readonly [string, ...string[]],
  { guestRamBytes, timeoutMs, expectedLines = [] }: MeasureOptions,
): Promise<Run> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
    const seconds: Record<string, number> = {};
    const results: Record<string, string> = {};
    const begun = new Map<string, number>();
    const lines: string[] = [];
    let partial = "";
    let stderr = "";
    let done = false;
    let atInit: ProcessMemory | undefined;
    let atDone: ProcessMemory | undefined;
    const memory = (): ProcessMemory | undefined =>
      child.pid ? processMemory(child.pid, guestRamBytes) : undefined;

    const timer = setTimeout(() => {
      child.kill("SIGKILL");
    }, timeoutMs);
    const line = (text: string, now: number): void => {
      lines.push(text);
      // The kernel may print into the middle of a line of /init's: the marker is what counts.
      const marker = /@@ (init|begin|end|done) ?(\w*)/.exec(text);
      if (marker?.[1] === "init") {
        seconds.boot = (now - start) / 1000;
        atInit = memory();
      } else if (marker?.[1] === "begin") {
        begun.set(marker[2]!, now);
      } else if (marker?.[1] === "end") {
        seconds[marker[2]!] = (now - (begun.get(marker[2]!) ?? Number.NaN)) / 1000;
      } else if (marker?.[1] === "done") {
        done = true;
        atDone = memory();
      }
      const result = /= (\w+) (.*)/.exec(text);
      if (result) results[result[1]!] = result[2]!;
    };
    child.stdout.setEncoding("latin1").on("data", (text: string) => {
      const now = performance.now();
      const parts = (partial + text).split(/\r?\n/);
      partial = parts.pop() ?? "";
      for (const part of parts) line(part, now);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-2000);
    });
    child.on("error", reject);
    child.on("close", (status, signal) => {
      clearTimeout(timer);
      const wrong = expectedLines.find((expected) => !lines.includes(expected));
      if (!done || wrong !== undefined) {
        const what = done ? `did not print "${wrong}"` : `ended early (${signal ?? `status ${status}`})`;
        reject(new Error(`${command[0]}: the guest ${what}\n${lines.slice(-8).join("\n")}\n${stderr}`));
        return;
      }
      resolve({ seconds, results, memory: atInit && atDone && { init: atInit, done: atDone } });
    });
  });
}

/** Resident memory of process `pid` by /proc (Linux), or `undefined` where that is not to be had. */
export function processMemory(pid: number, guestRamBytes: number): ProcessMemory | undefined {
  let smaps: string;
  try {
    smaps = readFileSync(`/proc/${pid}/smaps`, "latin1");
  } catch {
    return undefined;
  }
  let rss = 0;
  let guestRam = 0;
  let candidate = false;
  for (const text of smaps.split("\n")) {
    const mapping = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(text);
    if (mapping) {
      const bytes = Number.parseInt(mapping[2]!, 16) - Number.parseInt(mapping[1]!, 16);
      candidate = mapping[3]!.startsWith("rw") && bytes >= guestRamBytes;
    }
    const resident = /^Rss: +(\d+) kB/.exec(text);
    if (resident) {
      const bytes = Number(resident[1]) * 1024;
      rss += bytes;
      if (candidate) guestRam = Math.max(guestRam, bytes);
    }
  }
  return { rss, guestRam };
}

/**
 * Milliseconds from the start of a process to the first line that it prints.
 *
 * @throws Error where it ends without one.
 */
export function timeToFirstLine(command: readonly [string, ...string[]]): Promise<number> {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const child = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "inherit"] });
    let time: number | undefined;
    child.stdout.once("data", () => {
      time = performance.now() - start;
    });
    child.on("error", reject);
    child.on("close", (status) => {
      if (time !== undefined && status === 0) resolve(time);
      else reject(new Error(`${command.join(" ")}: no line, status ${status}`));
    });
  });
}

/** Resident memory in bytes of a Node that has started and does nothing. */
export function bareNodeRss(): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["-e", "console.log('up'); setInterval(() => {}, 1e6)"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    child.on("error", reject);
    child.stdout.once("data", () => {
      resolve(processMemory(child.pid ?? 0, Number.POSITIVE_INFINITY)?.rss ?? Number.NaN);
      child.kill();
    });
  });
}
