/** What the host tells the script inside the rig, and what that answers. */
import type { BootGuest } from "./boots.ts";
import type { BootFigures, ExitFigures, ExitPlan, LatencyFigures, LatencyPlan } from "./figures.ts";

/** Parts that are absent are not measured. Paths are those inside. */
export interface InsidePlan {
  readonly exits?: ExitPlan;
  readonly mailbox?: LatencyPlan;
  readonly boot?: {
    readonly rounds: number;
    readonly timeoutMs: number;
    readonly guest: BootGuest;
    readonly cli: string;
    readonly qemu: string;
    readonly firmware: string;
  };
}

/** What one machine's KVM costs; parts that were not measured are absent. */
export interface KvmFigures {
  /** The probe's word on it. */
  evidence?: string;
  exits?: ExitFigures;
  mailbox?: LatencyFigures[];
  boot?: BootFigures;
}

/** Begins a line of figures: a part of `KvmFigures` as one JSON object. */
export const FIGURES_PREFIX = "figures ";
