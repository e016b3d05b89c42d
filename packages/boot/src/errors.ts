import { SkepError } from "@skep/vcpu";

/** What went wrong, for programs; stable. */
export type BootErrorCode =
  /** The file is no kernel that this package can start. */
  | "not-a-kernel"
  /** The file ends before something that it says it holds. */
  | "truncated"
  /** The kernel's boot protocol is older than 2.10. */
  | "protocol-too-old"
  /** An ELF file for another machine, class or byte order, or of a type that is not executable. */
  | "unsupported-elf"
  /** The kernel has no such entry point. */
  | "entry-unavailable"
  /** The command line is longer than the kernel takes. */
  | "command-line-too-long"
  /** The kernel does not fit the RAM that the memory map offers. */
  | "too-little-memory"
  /** No place for the initrd under the kernel's address limit. */
  | "initrd-does-not-fit"
  /** Two things claim the same guest-physical addresses. */
  | "overlap"
  /** A field holds a value that its specification does not allow. */
  | "invalid-value";

/**
 * A guest image or a set of options that cannot be booted. Names the field, what was expected and what came;
 * nothing has been written to the guest when it is thrown.
 */
export class BootError extends SkepError {
  declare readonly code: BootErrorCode;
  readonly field: string;
  readonly expected: string;
  readonly actual: string;

  constructor(code: BootErrorCode, field: string, expected: string, actual: string | number | bigint) {
    const shown = typeof actual === "string" ? actual : hex(actual);
    super(code, `${field}: expected ${expected}, got ${shown}`);
    this.field = field;
    this.expected = expected;
    this.actual = shown;
  }
}

/** A number as people read addresses: `0x1f00`. */
export function hex(value: number | bigint): string {
  return value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`;
}
