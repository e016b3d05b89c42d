/** Base of the host failures that this package reports; `code` is stable, `cause` holds what lay beneath. */
export class SkepError extends Error {
  readonly code: string;
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The engine cannot run here. The message says what was tried, what was seen and what to do. */
export class EngineUnavailableError extends SkepError {}

/** A saved state that is not what `restore()` takes: names the field, what was expected and what came. */
export class StateError extends SkepError {}

/**
 * The guest ended in a way that it did not ask for. Codes: `TRIPLE_FAULT`, `INVALID_GUEST_STATE`,
 * `EPT_MISCONFIGURATION`, `EXECUTE_UNMAPPED` (an instruction fetch where there is no memory),
 * `UNEXPECTED_EXIT` (an engine's fault), `GUEST_PANIC` (reported by a device).
 */
export class GuestCrashError extends SkepError {}

/** What was asked for does not fit the VM's state, such as saving it while it runs. Code `VM_STATE`. */
export class VmStateError extends SkepError {
  /** @param action what was asked for. @param expected the states that allow it. */
  constructor(action: string, expected: string, actual: string) {
    super("VM_STATE", `${action}: expected a VM that is ${expected}, this one is ${actual}`);
  }
}

/** An engine cannot do what an option asks for: the message names both. Code `ENGINE_UNSUITABLE`. */
export class EngineUnsuitableError extends SkepError {
  constructor(message: string) {
    super("ENGINE_UNSUITABLE", message);
  }
}
