/** What a script offers to the rig: cases that run inside, one after the other. */
export interface RigCase {
  readonly name: string;
  /** Why it is not run. */
  readonly skip?: string;
  /** Seconds of the guest's clock after which it is given up, with its process. Default 60. */
  readonly limitSeconds?: number;
  /** Throws where it fails. */
  run(): void | Promise<void>;
}

/** A module of this directory; its cases can be listed anywhere, and run in a rig. */
export interface RigScript {
  readonly name: string;
  readonly cases: readonly RigCase[];
}
