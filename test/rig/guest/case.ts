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
  /** A first part on the host, before the machine boots: what it gives is the file `/rig/before/NAME` inside. */
  readonly before?: { readonly name: string; make(): Promise<Uint8Array> };
  /** A last part on the host, after the machine has ended, with what the case sent by `sendToHost`. Throws where it fails. */
  readonly after?: (sent: Uint8Array) => Promise<void>;
  /** Throws where it fails, `CaseSkipped` where it cannot tell. */
  run(): void | Promise<void>;
}

/** Thrown by a case that finds out inside that it cannot be run there; the message says why. */
export class CaseSkipped extends Error {
  override readonly name = "CaseSkipped";
}
