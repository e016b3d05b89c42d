/**
 * What a rig's guest says and its host reads: lines, one JSON record for each case, then one that closes the list.
 *
 * ```text
 *   rig {"script":"smoke","name":"runs real mode","status":"passed","ms":12}
 *   rig {"script":"smoke","name":"runs long mode","status":"failed","message":"…","ms":40}
 *   rig {"closed":true,"cases":2}
 * ```
 *
 * Any other line is the scripts' own output. JSON has no line breaks outside its strings, where they are escaped: a
 * record is one line whatever its message holds.
 */

/** One case's result. */
export interface RigRecord {
  readonly script: string;
  readonly name: string;
  readonly status: "passed" | "failed" | "skipped";
  /** Why it failed or was skipped. */
  readonly message?: string;
  /** Milliseconds by the clock inside. */
  readonly ms: number;
}

/** The last line: how many records there should have been. */
export interface RigClosing {
  readonly closed: true;
  readonly cases: number;
}

const PREFIX = "rig ";

/** A record as the line that stands for it, with its end. */
export function recordLine(record: RigRecord | RigClosing): string {
  return `${PREFIX}${JSON.stringify(record)}\n`;
}

export interface RecordSink {
  record(record: RigRecord): void;
  /** A line that is no record, without its end. */
  output(line: string): void;
}

/** Takes the guest's bytes in pieces of any size and tells records from output. */
export class RecordReader {
  readonly #sink: RecordSink;
  readonly #decoder = new TextDecoder();
  #partial = "";
  #count = 0;
  #closing: RigClosing | undefined;

  constructor(sink: RecordSink) {
    this.#sink = sink;
  }

  /** True once the closing line came, and as many records before it as it says. */
  get isComplete(): boolean {
    return this.#closing?.cases === this.#count;
  }

  push(bytes: Uint8Array): void {
    const lines = (this.#partial + this.#decoder.decode(bytes, { stream: true })).split("\n");
    this.#partial = lines.pop()!;
    for (const line of lines) this.#take(line.replace(/\r$/, ""));
  }

  /** The line is closed: what has no end yet counts as a line. */
  end(): void {
    const rest = this.#partial + this.#decoder.decode();
    this.#partial = "";
    if (rest !== "") this.#take(rest);
  }

  #take(line: string): void {
    const parsed = line.startsWith(PREFIX) ? parse(line.slice(PREFIX.length)) : undefined;
    if (parsed === undefined) this.#sink.output(line);
    else if ("closed" in parsed) this.#closing = parsed;
    else {
      this.#count++;
      this.#sink.record(parsed);
    }
  }
}

/** A record or closing line; `undefined` where the text is neither, such as one that another message cut. */
function parse(text: string): RigRecord | RigClosing | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const found = value as Partial<RigRecord> & Partial<RigClosing>;
  if (found?.closed === true && typeof found.cases === "number") return found as RigClosing;
  const isRecord =
    typeof found?.script === "string" &&
    typeof found.name === "string" &&
    ["passed", "failed", "skipped"].includes(found.status ?? "");
  return isRecord ? (found as RigRecord) : undefined;
}
