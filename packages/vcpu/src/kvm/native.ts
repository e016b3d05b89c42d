/**
 * The koffi border: system calls, ioctls and mappings. Nothing beyond this file sees a koffi type or a 64-bit
 * number that is sometimes a `bigint` and sometimes not.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { constants, endianness } from "node:os";
import { isMainThread } from "node:worker_threads";
import type Koffi from "koffi";
import { Ioctl, type IoctlName } from "./abi.ts";
import { KvmError } from "./errors.ts";
import { Struct } from "./structs.ts";

/** System call numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl). */
const Syscall = {
  poll: 7,
  mmap: 9,
  munmap: 11,
  rt_sigtimedwait: 128,
  gettid: 186,
  timer_create: 222,
  timer_settime: 223,
  epoll_ctl: 233,
  tgkill: 234,
  eventfd2: 290,
  epoll_create1: 291,
} as const;
type SyscallName = keyof typeof Syscall;

export const Prot = { READ: 1, WRITE: 2 } as const;
export const MapFlag = { SHARED: 1, PRIVATE: 2, ANONYMOUS: 0x20, NORESERVE: 0x4000 } as const;
/** eventfd2's flags. */
const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;
const POLLIN = 1;
/** struct pollfd. */
const POLLFD_BYTES = 8;
const ITIMERSPEC_BYTES = 32;
const EpollCtl = { ADD: 1, MOD: 3 } as const;
/** What an epoll set tells of a descriptor: that it is readable, each time it is asked, or once until it is told anew. */
export const EpollEvents = { IN: 1, IN_ONCE: 0x4000_0001 } as const;
/** Clocks of `timer_create`. */
export const TimerClock = { MONOTONIC: 1, THREAD_CPU: 3 } as const;

/**
 * The signal that brings a vCPU out of KVM_RUN: a real-time one that neither glibc (32, 33) nor Node uses. It
 * stays blocked everywhere but inside KVM_RUN, so that no handler is ever needed.
 */
export const KICK_SIGNAL = 40;
const SIG_BLOCK = 0;
/** Bytes of a signal set: the kernel's, and glibc's. */
const SIGSET_BYTES = 8;
const LIBC_SIGSET_BYTES = 128;

type Word = number | bigint;

/** The one converter for what koffi makes of a 64-bit integer: a number when small, a bigint when large. */
export function u64(value: Word): bigint {
  return BigInt.asUintN(64, BigInt(value));
}

/** Where the errno of a failed call points. */
const ADVICE: Readonly<Record<string, string>> = {
  EPERM: "the host forbids it to this process: look at its seccomp filter, container and LSM",
  EACCES: "the host forbids it to this process",
  EBADF: "the VM is closed already",
  ENOMEM: "the host is out of memory, or of locked memory (ulimit -l)",
  EMFILE: "this process has too many files open (ulimit -n); close VMs that are not needed",
  ENFILE: "the host has too many files open",
  EEXIST: "it is there already",
  EINVAL: "an argument is out of what this kernel takes",
  ENOSPC: "no slot of that kind is left",
  EBUSY: "somebody else uses it: another hypervisor may hold the processor's virtualization",
  ENXIO: "the VM has no such device",
  ENOTTY: "this kernel does not know the call: it is too old or built without it",
  EOPNOTSUPP: "this kernel's KVM does not support it on this host",
};

/** Name of an errno on this host, such as `EINVAL`. */
export function errnoName(errno: number): string {
  const found = Object.entries(constants.errno).find(([, value]) => value === errno);
  return found ? found[0] : `errno ${errno}`;
}

/** A mapping of host memory; its bytes must not be used once it is unmapped. */
export interface Mapping {
  readonly address: bigint;
  readonly bytes: Uint8Array;
}

/** Node's event loop, as libuv shows it to its process. Asked on the main thread alone. */
export interface EventLoop {
  /** An epoll set: readable where a descriptor that the loop waits for is. */
  readonly fd: number;
  /** Milliseconds until its next timer; 0: there is something to do at once; -1: nothing but descriptors. */
  timeoutMs(): number;
}

/** Native calls through koffi. One instance serves the process. */
export class Native {
  /** Where a Worker finds koffi. */
  readonly koffiPath: string;
  readonly #koffi: typeof Koffi;
  readonly #syscall: (number: number, ...args: (Word | Uint8Array)[]) => Word;
  readonly #ioctl: (fd: number, request: number, argument: Word) => number;
  readonly #ioctlStruct: (fd: number, request: number, argument: Uint8Array) => number;
  readonly #sigmask: (how: number, set: Uint8Array, old: Uint8Array | null) => number;
  readonly #pollfd = new Struct(POLLFD_BYTES);
  readonly #timerSpec = new Struct(ITIMERSPEC_BYTES);
  /** Where the arguments of frequent calls are: to ask each time costs as much as the call. */
  readonly #places: Readonly<Record<"pollfd" | "timerSpec" | "kickSet" | "noTime", bigint>>;
  #eventLoop: EventLoop | null | undefined;
  static #instance: Native | string | undefined;

  /** @returns a reason as text where this is not x86-64 Linux or koffi does not load. */
  static open(): Native | string {
    Native.#instance ??= Native.#load();
    return Native.#instance;
  }

  static #load(): Native | string {
    if (process.platform !== "linux" || process.arch !== "x64" || endianness() !== "LE") {
      return `this is ${process.platform} on ${process.arch}; KVM's engine needs Linux on x86-64`;
    }
    try {
      const require = createRequire(import.meta.url);
      return new Native(require("koffi") as typeof Koffi, require.resolve("koffi"));
    } catch (cause) {
      return `koffi does not load (npm install koffi): ${cause instanceof Error ? cause.message : String(cause)}`;
    }
  }

  private constructor(koffi: typeof Koffi, koffiPath: string) {
    this.#koffi = koffi;
    this.koffiPath = koffiPath;
    const libc = koffi.load(null);
    // One prototype for all: on x86-64 a pointer and a long travel alike.
    this.#syscall = libc.func("long syscall(long n, long a, long b, long c, long d, long e, long f)");
    this.#ioctl = libc.func("ioctl", "int", ["int", "unsigned long", "unsigned long"]);
    this.#ioctlStruct = libc.func("ioctl", "int", ["int", "unsigned long", "void *"]);
    this.#sigmask = libc.func("int pthread_sigmask(int how, void *set, void *old)");
    this.#places = {
      pollfd: this.address(this.#pollfd.bytes),
      timerSpec: this.address(this.#timerSpec.bytes),
      kickSet: this.address(KICK_SET),
      noTime: this.address(NO_TIME),
    };
  }

  /** The address of a buffer's bytes. It stays valid for as long as the buffer is referenced. */
  address(buffer: Uint8Array): bigint {
    return u64(this.#koffi.address(buffer));
  }

  /** An ioctl with a plain argument; its result, 0 or more. @throws KvmError */
  ioctl(fd: number, name: IoctlName, argument: Word = 0): number {
    for (;;) {
      const result = this.#ioctl(fd, Ioctl[name], argument);
      if (result >= 0) return result;
      // A signal came meanwhile, such as a profiler's: making a VM takes long enough for one.
      if (this.#koffi.errno() !== constants.errno.EINTR) throw this.#failed(name);
    }
  }

  /** An ioctl with a structure; its result, 0 or more. @throws KvmError */
  ioctlStruct(fd: number, name: IoctlName, struct: Struct): number {
    const result = this.#ioctlStruct(fd, Ioctl[name], struct.bytes);
    if (result < 0) throw this.#failed(name);
    return result;
  }

  /** As `ioctlStruct`, but a refusal is an answer: -errno. */
  tryIoctlStruct(fd: number, name: IoctlName, struct: Struct): number {
    const result = this.#ioctlStruct(fd, Ioctl[name], struct.bytes);
    return result < 0 ? -this.#koffi.errno() : result;
  }

  /** KVM_RUN: 0, or -errno. */
  run(fd: number): number {
    return this.#ioctl(fd, Ioctl.KVM_RUN, 0) < 0 ? -this.#koffi.errno() : 0;
  }

  /** Opens /dev/kvm. @throws the error of `node:fs`. */
  openDevice(path: string): number {
    return openSync(path, "r+");
  }

  close(fd: number): void {
    closeSync(fd);
  }

  /** @throws KvmError */
  map(fd: number, offset: number, bytes: number, flags: number): Mapping {
    const address = u64(this.#call("mmap", 0, bytes, Prot.READ | Prot.WRITE, flags, fd, offset));
    return { address, bytes: this.bytesAt(address, bytes) };
  }

  unmap(mapping: Mapping): void {
    this.release(mapping.address, mapping.bytes.length);
  }

  /** Address of an anonymous mapping. @throws KvmError */
  reserve(bytes: number, flags: number): bigint {
    return u64(this.#call("mmap", 0, bytes, Prot.READ | Prot.WRITE, flags, -1, 0));
  }

  release(address: bigint, bytes: number): void {
    this.#call("munmap", address, bytes);
  }

  /** The bytes at an address, which must stay mapped for as long as they are used. */
  bytesAt(address: bigint, bytes: number): Uint8Array {
    return new Uint8Array(this.#koffi.view(address, bytes));
  }

  /** An eventfd, non-blocking. @throws KvmError */
  eventFd(): number {
    return Number(this.#call("eventfd2", 0, EFD_CLOEXEC | EFD_NONBLOCK));
  }

  /** Adds 1 to an eventfd: wakes whoever waits for it. */
  signalEventFd(fd: number): void {
    writeSync(fd, new Uint8Array(new BigUint64Array([1n]).buffer));
  }

  /** An epoll set. @throws KvmError */
  epoll(): number {
    return Number(this.#call("epoll_create1", EFD_CLOEXEC));
  }

  /** Waits for `fd` to become readable, too; its events carry `key` and the descriptor. @throws KvmError */
  epollAdd(epoll: number, fd: number, key: number, events: number = EpollEvents.IN): void {
    this.#epollCtl(epoll, EpollCtl.ADD, { fd, key, events });
  }

  /** Tells an epoll set anew what to wait for of a descriptor that it has. @throws KvmError */
  epollModify(epoll: number, fd: number, key: number, events: number): void {
    this.#epollCtl(epoll, EpollCtl.MOD, { fd, key, events });
  }

  #epollCtl(epoll: number, operation: number, entry: { fd: number; key: number; events: number }): void {
    // struct epoll_event, packed: events, then 64 bits of the caller's.
    const event = new Struct(16);
    event.setU32(0, entry.events);
    event.setU32(4, entry.key);
    event.setU32(8, entry.fd);
    this.#call("epoll_ctl", epoll, operation, entry.fd, this.address(event.bytes));
  }

  /** Whether a descriptor is known to be readable now: a signal keeps it from being looked at. */
  isReadable(fd: number): boolean {
    const pollfd = this.#pollfd;
    pollfd.setU32(0, fd);
    pollfd.setU32(4, POLLIN);
    return this.#syscall(Syscall.poll, this.#places.pollfd, 1, 0, 0, 0, 0) > 0;
  }

  /** The event loop of this process's main thread; `undefined` on another thread, or where Node hides its libuv. */
  eventLoop(): EventLoop | undefined {
    if (!isMainThread) return undefined;
    this.#eventLoop ??= this.#findEventLoop() ?? null;
    return this.#eventLoop ?? undefined;
  }

  #findEventLoop(): EventLoop | undefined {
    try {
      const node = this.#koffi.load(null);
      const loop: unknown = node.func("void *uv_default_loop()")();
      const fd: number = node.func("int uv_backend_fd(void *loop)")(loop);
      const timeout = node.func("int uv_backend_timeout(void *loop)");
      return fd < 0 ? undefined : { fd, timeoutMs: () => timeout(loop) as number };
    } catch {
      // A Node that exports none of these.
      return undefined;
    }
  }

  /** Kernel's id of the calling thread. */
  threadId(): number {
    return Number(this.#call("gettid"));
  }

  /** Blocks the kick signal in the calling thread: it then only arrives inside KVM_RUN. */
  blockKick(): void {
    const set = new Uint8Array(new ArrayBuffer(LIBC_SIGSET_BYTES));
    set[(KICK_SIGNAL - 1) >> 3] = 1 << ((KICK_SIGNAL - 1) & 7);
    this.#sigmask(SIG_BLOCK, set, null);
  }

  /** Takes a pending kick of the calling thread away, so that the next KVM_RUN does not return at once. */
  eatKick(): void {
    const { kickSet, noTime } = this.#places;
    this.#syscall(Syscall.rt_sigtimedwait, kickSet, 0, noTime, SIGSET_BYTES, 0, 0);
  }

  /** Sends the kick signal to thread `tid` of this process; one that has ended is no error. */
  kick(tid: number): void {
    this.#syscall(Syscall.tgkill, process.pid, tid, KICK_SIGNAL, 0, 0, 0);
  }

  /**
   * A timer that kicks the calling thread: by the time that this thread has run, so that on a busy host a guest is not cut
   * off before its turn, or by time as it passes. @throws KvmError
   */
  kickTimer(clock: number): number {
    // struct sigevent: value, signo, notify, thread id; SIGEV_THREAD_ID is 4.
    const event = new Uint8Array(new ArrayBuffer(64));
    const view = new DataView(event.buffer);
    view.setInt32(8, KICK_SIGNAL, true);
    view.setInt32(12, 4, true);
    view.setInt32(16, this.threadId(), true);
    const id = new Int32Array(new ArrayBuffer(8));
    this.#call("timer_create", clock, this.address(event), this.address(new Uint8Array(id.buffer)));
    return id[0]!;
  }

  /** Arms it for once in `ns`, up to 2^32 s. @throws KvmError */
  setKickTimer(timer: number, ns: number): void {
    const seconds = Math.floor(ns / 1_000_000_000);
    this.#timerSpec.setU32(16, seconds);
    this.#timerSpec.setU32(24, Math.floor(ns - seconds * 1_000_000_000));
    const result = this.#syscall(Syscall.timer_settime, timer, 0, this.#places.timerSpec, 0, 0, 0);
    if (result !== 0) throw this.#failed("timer_settime");
  }

  #call(name: SyscallName, ...args: Word[]): Word {
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = args;
    const result = this.#syscall(Syscall[name], a, b, c, d, e, f);
    if (result === -1 || result === -1n) throw this.#failed(name);
    return result;
  }

  #failed(call: string): KvmError {
    return kvmError(call, this.#koffi.errno());
  }
}

const NO_TIME = new Uint8Array(new ArrayBuffer(16));
const KICK_SET = new Uint8Array(new ArrayBuffer(SIGSET_BYTES));
KICK_SET[(KICK_SIGNAL - 1) >> 3] = 1 << ((KICK_SIGNAL - 1) & 7);

/** The error for a call that failed with `errno`. */
export function kvmError(call: string, errno: number): KvmError {
  const name = errnoName(errno);
  const advice = ADVICE[name];
  return new KvmError(
    "KVM_CALL",
    call,
    errno,
    `${call} failed with ${name}${advice === undefined ? "" : `: ${advice}`}`,
  );
}
