/**
 * The program of a vCPU's thread, and the mailbox between it and the VM's thread.
 *
 * The thread only enters the guest: struct kvm_run is memory of the process, so the VM's thread reads exits and
 * writes answers where the kernel has them, and nothing is copied.
 *
 * Waiting: measured between two threads on Node 20, a round trip takes 0.26 µs while both spin, 3 µs where one sleeps in
 * Atomics.wait and the other spins, 51 µs where both sleep (the VM's thread in Atomics.waitAsync, as it must not
 * block). An answer takes a microsecond or two to work out, so both spin for about as long as a sleep would cost,
 * and then sleep.
 */

import { availableParallelism } from "node:os";
import { Ioctl } from "./abi.ts";
import { KICK_SIGNAL } from "./native.ts";
import type { WorkerProgram } from "./worker-pool.ts";

/** Words of a vCPU's mailbox. */
export const Box = {
  STATE: 0,
  /** KVM_RUN's result: 0 or -errno. */
  RESULT: 1,
  /** The thread's id in the kernel, once it runs. */
  THREAD_ID: 2,
  /** Not 0: the thread shall end. */
  STOP: 3,
  WORDS: 4,
} as const;

/** `Box.STATE`. */
export const BoxState = {
  /** The vCPU is stopped: the VM's thread has the word. */
  STOPPED: 0,
  /** The thread enters the guest, or is there. */
  RUNNING: 1,
  /**
   * Nobody will enter it any more: `Box.STOP` is set. A word of its own would not do: a thread that has just found it clear
   * would go to sleep on a `STATE` that does not change, behind the notice.
   */
  ENDED: 2,
} as const;

/**
 * Rounds of looking at a word before sleeping. One takes 5 to 15 ns: 3,000 are 15 to 45 µs, no more than what the
 * sleep that they avoid would cost. None where there is one processor: who looks keeps the other from answering.
 */
export const SPIN_ROUNDS = availableParallelism() > 1 ? 3000 : 0;

/** What a job is given. */
export interface VcpuThreadData {
  readonly fd: number;
  readonly box: Int32Array;
  /** One word that counts the stops of all vCPUs. */
  readonly bell: Int32Array;
}

/**
 * JavaScript, because it has to run in a Worker as it is: from sources, where Node reads no TypeScript, and from a
 * bundle, where it would be in no file of its own.
 */
export const VCPU_PROGRAM: WorkerProgram = {
  name: "vcpu",
  source: `"use strict";
const { parentPort, workerData: koffiPath } = require("node:worker_threads");
const [STATE, RESULT, THREAD_ID, STOP] = [${Box.STATE}, ${Box.RESULT}, ${Box.THREAD_ID}, ${Box.STOP}];
const [STOPPED, RUNNING] = [${BoxState.STOPPED}, ${BoxState.RUNNING}];
const KVM_RUN = ${Ioctl.KVM_RUN};
const KICK_SIGNAL = ${KICK_SIGNAL};
const EINTR = 4;
const SYS_rt_sigtimedwait = 128;
const SYS_gettid = 186;
const koffi = require(koffiPath);
const libc = koffi.load(null);
const ioctl = libc.func("ioctl", "int", ["int", "unsigned long", "unsigned long"]);
const syscall = libc.func("syscall", "long", ["long", "void *", "void *", "void *", "long"]);
const sigmask = libc.func("pthread_sigmask", "int", ["int", "void *", "void *"]);

// The kick stays blocked here: KVM_RUN alone lets it in, and comes back; it is then taken away unhandled.
const set = new Uint8Array(new ArrayBuffer(128));
set[(KICK_SIGNAL - 1) >> 3] = 1 << ((KICK_SIGNAL - 1) & 7);
const noTime = new Uint8Array(new ArrayBuffer(16));
sigmask(0, set, null);
const threadId = Number(syscall(SYS_gettid, null, null, null, 0));

parentPort.on("message", ({ fd, box, bell }) => {
  Atomics.store(box, THREAD_ID, threadId);
  for (;;) {
    for (let i = 0; i < ${SPIN_ROUNDS} && Atomics.load(box, STATE) !== RUNNING; i++);
    while (Atomics.load(box, STATE) !== RUNNING && Atomics.load(box, STOP) === 0) Atomics.wait(box, STATE, STOPPED);
    if (Atomics.load(box, STOP) !== 0) break;
    const failed = ioctl(fd, KVM_RUN, 0) < 0;
    const errno = failed ? koffi.errno() : 0;
    if (errno === EINTR) syscall(SYS_rt_sigtimedwait, set, null, noTime, 8);
    Atomics.store(box, RESULT, -errno);
    Atomics.store(box, STATE, STOPPED);
    Atomics.add(bell, 0, 1);
    Atomics.notify(bell, 0);
  }
  // A kick that came too late is not for the next vCPU.
  syscall(SYS_rt_sigtimedwait, set, null, noTime, 8);
  parentPort.postMessage("done");
});
`,
};
