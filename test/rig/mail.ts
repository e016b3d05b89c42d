/**
 * What a rig's cases send to the host besides their records: bytes, over the machine's third serial port.
 *
 * ```text
 *   mail CASE BYTES\n      a line: the case's name as JSON, how many bytes follow
 *   …                      the bytes
 * ```
 */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";

const PORT = "/dev/ttyS2";
const HEADER = /^mail (".*") (\d+)$/;
const LINE_FEED = 10;

/** Inside: sends the bytes of the case called `name`. About half a megabyte a second. */
export function sendToHost(name: string, bytes: Uint8Array): void {
  execFileSync("stty", ["-F", PORT, "raw", "-echo", "115200"]);
  const fd = openSync(PORT, "w");
  try {
    const header = new TextEncoder().encode(`mail ${JSON.stringify(name)} ${bytes.length}\n`);
    for (const piece of [header, bytes]) {
      for (let sent = 0; sent < piece.length; ) sent += writeSync(fd, piece, sent);
    }
  } finally {
    closeSync(fd);
  }
}

/** On the host: what each case sent. @throws Error where what came is cut short, or no mail. */
export function readMail(received: Uint8Array): Map<string, Uint8Array> {
  const mail = new Map<string, Uint8Array>();
  for (let at = 0; at < received.length; ) {
    const end = received.indexOf(LINE_FEED, at);
    const line = new TextDecoder().decode(received.subarray(at, end < 0 ? undefined : end));
    const [, name, length] = HEADER.exec(line) ?? [];
    if (end < 0 || name === undefined)
      throw new Error(`mail: expected a header, got ${JSON.stringify(line.slice(0, 80))}`);
    at = end + 1 + Number(length);
    if (at > received.length)
      throw new Error(`mail: ${name} has ${received.length - end - 1} bytes of ${length}`);
    mail.set(JSON.parse(name), received.subarray(end + 1, at));
  }
  return mail;
}
