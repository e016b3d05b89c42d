/** The timers that end runs of vCPUs on the VM's thread. */
import { type Native, TimerClock } from "./native.ts";

const NS_PER_MS = 1_000_000;

/**
 * Kicks the thread out of KVM_RUN, or, where it goes off outside, out of the next one.
 *
 * It stays armed from exit to exit until it goes off, so that a run may be interrupted by what is left of an earlier one's
 * time: arming and disarming it for each took 1.6 µs, more than all else that is done about an exit. One serves all VMs
 * of a thread, as each eats the kicks that others have left.
 */
export class KickTimer {
  static #ofThread: KickTimer | undefined;

  readonly #native: Native;
  #timer: number | undefined;
  /** What it was armed with, in ns; infinite while it is not. */
  #armedNs = Number.POSITIVE_INFINITY;

  /** The calling thread's: threads have modules, and so a timer, of their own. */
  static ofThread(native: Native): KickTimer {
    KickTimer.#ofThread ??= new KickTimer(native);
    return KickTimer.#ofThread;
  }

  private constructor(native: Native) {
    this.#native = native;
  }

  /** Has the calling thread kicked within `ns` of the time that it runs; false: sooner than that. @throws KvmError */
  arm(ns: number): boolean {
    if (this.#armedNs <= ns) return false;
    this.#timer ??= this.#native.kickTimer(TimerClock.THREAD_CPU);
    this.#native.setKickTimer(this.#timer, ns);
    this.#armedNs = ns;
    return true;
  }

  /** A kick was taken: the next run has its time to itself. */
  wentOff(): void {
    this.#armedNs = Number.POSITIVE_INFINITY;
  }
}

/**
 * Kicks the thread out of KVM_RUN at a time: a guest that halts there uses none of the thread's. It, too, stays armed where
 * it goes off early enough: whoever is kicked too early looks and goes on. One serves all VMs of a thread.
 */
export class DeadlineTimer {
  static #ofThread: DeadlineTimer | undefined;

  readonly #native: Native;
  #timer: number | undefined;
  /** When it goes off, by `performance.now()`. */
  #atMs = Number.NEGATIVE_INFINITY;

  /** The calling thread's. */
  static ofThread(native: Native): DeadlineTimer {
    DeadlineTimer.#ofThread ??= new DeadlineTimer(native);
    return DeadlineTimer.#ofThread;
  }

  private constructor(native: Native) {
    this.#native = native;
  }

  /** Has the calling thread kicked at `atMs` or before, where it is `nowMs`: later than that, and finite. @throws KvmError */
  arm(atMs: number, nowMs: number): void {
    if (this.#atMs > nowMs && this.#atMs <= atMs) return;
    this.#timer ??= this.#native.kickTimer(TimerClock.MONOTONIC);
    this.#native.setKickTimer(this.#timer, Math.ceil((atMs - nowMs) * NS_PER_MS));
    this.#atMs = atMs;
  }
}
