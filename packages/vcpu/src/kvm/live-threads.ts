/** What both ways to run the vCPUs of a VM with KVM's interrupt controller have in common. */
import type { VcpuThreads } from "../engine.ts";
import type { Doorbell, DoorbellRange } from "./event-fds.ts";
import type { KvmVcpu } from "./vcpu.ts";

/** What the VM does about its clocks when time goes on. */
export type StartTime = (nowNs: number, tsc: bigint) => void;

export interface KvmVcpuThreads extends VcpuThreads {
  /** Takes a vCPU in; it waits for `enter`. */
  add(vcpu: KvmVcpu): void;
  /** Guest writes to `range` call `onRing` on this thread while the VM runs, without an exit. @throws KvmError */
  addDoorbell(range: DoorbellRange, onRing: () => void): Doorbell;
  /** Ends the threads. Resolves once none uses its vCPU any more. */
  close(): Promise<void>;
  /** Tells the threads to end, without waiting for it. */
  abandon(): void;
}

/** Of the VMs that are open: the process would wait for their threads at its end, if nobody told those. */
const LIVE = new Set<KvmVcpuThreads>();
process.on("exit", () => {
  for (const threads of LIVE) threads.abandon();
});

/** `threads` are told when the process ends. */
export function endWithProcess(threads: KvmVcpuThreads): void {
  LIVE.add(threads);
}

export function noLongerAlive(threads: KvmVcpuThreads): void {
  LIVE.delete(threads);
}

/** Whether no VM with such threads is open on this thread. */
export function isOnlyVm(): boolean {
  return LIVE.size === 0;
}
