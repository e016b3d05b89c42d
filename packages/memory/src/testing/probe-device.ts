import type { AccessSize, BusDevice } from "../bus.ts";

/** One access that a `ProbeDevice` saw. */
export type ProbeAccess =
  | { readonly kind: "read"; readonly offset: number; readonly size: AccessSize }
  | { readonly kind: "write"; readonly offset: number; readonly size: AccessSize; readonly value: number };

/** A bus device that records what reaches it and answers what the test says. */
export class ProbeDevice implements BusDevice {
  /** Every access, oldest first. */
  readonly log: ProbeAccess[] = [];
  /** Answers reads. The default gives each byte its own offset, so that a test sees where bytes come from. */
  answer: (offset: number, size: AccessSize) => number;

  constructor(answer: (offset: number, size: AccessSize) => number = offsetPattern) {
    this.answer = answer;
  }

  read(offset: number, size: AccessSize): number {
    this.log.push({ kind: "read", offset, size });
    return this.answer(offset, size);
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.log.push({ kind: "write", offset, size, value });
  }

  /** The log so far, which starts anew. */
  take(): ProbeAccess[] {
    return this.log.splice(0);
  }
}

function offsetPattern(offset: number, size: AccessSize): number {
  let value = 0;
  for (let i = 0; i < size; i++) value |= ((offset + i) & 0xff) << (8 * i);
  return value >>> 0;
}
