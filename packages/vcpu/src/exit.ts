/**
 * VM exits in VT-x's vocabulary: basic exit reasons (SDM Vol. 3D app. C) and what the exit qualification
 * and the other VM-exit information fields hold (Vol. 3C sec. 28.2), decoded.
 *
 * Every engine reports these and nothing else; what KVM or another host calls its exits is translated at
 * that engine's edge.
 */
export const ExitReason = {
  ExceptionOrNmi: 0,
  ExternalInterrupt: 1,
  TripleFault: 2,
  InitSignal: 3,
  StartupIpi: 4,
  InterruptWindow: 7,
  NmiWindow: 8,
  TaskSwitch: 9,
  Cpuid: 10,
  Hlt: 12,
  Invd: 13,
  Rdtsc: 16,
  Vmcall: 18,
  CrAccess: 28,
  MovDr: 29,
  IoInstruction: 30,
  Rdmsr: 31,
  Wrmsr: 32,
  InvalidGuestState: 33,
  Mwait: 36,
  MonitorTrapFlag: 37,
  Monitor: 39,
  Pause: 40,
  EptViolation: 48,
  EptMisconfiguration: 49,
  PreemptionTimer: 52,
  Wbinvd: 54,
  Xsetbv: 55,
} as const;
export type ExitReason = (typeof ExitReason)[keyof typeof ExitReason];

/**
 * IN, OUT, INS or OUTS. For `in` the run loop puts the value into `data` and runs the vCPU again, which
 * completes the instruction. String forms exit once an element.
 */
export interface IoExit {
  readonly reason: typeof ExitReason.IoInstruction;
  readonly port: number;
  readonly size: 1 | 2 | 4;
  readonly direction: "in" | "out";
  /** Out: the value written. In: to be filled in, unsigned, before the next run. */
  data: number;
}

/**
 * An access that EPT does not allow; with no RAM behind it this is MMIO. For a read the run loop fills
 * `data` (and `dataHigh` for size 8) and runs the vCPU again; the instruction then completes with it. A
 * write has left the processor and needs no answer.
 */
export interface EptViolationExit {
  readonly reason: typeof ExitReason.EptViolation;
  /** Guest-physical address of the first byte. */
  readonly address: number;
  readonly size: 1 | 2 | 4 | 8;
  readonly access: "read" | "write" | "execute";
  /** The low four bytes, unsigned. */
  data: number;
  /** The high four bytes of an 8-byte access, unsigned. */
  dataHigh: number;
}

/** An EPT entry with a reserved combination (SDM Vol. 3C sec. 29.3.3.1). The VM cannot go on. */
export interface EptMisconfigurationExit {
  readonly reason: typeof ExitReason.EptMisconfiguration;
  readonly address: number;
}

/** RDMSR or WRMSR of a register that the engine does not keep. `fault` set makes the guest take #GP(0). */
export interface MsrExit {
  readonly reason: typeof ExitReason.Rdmsr | typeof ExitReason.Wrmsr;
  /** MSR index, 32 bits. */
  readonly index: number;
  /** Wrmsr: the value. Rdmsr: to be filled in. 64 bits. */
  value: bigint;
  fault: boolean;
}

/** MOV to or from CR8; the engine keeps every other control register itself. */
export interface CrAccessExit {
  readonly reason: typeof ExitReason.CrAccess;
  readonly register: 8;
  readonly direction: "read" | "write";
  /** TPR, 0 to 15. */
  value: number;
}

/**
 * CPUID; the run loop fills the four result registers, unsigned 32-bit.
 *
 * What mirrors the vCPU's own registers is the engine's to lay over the answer: it clears OSXSAVE (leaf 1 ECX
 * bit 27) and OSPKE (leaf 7 ECX bit 4) while CR4 does not have them.
 */
export interface CpuidExit {
  readonly reason: typeof ExitReason.Cpuid;
  readonly leaf: number;
  readonly subleaf: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** VMCALL or VMMCALL; `result` goes to RAX. */
export interface VmcallExit {
  readonly reason: typeof ExitReason.Vmcall;
  readonly number: bigint;
  readonly args: readonly [bigint, bigint, bigint, bigint];
  result: bigint;
}

/** #DB, #BP or another exception that the embedder asked to see (debugging); not delivered to the guest. */
export interface ExceptionExit {
  readonly reason: typeof ExitReason.ExceptionOrNmi;
  readonly vector: number;
  readonly errorCode: number | undefined;
}

/**
 * Exits that carry nothing: HLT, the budget spent (VMX-preemption timer), the guest ready for an
 * interrupt or NMI, a single step done (monitor trap flag), a triple fault, a kick (external interrupt).
 */
export interface PlainExit {
  readonly reason:
    | typeof ExitReason.Hlt
    | typeof ExitReason.TripleFault
    | typeof ExitReason.InterruptWindow
    | typeof ExitReason.NmiWindow
    | typeof ExitReason.PreemptionTimer
    | typeof ExitReason.MonitorTrapFlag
    | typeof ExitReason.ExternalInterrupt
    | typeof ExitReason.Pause
    | typeof ExitReason.InvalidGuestState;
}

/** Why a vCPU stopped. Engines reuse one record a reason: an exit is valid until that vCPU's next run. */
export type VmExit =
  | IoExit
  | EptViolationExit
  | EptMisconfigurationExit
  | MsrExit
  | CrAccessExit
  | CpuidExit
  | VmcallExit
  | ExceptionExit
  | PlainExit;
