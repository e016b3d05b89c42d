import { describe, expect, it } from "vitest";
import { ExecOutputParser, execCommandLine } from "../src/index.ts";
import { randomBytes } from "./guest.ts";

const NONCE = "0123abcd";
const bytesOf = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0));
const begin = `\x1eskep-begin ${NONCE}\n`;
const end = (code: number | string): string => `\x1eskep-end ${NONCE} ${code}\n`;

/** Feeds `stream` in pieces of the given sizes, the last one repeating; what came out. */
function parse(stream: string | Uint8Array, pieces: number[] = [1 << 30]) {
  let output = "";
  let outside = "";
  const parser = new ExecOutputParser(NONCE, {
    output: (bytes) => {
      output += String.fromCharCode(...bytes);
    },
    outside: (bytes) => {
      outside += String.fromCharCode(...bytes);
    },
  });
  const bytes = typeof stream === "string" ? bytesOf(stream) : stream;
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = pieces[Math.min(i, pieces.length - 1)] ?? 1;
    parser.push(bytes.slice(at, at + size));
    at += size;
  }
  parser.close();
  return { output, outside, state: parser.state, code: parser.exitCode };
}

describe("a run's output", () => {
  it("is what stands between the markers", () => {
    expect(parse(`boot\n${begin}hello\n${end(0)}bye\n`)).toEqual({
      output: "hello\n",
      outside: "boot\nbye\n",
      state: "done",
      code: 0,
    });
  });

  it("need not end in a newline, nor be text, nor be there", () => {
    expect(parse(`${begin}abc${end(42)}`)).toMatchObject({ output: "abc", code: 42 });
    expect(parse(`${begin}${end(255)}`)).toMatchObject({ output: "", code: 255 });
    const all = String.fromCharCode(...Array.from({ length: 256 }, (_, i) => i));
    expect(parse(`${begin}${all}${end(1)}`)).toMatchObject({ output: all, code: 1 });
  });

  it("is the same whatever pieces it comes in", () => {
    const stream = `x\x1e${begin}\x1e\x1eskep-end ${NONCE}\n a\x1eskep-end other 3\n${end(7)}tail`;
    const whole = parse(stream);
    expect(whole).toMatchObject({ output: `\x1e\x1eskep-end ${NONCE}\n a\x1eskep-end other 3\n`, code: 7 });
    for (let size = 1; size < stream.length; size++) {
      expect(parse(stream, [size]), `${size}`).toEqual(whole);
      expect(parse(stream, [size, 1 << 30]), `${size} first`).toEqual(whole);
    }
  });

  it("is not held back longer than a marker may be", () => {
    const seen: string[] = [];
    const parser = new ExecOutputParser(NONCE, {
      output: (bytes) => seen.push(String.fromCharCode(...bytes)),
    });
    parser.push(bytesOf(`${begin}prompt> `));
    expect(seen).toEqual(["prompt> "]);
    parser.push(bytesOf("\x1eskep-"));
    expect(seen).toEqual(["prompt> "]);
    parser.push(bytesOf("no"));
    expect(seen.join("")).toBe("prompt> \x1eskep-no");
  });
});

describe("markers", () => {
  it("count only with the nonce, in order, and once", () => {
    expect(parse(end(3))).toMatchObject({ state: "waiting", code: undefined });
    expect(parse(`\x1eskep-begin wrong\n${begin}x`)).toMatchObject({ output: "x", state: "running" });
    expect(parse(`${begin}a${begin}${end(1)}${begin}b${end(2)}`)).toMatchObject({
      output: `a${begin}`,
      outside: `${begin}b${end(2)}`,
      code: 1,
    });
  });

  it.each(["", "256", "999", "1000", "-1", "x", "1 "])("take no exit code %j", (code) => {
    expect(parse(`${begin}${end(code)}`)).toMatchObject({ output: end(code), state: "running" });
  });

  it("may end in CR LF", () => {
    expect(parse(`\x1eskep-begin ${NONCE}\r\nx\x1eskep-end ${NONCE} 5\r\n`)).toMatchObject({
      output: "x",
      code: 5,
    });
  });

  it("that stay unfinished are output when the port closes", () => {
    expect(parse(`${begin}a\x1eskep-end ${NONCE} 1`)).toMatchObject({
      output: `a\x1eskep-end ${NONCE} 1`,
      state: "running",
      code: undefined,
    });
  });

  it("are found in noise, which comes through unharmed", () => {
    const random = randomBytes(99);
    const alphabet = `\x1eskep-end ${NONCE} 12\n`;
    for (let round = 0; round < 300; round++) {
      const noise = Array.from({ length: random() % 200 }, () => alphabet[random() % alphabet.length]).join(
        "",
      );
      if (noise.includes(`\x1eskep-end ${NONCE} `)) continue;
      const stream = begin + noise + end(9);
      expect(parse(stream, [1 + (random() % 20)])).toMatchObject({ output: noise, code: 9 });
    }
  });
});

describe("the kernel command line's part", () => {
  it("names channel and nonce, and the command in base64 of its UTF-8", () => {
    expect(execCommandLine({ nonce: NONCE })).toBe(`skep.channel=ttyS1 skep.nonce=${NONCE}`);
    expect(execCommandLine({ nonce: NONCE, channel: "ttyS0", command: "echo \u00fc" })).toBe(
      `skep.channel=ttyS0 skep.nonce=${NONCE} skep.exec=ZWNobyDDvA==`,
    );
  });

  it("refuses what would break out of a word", () => {
    expect(() => execCommandLine({ nonce: "a b" })).toThrow(RangeError);
    expect(() => execCommandLine({ nonce: NONCE, channel: "../x" })).toThrow(RangeError);
    expect(() => new ExecOutputParser("", { output: () => {} })).toThrow(RangeError);
  });
});
