import { spawn } from "node:child_process";
import { SkepError } from "@skep/vcpu";

/** A host command that failed: `code` is `ERR_HOST_COMMAND`, or `ERR_HOST_COMMAND_MISSING` where there is none. */
export class HostCommandError extends SkepError {}

export interface RunOptions {
  /** Working directory. */
  readonly cwd?: string;
  /** Added to the environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Called with each line that the command writes to its file descriptor 3. */
  readonly onStatus?: (line: string) => void;
}

/**
 * Runs `command` without a shell and without stdin, and gives its standard output as text.
 *
 * @throws HostCommandError where it cannot be started or its exit status is not 0; the message ends with the
 * last lines that it wrote to stderr.
 */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: "C", ...options.env },
      stdio: ["ignore", "pipe", "pipe", options.onStatus ? "pipe" : "ignore"],
    });
    let stdout = "";
    let stderr = "";
    let status = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      stderr = (stderr + text).slice(-8192);
    });
    child.stdio[3]?.on("data", (bytes: Uint8Array) => {
      const lines = (status + new TextDecoder().decode(bytes)).split("\n");
      status = lines.pop() ?? "";
      for (const line of lines) options.onStatus?.(line);
    });
    child.on("error", (cause) => reject(notStarted(command, cause)));
    child.on("close", (exitStatus, signal) => {
      if (exitStatus === 0) resolve(stdout);
      else reject(failed(command, args, signal ?? `status ${exitStatus}`, stderr));
    });
  });
}

/**
 * Runs `dpkg-deb --fsys-tarfile` into `tar`, so that only the members that match `patterns` (tar's wildcards,
 * beginning with `./`) are written below `into`.
 *
 * @throws HostCommandError where either fails; tar fails where a pattern matches nothing.
 */
export function extractFromDeb(deb: string, into: string, patterns: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const dpkg = spawn("dpkg-deb", ["--fsys-tarfile", deb], { stdio: ["ignore", "pipe", "pipe"] });
    const tar = spawn("tar", ["-x", "-C", into, "--no-same-owner", "--wildcards", ...patterns], {
      stdio: ["pipe", "ignore", "pipe"],
    });
    let stderr = "";
    const note = (bytes: Uint8Array): void => {
      stderr = (stderr + new TextDecoder().decode(bytes)).slice(-8192);
    };
    dpkg.stderr.on("data", note);
    tar.stderr.on("data", note);
    dpkg.stdout.pipe(tar.stdin);
    // tar may stop reading first (it failed); its exit status tells, the broken pipe does not.
    tar.stdin.on("error", () => {});
    let open = 2;
    const ended = (command: string) => (exitStatus: number | null, signal: string | null) => {
      if (exitStatus !== 0) reject(failed(command, [deb], signal ?? `status ${exitStatus}`, stderr));
      else if (--open === 0) resolve();
    };
    dpkg.on("error", (cause) => reject(notStarted("dpkg-deb", cause)));
    tar.on("error", (cause) => reject(notStarted("tar", cause)));
    dpkg.on("close", ended("dpkg-deb"));
    tar.on("close", ended("tar"));
  });
}

function notStarted(command: string, cause: NodeJS.ErrnoException): HostCommandError {
  const missing = cause.code === "ENOENT";
  return new HostCommandError(
    missing ? "ERR_HOST_COMMAND_MISSING" : "ERR_HOST_COMMAND",
    missing ? `${command} is not installed here` : `${command} could not be started: ${cause.message}`,
    { cause },
  );
}

function failed(command: string, args: readonly string[], how: string, stderr: string): HostCommandError {
  const said = stderr.trim().split("\n").slice(-3).join(" / ");
  return new HostCommandError(
    "ERR_HOST_COMMAND",
    `${command} ${args.join(" ")} failed with ${how}${said ? `: ${said}` : ""}`,
  );
}
