/**
 * How the run loop shares its thread: the only place in this package that knows of the host's event loop.
 * A test gives a scheduler of its own and decides when time passes.
 */
export interface Scheduler {
  /** Monotonic host time in ms, with a fraction. */
  hostMs(): number;
  /** Lets the event loop run what is due: timers, completions of I/O, messages. */
  yield(): Promise<void>;
  /** Resolves after `ns` (may be `Infinity`) or when `signal` aborts, whichever comes first; never rejects. */
  sleep(ns: number, signal: AbortSignal): Promise<void>;
}

/** Longest delay that `setTimeout` takes, in ms (a signed 32-bit number). */
const TIMEOUT_MAX_MS = 0x7fff_ffff;
const NS_PER_MS = 1_000_000;

interface ImmediateHost {
  setImmediate?: (callback: () => void) => unknown;
}

/**
 * The scheduler for Node and browsers.
 *
 * `setTimeout` has a grain of 1 ms (4 ms where a browser sees it nested), too coarse for a guest that waits
 * 50 µs for a device. Whole milliseconds are slept, the rest is spent yielding.
 */
export class HostScheduler implements Scheduler {
  readonly #yield: () => Promise<void>;

  constructor() {
    const { setImmediate } = globalThis as ImmediateHost;
    // Node's message ports starve its timers and I/O when they post to themselves; setImmediate is fair.
    this.#yield = setImmediate ? () => new Promise((done) => setImmediate(done)) : channelYield();
  }

  hostMs(): number {
    return performance.now();
  }

  yield(): Promise<void> {
    return this.#yield();
  }

  async sleep(ns: number, signal: AbortSignal): Promise<void> {
    const end = performance.now() + ns / NS_PER_MS;
    while (!signal.aborted) {
      const left = end - performance.now();
      if (left <= 0) return;
      if (left < 1) await this.#yield();
      else await timeout(Math.min(Math.floor(left), TIMEOUT_MAX_MS), signal);
    }
  }
}

function timeout(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    const finish = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", finish);
      done();
    };
    const timer = setTimeout(finish, ms);
    signal.addEventListener("abort", finish);
  });
}

/** A message to oneself is the only way to yield in a browser that is not slowed down to 4 ms. */
function channelYield(): () => Promise<void> {
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.addEventListener("message", () => waiting.shift()?.());
  port1.start();
  return () =>
    new Promise((done) => {
      waiting.push(done);
      port2.postMessage(0);
    });
}
