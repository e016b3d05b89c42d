/** What the i8042 needs of a keyboard or mouse on one of its two ports. */
export interface Ps2Device {
  /** A byte from the host: a command or its parameter. */
  receive(byte: number): void;
  /** Takes the next byte for the host, or `undefined` where there is none. */
  next(): number | undefined;
  /** Set by the controller: called when `next()` has something again. */
  onData: (() => void) | undefined;
  /** Power-on state. */
  reset(): void;
  save(): unknown;
  /** @throws StateError where `state` is not one of the device's own. */
  restore(state: unknown): void;
}

/** Bytes that a PS/2 device sends of itself. */
export const PS2_REPLY = {
  ACK: 0xfa,
  RESEND: 0xfe,
  /** Basic assurance test passed. */
  BAT_OK: 0xaa,
  ECHO: 0xee,
} as const;

/** Commands that keyboards and mice have in common. */
export const PS2_COMMAND = {
  IDENTIFY: 0xf2,
  /** Typematic rate of a keyboard, sample rate of a mouse; one parameter. */
  SET_RATE: 0xf3,
  ENABLE: 0xf4,
  DISABLE: 0xf5,
  SET_DEFAULTS: 0xf6,
  RESEND: 0xfe,
  RESET: 0xff,
} as const;

/** Bytes on their way to the host: replies first, then what the device has to report. */
export class Ps2Queue {
  #replies: number[] = [];
  #reports: number[] = [];
  #last = 0;
  readonly #capacity: number;

  /** @param capacity most report bytes that are kept. */
  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Answers a command; what was still unread of the last answer goes. */
  reply(...bytes: number[]): void {
    this.#replies = bytes;
  }

  /** Queues a report whole, or refuses it where it does not fit. */
  report(bytes: ArrayLike<number>): boolean {
    if (this.#reports.length + bytes.length > this.#capacity) return false;
    for (let index = 0; index < bytes.length; index++) this.#reports.push((bytes[index] ?? 0) & 0xff);
    return true;
  }

  clearReports(): void {
    this.#reports.length = 0;
  }

  /** The next byte; remembered for a resend. */
  take(): number | undefined {
    const byte = this.#replies.shift() ?? this.#reports.shift();
    if (byte !== undefined) this.#last = byte;
    return byte;
  }

  /** Sends the last byte again. */
  resend(): void {
    this.#replies.unshift(this.#last);
    this.#replies.length = Math.min(this.#replies.length, MAX_REPLY_BYTES);
  }

  save(): { replies: number[]; reports: number[]; last: number } {
    return { replies: [...this.#replies], reports: [...this.#reports], last: this.#last };
  }

  /** Takes over lists that were checked against `MAX_REPLY_BYTES` and the capacity. */
  restore(replies: number[], reports: number[], last: number): void {
    this.#replies = replies;
    this.#reports = reports;
    this.#last = last;
  }
}

/** Longest answer: ACK and three bytes, and a resent byte. */
export const MAX_REPLY_BYTES = 5;
