/**
 * The thread that waits for a VM's doorbells: Node's event loop cannot watch an eventfd, so one Worker waits in
 * epoll_wait for all of them, counts what rang, and rings the VM's thread's bell as the vCPUs' threads do.
 */
import { KvmThreadError } from "./errors.ts";
import { type Doorbell, type DoorbellRange, makeDoorbell } from "./event-fds.ts";
import type { Native } from "./native.ts";
import { startJob, type WorkerJob, type WorkerProgram } from "./worker-pool.ts";

/** Doorbells of one VM at a time. */
const MAX_DOORBELLS = 1024;
/** The epoll key of the eventfd that ends the thread. */
const STOP_KEY = MAX_DOORBELLS;

interface DoorbellThreadData {
  readonly epoll: number;
  /** How often each doorbell rang. */
  readonly counts: Int32Array;
  readonly bell: Int32Array;
}

const DOORBELL_PROGRAM: WorkerProgram = {
  name: "doorbells",
  source: `"use strict";
const { readSync } = require("node:fs");
const { parentPort, workerData: koffiPath } = require("node:worker_threads");
const koffi = require(koffiPath);
const wait = koffi.load(null).func("epoll_wait", "int", ["int", "void *", "int", "int"]);
// struct epoll_event is packed on x86-64: events, then the key and the descriptor.
const MAX_EVENTS = 64;
const EVENT_BYTES = 12;
const events = new Uint8Array(new ArrayBuffer(MAX_EVENTS * EVENT_BYTES));
const view = new DataView(events.buffer);
const count = new Uint8Array(8);
const EINTR = 4;

parentPort.on("message", ({ epoll, counts, bell }) => {
  for (let ends = false; !ends; ) {
    const found = wait(epoll, events, MAX_EVENTS, -1);
    if (found < 0 && koffi.errno() !== EINTR) throw new Error("epoll_wait failed with errno " + koffi.errno());
    for (let i = 0; i < found; i++) {
      const key = view.getUint32(i * EVENT_BYTES + 4, true);
      ends ||= key === ${STOP_KEY};
      if (key >= counts.length) continue;
      try {
        readSync(view.getUint32(i * EVENT_BYTES + 8, true), count);
      } catch {
        continue; // Closed or read meanwhile.
      }
      Atomics.add(counts, key, 1);
    }
    Atomics.add(bell, 0, 1);
    Atomics.notify(bell, 0);
  }
  parentPort.postMessage("done");
});
`,
};

interface LiveDoorbell {
  readonly doorbell: Doorbell;
  readonly onRing: () => void;
}

export class DoorbellThread {
  readonly #native: Native;
  readonly #vmFd: number;
  readonly #epoll: number;
  readonly #stop: number;
  readonly #counts = new Int32Array(new SharedArrayBuffer(4 * MAX_DOORBELLS));
  readonly #served = new Int32Array(MAX_DOORBELLS);
  readonly #doorbells: (LiveDoorbell | undefined)[] = [];
  readonly #job: WorkerJob;
  #failure: Error | undefined;

  /** @param bell is added to and notified when something rang. @throws KvmError */
  constructor(native: Native, vmFd: number, bell: Int32Array) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#epoll = native.epoll();
    this.#stop = native.eventFd();
    native.epollAdd(this.#epoll, this.#stop, STOP_KEY);
    const data: DoorbellThreadData = { epoll: this.#epoll, counts: this.#counts, bell };
    this.#job = startJob(DOORBELL_PROGRAM, native.koffiPath, data, (cause) => {
      this.#failure ??= new KvmThreadError(`the thread of the doorbells is gone (${cause})`, { cause });
      Atomics.add(bell, 0, 1);
      Atomics.notify(bell, 0);
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
