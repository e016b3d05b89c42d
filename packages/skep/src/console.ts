import { EventEmitter } from "eventemitter3";

/** The serial chip as a console sees it: takes bytes, and says how many it had room for. */
export interface ConsoleLine {
  receive(bytes: ArrayLike<number>): number;
}

export interface ConsoleEvents {
  /** Bytes that the guest sent. The array is the receiver's to keep. */
  data: (bytes: Uint8Array) => void;
}

export interface ConsoleOptions {
  /** Characters of output that `tail()` looks back on. Default 65,536. */
  readonly historyCharacters?: number;
  /**
   * Hold typed bytes back until the guest raises DTR and RTS: Linux does so when it opens the port, after it
   * has emptied the receiver. Default true; false for a guest that only polls the receiver.
   */
  readonly waitForReady?: boolean;
}

/** Bytes that are gathered before they go out though the guest goes on writing. */
const BATCH_BYTES = 4096;

/**
 * A guest's serial console: what it printed comes as `data` events, what is typed goes to it as fast as its
 * receiver takes it.
 *
 * Output is gathered while the guest runs and handed on when the VM's thread comes back to the event loop,
 * or every 4 KiB.
 */
export class Console extends EventEmitter<ConsoleEvents> {
  readonly #history: number;
  readonly #waitForReady: boolean;
  readonly #decoder = new TextDecoder();
  readonly #batch = new Uint8Array(BATCH_BYTES);
  #batched = 0;
  #text = "";
  #line: ConsoleLine | undefined;
  #ready = false;
  #typed: Uint8Array[] = [];

  constructor(options: ConsoleOptions = {}) {
    super();
    this.#history = options.historyCharacters ?? 65_536;
    this.#waitForReady = options.waitForReady ?? true;
  }

  /** Connects the chip that this console's bytes come from and go to. */
  attach(line: ConsoleLine): void {
    this.#line = line;
  }

  /** Types `input` at the guest: text as UTF-8, or bytes as they are. Never blocks; what does not fit waits. */
  write(input: string | Uint8Array): void {
    const bytes = typeof input === "string" ? new TextEncoder().encode(input) : input.slice();
    if (bytes.length > 0) this.#typed.push(bytes);
    this.#feed();
  }

  /** The last `lines` lines that the guest printed, without line ends; the last one may be unfinished. */
  tail(lines: number): string[] {
    this.flush();
    const all = this.#text.split(/\r*\n/);
    if (all.at(-1) === "") all.pop();
    return all.slice(-lines);
  }

  /**
   * Waits until the output that comes from now on matches `pattern`, and gives that output up to the end of
   * the match.
   *
   * @throws the signal's reason where `signal` aborts first.
   */
  waitFor(pattern: string | RegExp, signal?: AbortSignal): Promise<string> {
    return new Promise((resolve, reject) => {
      const decoder = new TextDecoder();
      let seen = "";
      const onData = (bytes: Uint8Array): void => {
        seen += decoder.decode(bytes, { stream: true });
        const at = typeof pattern === "string" ? seen.indexOf(pattern) : seen.search(pattern);
        if (at < 0) return;
        const length = typeof pattern === "string" ? pattern.length : (pattern.exec(seen)?.[0].length ?? 0);
        stop();
        resolve(seen.slice(0, at + length));
      };
      const onAbort = (): void => {
        stop();
        reject(signal?.reason);
      };
      const stop = (): void => {
        this.off("data", onData);
        signal?.removeEventListener("abort", onAbort);
      };
      if (signal?.aborted) {
        reject(signal.reason);
        return;
      }
      this.on("data", onData);
      signal?.addEventListener("abort", onAbort);
    });
  }

  /** Hands on what is gathered. */
  flush(): void {
    if (this.#batched === 0) return;
    const bytes = this.#batch.slice(0, this.#batched);
    this.#batched = 0;
    this.#text += this.#decoder.decode(bytes, { stream: true });
    // Cut seldom, to about the wanted length: cutting at every line would copy the history each time.
    if (this.#text.length > 2 * this.#history) this.#text = this.#text.slice(-this.#history);
    this.emit("data", bytes);
  }

  /** For the chip: a byte that the guest sent. */
  onTransmit(byte: number): void {
    // A microtask runs when the run loop next awaits the event loop: the slice is over by then.
    if (this.#batched === 0) queueMicrotask(() => this.flush());
    this.#batch[this.#batched++] = byte;
    if (this.#batched === BATCH_BYTES) this.flush();
  }

  /** For the chip: there is room again. */
  onReceiveSpace(): void {
    this.#feed();
  }

  /** For the chip: the guest's DTR and RTS. */
  onModemOutputs(outputs: { readonly dtr: boolean; readonly rts: boolean }): void {
    this.#ready = outputs.dtr && outputs.rts;
    this.#feed();
  }

  #feed(): void {
    if (this.#line === undefined || (this.#waitForReady && !this.#ready)) return;
    for (;;) {
      const bytes = this.#typed[0];
      if (bytes === undefined) return;
      const taken = this.#line.receive(bytes);
      if (taken < bytes.length) {
        this.#typed[0] = bytes.subarray(taken);
        return;
      }
      this.#typed.shift();
    }
  }
}
