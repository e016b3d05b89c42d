import { StateReader } from "@skep/vcpu";

export interface A20GateStateV1 {
  kind: "a20-gate";
  version: 1;
  enabled: boolean;
}

/**
 * The A20 gate's state, which the i8042 and port 0x92 share: either can open or close it, both show it.
 *
 * Closing it masks nothing: no engine wraps addresses at 1 MiB, and no 64-bit guest asks for it. An embedder that
 * wants the wrap learns of changes through `onChange`.
 */
export class A20Gate {
  readonly #onChange: ((enabled: boolean) => void) | undefined;
  #enabled = true;

  /** The gate is open after reset, as firmware leaves it. */
  constructor(onChange?: (enabled: boolean) => void) {
    this.#onChange = onChange;
  }

  /** True where address line 20 follows the processor. */
  get enabled(): boolean {
    return this.#enabled;
  }

  set(enabled: boolean): void {
    if (enabled === this.#enabled) return;
    this.#enabled = enabled;
    this.#onChange?.(enabled);
  }

  reset(): void {
    this.set(true);
  }

  save(): A20GateStateV1 {
    return { kind: "a20-gate", version: 1, enabled: this.#enabled };
  }

  /** @throws StateError where `state` is not a saved state of the gate; nothing is changed then. */
  restore(state: unknown): void {
    this.set(new StateReader(state, "a20-gate", 1).boolean("enabled"));
  }
}
