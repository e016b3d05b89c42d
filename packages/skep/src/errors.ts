import { SkepError } from "@skep/vcpu";

/**
 * `createVm()` was given something that it cannot use: names the field, what was expected and what came. Code
 * `VM_OPTIONS`.
 */
export class VmOptionsError extends SkepError {
  /** The option, such as "memoryMiB". */
  readonly field: string;
  constructor(field: string, expected: string, actual: string, options?: ErrorOptions) {
    super("VM_OPTIONS", `${field}: expected ${expected}, got ${actual}`, options);
    this.field = field;
  }
}
