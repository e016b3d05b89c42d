/**
 * The bytes that base64 text holds, compressed by deflate (RFC 1951): the form in which a JavaScript file
 * brings them along without `fetch` and without a file system.
 *
 * @param length how many they are, uncompressed.
 * @throws RangeError where they are not `length`.
 */
export async function inflateBase64(base64: string, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const text = atob(base64);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const { readable, writable } = new DecompressionStream("deflate-raw");
  // Not by `new Response(readable)`: it costs Node another 20 ms to load its fetch.
  const writer = writable.getWriter();
  const bytes = new Uint8Array(length);
  let at = 0;
  const read = async (): Promise<void> => {
    const reader = readable.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      bytes.set(value, at);
      at += value.length;
    }
  };
  await Promise.all([read(), writer.write(packed), writer.close()]);
  if (at !== length) throw new RangeError(`inflateBase64: expected ${length} bytes, got ${at}`);
  return bytes;
}
