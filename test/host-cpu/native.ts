/** The few native facilities that the host oracle and the rigs need: system calls, memory by address, calls by address. */

import { createRequire } from "node:module";
import { endianness } from "node:os";
import type Koffi from "koffi";

export const PROT = { NONE: 0, READ: 1, WRITE: 2, EXEC: 4 } as const;
export const MAP = {
  SHARED: 0x1,
  PRIVATE: 0x2,
  FIXED: 0x10,
  ANONYMOUS: 0x20,
  POPULATE: 0x8000,
  FIXED_NOREPLACE: 0x100000,
} as const;
export const SYS = {
  open: 2,
  close: 3,
  mmap: 9,
  mprotect: 10,
  munmap: 11,
  ioctl: 16,
  ftruncate: 77,
  prctl: 157,
  gettid: 186,
  timer_create: 222,
  timer_delete: 226,
  memfd_create: 319,
} as const;

/** A system call failed: `call` and `errno` say which and why. */
export class NativeError extends Error {
  override readonly name = "NativeError";
  constructor(
    readonly call: keyof typeof SYS,
    readonly errno: number,
  ) {
    super(`${call} failed with errno ${errno}`);
  }
}

type Word = number | bigint;

/** System calls through koffi, with results as bigint or number, never either. */
export class Native {
  readonly #koffi: typeof Koffi;
  readonly #syscall: (number: number, ...args: Word[]) => Word;
  readonly #getauxval: (type: number) => Word;

  private constructor(koffi: typeof Koffi) {
    this.#koffi = koffi;
    const libc = koffi.load(null);
    this.#syscall = libc.func("long syscall(long n, long a, long b, long c, long d, long e, long f)");
    this.#getauxval = libc.func("unsigned long getauxval(unsigned long type)");
  }

  /** @returns a reason as text where the host is not x86-64 Linux or koffi does not load. */
  static open(): Native | string {
    const host = `${process.platform} on ${process.arch}`;
    if (process.platform !== "linux" || process.arch !== "x64" || endianness() !== "LE") {
      return `the host is ${host}, not linux on x64`;
    }
    try {
      return new Native(createRequire(import.meta.url)("koffi") as typeof Koffi);
    } catch (cause) {
      return `koffi does not load: ${cause instanceof Error ? cause.message : cause}`;
    }
  }

  /** @throws {NativeError} */
  call(name: keyof typeof SYS, ...args: Word[]): bigint {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
    const result = BigInt(this.#syscall(SYS[name], a, b, c, d, e, f));
    if (result === -1n) throw new NativeError(name, this.#koffi.errno());
    return result;
  }

  auxiliary(type: number): bigint {
    return BigInt(this.#getauxval(type));
  }

  /** The bytes at an address. They must stay mapped for as long as the view is used. */
  view(address: Word, bytes: number): Uint8Array {
    return new Uint8Array(this.#koffi.view(BigInt(address), bytes));
  }

  address(buffer: Uint8Array): bigint {
    return BigInt(this.#koffi.address(buffer));
  }

  /** A native function by its address, e.g. `function(at, "void run()")`. */
  function(address: bigint, prototype: string): (...args: unknown[]) => Word {
    const type = this.#koffi.proto(prototype);
    return (...args) => this.#koffi.call(address, type, ...args) as Word;
  }
}
