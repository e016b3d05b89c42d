/** The timer that ends slices of vCPUs that run on the VM's thread. */
import type { Native } from "./native.ts";
import { Struct } from "./structs.ts";

/** struct itimerspec. */
const SPEC_BYTES = 32;

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
  readonly #spec = new Struct(SPEC_BYTES);
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
    this.#timer ??= this.#native.kickTimer();
    this.#native.setKickTimer(this.#timer, ns, this.#spec);
    this.#armedNs = ns;
    return true;
  }

  /** A kick was taken: the next run has its time to itself. */
  wentOff(): void {
    this.#armedNs = Number.POSITIVE_INFINITY;
  }
}
