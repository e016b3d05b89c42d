/**
 * The 256-bit registers of a local APIC (IRR, ISR, TMR: SDM Vol. 3A sec. 11.8.4): one bit a vector, in
 * eight 32-bit words as the guest reads them.
 *
 * A summary byte says which words are not zero, so that the highest vector costs two `clz32` instead of a
 * scan: it is asked for after every change of an APIC's state.
 */
export class VectorSet {
  readonly #words = new Uint32Array(8);
  #summary = 0;

  has(vector: number): boolean {
    return ((this.#words[vector >>> 5]! >>> (vector & 31)) & 1) !== 0;
  }

  add(vector: number): void {
    const index = vector >>> 5;
    this.#words[index] = this.#words[index]! | (1 << (vector & 31));
    this.#summary |= 1 << index;
  }

  delete(vector: number): void {
    const index = vector >>> 5;
    const word = this.#words[index]! & ~(1 << (vector & 31));
    this.#words[index] = word;
    if (word === 0) this.#summary &= ~(1 << index);
  }

  clear(): void {
    this.#words.fill(0);
    this.#summary = 0;
  }

  /** The highest vector in the set, or -1 if it is empty. */
  highest(): number {
    if (this.#summary === 0) return -1;
    const index = 31 - Math.clz32(this.#summary);
    return (index << 5) + 31 - Math.clz32(this.#words[index]!);
  }

  /** Word `index`, 0 to 7: vectors `32 * index` to `32 * index + 31`, unsigned. */
  word(index: number): number {
    return this.#words[index]!;
  }

  /** The eight words, for saving. */
  save(): number[] {
    return [...this.#words];
  }

  /** Takes eight unsigned words. */
  restore(words: readonly number[]): void {
    this.#words.set(words);
    this.#summary = 0;
    for (let index = 0; index < 8; index++) if (this.#words[index] !== 0) this.#summary |= 1 << index;
  }
}
