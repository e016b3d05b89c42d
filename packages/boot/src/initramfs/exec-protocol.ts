/**
 * How a command's output and exit code come out of a guest over a serial port: what `/init` writes and the host reads.
 *
 * ```text
 *   RS "skep-begin " nonce LF        the port is raw from here on
 *   …                                the command's stdout and stderr, byte for byte
 *   RS "skep-end " nonce " " code LF
 * ```
 *
 * The command's input is empty; its output goes through a pipe, so it sees no terminal; what it leaves running is
 * killed at its end.
 *
 * RS is 0x1E. The nonce is the host's, so that no output holds a marker by accident. The port is to be one of its
 * own (ttyS1): then nothing but the command writes to it. On the console's port the kernel's messages share the
 * line; `/init` lowers the console's log level to emergencies meanwhile, and what the kernel prints all the same
 * is in the output. A command may forge the marker: its exit code is the guest's word in any case.
 */

export interface ExecParameters {
  /** 1 to 64 characters of 0-9, a-z, A-Z; random, and new for each run. */
  readonly nonce: string;
  /** Serial port that carries the output, without "/dev/". Default "ttyS1". */
  readonly channel?: string;
  /** Shell command, where it is not in the initramfs. On the kernel's command line it takes 4/3 of its bytes. */
  readonly command?: string;
}

const RECORD_SEPARATOR = 0x1e;
const LINE_FEED = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const MAX_CODE_DIGITS = 3;

/**
 * The kernel command line's part for a run: `skep.channel=ttyS1 skep.nonce=… skep.exec=…`.
 * @throws RangeError for a nonce or channel with other characters.
 */
export function execCommandLine(parameters: ExecParameters): string {
  checkNonce(parameters.nonce);
  const channel = parameters.channel ?? "ttyS1";
  if (!/^[A-Za-z0-9]{1,32}$/.test(channel)) {
    throw new RangeError(`channel: expected a device name such as ttyS1, got "${channel}"`);
  }
  const words = [`skep.channel=${channel}`, `skep.nonce=${parameters.nonce}`];
  if (parameters.command !== undefined) words.push(`skep.exec=${base64(parameters.command)}`);
  return words.join(" ");
}

export interface ExecSink {
  /** The command's output as it comes; valid during the call. */
  output(bytes: Uint8Array): void;
  /** What came before the command and after it (boot messages on a shared port). Default discarded. */
  outside?(bytes: Uint8Array): void;
}

/** Takes what the serial port sends, in pieces of any size, and tells output from the markers around it. */
export class ExecOutputParser {
  readonly #sink: ExecSink;
  readonly #begin: Uint8Array;
  readonly #end: Uint8Array;
  #state: "waiting" | "running" | "done" = "waiting";
  #exitCode: number | undefined;
  /** The start of what may be a marker; shorter than the longest marker. */
  #held = new Uint8Array(0);

  /** @throws RangeError for a malformed nonce. */
  constructor(nonce: string, sink: ExecSink) {
    checkNonce(nonce);
    this.#sink = sink;
    const encoder = new TextEncoder();
    this.#begin = encoder.encode(`\x1eskep-begin ${nonce}`);
    this.#end = encoder.encode(`\x1eskep-end ${nonce} `);
  }

  /** "waiting" for the command to start, "running", or "done" with an exit code. */
  get state(): "waiting" | "running" | "done" {
    return this.#state;
  }

  /** 0 to 255 once the state is "done". */
  get exitCode(): number | undefined {
    return this.#exitCode;
  }

  push(bytes: Uint8Array): void {
    let rest = bytes;
    if (this.#held.length > 0) {
      rest = new Uint8Array(this.#held.length + bytes.length);
      rest.set(this.#held);
      rest.set(bytes, this.#held.length);
      this.#held = new Uint8Array(0);
    }
    let from = 0;
    for (let at = 0; at < rest.length; ) {
      const start = this.#state === "done" ? -1 : rest.indexOf(RECORD_SEPARATOR, at);
      if (start < 0) break;
      const marker = this.#match(rest, start);
      if (marker === "none") {
        at = start + 1;
        continue;
      }
      this.#emit(rest.subarray(from, start));
      from = start;
      if (marker === "partial") {
        this.#held = rest.slice(start);
        return;
      }
      from = at = marker.end;
      this.#state = marker.code === undefined ? "running" : "done";
      this.#exitCode = marker.code;
    }
    this.#emit(rest.subarray(from));
  }

  /** The port is closed: what was held back for a marker was none. */
  close(): void {
    const held = this.#held;
    this.#held = new Uint8Array(0);
    this.#emit(held);
  }

  #emit(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    if (this.#state === "running") this.#sink.output(bytes);
    else this.#sink.outside?.(bytes);
  }

  /** Whether the marker that is due stands at `start`. */
  #match(bytes: Uint8Array, start: number): "none" | "partial" | { end: number; code: number | undefined } {
    const due = this.#state === "waiting" ? this.#begin : this.#end;
    for (let i = 0; i < due.length; i++) {
      const byte = bytes[start + i];
      if (byte === undefined) return "partial";
      if (byte !== due[i]) return "none";
    }
    let at = start + due.length;
    let digits = "";
    if (this.#state === "running") {
      while (digits.length < MAX_CODE_DIGITS && isDigit(bytes[at])) {
        digits += String.fromCharCode(bytes[at] ?? 0);
        at += 1;
      }
    }
    // A port whose output processing could not be turned off sends CR LF.
    if (bytes[at] === CARRIAGE_RETURN) at += 1;
    if (at >= bytes.length) return "partial";
    if (bytes[at] !== LINE_FEED) return "none";
    if (this.#state === "waiting") return { end: at + 1, code: undefined };
    const code = Number.parseInt(digits, 10);
    return code <= 255 ? { end: at + 1, code } : "none";
  }
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

function checkNonce(nonce: string): void {
  if (/^[0-9A-Za-z]{1,64}$/.test(nonce)) return;
  throw new RangeError(`nonce: expected 1 to 64 letters and digits, got "${nonce}"`);
}

/** Base64 of a text's UTF-8. */
function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
