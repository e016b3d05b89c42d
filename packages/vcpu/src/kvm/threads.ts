/** vCPUs on threads of their own: the VM's thread's side. */
import type { Worker } from "node:worker_threads";
import type { VmExit } from "../exit.ts";
import { KvmThreadError } from "./errors.ts";
import type { Doorbell, DoorbellRange } from "./event-fds.ts";
import { endWithProcess, type KvmVcpuThreads, noLongerAlive, type StartTime } from "./live-threads.ts";
import type { Native } from "./native.ts";
import type { KvmVcpu } from "./vcpu.ts";
import { Box, BoxState, SPIN_ROUNDS, VCPU_PROGRAM, type VcpuThreadData } from "./vcpu-thread.ts";
import { waitAsync } from "./wait-async.ts";
import { Watch, WatchThread } from "./watch-thread.ts";
import { startJob, type WorkerJob } from "./worker-pool.ts";

/**
 * Longest sleep on the VM's thread that its event loop does not see, in ms: waking from one that it sees takes ten times
 * as long as waking from Atomics.wait.
 */
const BLOCK_MS = 1;

class VcpuThread {
  readonly vcpu: KvmVcpu;
  readonly box = new Int32Array(new SharedArrayBuffer(4 * Box.WORDS));
  readonly job: WorkerJob;
  /** The exit given out, until the next entry. */
  exit: VmExit | undefined;
  /** Set by `enter`: what the thread left is not read yet. */
  isEntered = false;
  failure: Error | undefined;

  constructor(vcpu: KvmVcpu, native: Native, bell: Int32Array, onFailure: () => void) {
    this.vcpu = vcpu;
    const data: VcpuThreadData = { fd: vcpu.fd, box: this.box, bell };
    // A VM that was made and not run does not keep the process.
    this.job = startJob(VCPU_PROGRAM, native.koffiPath, data, (cause) => {
      this.failure ??= new KvmThreadError(
        `the thread of vCPU ${vcpu.index} is gone (${cause}): the VM cannot go on; close it and make another`,
        { cause },
      );
      onFailure();
    });
  }
}

export class KvmThreads implements KvmVcpuThreads {
  readonly #native: Native;
  readonly #threads: VcpuThread[] = [];
  readonly #startTime: StartTime;
  /** `Watch`; the bell counts stops and `ring()`s, too. */
  readonly #bell = new Int32Array(new SharedArrayBuffer(4 * Watch.WORDS));
  #heard = 0;
  readonly #vmFd: number;
  #doorbells: WatchThread | undefined;

  constructor(native: Native, vmFd: number, startTime: StartTime) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#startTime = startTime;
    endWithProcess(this);
  }

  /** Starts a vCPU's thread; it waits for `enter`. */
  add(vcpu: KvmVcpu): void {
    this.#threads[vcpu.index] = new VcpuThread(vcpu, this.#native, this.#bell, () => this.ring());
  }

  /** The Workers, by vCPU: for their names in profiles, and for tests. */
  get workers(): readonly Worker[] {
    return this.#threads.map((thread) => thread.job.worker);
  }

  /** Guest writes to `range` call `onRing` on this thread while the VM runs, without an exit. @throws KvmError */
  addDoorbell(range: DoorbellRange, onRing: () => void): Doorbell {
    this.#doorbells ??= new WatchThread(this.#native, this.#vmFd, this.#bell);
    return this.#doorbells.add(range, onRing);
  }

  start(nowNs: number, tsc: bigint): void {
    for (const thread of this.#threads) thread.job.worker.ref();
    this.#startTime(nowNs, tsc);
  }

  stop(): void {
    for (const thread of this.#threads) thread.job.worker.unref();
  }

  enter(index: number): void {
    const thread = this.#thread(index);
    // A piece of an exit that is left, or what an exit hid, comes without an entry.
    thread.exit = thread.vcpu.prepare();
    if (thread.exit !== undefined) this.ring();
    else this.#go(thread);
  }

  exit(index: number): VmExit | undefined {
    const thread = this.#thread(index);
    if (thread.failure !== undefined) throw thread.failure;
    if (!thread.isEntered) return thread.exit;
    if (Atomics.load(thread.box, Box.STATE) !== BoxState.STOPPED) return undefined;
    thread.isEntered = false;
    thread.vcpu.setImmediateExit(false);
    thread.exit = thread.vcpu.finish(Atomics.load(thread.box, Box.RESULT));
    if (thread.exit === undefined) this.#go(thread);
    return thread.exit;
  }

  kick(index: number): void {
    const thread = this.#thread(index);
    thread.vcpu.setImmediateExit(true);
    // The thread has entered, or sees the store above: it is ordered before the question whether it was sent in.
    Atomics.add(thread.box, Box.RESULT, 0);
    if (thread.isEntered) this.#signal(thread);
  }

  isStuck(index: number): boolean {
    return this.#thread(index).vcpu.isStuck();
  }

  spin(limitMs: number): boolean {
    // With no processor to look from, this thread sleeps: shortly, as the event loop stands still meanwhile.
    if (SPIN_ROUNDS === 0) Atomics.wait(this.#bell, 0, this.#heard, Math.min(limitMs, BLOCK_MS));
    for (let i = 0; i <= SPIN_ROUNDS; i++) {
      const count = Atomics.load(this.#bell, 0);
      if (count === this.#heard) continue;
      this.#heard = count;
      this.#doorbells?.serve();
      return true;
    }
    return false;
  }

  async wait(ms: number): Promise<void> {
    await waitAsync(this.#bell, 0, this.#heard, ms);
    this.#heard = Atomics.load(this.#bell, 0);
    this.#doorbells?.serve();
  }

  ring(): void {
    Atomics.add(this.#bell, 0, 1);
    Atomics.notify(this.#bell, 0);
  }

  /** Ends the threads. Resolves once none uses its vCPU any more. */
  async close(): Promise<void> {
    this.abandon();
    for (const thread of this.#threads) thread.job.worker.ref();
    await Promise.all(this.#threads.map((thread) => thread.job.ended));
    await this.#doorbells?.close();
    noLongerAlive(this);
  }

  /** Tells the threads to end, without waiting for it. */
  abandon(): void {
    this.#doorbells?.abandon();
    for (const thread of this.#threads) {
      Atomics.store(thread.box, Box.STOP, 1);
      Atomics.store(thread.box, Box.STATE, BoxState.ENDED);
      thread.vcpu.setImmediateExit(true);
      this.#signal(thread);
      Atomics.notify(thread.box, Box.STATE);
    }
  }

  #go(thread: VcpuThread): void {
    thread.isEntered = true;
    Atomics.store(thread.box, Box.STATE, BoxState.RUNNING);
    Atomics.notify(thread.box, Box.STATE);
  }

  #signal(thread: VcpuThread): void {
    const id = Atomics.load(thread.box, Box.THREAD_ID);
    if (id !== 0) this.#native.kick(id);
  }

  #thread(index: number): VcpuThread {
    const thread = this.#threads[index];
    if (thread === undefined) throw new RangeError(`index: there is no vCPU ${index}`);
    return thread;
  }
}
