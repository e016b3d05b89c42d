import type { ClockTimer } from "./clock.ts";

/**
 * Callbacks run in one call of `fireDue` at most. A guest can program a periodic timer far faster than the
 * host turns; catching up must not keep the VM's thread from its vCPUs and its event loop.
 */
const CALLBACKS_PER_CALL = 1024;

/**
 * The armed timers of one clock: a binary heap by deadline, ties in the order of arming, so that two runs
 * with the same deadlines fire in the same order.
 *
 * Arming and cancelling cost O(log n) and allocate nothing; `nextDeadline` is a field access.
 */
export class TimerQueue {
  /** Called when the earliest deadline moved forward, so that a sleeping run loop can sleep less. */
  onEarlier: (() => void) | undefined;

  #heap: QueuedTimer[] = [];
  #sequence = 0;

  /** Makes a disarmed timer; `callback` gets the deadline that it was armed for (ns). */
  timer(callback: (deadlineNs: number) => void): ClockTimer {
    return new QueuedTimer(this, callback);
  }

  /** Earliest deadline in ns; `Infinity` where nothing is armed. */
  get nextDeadline(): number {
    const first = this.#heap[0];
    return first === undefined ? Number.POSITIVE_INFINITY : first.at;
  }

  /** Number of armed timers. */
  get size(): number {
    return this.#heap.length;
  }

  /**
   * Runs the callbacks of all timers due at `nowNs`, in order of deadline. A callback may arm timers, also
   * its own; those that are due already fire in the same call, up to a limit that keeps the call finite.
   *
   * @returns how many callbacks ran.
   */
  fireDue(nowNs: number): number {
    let fired = 0;
    while (fired < CALLBACKS_PER_CALL) {
      const first = this.#heap[0];
      if (first === undefined || first.at > nowNs) break;
      const deadline = first.at;
      this.remove(first);
      fired++;
      first.callback(deadline);
    }
    return fired;
  }

  /** @internal */
  insert(timer: QueuedTimer, deadlineNs: number): void {
    const before = this.nextDeadline;
    const isArmed = timer.position >= 0;
    timer.at = deadlineNs;
    timer.sequence = this.#sequence++;
    if (isArmed) {
      this.#sink(this.#rise(timer.position));
    } else {
      this.#heap.push(timer);
      timer.position = this.#heap.length - 1;
      this.#rise(timer.position);
    }
    if (deadlineNs < before) this.onEarlier?.();
  }

  /** @internal */
  remove(timer: QueuedTimer): void {
    const position = timer.position;
    if (position < 0) return;
    timer.position = -1;
    const last = this.#heap.pop()!;
    if (last === timer) return;
    this.#heap[position] = last;
    last.position = position;
    this.#sink(this.#rise(position));
  }

  #rise(from: number): number {
    const heap = this.#heap;
    const timer = heap[from]!;
    let position = from;
    while (position > 0) {
      const parent = (position - 1) >> 1;
      const above = heap[parent]!;
      if (!isBefore(timer, above)) break;
      heap[position] = above;
      above.position = position;
      position = parent;
    }
    heap[position] = timer;
    timer.position = position;
    return position;
  }

  #sink(from: number): void {
    const heap = this.#heap;
    const timer = heap[from]!;
    let position = from;
    for (;;) {
      let child = 2 * position + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      const below = heap[child]!;
      if (!isBefore(below, timer)) break;
      heap[position] = below;
      below.position = position;
      position = child;
    }
    heap[position] = timer;
    timer.position = position;
  }
}

function isBefore(a: QueuedTimer, b: QueuedTimer): boolean {
  return a.at < b.at || (a.at === b.at && a.sequence < b.sequence);
}

class QueuedTimer implements ClockTimer {
  /** Place in the heap, or -1 while disarmed. */
  position = -1;
  at = 0;
  sequence = 0;
  readonly callback: (deadlineNs: number) => void;
  readonly #queue: TimerQueue;

  constructor(queue: TimerQueue, callback: (deadlineNs: number) => void) {
    this.#queue = queue;
    this.callback = callback;
  }

  get deadline(): number | undefined {
    return this.position < 0 ? undefined : this.at;
  }

  arm(deadlineNs: number): void {
    // NaN would break the heap's order for every other device; it can only be a device's arithmetic slip.
    if (!(deadlineNs >= Number.NEGATIVE_INFINITY)) {
      throw new RangeError(`deadlineNs: expected a number of nanoseconds, got ${deadlineNs}`);
    }
    if (deadlineNs === Number.POSITIVE_INFINITY) this.cancel();
    else this.#queue.insert(this, deadlineNs);
  }

  cancel(): void {
    this.#queue.remove(this);
  }
}
