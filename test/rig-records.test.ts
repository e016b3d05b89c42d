/** What a rig reports of its cases, and of those that take their process down, with this host in the guest's place. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundleScripts } from "./rig/initramfs.ts";
import { RecordReader, type RigRecord, recordLine } from "./rig/records.ts";

const SUPERVISE = fileURLToPath(new URL("rig/guest/supervise.sh", import.meta.url));

function read(...pieces: (string | Uint8Array)[]): {
  records: RigRecord[];
  lines: string[];
  isComplete: boolean;
} {
  const records: RigRecord[] = [];
  const lines: string[] = [];
  const reader = new RecordReader({
    record: (record) => records.push(record),
    output: (line) => lines.push(line),
  });
  for (const piece of pieces)
    reader.push(typeof piece === "string" ? new TextEncoder().encode(piece) : piece);
  reader.end();
  return { records, lines, isComplete: reader.isComplete };
}

const passed: RigRecord = { script: "one", name: "größer", status: "passed", ms: 5 };
const failed: RigRecord = { script: "one", name: "b", status: "failed", message: "a\nrig {}\r\n", ms: 0 };

describe("the reader of records", () => {
  it("takes the same from whole lines, single bytes and lines with a terminal's ends", () => {
    const text = `hello\n${recordLine(passed)}${recordLine(failed)}${recordLine({ closed: true, cases: 2 })}`;
    const expected = { records: [passed, failed], lines: ["hello"], isComplete: true };
    expect(read(text)).toEqual(expected);
    expect(read(text.replaceAll("\n", "\r\n"))).toEqual(expected);
    const bytes = new TextEncoder().encode(text);
    expect(read(...Array.from(bytes, (byte) => Uint8Array.of(byte)))).toEqual(expected);
  });

  it("does not call a list complete that lacks its closing line or a record", () => {
    expect(read(recordLine(passed)).isComplete).toBe(false);
    expect(read(recordLine(passed), recordLine({ closed: true, cases: 2 })).isComplete).toBe(false);
    expect(read("").isComplete).toBe(false);
  });

  it("takes what is no record for output", () => {
    const cut = recordLine(passed).slice(0, 30);
    const lines = [cut, "rig", "rig null", "rig 1", 'rig {"script":"one","name":"a","status":"odd"}'];
    expect(read(lines.join("\n"))).toEqual({ records: [], lines, isComplete: false });
  });
});

/** The guest's side reads /proc/uptime. */
const isLinux = process.platform === "linux";

describe.skipIf(!isLinux)(`cases that go wrong${isLinux ? "" : " (this host is not Linux)"}`, () => {
  const home = mkdtempSync(join(tmpdir(), "skep-rig-"));
  afterAll(() => rmSync(home, { recursive: true }));
  let result: { records: RigRecord[]; lines: string[]; isComplete: boolean };
  let status: number | null;

  beforeAll(async () => {
    for (const { path, data } of await bundleScripts()) {
      mkdirSync(dirname(join(home, path)), { recursive: true });
      writeFileSync(join(home, path), data);
    }
    writeFileSync(join(home, "rig/package.json"), '{ "type": "module" }\n');
    mkdirSync(join(home, "bin"));
    symlinkSync(process.execPath, join(home, "bin/node"));
    const run = spawnSync("sh", [SUPERVISE, "faults"], {
      env: {
        PATH: `${join(home, "bin")}:${process.env.PATH}`,
        RIG_STATE: join(home, "state"),
        RIG_HOME: join(home, "rig"),
      },
      encoding: "utf8",
    });
    result = read(run.stdout);
    status = run.status;
  });

  it.each<[name: string, status: string, message: RegExp]>([
    ["passes", "passed", /^$/],
    ["throws", "failed", /^RangeError: expected this,\ngot that\n +at /],
    ["is left out", "skipped", /^it is not for this machine$/],
    ["ends the process", "failed", /^its process ended with status 3$/],
    ["crashes the process", "failed", /^its process ended with status 139$/],
    ["blocks for ever", "failed", /^its process was killed: it took longer than the case's limit$/],
    ["waits for nothing", "failed", /^its process ended with status 13$/],
    ["passes after all that", "passed", /^$/],
  ])("%s: one record, %s", (name, expected, message) => {
    const records = result.records.filter((record) => record.name === name);
    expect(records).toHaveLength(1);
    expect(records[0]!.status).toBe(expected);
    expect(records[0]!.message ?? "").toMatch(message);
  });

  it("cost no other case its record, and the list is closed", () => {
    expect(result.isComplete).toBe(true);
    expect(result.records).toHaveLength(8);
    expect(result.lines).toContain("goodbye");
    expect(status).toBe(0);
  });
});
