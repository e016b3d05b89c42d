/** A one-shot timer of a `Clock`. */
export interface ClockTimer {
  /** Deadline in the clock's nanoseconds, or `undefined` while disarmed. */
  readonly deadline: number | undefined;
  /** Fires once when the clock reaches `deadlineNs`; one in the past fires at the next opportunity. Re-arming replaces. */
  arm(deadlineNs: number): void;
  cancel(): void;
}

/**
 * All of a VM's time. Nanoseconds since the VM was made, an integer `number` that never goes backwards and
 * stands still while the VM is paused.
 *
 * Callbacks run on the VM's thread between slices of guest execution, in order of deadline, never from
 * inside `arm`.
 */
export interface Clock {
  /** Current time in ns. */
  now(): number;
  /** Makes a disarmed timer. `callback` gets the deadline it was armed for (ns), so that periodic timers do not drift. */
  timer(callback: (deadlineNs: number) => void): ClockTimer;
  /** Frequency of the guest's time-stamp counter in Hz; the TSC is `now() * tscHz / 1e9` plus IA32_TSC_ADJUST. */
  readonly tscHz: number;
  /** Wall-clock time in ms since 1970-01-01 UTC that belongs to `now()` (for the RTC). */
  wallTimeMs(): number;
}
