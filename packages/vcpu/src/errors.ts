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

/** The guest ended in a way that it did not ask for: triple fault, panic, bad EPT. */
export class GuestCrashError extends SkepError {}
