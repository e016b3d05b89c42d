/** What a script offers to the rig: cases that run inside, one after the other. */
export interface RigCase {
  readonly name: string;
  /** Why it is not run. */
  readonly skip?: string;
  /**
   * What the rig's processor does otherwise, so that the case fails: it is run all the same and reported as skipped, and
   * as failed where it passes.
   */
  readonly deviation?: string;
  /** Seconds of the guest's clock after which it is given up, with its process. Default 60. */
  readonly limitSeconds?: number;
  /** Throws where it fails, `CaseSkipped` where it cannot tell. */
  run(): void | Promise<void>;
}

/** Thrown by a case that finds out inside that it cannot be run there; the message says why. */
export class CaseSkipped extends Error {
  override readonly name = "CaseSkipped";
}
