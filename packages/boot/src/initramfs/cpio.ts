/**
 * Initial RAM filesystems: cpio archives in the "newc" form, as Linux unpacks them
 * (Documentation/driver-api/early-userspace/buffer-format.rst). Written only.
 *
 * ```text
 * 110 bytes: "070701" and 13 fields of 8 hex digits │ name, zero, padded to 4 │ data, padded to 4 │ …
 * last entry: "TRAILER!!!", then zeroes up to a multiple of 512
 * ```
 *
 * The same entries give the same bytes: inode numbers count up, owner is root, times are the caller's or 0.
 */
import { alignUp, concat } from "../bytes.ts";

/** Permission bits are octal as in chmod; `path` is relative to the root, without "." and "..". */
export type CpioEntry =
  | { readonly kind: "directory"; readonly path: string; readonly mode?: number }
  | {
      readonly kind: "file";
      readonly path: string;
      readonly mode?: number;
      readonly data: Uint8Array | string;
    }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly kind: "device";
      readonly path: string;
      readonly mode?: number;
      readonly type: "character" | "block";
      readonly major: number;
      readonly minor: number;
    };

export interface CpioOptions {
  /** Modification time of every entry, in seconds since 1970. Default 0. */
  readonly mtime?: number;
}

/** File types in the mode word (POSIX cpio). */
const FileType = {
  directory: 0o040000,
  file: 0o100000,
  symlink: 0o120000,
  character: 0o020000,
  block: 0o060000,
} as const;

const MAGIC = "070701";
const TRAILER = "TRAILER!!!";
const ARCHIVE_ALIGNMENT = 512;
/** Linux refuses longer names (init/initramfs.c: PATH_MAX with its zero). */
const MAX_PATH_BYTES = 4095;

const encoder = new TextEncoder();

/**
 * Writes an archive. Directories that are missing on the way to an entry are added with mode 0755; archives may be
 * joined one behind the other, later entries replace earlier files.
 *
 * @throws RangeError for a path that is absolute, empty, twice there or leaves the root, and for numbers that do
 * not fit their fields.
 * @example
 * createCpio([{ kind: "file", path: "init", mode: 0o755, data: "#!/bin/sh\n" }]);
 */
export function createCpio(entries: readonly CpioEntry[], options: CpioOptions = {}): Uint8Array {
  const parts: Uint8Array[] = [];
  let inode = 0;
  let bytes = 0;
  const put = (part: Uint8Array): void => {
    parts.push(part);
    bytes += part.length;
    const padding = alignUp(bytes, 4) - bytes;
    if (padding > 0) {
      parts.push(new Uint8Array(padding));
      bytes += padding;
    }
  };
  for (const entry of withParents(entries)) {
    inode += 1;
    const data = contentOf(entry);
    put(header(entry, inode, data.length, options.mtime ?? 0));
    put(data);
  }
  const trailer = encoder.encode(`${TRAILER}\0`);
  put(concat([fields([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, trailer.length, 0]), trailer]));
  parts.push(new Uint8Array(alignUp(bytes, ARCHIVE_ALIGNMENT) - bytes));
  return concat(parts);
}

function header(entry: CpioEntry, inode: number, size: number, mtime: number): Uint8Array {
  const name = encoder.encode(`${entry.path}\0`);
  const device = entry.kind === "device" ? entry : undefined;
  const links = entry.kind === "directory" ? 2 : 1;
  const values = [
    inode,
    modeOf(entry),
    0,
    0,
    links,
    mtime,
    size,
    0,
    0,
    device?.major ?? 0,
    device?.minor ?? 0,
    name.length,
    0,
  ];
  return concat([fields(values), name]);
}

function fields(values: readonly number[]): Uint8Array {
  const text = values.map((value) => {
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
      throw new RangeError(`cpio field: expected an integer below 2^32, got ${value}`);
    }
    return value.toString(16).toUpperCase().padStart(8, "0");
  });
  return encoder.encode(MAGIC + text.join(""));
}

function modeOf(entry: CpioEntry): number {
  if (entry.kind === "symlink") return FileType.symlink | 0o777;
  const usual = { directory: 0o755, file: 0o644, device: 0o600 }[entry.kind];
  const mode = entry.mode ?? usual;
  if (!Number.isInteger(mode) || mode < 0 || mode > 0o7777) {
    throw new RangeError(`${entry.path}: expected a mode from 0 to 0o7777, got ${mode}`);
  }
  return FileType[entry.kind === "device" ? entry.type : entry.kind] | mode;
}

function contentOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === "symlink") return encoder.encode(entry.target);
  if (entry.kind !== "file") return new Uint8Array(0);
  return typeof entry.data === "string" ? encoder.encode(entry.data) : entry.data;
}

/** The entries with every directory before what lies in it. */
function withParents(entries: readonly CpioEntry[]): CpioEntry[] {
  const known = new Map<string, CpioEntry>();
  const given = new Map<string, CpioEntry>();
  for (const entry of entries) {
    checkPath(entry.path);
    if (given.has(entry.path)) throw new RangeError(`${entry.path}: expected once, got twice`);
    given.set(entry.path, entry);
  }
  const add = (entry: CpioEntry): void => {
    if (known.has(entry.path)) return;
    const slash = entry.path.lastIndexOf("/");
    if (slash > 0) {
      const parent = entry.path.slice(0, slash);
      const directory = given.get(parent) ?? { kind: "directory", path: parent };
      if (directory.kind !== "directory") {
        throw new RangeError(`${entry.path}: expected ${parent} to be a directory, got a ${directory.kind}`);
      }
      add(directory);
    }
    known.set(entry.path, entry);
  };
  for (const entry of entries) add(entry);
  return [...known.values()];
}

function checkPath(path: string): void {
  const segments = path.split("/");
  const bad = segments.some((segment) => segment === "" || segment === "." || segment === "..");
  if (bad || path.includes("\0") || path === TRAILER || encoder.encode(path).length > MAX_PATH_BYTES) {
    throw new RangeError(`"${path}": expected a path relative to the root, without "." and ".."`);
  }
}
