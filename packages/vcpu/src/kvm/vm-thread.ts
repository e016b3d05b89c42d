/**
 * A single vCPU on the VM's thread, where KVM's interrupt controller interrupts it without being asked: for hosts of one
 * processor, where each exit to another thread is two switches between them.
 *
 * ```text
 *   spin: event loop's turn? -- yes --> false, and wait() gives it
 *            | no
 *            v
 *         KVM_RUN until an exit, the bell, or the first of: limit, a timer of the event loop's, a look at the event loop
 * ```
 *
 * The event loop stands still while the guest runs or halts. Its timers are known ahead. For its descriptors it is asked
 * every `LOOK_MS`, which costs no thread: starting one takes a third of a second where the processor is emulated. A VM that
 * goes on for long, or has events to see to, gets one that watches for it (`WatchThread`).
 */
import type { VmExit } from "../exit.ts";
import { ExitReason } from "../exit.ts";
import type { Doorbell, DoorbellRange } from "./event-fds.ts";
import { DeadlineTimer } from "./kick-timer.ts";
import { endWithProcess, type KvmVcpuThreads, noLongerAlive, type StartTime } from "./live-threads.ts";
import type { EventLoop, Native } from "./native.ts";
import type { KvmVcpu } from "./vcpu.ts";
import { waitAsync } from "./wait-async.ts";
import { Watch, WatchThread } from "./watch-thread.ts";

/** Longest run without the run loop, in ms: it asks now and then whether the guest can ever go on. */
const SPIN_MAX_MS = 100;
/**
 * The guest has this long to itself after the event loop's turn, in ms, whatever has come meanwhile: another VM of this
 * process, or a stream that is always ready, would leave it nothing.
 */
const OWN_MS = 1;
/** A turn that is due within this time, in ms, is given at once: one way out of the guest less. */
const EARLY_MS = 1;
/** Shortest run, in ms, so that timers which are always due leave the guest some time. */
const RUN_MIN_MS = 0.05;
/** Without a thread that watches the event loop, it is looked at so often, in ms. */
const LOOK_MS = 10;
/** So many looks for nothing cost as much as the thread that makes them needless. */
const WATCH_AFTER_LOOKS = 500;
/** So often something had come and waited for a look: there is more to be expected. V8's own threads bring some, too. */
const WATCH_AFTER_EVENTS = 100;
const EINTR = 4;
const INTERRUPTED: VmExit = { reason: ExitReason.ExternalInterrupt };
/** `setInterval`'s longest, in ms. */
const FOREVER_MS = 0x7fff_ffff;

export class VmThread implements KvmVcpuThreads {
  readonly sharesThread = true;

  readonly #native: Native;
  readonly #vmFd: number;
  readonly #loop: EventLoop;
  readonly #startTime: StartTime;
  readonly #timer: DeadlineTimer;
  readonly #threadId: number;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * Watch.WORDS));
  /** For waiting on oneself: nothing else is ever written here. */
  readonly #turn = new Int32Array(new SharedArrayBuffer(4));
  #heard = 0;
  #watch: WatchThread | undefined;
  /** The watching thread was told of the event loop; and waits for it, or has seen something there. */
  #isLoopWatched = false;
  #isArmed = false;
  #keepAlive: ReturnType<typeof setInterval> | undefined;

  #vcpu: KvmVcpu | undefined;
  /** The exit given out, until the next entry. */
  #exit: VmExit | undefined;
  #isEntered = false;
  #isKicked = false;
  /** What KVM_RUN came back with, not read yet. */
  #result: number | undefined;

  /** When the event loop last had its turn, when it was last looked at, and when it wants one by itself. */
  #turnedMs = 0;
  #lookedMs = 0;
  #loopDueMs = Number.POSITIVE_INFINITY;
  #looks = 0;
  #events = 0;

  /** @param loop this thread's. @throws KvmError */
  constructor(native: Native, vmFd: number, { loop, startTime }: { loop: EventLoop; startTime: StartTime }) {
    this.#native = native;
    this.#vmFd = vmFd;
    this.#loop = loop;
    this.#startTime = startTime;
    this.#timer = DeadlineTimer.ofThread(native);
    this.#threadId = native.threadId();
    endWithProcess(this);
  }

  add(vcpu: KvmVcpu): void {
    this.#vcpu = vcpu;
  }

  addDoorbell(range: DoorbellRange, onRing: () => void): Doorbell {
    return this.#watchThread().add(range, onRing);
  }

  start(nowNs: number, tsc: bigint): void {
    // Turns are tasks that keep no event loop, and a process without one would do nothing but them.
    this.#keepAlive = setInterval(() => {}, FOREVER_MS);
    this.#startTime(nowNs, tsc);
    // What was begun meanwhile, the event loop has not been asked about.
    this.#turnedMs = performance.now() - OWN_MS;
    this.#loopDueMs = 0;
  }

  stop(): void {
    clearInterval(this.#keepAlive);
  }

  enter(index: number): void {
    const vcpu = this.#at(index);
    this.#exit = vcpu.prepare();
    if (this.#exit !== undefined) this.ring();
    else this.#isEntered = true;
  }

  exit(index: number): VmExit | undefined {
    const vcpu = this.#at(index);
    if (!this.#isEntered) return this.#exit;
    if (this.#result === undefined) return undefined;
    const result = this.#result;
    this.#result = undefined;
    this.#isEntered = false;
    this.#exit = vcpu.finish(result);
    if (this.#exit === undefined) {
      this.#isEntered = true;
    } else if (this.#isKicked) {
      this.#isKicked = false;
      vcpu.setImmediateExit(false);
    }
    return this.#exit;
  }

  kick(index: number): void {
    this.#at(index).setImmediateExit(true);
    this.#isKicked = true;
  }

  isStuck(index: number): boolean {
    return this.#at(index).isStuck();
  }

  /** False where the event loop is to have its turn. */
  spin(limitMs: number, turnMs = Number.POSITIVE_INFINITY): boolean {
    const startMs = performance.now();
    const endMs = startMs + Math.min(limitMs, SPIN_MAX_MS);
    const turnAtMs = turnMs < EARLY_MS ? startMs : startMs + turnMs;
    for (let nowMs = startMs; ; nowMs = performance.now()) {
      if (!this.#isKicked && this.#wantsTurn(nowMs, turnAtMs)) return false;
      if (this.#hears()) return true;
      if (!this.#isEntered) return false;
      if (nowMs >= endMs && nowMs > startMs) return limitMs < SPIN_MAX_MS;
      this.#arm(nowMs, Math.min(endMs, turnAtMs));
      if (this.#run()) return true;
    }
  }

  /** The event loop's turn, however long the guest would wait. */
  async wait(_ms: number): Promise<void> {
    // setImmediate's turn ends with libuv's word that there is something to do at once: setImmediate's own callback.
    const turn = waitAsync(this.#turn, 0, 0);
    Atomics.notify(this.#turn, 0);
    await turn;
    this.#turnedMs = performance.now();
    this.#lookedMs = this.#turnedMs;
    const timeoutMs = this.#loop.timeoutMs();
    this.#loopDueMs = timeoutMs < 0 ? Number.POSITIVE_INFINITY : this.#turnedMs + timeoutMs;
    if (Atomics.exchange(this.#words, Watch.LOOP, 0) !== 0) this.#isArmed = false;
    this.#hears();
  }

  ring(): void {
    Atomics.add(this.#words, Watch.BELL, 1);
  }

  async close(): Promise<void> {
    clearInterval(this.#keepAlive);
    await this.#watch?.close();
    noLongerAlive(this);
  }

  abandon(): void {
    this.#watch?.abandon();
  }

  /** @param turnAtMs when the event loop's turn is due for what the run loop did. */
  #wantsTurn(nowMs: number, turnAtMs: number): boolean {
    if (nowMs < this.#turnedMs + OWN_MS) return false;
    if (nowMs >= turnAtMs || nowMs >= this.#loopDueMs) return true;
    if (this.#isArmed) return Atomics.load(this.#words, Watch.LOOP) !== 0;
    if (nowMs < this.#lookedMs + LOOK_MS) return false;
    this.#lookedMs = nowMs;
    this.#looks++;
    if (!this.#native.isReadable(this.#loop.fd)) return false;
    this.#events++;
    return true;
  }

  again(): boolean {
    return this.#isEntered && this.#run();
  }

  /** Enters the guest; true: it came out with what `exit()` reads. */
  #run(): boolean {
    const words = this.#words;
    Atomics.store(words, Watch.GUEST_THREAD, this.#threadId);
    // A kick has the guest's last instruction completed: that takes an entry.
    const isRung = !this.#isKicked && Atomics.load(words, Watch.BELL) !== this.#heard;
    const result = isRung ? -EINTR : this.#native.run(this.#vcpu!.fd);
    Atomics.store(words, Watch.GUEST_THREAD, 0);
    if (result !== -EINTR || this.#isKicked) {
      this.#result = result;
      return true;
    }
    if (!isRung) this.#vcpu!.finish(result, INTERRUPTED);
    return false;
  }

  /** Has the guest kicked at `endMs`, or when something else is to be looked at. */
  #arm(nowMs: number, endMs: number): void {
    if (this.#isKicked) return;
    this.#timer.arm(Math.max(this.#runEndMs(nowMs, endMs), nowMs + RUN_MIN_MS), nowMs);
  }

  #runEndMs(nowMs: number, endMs: number): number {
    const ownMs = this.#turnedMs + OWN_MS;
    const turnMs = Math.max(this.#loopDueMs, ownMs);
    if (this.#isArmed) return Math.min(endMs, turnMs);
    if (nowMs < ownMs) {
      // Where somebody watches, that is gone on with then.
      if (this.#watch !== undefined) return Math.min(endMs, ownMs);
    } else if (this.#isWatching()) {
      return Math.min(endMs, turnMs);
    }
    return Math.min(endMs, turnMs, this.#lookedMs + LOOK_MS);
  }

  /** Whether a thread watches the event loop, which is begun where it is worth it, and gone on with after a turn. */
  #isWatching(): boolean {
    if (this.#isArmed) return true;
    if (this.#watch === undefined) {
      if (this.#looks < WATCH_AFTER_LOOKS && this.#events < WATCH_AFTER_EVENTS) return false;
      this.#watchThread();
    }
    // It takes a while to start.
    if (Atomics.load(this.#words, Watch.READY) === 0) return false;
    const watch = this.#watch!;
    if (this.#isLoopWatched) watch.watchLoopAgain(this.#loop.fd);
    else watch.watchLoop(this.#loop.fd);
    this.#isLoopWatched = true;
    this.#isArmed = true;
    return true;
  }

  #watchThread(): WatchThread {
    this.#watch ??= new WatchThread(this.#native, this.#vmFd, this.#words);
    return this.#watch;
  }

  /** Whether the bell has rung; tells doorbells. @throws KvmThreadError where the watching thread has failed. */
  #hears(): boolean {
    const count = Atomics.load(this.#words, Watch.BELL);
    if (count === this.#heard) return false;
    this.#heard = count;
    this.#watch?.serve();
    return true;
  }

  #at(index: number): KvmVcpu {
    if (index !== 0 || this.#vcpu === undefined) throw new RangeError(`index: there is no vCPU ${index}`);
    return this.#vcpu;
  }
}
