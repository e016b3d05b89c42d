/**
 * What a module costs besides its bytes, in such bytes. With its instance it takes 20 KiB of the process's memory however
 * small it is, and a byte of WebAssembly 5: itself, and 4 for its machine code, Liftoff's as well as TurboFan's (1.3 while
 * V8 has not compiled it).
 */
const MODULE_COST = 4096;

/** Regions that were compiled as one module: V8 frees their code when none of them is left. */
export interface Batch {
  /** Bytes of WebAssembly. */
  readonly bytes: number;
  /** Whether it was seen to run since the clock's hand came by. */
  isUsed: boolean;
}

/**
 * Room for compiled code. The coldest goes first, by a clock: its hand goes from batch to batch in the order in which they
 * were compiled, and spares those that a slice ended in since it came by last.
 */
export class RegionBudget<B extends Batch> {
  readonly #limit: number;
  #used = 0;
  #compiling = 0;
  /** Compiled batches as the hand comes to them. */
  readonly #clock = new Set<B>();

  /** `limit`: bytes of WebAssembly. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Bytes of WebAssembly that are compiled or being compiled, with what they cost besides. */
  get used(): number {
    return this.#used;
  }

  /** Whether so much is being compiled that nothing is to be added. */
  get isBusy(): boolean {
    return 2 * this.#compiling > this.#limit;
  }

  /** Compiling a batch begins. */
  begin({ bytes }: B): void {
    this.#used += bytes + MODULE_COST;
    this.#compiling += bytes + MODULE_COST;
  }

  /** A batch is compiled; what becomes of it, `installed` or `end` says. */
  compiled({ bytes }: B): void {
    this.#compiling -= bytes + MODULE_COST;
  }

  /** From now on the batch may be told to go. */
  installed(batch: B): void {
    this.#clock.add(batch);
  }

  /** Nothing of a batch is left. */
  end(batch: B): void {
    this.#clock.delete(batch);
    this.#used -= batch.bytes + MODULE_COST;
  }

  /** The batch that has to go, if there is too much. */
  victim(): B | undefined {
    if (this.#used <= this.#limit) return undefined;
    // A set's iterator comes to what is put behind it: twice around at most.
    for (const batch of this.#clock) {
      if (!batch.isUsed) return batch;
      batch.isUsed = false;
      this.#clock.delete(batch);
      this.#clock.add(batch);
    }
    return undefined;
  }
}
