/** `Atomics.waitAsync`, which TypeScript's ES2022 does not know. */
interface WaitAsync {
  waitAsync(
    words: Int32Array,
    index: number,
    value: number,
    ms?: number,
  ): { async: false } | { async: true; value: Promise<string> };
}

/** Resolves once `words[index]` is notified, `ms` are over, or at once where it is not `value`. */
export async function waitAsync(words: Int32Array, index: number, value: number, ms?: number): Promise<void> {
  const waiting = (Atomics as unknown as WaitAsync).waitAsync(words, index, value, ms);
  if (waiting.async) await waiting.value;
}
