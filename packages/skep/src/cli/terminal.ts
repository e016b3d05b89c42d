import type { ReadStream } from "node:tty";

/** Ctrl-A, the key that begins a command to skep itself. */
const ESCAPE = 0x01;

/** What Ctrl-A and a following key do. */
export const ESCAPE_HELP = [
  "Ctrl-A x       quit: the guest loses power",
  "Ctrl-A h       this help",
  "Ctrl-A Ctrl-A  send Ctrl-A to the guest",
].join("\r\n");

/**
 * Takes the commands that begin with Ctrl-A out of what is typed; the rest is the guest's. A Ctrl-A may be the
 * last byte of one piece and its command the first of the next.
 */
export class EscapeFilter {
  readonly #onQuit: () => void;
  readonly #onHelp: () => void;
  #escaped = false;

  constructor(onQuit: () => void, onHelp: () => void) {
    this.#onQuit = onQuit;
    this.#onHelp = onHelp;
  }

  /** What of `bytes` is for the guest. A Ctrl-A before a key that means nothing vanishes with that key. */
  take(bytes: Uint8Array): Uint8Array {
    const kept: number[] = [];
    for (const byte of bytes) {
      if (!this.#escaped) {
        if (byte === ESCAPE) this.#escaped = true;
        else kept.push(byte);
        continue;
      }
      this.#escaped = false;
      const key = String.fromCharCode(byte).toLowerCase();
      if (byte === ESCAPE) kept.push(ESCAPE);
      else if (key === "x") this.#onQuit();
      else if (key === "h" || key === "?") this.#onHelp();
    }
    return Uint8Array.from(kept);
  }
}

/** The process's terminal as a guest's serial line. */
export interface TerminalLine {
  /** Bytes from the keyboard, or from a pipe. */
  onInput(bytes: Uint8Array): void;
  /** Ctrl-A x was typed. */
  onQuit(): void;
}

/**
 * Puts the terminal into raw mode, so that the guest sees every key as it is typed (Ctrl-C too), and returns
 * what puts it back; that is also done when the process ends. A stdin that is no terminal is read as it is, without
 * commands: its bytes are data.
 */
export function attachTerminal(
  line: TerminalLine,
  input: ReadStream | NodeJS.ReadStream = process.stdin,
): () => void {
  const help = (): void => {
    process.stderr.write(`\r\n${ESCAPE_HELP}\r\n`);
  };
  const filter = new EscapeFilter(() => line.onQuit(), help);
  const isTerminal = input.isTTY === true;
  const onData = (bytes: Uint8Array): void => line.onInput(isTerminal ? filter.take(bytes) : bytes);
  const restore = (): void => {
    if (isTerminal) input.setRawMode(false);
  };
  if (isTerminal) input.setRawMode(true);
  input.on("data", onData);
  input.resume();
  process.once("exit", restore);
  return () => {
    process.off("exit", restore);
    input.off("data", onData);
    input.pause();
    restore();
  };
}
