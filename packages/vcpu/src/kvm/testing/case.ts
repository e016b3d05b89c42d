import type { Engine } from "../../engine.ts";
import type { KvmOptions } from "../engine.ts";

/** What a case is given. */
export interface KvmCaseContext {
  /** A fresh engine. */
  engine(options?: KvmOptions): Engine;
  /** This KVM interprets guests (`EngineProbe`): some instructions are beyond it, and nothing is quick. */
  readonly isEmulating: boolean;
}

/** One independent case of KVM's engine; it throws where the engine is wrong, `SkipCase` where it cannot tell. */
export interface KvmCase {
  readonly name: string;
  run(context: KvmCaseContext): Promise<void> | void;
}

/** A case cannot be run on this host: the message says why. */
export class SkipCase extends Error {
  override readonly name = "SkipCase";
}
