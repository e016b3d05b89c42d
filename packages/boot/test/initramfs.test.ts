import { lstatSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { busyboxInitramfs, type CpioEntry, createCpio } from "../src/index.ts";
import { inTemporaryDirectory, missing, run } from "./host-tools.ts";

const latin1 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("latin1");

describe("newc archives (buffer-format.rst)", () => {
  it("are header, name, data and trailer, padded to 4 and 512 bytes", () => {
    const archive = createCpio([{ kind: "file", path: "ab", mode: 0o640, data: "hello" }], { mtime: 0x1234 });
    const zero = "00000000";
    const first = [
      "070701",
      "00000001", // inode
      "000081A0", // regular file, 0640
      zero, // uid
      zero, // gid
      "00000001", // links
      "00001234", // mtime
      "00000005", // size
      zero, // device
      zero,
      zero, // device node's numbers
      zero,
      "00000003", // name with its zero
      zero, // check
    ].join("");
    const trailer = `070701${zero.repeat(4)}00000001${zero.repeat(6)}0000000B${zero}TRAILER!!!\0`;
    const name = `${first}ab\0`.padEnd(116, "\0");
    expect(latin1(archive)).toBe(`${name}hello\0\0\0${trailer}`.padEnd(512, "\0"));
  });

  it("give the same bytes for the same entries", () => {
    const entries: CpioEntry[] = [{ kind: "directory", path: "d" }];
    expect(createCpio(entries)).toEqual(createCpio(entries));
  });

  it("may be joined: each starts on a boundary", () => {
    expect(createCpio([]).length % 512).toBe(0);
    expect(createCpio([{ kind: "file", path: "x", data: new Uint8Array(700) }]).length % 512).toBe(0);
  });

  it.each(["", "/abs", "a//b", "a/", "./a", "a/../b", "..", "a\0b", "TRAILER!!!", "x".repeat(4096)])(
    "refuse the path %j",
    (path) => {
      expect(() => createCpio([{ kind: "file", path, data: "" }])).toThrow(RangeError);
    },
  );

  it("refuse a path twice, a file with children and numbers that do not fit", () => {
    const file: CpioEntry = { kind: "file", path: "a", data: "" };
    expect(() => createCpio([file, file])).toThrow(/twice/);
    expect(() => createCpio([file, { kind: "file", path: "a/b", data: "" }])).toThrow(/directory/);
    expect(() => createCpio([{ ...file, mode: 0o10000 }])).toThrow(RangeError);
    expect(() => createCpio([file], { mtime: 2 ** 32 })).toThrow(RangeError);
  });
});

const noCpio = missing("cpio", ["--version"]);
describe(noCpio ? `the host's cpio (skipped: ${noCpio})` : "the host's cpio", () => {
  const entries: CpioEntry[] = [
    { kind: "file", path: "deep/down/file", mode: 0o4755, data: "content\n" },
    { kind: "directory", path: "deep", mode: 0o700 },
    { kind: "symlink", path: "link", target: "deep/down" },
    { kind: "device", path: "dev/null", type: "character", mode: 0o666, major: 1, minor: 3 },
    { kind: "device", path: "dev/vda", type: "block", major: 254, minor: 16 },
    { kind: "file", path: "gr\u00fcn", data: "u" },
  ];

  it.skipIf(noCpio)("lists them as they were meant", () => {
    const { code, text } = run("cpio", ["-tvn", "--quiet"], { input: createCpio(entries) });
    expect(code).toBe(0);
    const listed = text.split("\n").map((line) => line.replace(/\s+/g, " "));
    const expected: RegExp[] = [
      /^drwx------ 2 0 0 0 Jan 1 1970 deep$/,
      /^drwxr-xr-x 2 0 0 0 Jan 1 1970 deep\/down$/,
      /^-rwsr-xr-x 1 0 0 8 Jan 1 1970 deep\/down\/file$/,
      /^lrwxrwxrwx 1 0 0 9 Jan 1 1970 link -> deep\/down$/,
      /^drwxr-xr-x 2 0 0 0 Jan 1 1970 dev$/,
      /^crw-rw-rw- 1 0 0 1, 3 Jan 1 1970 dev\/null$/,
      /^brw------- 1 0 0 254, 16 Jan 1 1970 dev\/vda$/,
    ];
    for (const [i, line] of expected.entries()) expect(listed[i]).toMatch(line);
  });

  it.skipIf(noCpio)("unpacks them", () => {
    inTemporaryDirectory((directory) => {
      const plain = entries.filter((entry) => entry.kind !== "device");
      run("cpio", ["-id", "--quiet"], { cwd: directory, input: createCpio(plain) });
      expect(readFileSync(join(directory, "deep/down/file"), "utf8")).toBe("content\n");
      expect(lstatSync(join(directory, "deep/down/file")).mode & 0o777).toBe(0o755);
      expect(readlinkSync(join(directory, "link"))).toBe("deep/down");
      expect(readFileSync(join(directory, "gr\u00fcn"), "utf8")).toBe("u");
    });
  });
});

describe("the busybox initramfs", () => {
  const busybox = Uint8Array.of(0x7f, 0x45, 0x4c, 0x46);
  /** Names in the archive, in order. */
  const names = (archive: Uint8Array): string[] =>
    [...latin1(archive).matchAll(/070701[0-9A-F]{104}([^\0]+)\0/g)].map((match) => match[1] ?? "");

  it("has what the kernel looks for before /init runs", () => {
    const found = names(busyboxInitramfs({ busybox }));
    for (const path of ["init", "bin/busybox", "bin/sh", "dev/console", "proc", "sys", "tmp"]) {
      expect(found).toContain(path);
    }
    expect(found).not.toContain("skep/command");
  });

  it("takes a command, modules in order, applets and files that replace its own", () => {
    const archive = busyboxInitramfs({
      busybox,
      command: "echo hello",
      setup: "ip addr",
      applets: ["ls", "[", "busybox"],
      modules: [
        { name: "b.ko", data: Uint8Array.of(1) },
        { name: "a.ko", data: Uint8Array.of(2) },
      ],
      hostname: "hive",
      files: [{ kind: "file", path: "etc/passwd", data: "mine" }],
    });
    const found = names(archive);
    const wanted = ["bin/ls", "bin/[", "skep/modules/000-b.ko", "skep/modules/001-a.ko", "skep/setup"];
    expect(found).toEqual(expect.arrayContaining(wanted));
    expect(found.filter((path) => path === "etc/passwd" || path === "bin/busybox")).toHaveLength(2);
    expect(latin1(archive)).toMatch(/echo hello/);
    expect(latin1(archive)).toMatch(/hive\n/);
    expect(latin1(archive)).toMatch(/mine/);
  });

  it("refuses names that would become paths", () => {
    expect(() => busyboxInitramfs({ busybox, applets: ["../x"] })).toThrow(RangeError);
    expect(() => busyboxInitramfs({ busybox, hostname: "a b" })).toThrow(RangeError);
    expect(() => busyboxInitramfs({ busybox, modules: [{ name: "/../../x", data: busybox }] })).toThrow(
      RangeError,
    );
  });

  const noSh = missing("sh", ["-c", ":"]);
  it.skipIf(noSh)("has an /init that is a shell program", () => {
    inTemporaryDirectory((directory) => {
      const archive = latin1(busyboxInitramfs({ busybox }));
      const script = archive.slice(
        archive.indexOf("#!/bin/busybox sh"),
        archive.indexOf("\npower_off\n\0") + 11,
      );
      expect(script.length).toBeGreaterThan(500);
      writeFileSync(join(directory, "init"), script, "latin1");
      expect(run("sh", ["-n", join(directory, "init")])).toEqual({ code: 0, text: "" });
    });
  });
});
