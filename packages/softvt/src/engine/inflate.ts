interface NodeProcess {
  /** From Node 20.16 on. */
  getBuiltinModule?(name: "zlib"): { inflateRawSync(packed: Uint8Array): Uint8Array<ArrayBuffer> };
}
interface NodeBuffer {
  from(text: string, encoding: "base64"): Uint8Array<ArrayBuffer>;
}

/**
 * The bytes that base64 text holds, compressed by deflate (RFC 1951): the form in which a JavaScript file
 * brings them along without `fetch` and without a file system.
 *
 * Node's own functions are taken where they are, without an import: streams cost it 15 ms more.
 *
 * @param length how many they are, uncompressed.
 * @throws RangeError where they are not `length`.
 */
export async function inflateBase64(base64: string, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const { process, Buffer } = globalThis as { process?: NodeProcess; Buffer?: NodeBuffer };
  const zlib = process?.getBuiltinModule?.("zlib");
  if (zlib !== undefined && Buffer !== undefined) {
    const bytes = zlib.inflateRawSync(Buffer.from(base64, "base64"));
    return checked(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length), length);
  }
  return checked(await inflateByStream(base64), length);
}

function checked(bytes: Uint8Array<ArrayBuffer>, length: number): Uint8Array<ArrayBuffer> {
  if (bytes.length !== length)
    throw new RangeError(`inflateBase64: expected ${length} bytes, got ${bytes.length}`);
  return bytes;
}

/** The same by what browsers have, too. */
export async function inflateByStream(base64: string): Promise<Uint8Array<ArrayBuffer>> {
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const { readable, writable } = new DecompressionStream("deflate-raw");
  const writer = writable.getWriter();
  const chunks: Uint8Array[] = [];
  let length = 0;
  const read = async (): Promise<void> => {
    const reader = readable.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      chunks.push(value);
      length += value.length;
    }
  };
  await Promise.all([read(), writer.write(packed), writer.close()]);
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
