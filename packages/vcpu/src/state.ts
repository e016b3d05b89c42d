/** One segment register with its hidden part (SDM Vol. 3A sec. 3.4.3). */
export interface SegmentState {
  selector: number;
  base: bigint;
  /** Byte-granular limit, 32 bits. */
  limit: number;
  /** Access rights as in VMCS format: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16. */
  access: number;
}

export interface DescriptorTableState {
  base: bigint;
  limit: number;
}

/** An event that was injected or being delivered when the vCPU stopped. */
export interface PendingEventState {
  kind: "interrupt" | "nmi" | "exception" | "software-interrupt" | "software-exception";
  vector: number;
  errorCode: number | undefined;
}

/** x87, SSE and the rest of the XSAVE area, registers as the architecture numbers them. */
export interface FpuState {
  fcw: number;
  fsw: number;
  /** Full 16-bit tag word. */
  ftw: number;
  fop: number;
  fip: bigint;
  fdp: bigint;
  /** R0 to R7 (physical, not ST-relative): 64-bit significand and 16-bit sign and exponent. */
  registers: { significand: bigint; signExponent: number }[];
  mxcsr: number;
  /** XMM0 to XMM15, 128 bits each. */
  xmm: bigint[];
  xcr0: bigint;
  /**
   * What the guest uses of XSAVE beyond x87 and SSE: each component's bytes as the standard format has them (SDM
   * Vol. 1 sec. 13.4.3), by its number ("2" is AVX). Absent where there is nothing.
   */
  components?: Record<string, Uint8Array>;
}

/** Everything a vCPU is, in one shape on every engine (plain data; `bigint` for 64-bit registers). */
export interface VcpuStateV1 {
  kind: "vcpu";
  version: 1;
  /** RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. */
  gpr: bigint[];
  rip: bigint;
  rflags: bigint;
  es: SegmentState;
  cs: SegmentState;
  ss: SegmentState;
  ds: SegmentState;
  fs: SegmentState;
  gs: SegmentState;
  ldtr: SegmentState;
  tr: SegmentState;
  gdtr: DescriptorTableState;
  idtr: DescriptorTableState;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  /** PAE's four page-directory-pointer registers, as loaded. */
  pdptrs: [bigint, bigint, bigint, bigint];
  dr: { dr0: bigint; dr1: bigint; dr2: bigint; dr3: bigint; dr6: bigint; dr7: bigint };
  /** MSRs that the engine keeps itself, by index in lower-case hex ("c0000080" is IA32_EFER). */
  msrs: Record<string, bigint>;
  fpu: FpuState;
  /** "wait-for-sipi" after INIT on an application processor; "halted" after HLT. */
  activity: "active" | "halted" | "wait-for-sipi";
  interruptibility: { sti: boolean; movSs: boolean; nmiBlocked: boolean };
  pendingEvent: PendingEventState | undefined;
  pendingNmi: boolean;
  /** IA32_TIME_STAMP_COUNTER's offset from the VM's clock in ticks, modulo 2^64. */
  tscOffset: bigint;
  /** Instructions retired since the vCPU was made, where the engine counts them; else 0. */
  instructions: bigint;
}
