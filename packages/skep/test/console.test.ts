import { Console } from "skep";
import { describe, expect, it } from "vitest";

/** A receiver with room for `room` bytes. */
class Line {
  room = 0;
  readonly received: number[] = [];
  receive(bytes: ArrayLike<number>): number {
    const taken = Math.min(bytes.length, this.room);
    this.received.push(...Array.from(bytes).slice(0, taken));
    this.room -= taken;
    return taken;
  }
}

const print = (console_: Console, text: string): void => {
  for (const byte of new TextEncoder().encode(text)) console_.onTransmit(byte);
};

describe("output", () => {
  it("comes in one piece once the guest's slice is over", async () => {
    const seen: string[] = [];
    const serial = new Console();
    serial.on("data", (bytes) => seen.push(new TextDecoder().decode(bytes)));
    print(serial, "login: ");
    expect(seen).toEqual([]);
    await Promise.resolve();
    expect(seen).toEqual(["login: "]);
  });

  it("does not grow without bound while a guest prints and never yields", () => {
    const sizes: number[] = [];
    const serial = new Console();
    serial.on("data", (bytes) => sizes.push(bytes.length));
    print(serial, "x".repeat(10_000));
    expect(sizes).toEqual([4096, 4096]);
  });

  it("keeps the last lines, an unfinished one too, and only so much history", () => {
    const serial = new Console({ historyCharacters: 100 });
    print(serial, "first\r\n");
    for (let line = 0; line < 1000; line++) print(serial, `line ${line}\r\n`);
    print(serial, "prompt");
    expect(serial.tail(3)).toEqual(["line 998", "line 999", "prompt"]);
    expect(serial.tail(10_000).length).toBeLessThan(1000);
  });

  it("is waited for across pieces, to the end of the match", async () => {
    const serial = new Console();
    const found = serial.waitFor(/lo+gin:/);
    print(serial, "kernel\nloo");
    await Promise.resolve();
    print(serial, "gin: later");
    expect(await found).toBe("kernel\nloogin:");
  });

  it("is no longer waited for after an abort", async () => {
    const serial = new Console();
    const abort = new AbortController();
    const found = serial.waitFor("never", abort.signal);
    abort.abort(new Error("too long"));
    await expect(found).rejects.toThrow("too long");
    expect(serial.listenerCount("data")).toBe(0);
  });
});

describe("input", () => {
  it("waits for the guest's DTR and RTS, then for room", () => {
    const line = new Line();
    const serial = new Console();
    serial.attach(line);
    line.room = 16;
    serial.write("ls\n");
    serial.onModemOutputs({ dtr: true, rts: false });
    expect(line.received).toEqual([]);
    line.room = 2;
    serial.onModemOutputs({ dtr: true, rts: true });
    expect(line.received).toEqual([0x6c, 0x73]);
    line.room = 16;
    serial.onReceiveSpace();
    expect(line.received).toEqual([0x6c, 0x73, 0x0a]);
  });

  it("goes to a guest that only polls at once, as UTF-8", () => {
    const line = new Line();
    const serial = new Console({ waitForReady: false });
    serial.attach(line);
    line.room = 16;
    serial.write("é");
    expect(line.received).toEqual([0xc3, 0xa9]);
  });
});
