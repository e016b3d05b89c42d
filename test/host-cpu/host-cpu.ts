/**
 * The host's own processor as a test oracle: runs one instruction (or a short sequence) from a given state and
 * returns the state in which it ended, for differential tests of the software engine.
 *
 * What a test sees, at the same addresses on every host (HOST_LAYOUT):
 *
 *     5fff0000  guard      no access
 *     60000000  data       read, write; 64 KiB; the caller's image, undone after each run
 *     60010000  guard      no access
 *     60020000  read-only  one page
 *     60021000  guard      no access
 *     6fff0000  guard      no access
 *     70000000  code       read, execute; 64 KiB, filled with INT3
 *     70010000  guard      no access
 *
 * A test runs at privilege level 3 with paging, 48-bit addresses and CR0.AM set; what the kernel hides from a
 * process is hidden here too (IOPL, control registers, error codes of kernel addresses). Linux emulates SGDT, SIDT,
 * SMSW and (64-bit kernels) SLDT and STR under UMIP instead of faulting.
 *
 * Nothing confines a test to its windows: an address register that points elsewhere reaches this very process.
 * Below 4 GiB there is nothing else but a non-PIE node at 00400000 to about 06000000 and, up to 1 GiB behind it,
 * its heap. System calls are caught and reported, not executed.
 */

import {
  ACTION_FLAGS,
  assembleDriver,
  CTL,
  PR_SET_SYSCALL_USER_DISPATCH,
  RUN_MASK,
  SIGCONTEXT,
  SIGNAL,
  XSAVE,
} from "./driver.ts";
import { HostFeatures } from "./features.ts";
import { MAP, Native, NativeError, PROT } from "./native.ts";
import { FxImage, type HostState, RFLAGS } from "./state.ts";

/** Addresses that tests and the engine under test share. Above any non-PIE program's heap, below 2 GiB. */
export const HOST_LAYOUT = {
  DATA: 0x60000000,
  DATA_BYTES: 0x10000,
  READ_ONLY: 0x60020000,
  READ_ONLY_BYTES: 0x1000,
  CODE: 0x70000000,
  CODE_BYTES: 0x10000,
  /** Inaccessible bytes on both sides of data and code, and before the read-only page. */
  GUARD_BYTES: 0x10000,
} as const;

/** Where code is put unless told otherwise: room for jumps both ways. */
export const CODE_START = HOST_LAYOUT.CODE + 0x8000;
/** A stack pointer in the middle of the data window. */
export const STACK_START = HOST_LAYOUT.DATA + 0x8000;

const INT3 = 0xcc;
const PAGE_BYTES = 0x1000;
const DRIVER_BYTES = 0x2000;
const ALT_STACK_BYTES = 0x20000;
/** CPU time after which a run counts as endless. */
const TIMEOUT_NS = 250_000_000;
const AT_HWCAP2 = 26;
const HWCAP2_FSGSBASE = 2n;
const VECTOR = { DB: 1, BP: 3, PF: 14 } as const;

/** Bytes at an address. */
export interface MemoryBytes {
  address: number;
  bytes: Uint8Array;
}

export interface RunOptions {
  /** 64-bit code, or 32-bit code in compatibility mode with flat DS, ES, SS. Default 64. */
  mode?: 64 | 32;
  /** Address of the first byte of code; default CODE_START. */
  address?: number;
  /**
   * Stop after one instruction by RFLAGS.TF. Default false: run until a landing trap. With it a jump to anywhere
   * ends as "landed"; but PUSHF stores TF, and a repeated string instruction stops after one iteration.
   */
  step?: boolean;
  /** What the data window holds besides the image, for this run. */
  memory?: readonly MemoryBytes[];
}

/** How a run ended. */
export type HostEnd =
  /** Control went to `rip`, outside the given code. */
  | { kind: "landed" }
  /** An exception. `rip` is the saved one: of the instruction for faults, of the next for traps (#BP, #DB, #OF). */
  | { kind: "fault"; vector: number; errorCode: number /** CR2, for #PF. */; address: bigint | undefined }
  /** SYSCALL, SYSENTER or INT 80h. `rip` is behind it, but for SYSCALL and SYSENTER in 32-bit mode meaningless. */
  | { kind: "syscall" }
  /** The code did not end. Registers are those of some moment. */
  | { kind: "timeout" };

export interface HostResult {
  end: HostEnd;
  rip: bigint;
  gpr: BigUint64Array;
  /** The bits of RFLAGS.REPORTED. */
  rflags: number;
  fx: FxImage;
  fsBase: bigint;
  gsBase: bigint;
  selectors: { cs: number; ss: number; ds: number; es: number; fs: number; gs: number };
  /** Maximal runs of changed bytes in the data window, ascending. A write of what was there does not show. */
  writes: MemoryBytes[];
}

export interface HostCpuUnavailable {
  unavailable: string;
}

export class HostCpu {
  /** What the host's processor offers. */
  readonly features: HostFeatures;
  /** The read-only page's content. */
  readonly readOnly: Uint8Array;

  readonly #native: Native;
  readonly #thread: bigint;
  readonly #control: bigint;
  readonly #run: () => unknown;
  readonly #syscallsCaught: boolean;
  readonly #hasAvx: boolean;
  #closed = false;

  readonly #words: BigUint64Array;
  readonly #bytes: Uint8Array;
  readonly #code: Uint8Array;
  readonly #data: Buffer;
  /** What the data window holds between runs. */
  readonly #image = Buffer.alloc(HOST_LAYOUT.DATA_BYTES);
  /** The image with the current run's patches. */
  readonly #before = Buffer.alloc(HOST_LAYOUT.DATA_BYTES);
  readonly #mappings: { address: bigint; bytes: number }[] = [];

  /**
   * Maps the windows and the driver. One HostCpu can be open in a process, and is used on the thread that opened it.
   * @returns the reason where the host cannot serve: not x86-64 Linux, no koffi, no FSGSBASE.
   * @throws {NativeError} where it should but a system call fails (errno 17: the windows' addresses are taken).
   */
  static open(): HostCpu | HostCpuUnavailable {
    const native = Native.open();
    if (typeof native === "string") return { unavailable: native };
    if (!(native.auxiliary(AT_HWCAP2) & HWCAP2_FSGSBASE)) {
      return { unavailable: "the kernel does not let user code restore FS (no FSGSBASE in AT_HWCAP2)" };
    }
    return new HostCpu(native);
  }

  private constructor(native: Native) {
    this.#native = native;
    this.#thread = native.call("gettid");
    try {
      this.#mapWindows();
      this.#data = Buffer.from(native.view(HOST_LAYOUT.DATA, HOST_LAYOUT.DATA_BYTES).buffer);
      this.readOnly = native.view(HOST_LAYOUT.READ_ONLY, HOST_LAYOUT.READ_ONLY_BYTES).slice();
      this.#code = this.#mapCode();

      const control = this.#map(0, ALT_STACK_BYTES + 2 * PAGE_BYTES, PROT.READ | PROT.WRITE, 0);
      this.#control = control;
      this.#bytes = native.view(control, CTL.BYTES);
      this.#words = new BigUint64Array(this.#bytes.buffer, 0, CTL.BYTES / 8);

      const code = this.#map(0, DRIVER_BYTES, PROT.READ | PROT.WRITE, 0);
      const driver = assembleDriver(code, DRIVER_BYTES, control);
      native.view(code, DRIVER_BYTES).set(driver.code);
      native.call("mprotect", code, DRIVER_BYTES, PROT.READ | PROT.EXEC);
      this.#fillControl(driver.handler, driver.restorer, control + BigInt(2 * PAGE_BYTES));
      this.#run = native.function(driver.run, "void run()");

      this.features = this.#readFeatures(driver.cpuid, driver.xgetbv);
      this.#hasAvx = this.features.lacks("avx") === undefined;
      this.#words[CTL.HAS_AVX / 8] = this.#hasAvx ? 1n : 0n;
    } catch (error) {
      this.#unmap();
      throw error;
    }
    this.#syscallsCaught = succeeds(() => native.call("prctl", PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0));
  }

  /** Sets what the data window holds at the start of every run; short images leave the rest zero. */
  setImage(image: Uint8Array): void {
    this.#checkOpen();
    if (image.length > HOST_LAYOUT.DATA_BYTES) {
      throw new RangeError(`setImage: at most ${HOST_LAYOUT.DATA_BYTES} bytes, not ${image.length}`);
    }
    this.#image.fill(0).set(image);
    this.#before.set(this.#image);
    this.#data.set(this.#image);
  }

  /** A copy of the data window's image. */
  image(): Uint8Array {
    return Uint8Array.from(this.#image);
  }

  /**
   * Runs code from a state until it traps. Memory is put back afterwards.
   * @throws {RangeError} for code or memory outside their windows, flags or MXCSR bits that cannot be set.
   */
  run(code: Uint8Array, state: HostState, options: RunOptions = {}): HostResult {
    const { mode = 64, address = CODE_START, step = false, memory = [] } = options;
    this.#check(code, state, address, memory);

    const offset = address - HOST_LAYOUT.CODE;
    this.#code.set(code, offset);
    for (const { address, bytes } of memory) {
      this.#data.set(bytes, address - HOST_LAYOUT.DATA);
      this.#before.set(bytes, address - HOST_LAYOUT.DATA);
    }
    this.#setState(state, mode, address, step);

    this.#run();

    const result = this.#result(address, code.length, step);
    this.#code.fill(INT3, offset, offset + code.length);
    for (const { address, bytes } of memory) {
      const from = address - HOST_LAYOUT.DATA;
      this.#image.copy(this.#data, from, from, from + bytes.length);
      this.#image.copy(this.#before, from, from, from + bytes.length);
    }
    return result;
  }

  /** Unmaps everything. Further runs throw. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#native.call("timer_delete", this.#words[CTL.TIMER / 8]!);
    this.#unmap();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #checkOpen(): void {
    if (this.#closed) throw new Error("HostCpu: closed");
  }

  #check(code: Uint8Array, state: HostState, address: number, memory: readonly MemoryBytes[]): void {
    this.#checkOpen();
    const offset = address - HOST_LAYOUT.CODE;
    if (!(offset >= 0 && offset + code.length <= HOST_LAYOUT.CODE_BYTES)) {
      throw new RangeError(
        `run: ${code.length} bytes at 0x${address.toString(16)} are outside the code window`,
      );
    }
    if (!this.#syscallsCaught && holdsSystemCall(code)) {
      throw new RangeError("run: the code holds a system call, which this kernel cannot catch (Linux 5.11)");
    }
    const settable = (RFLAGS.REPORTED & ~RFLAGS.TF) | RFLAGS.IF | 2;
    if (state.rflags & ~settable)
      throw new RangeError(`run: rflags 0x${state.rflags.toString(16)} cannot be set`);
    if (state.fx.mxcsr & ~0xffff)
      throw new RangeError(`run: mxcsr 0x${state.fx.mxcsr.toString(16)} has reserved bits`);
    for (const { address, bytes } of memory) {
      const from = address - HOST_LAYOUT.DATA;
      if (!(from >= 0 && from + bytes.length <= HOST_LAYOUT.DATA_BYTES)) {
        throw new RangeError(
          `run: ${bytes.length} bytes at 0x${address.toString(16)} are outside the data window`,
        );
      }
    }
  }

  #setState(state: HostState, mode: 64 | 32, address: number, step: boolean): void {
    const words = this.#words;
    words.set(state.gpr, CTL.IN_GPR / 8);
    if (mode === 32) for (let i = 0; i < 16; i++) words[i] = i < 8 ? words[i]! & 0xffffffffn : 0n;
    words[CTL.IN_RIP / 8] = BigInt(address);
    words[CTL.IN_RFLAGS / 8] = BigInt(
      (state.rflags & RFLAGS.REPORTED) | (step ? RFLAGS.TF : 0) | RFLAGS.IF | 2,
    );
    // Linux's user selectors (arch/x86/include/asm/segment.h): 23 code 32, 2B data, 33 code 64.
    words[CTL.IN_CS / 8] = mode === 64 ? 0x33n : 0x23n;
    words[CTL.IN_SS / 8] = 0x2bn;
    words[CTL.IN_DATA_SELECTOR / 8] = mode === 64 ? 0n : 0x2bn;
    words[CTL.IN_FS_BASE / 8] = state.fsBase;
    words[CTL.IN_GS_BASE / 8] = state.gsBase;
    this.#bytes.set(state.fx.bytes, CTL.IN_FX);
    words[(CTL.IN_FX + XSAVE.XSTATE_BV) / 8] = BigInt(XSAVE.AVX);
    this.#bytes.set(state.fx.upper, CTL.IN_FX + XSAVE.UPPER);
  }

  /** The image that the kernel left in the signal's frame. A component in its initial state is not written there. */
  #vectors(): FxImage {
    const at = CTL.OUT_FX;
    const held = this.#bytes[at + XSAVE.XSTATE_BV]! & XSAVE.AVX;
    const upper = this.#bytes.slice(at + XSAVE.UPPER, at + XSAVE.BYTES);
    return new FxImage(this.#bytes.slice(at, at + 512), this.#hasAvx && held !== 0 ? upper : undefined);
  }

  #result(start: number, length: number, step: boolean): HostResult {
    const words = this.#words;
    const saved = CTL.OUT_REGS / 8;
    const gpr = new BigUint64Array(16);
    for (let i = 0; i < 16; i++) gpr[i] = words[saved + SIGCONTEXT.GPR[i]!]!;
    const selectors = new Uint16Array(this.#bytes.buffer, CTL.OUT_REGS + 8 * SIGCONTEXT.SELECTORS, 4);
    const others = new Uint16Array(this.#bytes.buffer, CTL.OUT_SELECTORS, 16);
    const rflags = Number(words[saved + SIGCONTEXT.RFLAGS]!) & RFLAGS.REPORTED;

    let rip = words[saved + SIGCONTEXT.RIP]!;
    const end = this.#end(rip, start, length, step);
    if (end.kind === "landed" && this.#trapVector() === VECTOR.BP) rip -= 1n;
    return {
      end,
      rip,
      gpr,
      rflags: step ? rflags & ~RFLAGS.TF : rflags,
      fx: this.#vectors(),
      fsBase: words[CTL.OUT_FS_BASE / 8]!,
      gsBase: words[CTL.OUT_GS_BASE / 8]!,
      selectors: {
        cs: selectors[0]!,
        ss: selectors[3]!,
        ds: others[0]!,
        es: others[4]!,
        fs: others[8]!,
        gs: others[12]!,
      },
      writes: this.#takeWrites(),
    };
  }

  #trapVector(): number {
    return Number(this.#words[CTL.OUT_REGS / 8 + SIGCONTEXT.TRAPNO]!);
  }

  #end(rip: bigint, start: number, length: number, step: boolean): HostEnd {
    const signal = Number(this.#words[CTL.OUT_SIGNAL / 8]!);
    if (signal === SIGNAL.SYS) return { kind: "syscall" };
    if (signal === SIGNAL.VTALRM) return { kind: "timeout" };
    const vector = this.#trapVector();
    if (vector === VECTOR.BP && (rip <= BigInt(start) || rip > BigInt(start + length)))
      return { kind: "landed" };
    if (vector === VECTOR.DB && step) return { kind: "landed" };
    const saved = CTL.OUT_REGS / 8;
    return {
      kind: "fault",
      vector,
      errorCode: Number(this.#words[saved + SIGCONTEXT.ERR]!),
      address: vector === VECTOR.PF ? this.#words[saved + SIGCONTEXT.CR2]! : undefined,
    };
  }

  /** Finds what the run changed in the data window, and undoes it. */
  #takeWrites(): MemoryBytes[] {
    const data = this.#data;
    const before = this.#before;
    const writes: MemoryBytes[] = [];
    if (data.equals(before)) return writes;
    for (let page = 0; page < HOST_LAYOUT.DATA_BYTES; page += PAGE_BYTES) {
      const end = page + PAGE_BYTES;
      if (data.compare(before, page, end, page, end) === 0) continue;
      for (let at = page; at < end; at++) {
        if (data[at] === before[at]) continue;
        const last = writes.at(-1);
        const from = at;
        while (at < end && data[at] !== before[at]) at++;
        const bytes = Uint8Array.from(data.subarray(from, at));
        if (last && last.address + last.bytes.length === HOST_LAYOUT.DATA + from) {
          last.bytes = Uint8Array.of(...last.bytes, ...bytes);
        } else writes.push({ address: HOST_LAYOUT.DATA + from, bytes });
      }
      before.copy(data, page, page, end);
    }
    return writes;
  }

  #map(address: number, bytes: number, protection: number, flags: number): bigint {
    const anonymous = MAP.PRIVATE | MAP.ANONYMOUS;
    const at = this.#native.call("mmap", address, bytes, protection, anonymous | flags, -1, 0);
    // Kernels before 4.17 take FIXED_NOREPLACE as a hint.
    this.#mappings.push({ address: at, bytes });
    if (address && at !== BigInt(address)) throw new NativeError("mmap", 17);
    return at;
  }

  #mapWindows(): void {
    const { DATA, DATA_BYTES, READ_ONLY, READ_ONLY_BYTES, CODE, CODE_BYTES, GUARD_BYTES } = HOST_LAYOUT;
    const native = this.#native;
    const end = READ_ONLY + GUARD_BYTES;
    this.#map(DATA - GUARD_BYTES, end - (DATA - GUARD_BYTES), PROT.NONE, MAP.FIXED_NOREPLACE);
    this.#map(CODE - GUARD_BYTES, CODE_BYTES + 2 * GUARD_BYTES, PROT.NONE, MAP.FIXED_NOREPLACE);
    native.call("mprotect", DATA, DATA_BYTES, PROT.READ | PROT.WRITE);
    native.call("mprotect", READ_ONLY, READ_ONLY_BYTES, PROT.READ | PROT.WRITE);
    // Every page is touched, so that a #PF's error code speaks of permissions and not of demand paging.
    native.view(DATA, DATA_BYTES).fill(1).fill(0);
    const readOnly = native.view(READ_ONLY, READ_ONLY_BYTES);
    for (let i = 0; i < readOnly.length; i++) readOnly[i] = (i * 167 + (i >> 8) + 13) & 0xff;
    native.call("mprotect", READ_ONLY, READ_ONLY_BYTES, PROT.READ);
  }

  /** Maps the code window twice: executable for tests, writable for us. */
  #mapCode(): Uint8Array {
    const { CODE, CODE_BYTES } = HOST_LAYOUT;
    const native = this.#native;
    const name = native.address(Buffer.from("host-cpu-code\0"));
    const MFD_EXEC = 0x10; // Linux 6.3; older kernels refuse it
    let file: bigint;
    try {
      file = native.call("memfd_create", name, MFD_EXEC);
    } catch {
      file = native.call("memfd_create", name, 0);
    }
    try {
      native.call("ftruncate", file, CODE_BYTES);
      const shared = MAP.SHARED | MAP.POPULATE;
      const alias = native.call("mmap", 0, CODE_BYTES, PROT.READ | PROT.WRITE, shared, file, 0);
      this.#mappings.push({ address: alias, bytes: CODE_BYTES });
      const view = native.view(alias, CODE_BYTES).fill(INT3);
      native.call("mmap", CODE, CODE_BYTES, PROT.READ | PROT.EXEC, shared | MAP.FIXED, file, 0);
      return view;
    } finally {
      native.call("close", file);
    }
  }

  #fillControl(handler: bigint, restorer: bigint, altStack: bigint): void {
    const words = this.#words;
    const set = (offset: number, ...values: bigint[]): void => words.set(values, offset / 8);
    set(CTL.NEW_MASK, RUN_MASK);
    set(CTL.ALT_LOW, altStack, altStack + BigInt(ALT_STACK_BYTES));
    set(CTL.NEW_STACK, altStack, 0n, BigInt(ALT_STACK_BYTES));
    set(CTL.ARM, 0n, 0n, 0n, BigInt(TIMEOUT_NS));
    set(CTL.NEW_ACTION, handler, BigInt(ACTION_FLAGS), restorer, 0n);

    // struct sigevent { value; int signal; int notify; int thread }, built where the input state goes later.
    const CLOCK_THREAD_CPUTIME_ID = 3;
    const SIGEV_THREAD_ID = 4n;
    set(CTL.IN_GPR, 0n, BigInt(SIGNAL.VTALRM) | (SIGEV_THREAD_ID << 32n), this.#thread);
    const at = (offset: number): bigint => this.#control + BigInt(offset);
    this.#native.call("timer_create", CLOCK_THREAD_CPUTIME_ID, at(CTL.IN_GPR), at(CTL.TIMER));
  }

  #readFeatures(cpuidAddress: bigint, xgetbvAddress: bigint): HostFeatures {
    const native = this.#native;
    const execute = native.function(cpuidAddress, "void cpuid(uint32_t leaf, uint32_t subleaf, int64_t out)");
    const xgetbv = native.function(xgetbvAddress, "uint64_t xgetbv()");
    const out = new Uint32Array(this.#bytes.buffer, CTL.OUT_REGS, 4);
    const cpuid = (leaf: number, subleaf = 0) => {
      this.#checkOpen();
      execute(leaf, subleaf, this.#control + BigInt(CTL.OUT_REGS));
      return { eax: out[0]!, ebx: out[1]!, ecx: out[2]!, edx: out[3]! };
    };
    const osxsave = (cpuid(1).ecx >>> 27) & 1;
    return new HostFeatures(cpuid, osxsave ? BigInt(xgetbv()) : 0n);
  }

  #unmap(): void {
    for (const { address, bytes } of this.#mappings.splice(0)) this.#native.call("munmap", address, bytes);
  }
}

function succeeds(action: () => unknown): boolean {
  try {
    action();
    return true;
  } catch {
    return false;
  }
}

/** SYSCALL, SYSENTER or INT 80h at any offset. */
function holdsSystemCall(code: Uint8Array): boolean {
  return code.some((byte, i) => {
    const next = code[i + 1];
    return (byte === 0x0f && (next === 0x05 || next === 0x34)) || (byte === 0xcd && next === 0x80);
  });
}
