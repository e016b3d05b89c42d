/**
 * The thread that waits for what concerns a VM while its own thread cannot: Node's event loop does not watch eventfds,
 * and does nothing at all while the guest runs on its thread. One Worker waits in epoll_wait for all of a VM's doorbells,
 * counts what rang, and rings the VM's thread's bell as the vCPUs' threads do. Where the guest runs on the VM's thread, it
 * waits for the event loop's descriptor, too, and kicks that thread out of the guest.
 */
import { KvmThreadError } from "./errors.ts";
import { type Doorbell, type DoorbellRange, makeDoorbell } from "./event-fds.ts";
import { EpollEvents, KICK_SIGNAL, type Native } from "./native.ts";
import { startJob, type WorkerJob, type WorkerProgram } from "./worker-pool.ts";

/** Doorbells of one VM at a time. */
const MAX_DOORBELLS = 1024;
/** The epoll key of the eventfd that ends the thread. */
const STOP_KEY = MAX_DOORBELLS;
/** The epoll key of the event loop. */
const LOOP_KEY = MAX_DOORBELLS + 1;

/** Words that the VM's thread and the watching one share. */
export const Watch = {
  /** Counts what happened; what is new here is looked at by the VM's thread before it enters the guest. */
  BELL: 0,
  /** The VM's thread's id in the kernel while it is in the guest: who rings the bell then kicks it. Else 0. */
  GUEST_THREAD: 1,
  /** 1: the event loop has something to do. */
  LOOP: 2,
  /** 1: somebody watches. */
  READY: 3,
  WORDS: 4,
} as const;

interface WatchThreadData {
  readonly epoll: number;
  /** How often each doorbell rang. */
  readonly counts: Int32Array;
  /** `Watch`. */
  readonly words: Int32Array;
}

const WATCH_PROGRAM: WorkerProgram = {
  name: "watch",
  source: `"use strict";
const { readSync } = require("node:fs");
const { parentPort, workerData: koffiPath } = require("node:worker_threads");
const koffi = require(koffiPath);
const libc = koffi.load(null);
const wait = libc.func("epoll_wait", "int", ["int", "void *", "int", "int"]);
const syscall = libc.func("syscall", "long", ["long", "long", "long", "long"]);
const [BELL, GUEST_THREAD] = [${Watch.BELL}, ${Watch.GUEST_THREAD}];
const [LOOP, READY] = [${Watch.LOOP}, ${Watch.READY}];
const SYS_tgkill = 234;
// struct epoll_event is packed on x86-64: events, then the key and the descriptor.
const MAX_EVENTS = 64;
const EVENT_BYTES = 12;
const events = new Uint8Array(new ArrayBuffer(MAX_EVENTS * EVENT_BYTES));
const view = new DataView(events.buffer);
const count = new Uint8Array(8);
const EINTR = 4;

parentPort.on("message", ({ epoll, counts, words }) => {
  Atomics.store(words, READY, 1);
  for (let ends = false; !ends; ) {
    const found = wait(epoll, events, MAX_EVENTS, -1);
    if (found < 0 && koffi.errno() !== EINTR) throw new Error("epoll_wait failed with errno " + koffi.errno());
    for (let i = 0; i < found; i++) {
      const key = view.getUint32(i * EVENT_BYTES + 4, true);
      ends ||= key === ${STOP_KEY};
      if (key === ${LOOP_KEY}) Atomics.store(words, LOOP, 1);
      if (key >= counts.length) continue;
      try {
        readSync(view.getUint32(i * EVENT_BYTES + 8, true), count);
      } catch {
        continue; // Closed or read meanwhile.
      }
      Atomics.add(counts, key, 1);
    }
    Atomics.add(words, BELL, 1);
    Atomics.notify(words, BELL);
    // Who enters the guest says so, and then looks at the bell: one of the two sees the other.
    const thread = Atomics.load(words, GUEST_THREAD);
    if (thread !== 0) syscall(SYS_tgkill, process.pid, thread, ${KICK_SIGNAL});
  }
  parentPort.postMessage("done");
});
`,
};

interface LiveDoorbell {
  readonly doorbell: Doorbell;
  readonly onRing: () => void;
}

export class WatchThread {
  readonly #native: Native;
  readonly #vmFd: number;
  readonly #epoll: number;
  readonly #stop: number;
  readonly #counts = new Int32Array(new SharedArrayBuffer(4 * MAX_DOORBELLS));
  readonly #served = new Int32Array(MAX_DOORBELLS);
  readonly #doorbells: (LiveDoorbell | undefined)[] = [];
  readonly #job: WorkerJob;
  #failure: Error | undefined;

  /** @param words `Watch`: its bell is added to and notified when something happened. @throws KvmError */
  constructor(native: Native, vmFd: number, words: Int32Array) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#epoll = native.epoll();
    this.#stop = native.eventFd();
    native.epollAdd(this.#epoll, this.#stop, STOP_KEY);
    const data: WatchThreadData = { epoll: this.#epoll, counts: this.#counts, words };
    this.#job = startJob(WATCH_PROGRAM, native.koffiPath, data, (cause) => {
      this.#failure ??= new KvmThreadError(`the thread that waits for doorbells is gone (${cause})`, {
        cause,
      });
      Atomics.add(words, Watch.BELL, 1);
      Atomics.notify(words, Watch.BELL);
    });
  }

  /**
   * Guest writes to `range` call `onRing` on the VM's thread, several at once if they come in quick succession.
   *
   * @throws KvmError where the kernel refuses. @throws RangeError where there are too many.
   */
  add(range: DoorbellRange, onRing: () => void): Doorbell {
    const free = this.#doorbells.indexOf(undefined);
    const index = free >= 0 ? free : this.#doorbells.length;
    if (index >= MAX_DOORBELLS) throw new RangeError(`doorbells: a VM has ${MAX_DOORBELLS} at most`);
    const doorbell = makeDoorbell(this.#native, this.#vmFd, range);
    this.#served[index] = Atomics.load(this.#counts, index);
    this.#doorbells[index] = { doorbell, onRing };
    this.#native.epollAdd(this.#epoll, doorbell.fd, index);
    return {
      fd: doorbell.fd,
      close: () => {
        if (this.#doorbells[index]?.doorbell !== doorbell) return;
        this.#doorbells[index] = undefined;
        // Closing the descriptor takes it out of epoll's set.
        doorbell.close();
      },
    };
  }

  /** Waits for an event loop, too: sets `Watch.LOOP` once it has something to do. @throws KvmError */
  watchLoop(fd: number): void {
    this.#native.epollAdd(this.#epoll, fd, LOOP_KEY, EpollEvents.IN_ONCE);
  }

  /** Waits for it again. @throws KvmError */
  watchLoopAgain(fd: number): void {
    this.#native.epollModify(this.#epoll, fd, LOOP_KEY, EpollEvents.IN_ONCE);
  }

  /** Tells those that rang. @throws KvmThreadError where the thread has failed. */
  serve(): void {
    if (this.#failure) throw this.#failure;
    this.#doorbells.forEach((live, index) => {
      const count = Atomics.load(this.#counts, index);
      if (live === undefined || count === this.#served[index]) return;
      this.#served[index] = count;
      live.onRing();
    });
  }

  /** Tells the thread to end, without waiting for it. */
  abandon(): void {
    this.#native.signalEventFd(this.#stop);
  }

  async close(): Promise<void> {
    this.abandon();
    this.#job.worker.ref();
    await this.#job.ended;
    for (const live of this.#doorbells) live?.doorbell.close();
    this.#native.close(this.#epoll);
    this.#native.close(this.#stop);
  }
}
