import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ExecOutputParser, execCommandLine } from "@skep/boot";
import { obtainDebianFiles } from "skep/node";
import type { RigCase } from "./guest/case.ts";
import { SCRIPTS, type ScriptName } from "./guest/scripts.ts";
import { packInitramfs, type RigPayload } from "./initramfs.ts";
import type { RigMachine, RigMedia } from "./machine.ts";
import { readMail } from "./mail.ts";
import { RecordReader, type RigRecord } from "./records.ts";

export interface RigOptions {
  readonly scripts: readonly ScriptName[];
  /** Runs the cases whose names contain this. Default: all. */
  readonly only?: string;
  /** Runs this, and no scripts. */
  readonly payload?: RigPayload;
  /** Seconds after which the machine is ended. */
  readonly timeoutSeconds: number;
  /** Ends the machine at once. */
  readonly signal?: AbortSignal;
  readonly onRecord?: (record: RigRecord) => void;
  /** Each line of the guest's console. */
  readonly onConsole?: (line: string) => void;
  /** What the rig itself does, and what the scripts print that is no record. */
  readonly onNote?: (line: string) => void;
}

/** What came out of a run: the records are all there where `problem` is undefined. */
export interface RigReport {
  readonly records: readonly RigRecord[];
  /** Why the list of records may be short, with the last lines of the console. */
  readonly problem: string | undefined;
}

const POLL_MS = 100;
const TAIL_LINES = 25;
/** Of what the emulator itself prints. */
const PRINTED_CHARACTERS = 4096;
/** Lines that the scripts printed ahead of a record of failure: what a process said as it died. */
const SAID_LINES = 20;
const NONCE = "rig";

/** Packs, boots, reads the records and ends the machine. The guest's failures are records, a rig's own are the problem. */
export async function runRig(machine: RigMachine, options: RigOptions): Promise<RigReport> {
  const note = options.onNote ?? (() => {});
  buildPackages();
  const kernel = await obtainDebianFiles("linux-image-cloud-amd64+kvm", { log: note });
  const directory = await mkdtemp(join(tmpdir(), `skep-rig-${machine.name}-`));
  try {
    const media: RigMedia = {
      directory,
      kernel: kernel.paths.vmlinuz,
      initrd: join(directory, "initramfs"),
      commandLine: [
        "console=ttyS0 panic=-1",
        // Both cost an emulated processor seconds, and no rig asks about them.
        "mitigations=off cryptomgr.notests",
        ...machine.kernelOptions,
        execCommandLine({ nonce: NONCE, channel: "ttyS1" }),
      ].join(" "),
      console: join(directory, "console"),
      channel: join(directory, "channel"),
      mail: join(directory, "mail"),
    };
    const cases = await casesOf(options);
    const before: { name: string; data: Uint8Array }[] = [];
    for (const { test } of cases) {
      if (test.before === undefined) continue;
      note(`on the host: ${test.name}`);
      before.push({ name: test.before.name, data: await test.before.make() });
    }
    const initramfs = await packInitramfs(machine, kernel, { ...options, before });
    await writeFile(media.initrd, initramfs);
    note(`${kernel.package} ${kernel.version}, initramfs of ${(initramfs.length / 1e6).toFixed(0)} MB`);
    const report = await new Run(machine, media, options).boot(await machine.prepare(media));
    const received = await readFile(media.mail).catch(() => new Uint8Array());
    return { ...report, records: await finish(cases, report.records, received, note) };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

interface ScriptCase {
  readonly script: ScriptName;
  readonly test: RigCase;
}

/** The cases that will be run. */
async function casesOf({ scripts, only = "" }: RigOptions): Promise<ScriptCase[]> {
  const cases: ScriptCase[] = [];
  for (const script of scripts) {
    for (const test of await SCRIPTS[script]()) if (test.name.includes(only)) cases.push({ script, test });
  }
  return cases;
}

/** Runs what cases do on the host after the machine has ended; gives the records with what came of it. */
async function finish(
  cases: readonly ScriptCase[],
  records: readonly RigRecord[],
  received: Uint8Array,
  note: (line: string) => void,
): Promise<RigRecord[]> {
  const finished: RigRecord[] = [];
  for (const record of records) {
    const found = cases.find(({ script, test }) => script === record.script && test.name === record.name);
    const after = found?.test.after;
    if (after === undefined || record.status !== "passed") {
      finished.push(record);
      continue;
    }
    note(`on the host: ${record.name}`);
    try {
      const sent = readMail(received).get(record.name);
      if (sent === undefined) throw new Error("it sent nothing to the host");
      await after(sent);
      finished.push(record);
    } catch (error) {
      const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
      finished.push({ ...record, status: "failed", message });
    }
  }
  return finished;
}

/** Builds what is not built, one process at a time: test files run side by side. */
function buildPackages(): void {
  const root = fileURLToPath(new URL("../..", import.meta.url));
  const module = new URL("../../scripts/ensure-built.mjs", import.meta.url).href;
  const script = `import { ensureBuilt } from ${JSON.stringify(module)}; ensureBuilt();`;
  const lock = join(root, "node_modules/.skep-build.lock");
  const args = [lock, process.execPath, "--input-type=module", "-e", script];
  const { status, error } = spawnSync("flock", args, { stdio: ["ignore", 2, 2] });
  if (error) throw error;
  if (status !== 0) throw new Error("the packages could not be built");
}

/** One run of the machine, and what has been read from it. */
class Run {
  readonly #machine: RigMachine;
  readonly #media: RigMedia;
  readonly #options: RigOptions;
  readonly #records: RigRecord[] = [];
  readonly #console: string[] = [];
  #said: string[] = [];
  #consoleRest = "";
  readonly #reader = new RecordReader({
    record: (record) => this.#takeRecord(record),
    output: (line) => {
      this.#said.push(line);
      this.#options.onNote?.(line);
    },
  });
  readonly #parser = new ExecOutputParser(NONCE, { output: (bytes) => this.#reader.push(bytes) });

  constructor(machine: RigMachine, media: RigMedia, options: RigOptions) {
    this.#machine = machine;
    this.#media = media;
    this.#options = options;
  }

  async boot([command, ...args]: readonly [string, ...string[]]): Promise<RigReport> {
    const { console, channel, directory } = this.#media;
    for (const path of [console, channel]) await writeFile(path, "");
    const env = { ...process.env, TERM: "xterm" };
    const child = spawn(command, args, { cwd: directory, env, stdio: ["ignore", "pipe", "pipe"] });
    let printed = "";
    let viewer: ChildProcess | undefined;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text: string) => {
        printed = (printed + text).slice(-PRINTED_CHARACTERS);
        for (const line of text.split(/[\r\n]+/))
          if (line !== "") this.#options.onConsole?.(`(emulator) ${line}`);
        const screen = this.#machine.screen?.exec(printed)?.[1];
        // Ends with the terminal.
        if (screen !== undefined) viewer ??= spawn("cat", [screen], { stdio: "ignore" });
      });
    }
    let end: string | undefined;
    const closed = new Promise<void>((resolve) => {
      child.on("error", (error) => {
        end = `could not be started: ${error.message}`;
        resolve();
      });
      child.on("close", (status, signal) => {
        end = `ended with ${signal ?? `status ${status}`}`;
        resolve();
      });
    });
    const deadline = performance.now() + this.#options.timeoutSeconds * 1000;
    const tails = [new FileTail(console), new FileTail(channel)] as const;
    let given: string | undefined;
    try {
      while (!end) {
        await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, POLL_MS))]);
        await this.#read(...tails);
        if (given !== undefined || end) continue;
        if (this.#options.signal?.aborted) given = "was stopped";
        else if (performance.now() > deadline)
          given = `was ended after ${this.#options.timeoutSeconds} seconds`;
        if (given !== undefined) child.kill("SIGKILL");
      }
      await this.#read(...tails);
    } finally {
      if (!end) child.kill("SIGKILL");
      viewer?.kill();
      for (const tail of tails) await tail.close();
    }
    this.#parser.close();
    this.#reader.end();
    return { records: this.#records, problem: this.#problem(given ?? end, printed) };
  }

  /** Hands on what has come since the last time. */
  async #read(console: FileTail, channel: FileTail): Promise<void> {
    for (const bytes of await console.read()) this.#takeConsole(bytes);
    for (const bytes of await channel.read()) this.#parser.push(bytes);
  }

  #takeConsole(bytes: Uint8Array): void {
    const lines = (this.#consoleRest + new TextDecoder("latin1").decode(bytes)).split("\n");
    this.#consoleRest = lines.pop()!;
    for (const line of lines) {
      const text = line.replace(/\r/g, "");
      this.#console.push(text);
      this.#options.onConsole?.(text);
    }
  }

  #takeRecord(record: RigRecord): void {
    const said = this.#said.slice(-SAID_LINES).map((line) => `\n  | ${line}`);
    this.#said = [];
    const full =
      record.status === "failed" && said.length > 0
        ? { ...record, message: `${record.message}\nprinted before:${said.join("")}` }
        : record;
    this.#records.push(full);
    this.#options.onRecord?.(full);
  }

  /** The emulator's status does not count: Bochs ends with 1 when its guest powers off. */
  #problem(how: string, printed: string): string | undefined {
    const { state, exitCode } = this.#parser;
    if (exitCode === 0 && this.#reader.isComplete) return undefined;
    const waiting = { waiting: "before the scripts began", running: "before they ended", done: "after them" };
    const status = exitCode === undefined ? "" : `; their status is ${exitCode}`;
    const list = this.#reader.isComplete
      ? ""
      : `, and the list of ${this.#records.length} records is not closed`;
    const tail = [...this.#console, this.#consoleRest].slice(-TAIL_LINES);
    return [
      `the machine ${how} ${waiting[state]}${status}${list}`,
      ...(printed.trim() === "" ? [] : [`it printed: ${printed.trim()}`]),
      ...(this.#said.length === 0 ? [] : ["the scripts printed:", ...this.#said.slice(-TAIL_LINES)]),
      "the console's last lines:",
      ...tail,
    ].join("\n  ");
  }
}

/** Reads a file that another process appends to. */
class FileTail {
  readonly #path: string;
  #file: Awaited<ReturnType<typeof open>> | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  /** What was appended since the last time. */
  async read(): Promise<Uint8Array[]> {
    this.#file ??= await open(this.#path);
    const pieces: Uint8Array[] = [];
    for (;;) {
      const { bytesRead, buffer } = await this.#file.read(new Uint8Array(65536));
      if (bytesRead === 0) return pieces;
      pieces.push(buffer.subarray(0, bytesRead));
    }
  }

  async close(): Promise<void> {
    await this.#file?.close();
  }
}
