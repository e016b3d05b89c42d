/**
 * Interrupts on their way into a processor (SDM Vol. 3A sec. 11.8): requested (IRR), in service (ISR), with their
 * trigger mode (TMR), and the task priority that holds them off.
 */
import { FIRST_VECTOR, REG } from "./lapic-registers.ts";
import { VectorSet } from "./vector-set.ts";

/** Interrupts of one priority class share these bits of their vectors. */
const CLASS = 0xf0;

export class InterruptPriority {
  /** TPR, 0 to 0xFF. */
  taskPriority = 0;
  readonly #inService = new VectorSet();
  readonly #level = new VectorSet();
  readonly #requested = new VectorSet();

  /** Processor priority (sec. 11.8.3.1). */
  get processorPriority(): number {
    const inService = this.#inService.highest();
    if (inService < 0 || (this.taskPriority & CLASS) >= (inService & CLASS)) return this.taskPriority;
    return inService & CLASS;
  }

  /** The vector that the processor takes next, or -1 where none is above its priority. */
  get next(): number {
    const vector = this.#requested.highest();
    return vector >= 0 && (vector & CLASS) > (this.processorPriority & CLASS) ? vector : -1;
  }

  /** Enters a request. False where the vector is illegal. */
  request(vector: number, level: boolean): boolean {
    if (vector < FIRST_VECTOR) return false;
    this.#requested.add(vector);
    if (level) this.#level.add(vector);
    else this.#level.delete(vector);
    return true;
  }

  /** The processor takes `vector`. */
  take(vector: number): void {
    this.#requested.delete(vector);
    this.#inService.add(vector);
  }

  /** Ends the interrupt of highest priority that is in service: its vector, or -1 where there is none. */
  end(): number {
    const vector = this.#inService.highest();
    if (vector >= 0) this.#inService.delete(vector);
    return vector;
  }

  isLevelTriggered(vector: number): boolean {
    return this.#level.has(vector);
  }

  /** The register at `register`, from `REG.ISR` to the last of IRR. */
  read(register: number): number {
    const index = (register >>> 4) & 7;
    if (register < REG.TMR) return this.#inService.word(index);
    return register < REG.IRR ? this.#level.word(index) : this.#requested.word(index);
  }

  clear(): void {
    this.taskPriority = 0;
    this.#inService.clear();
    this.#level.clear();
    this.#requested.clear();
  }

  save(): { tpr: number; isr: number[]; tmr: number[]; irr: number[] } {
    return {
      tpr: this.taskPriority,
      isr: this.#inService.save(),
      tmr: this.#level.save(),
      irr: this.#requested.save(),
    };
  }

  /** Takes what `save` gave; the caller has checked it. */
  restore(saved: ReturnType<InterruptPriority["save"]>): void {
    this.taskPriority = saved.tpr;
    this.#inService.restore(saved.isr);
    this.#level.restore(saved.tmr);
    this.#requested.restore(saved.irr);
  }
}
