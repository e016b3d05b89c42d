import { SkepError } from "../errors.ts";

/**
 * KVM or the host's kernel refused something: names the call, the errno and what to do. Codes: `KVM_CALL`, and
 * `KVM_SLOT` for memory slots that were refused before the kernel was asked.
 */
export class KvmError extends SkepError {
  /** The ioctl or system call, such as `KVM_CREATE_VM`. */
  readonly call: string;
  /** errno, or 0 where the call was not made. */
  readonly errno: number;
  constructor(code: string, call: string, errno: number, message: string) {
    super(code, message);
    this.call = call;
    this.errno = errno;
  }
}

/** What KVM_RUN reported and no guest can go on after. */
export interface KvmExitDetails {
  /** KVM's name of the exit, such as `KVM_EXIT_INTERNAL_ERROR`. */
  readonly exit: string;
  /** KVM_EXIT_INTERNAL_ERROR's suberror; hardware's reason of a failed entry. */
  readonly suberror: bigint;
  /** The instruction at RIP, as far as it could be read. */
  readonly instruction: Uint8Array;
  /** RIP's linear address. */
  readonly rip: bigint;
}

/**
 * KVM gave up on a vCPU. Codes: `KVM_FAIL_ENTRY`, `KVM_INTERNAL_ERROR`, `KVM_UNEXPECTED_EXIT`. The message says
 * where the guest was and what it was about to execute.
 */
export class KvmExitError extends SkepError implements KvmExitDetails {
  readonly exit: string;
  readonly suberror: bigint;
  readonly instruction: Uint8Array;
  readonly rip: bigint;
  constructor(code: string, message: string, details: KvmExitDetails) {
    super(code, message);
    this.exit = details.exit;
    this.suberror = details.suberror;
    this.instruction = details.instruction;
    this.rip = details.rip;
  }
}

/** A vCPU's thread ended by itself, or could not be started. Code `KVM_THREAD`. */
export class KvmThreadError extends SkepError {
  constructor(message: string, options?: ErrorOptions) {
    super("KVM_THREAD", message, options);
  }
}
