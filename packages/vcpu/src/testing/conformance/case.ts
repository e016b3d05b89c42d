import type { Guest, StartMode, StartOptions } from "./guest.ts";
import { Layout } from "./layout.ts";
import type { Machine } from "./machine.ts";

/** What a case asks of an engine; an engine may skip cases by it, with a reason. */
export type Need =
  | "real mode"
  | "protected mode"
  | "long mode"
  | "paging"
  | "task switch"
  | "virtual-8086"
  | "debug registers"
  | "single step"
  | "interrupts"
  | "I/O"
  | "MMIO"
  | "MSRs"
  | "CPUID"
  | "FPU"
  | "SSE"
  | "XSAVE"
  | "AVX"
  | "SMEP"
  | "SMAP"
  | "1 GiB pages"
  | "instruction counts"
  | "state"
  | "SMP";

/** One independent case; it throws where the engine is wrong. */
export interface ConformanceCase<Subject = Machine> {
  readonly name: string;
  readonly needs: readonly Need[];
  /** vCPUs that it takes. Default 1. */
  readonly vcpus?: number;
  readonly run: (guest: Subject) => void | Promise<void>;
}

/** Cases of one subject. Those of `Guest` only need a processor and memory, and run in the oracle as well. */
export interface CaseGroup<Subject = Machine> {
  readonly title: string;
  readonly cases: readonly ConformanceCase<Subject>[];
}

/** Puts the guest into a start mode and `code` at its entry. */
export function start(guest: Guest, mode: StartMode, code: Uint8Array, options: StartOptions = {}): void {
  guest.enter(mode, options);
  guest.load(options.entry ?? Layout.CODE, code);
}
