import { readFileSync } from "node:fs";
import { type ParseArgsConfig, parseArgs } from "node:util";

/** A command line that cannot be used: one line that names the option, what it takes and what it was given. */
export class UsageError extends Error {
  constructor(field: string, expected: string, actual: string) {
    super(`${field}: expected ${expected}, got ${actual}`);
    this.name = "UsageError";
  }
}

type Options = NonNullable<ParseArgsConfig["options"]>;
type Values = Record<string, string | boolean | (string | boolean)[] | undefined>;

/** The options of one command, read by `node:util` and then checked field by field. */
export class Arguments {
  readonly #values: Values;
  readonly positionals: readonly string[];

  /** @throws UsageError for an unknown option, one without its value, or more than `positionals` words. */
  constructor(args: readonly string[], options: Options, positionals = 0) {
    try {
      const parsed = parseArgs({ args: [...args], options, allowPositionals: true, strict: true });
      this.#values = parsed.values;
      this.positionals = parsed.positionals;
    } catch (error) {
      throw fromParseArgs(error, options);
    }
    const extra = this.positionals[positionals];
    if (extra !== undefined) throw new UsageError("arguments", "options only", JSON.stringify(extra));
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === "string" ? value : undefined;
  }

  /** @throws UsageError unless the value is printable ASCII. */
  ascii(name: string): string | undefined {
    const text = this.text(name);
    if (text === undefined || /^[ -~]*$/.test(text)) return text;
    throw new UsageError(`--${name}`, "printable ASCII", quote(text));
  }

  /** @throws UsageError unless the value is one of `allowed`. */
  choice<T extends string>(name: string, allowed: readonly T[], byDefault: T): T {
    const value = this.text(name) ?? byDefault;
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) throw new UsageError(`--${name}`, `one of ${allowed.join(", ")}`, quote(value));
    return found;
  }

  /** @throws UsageError unless the value is a whole number in [min, max]. */
  integer(name: string, min: number, max: number, byDefault: number): number {
    const text = this.text(name);
    if (text === undefined) return byDefault;
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new UsageError(`--${name}`, `a whole number from ${min} to ${max}`, quote(text));
    }
    return value;
  }

  /** A size such as 512M or 2G (binary units; a bare number is MiB), in MiB. @throws UsageError outside [min, max] MiB. */
  sizeMiB(name: string, min: number, max: number, byDefault: number): number {
    const text = this.text(name);
    if (text === undefined) return byDefault;
    const match = /^(\d{1,9})([MmGg]?)(?:i?B)?$/.exec(text);
    const unit = match?.[2]?.toUpperCase() === "G" ? 1024 : 1;
    const value = match ? Number(match[1]) * unit : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new UsageError(`--${name}`, `a size from ${min}M to ${max}M, such as 512M or 1G`, quote(text));
    }
    return value;
  }

  /** The contents of the file that the option names, or `undefined` without the option. @throws UsageError where it cannot be read. */
  file(name: string): Uint8Array | undefined {
    const path = this.text(name);
    if (path === undefined) return undefined;
    try {
      return readFileSync(path);
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : String(error);
      const why =
        { ENOENT: "no such file", EISDIR: "a directory", EACCES: "permission denied" }[code] ?? code;
      throw new UsageError(`--${name}`, "a file that can be read", `${quote(path)}: ${why}`);
    }
  }
}

const quote = (text: string): string => JSON.stringify(text);

function fromParseArgs(error: unknown, options: Options): unknown {
  if (!(error instanceof TypeError) || !("code" in error)) return error;
  // Node names an option as it was typed, or with its short form: "'--memory <value>'", "'-h, --help'".
  const option = /--[\w-]+/.exec(error.message)?.[0] ?? /'(-[^' ]*)/.exec(error.message)?.[1] ?? "arguments";
  if (error.code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
    const known = Object.keys(options).map((name) => `--${name}`);
    return new UsageError("arguments", `one of ${known.join(", ")}`, quote(option));
  }
  const name = option.replace(/^-+/, "");
  const takesValue = options[name]?.type === "string";
  return new UsageError(`--${name}`, takesValue ? "a value" : "no value", takesValue ? "none" : "one");
}
