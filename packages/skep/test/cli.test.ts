import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { main } from "../src/cli/main.ts";
import { EscapeFilter } from "../src/cli/terminal.ts";

let out = "";
let err = "";
beforeEach(() => {
  out = "";
  err = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    err += text;
    return true;
  });
});
afterEach(() => vi.restoreAllMocks());

const files = mkdtempSync(join(tmpdir(), "skep-cli-"));
afterAll(() => rmSync(files, { recursive: true }));
const textFile = join(files, "text");
writeFileSync(textFile, "no kernel at all");
const missing = join(files, "missing");

describe("bad input ends with status 2 and one line that names field, expectation and actual value:", () => {
  it.each<[string[], string]>([
    [["fly"], 'command: expected one of run, demo, doctor, got "fly"'],
    [["toString"], 'command: expected one of run, demo, doctor, got "toString"'],
    [["run"], "--kernel: expected a kernel to boot, got none"],
    [["run", "--kernel"], "--kernel: expected a value, got none"],
    [
      ["run", "--kernel", missing],
      `--kernel: expected a file that can be read, got "${missing}": no such file`,
    ],
    [["run", "--kernel", files], `--kernel: expected a file that can be read, got "${files}": a directory`],
    [
      ["run", "--initrd", missing],
      `--initrd: expected a file that can be read, got "${missing}": no such file`,
    ],
    [
      ["run", "--memory", "much"],
      '--memory: expected a size from 16M to 3584M, such as 512M or 1G, got "much"',
    ],
    [["run", "--memory", "8M"], '--memory: expected a size from 16M to 3584M, such as 512M or 1G, got "8M"'],
    [["run", "--memory", "4G"], '--memory: expected a size from 16M to 3584M, such as 512M or 1G, got "4G"'],
    [["run", "--cpus", "0"], '--cpus: expected a whole number from 1 to 255, got "0"'],
    [["run", "--cpus", "1.5"], '--cpus: expected a whole number from 1 to 255, got "1.5"'],
    [["run", "--engine", "xen"], '--engine: expected one of auto, kvm, softvt, got "xen"'],
    [["run", "--cpu", "486"], '--cpu: expected one of x86-64-v2, x86-64-v3, host, got "486"'],
    [["run", "--clock", "sun"], '--clock: expected one of real, instructions, got "sun"'],
    [["run", "--append", "smörgås"], '--append: expected printable ASCII, got "smörgås"'],
    [["run", "vmlinuz"], 'arguments: expected options only, got "vmlinuz"'],
    [["run", "--help=yes"], "--help: expected no value, got one"],
    [["demo", "--exec"], "--exec: expected a value, got none"],
    [["doctor", "--kernel", textFile], 'arguments: expected one of --help, got "--kernel"'],
  ])("skep %j", async (argv, line) => {
    expect(await main(argv)).toBe(2);
    expect(err).toBe(`skep: ${line}\n`);
    expect(out).toBe("");
  });

  it("an unknown option, with those that there are", async () => {
    expect(await main(["run", "--kernal", "x"])).toBe(2);
    expect(err).toMatch(/^skep: arguments: expected one of --engine, --kernel, .*, got "--kernal"\n$/);
  });

  it("a file that is no kernel", async () => {
    expect(await main(["run", "--kernel", textFile, "--memory", "16M"])).toBe(2);
    expect(err).toMatch(
      /^skep: kernel: expected a bzImage or an ELF file, got 16 bytes that start with 6e 6f/,
    );
  });
});

it("an engine that is not there is a failure of this machine's, status 1, and says what to do", async (test) => {
  if (existsSync("/dev/kvm")) test.skip("/dev/kvm is there");
  expect(await main(["run", "--kernel", textFile, "--engine", "kvm"])).toBe(1);
  expect(err).toMatch(/^skep: engine "kvm": there is no \/dev\/kvm: .*\n$/);
});

it("helps on stdout with status 0, and on being called with nothing with status 2", async () => {
  for (const argv of [["--help"], ["run", "--help"], ["demo", "-h"], ["doctor", "--help"]]) {
    out = "";
    expect(await main(argv)).toBe(0);
    expect(out).toMatch(/^skep/);
  }
  expect(await main([])).toBe(2);
});

it("the doctor names every engine, and evidence for each", async () => {
  expect(await main(["doctor"])).toBe(0);
  expect(out).toMatch(/^kvm +(usable {4}|not usable) {2}\S/m);
  expect(out).toMatch(/^softvt +usable +\S/m);
});

describe("Ctrl-A", () => {
  const typed = (...pieces: string[]): string => {
    const seen: string[] = [];
    const filter = new EscapeFilter(
      () => seen.push("<quit>"),
      () => seen.push("<help>"),
    );
    for (const piece of pieces) {
      const kept = filter.take(new TextEncoder().encode(piece));
      seen.push(new TextDecoder().decode(kept));
    }
    return seen.join("");
  };
  it("x quits, h helps, Ctrl-A sends one, anything else vanishes", () => {
    expect(typed("ls\n")).toBe("ls\n");
    expect(typed("\x01x")).toBe("<quit>");
    expect(typed("\x01h")).toBe("<help>");
    expect(typed("a\x01\x01b")).toBe("a\x01b");
    expect(typed("a\x01zb")).toBe("ab");
  });
  it("may be split from its key", () => {
    expect(typed("a\x01", "xb")).toBe("a<quit>b");
    expect(typed("\x01", "\x01", "x")).toBe("\x01x");
  });
});
