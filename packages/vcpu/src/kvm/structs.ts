/**
 * Layout of KVM's structures on x86-64: sizes and field offsets in bytes, restated from
 * include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h. Little-endian.
 */

/** Sizes of structures; those with entries after them are named `…_HEADER`. */
export const Size = {
  REGS: 144,
  SREGS: 312,
  SREGS2: 320,
  SEGMENT: 24,
  DEBUGREGS: 128,
  VCPU_EVENTS: 64,
  XSAVE: 4096,
  XCRS: 392,
  LAPIC: 1024,
  CPUID2_HEADER: 8,
  CPUID_ENTRY: 40,
  MSRS_HEADER: 8,
  MSR_ENTRY: 16,
  MSR_FILTER: 392,
  MSR_FILTER_RANGE: 24,
  IRQCHIP: 520,
  IRQ_LEVEL: 8,
  IRQ_ROUTING_HEADER: 8,
  IRQ_ROUTING_ENTRY: 48,
  IRQFD: 32,
  IOEVENTFD: 64,
  MSI: 32,
  PIT_CONFIG: 64,
  PIT_STATE2: 112,
  CLOCK_DATA: 48,
  ENABLE_CAP: 104,
  GUEST_DEBUG: 72,
  MEMORY_REGION: 32,
  DIRTY_LOG: 16,
  CLEAR_DIRTY_LOG: 24,
  DIRTY_GFN: 16,
  TRANSLATION: 24,
  INTERRUPT: 4,
  DEVICE_ATTR: 24,
} as const;

/** struct kvm_run, the page shared with the kernel. */
export const Run = {
  REQUEST_INTERRUPT_WINDOW: 0, // u8
  IMMEDIATE_EXIT: 1, // u8
  EXIT_REASON: 8, // u32
  READY_FOR_INTERRUPT_INJECTION: 12, // u8
  IF_FLAG: 13, // u8
  CR8: 16, // u64
  APIC_BASE: 24, // u64
  /** The union of what each exit carries. */
  EXIT: 32,
} as const;

/** What an exit carries: offsets within struct kvm_run. */
export const RunIo = { DIRECTION: 32, SIZE: 33, PORT: 34, COUNT: 36, DATA_OFFSET: 40 } as const;
export const RunMmio = { ADDRESS: 32, DATA: 40, LENGTH: 48, IS_WRITE: 52 } as const;
export const RunMsr = { ERROR: 32, REASON: 40, INDEX: 44, DATA: 48 } as const;
export const RunDebug = { EXCEPTION: 32, PC: 40, DR6: 48, DR7: 56 } as const;
export const RunFailEntry = { HARDWARE_REASON: 32, CPU: 40 } as const;
export const RunInternal = { SUBERROR: 32, NDATA: 36, DATA: 40 } as const;
export const RunEmulationFailure = { FLAGS: 40, INSN_SIZE: 48, INSN_BYTES: 49 } as const;
export const RunHypercall = { NUMBER: 32, ARGS: 40, RESULT: 88 } as const;
export const RunSystemEvent = { TYPE: 32 } as const;
export const RunEoi = { VECTOR: 32 } as const;
export const RunException = { VECTOR: 32, ERROR_CODE: 36 } as const;

/** struct kvm_regs: in the order that `VcpuStateV1.gpr` has, then RIP and RFLAGS. */
export const Regs = {
  /** RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. */
  GPR: [0, 16, 24, 8, 48, 56, 32, 40, 64, 72, 80, 88, 96, 104, 112, 120],
  RIP: 128,
  RFLAGS: 136,
} as const;

/** struct kvm_sregs and kvm_sregs2, alike up to APIC_BASE. */
export const Sregs = {
  CS: 0,
  DS: 24,
  ES: 48,
  FS: 72,
  GS: 96,
  SS: 120,
  TR: 144,
  LDTR: 168,
  GDTR: 192,
  IDTR: 208,
  CR0: 224,
  CR2: 232,
  CR3: 240,
  CR4: 248,
  CR8: 256,
  EFER: 264,
  APIC_BASE: 272,
  /** kvm_sregs2: bit 0 says that the PDPTRs are valid. */
  FLAGS2: 280,
  PDPTRS2: 288,
} as const;

/** struct kvm_segment. */
export const Segment = {
  BASE: 0, // u64
  LIMIT: 8, // u32
  SELECTOR: 12, // u16
  TYPE: 14, // u8 from here on
  PRESENT: 15,
  DPL: 16,
  DB: 17,
  S: 18,
  L: 19,
  G: 20,
  AVL: 21,
  UNUSABLE: 22,
} as const;

/** struct kvm_dtable. */
export const Dtable = { BASE: 0, LIMIT: 8 } as const;

/** struct kvm_debugregs. */
export const DebugRegs = { DB: 0, DR6: 32, DR7: 40 } as const;

/** struct kvm_vcpu_events. */
export const Events = {
  EXCEPTION_INJECTED: 0,
  EXCEPTION_NR: 1,
  EXCEPTION_HAS_ERROR_CODE: 2,
  EXCEPTION_PENDING: 3,
  EXCEPTION_ERROR_CODE: 4, // u32
  INTERRUPT_INJECTED: 8,
  INTERRUPT_NR: 9,
  INTERRUPT_SOFT: 10,
  INTERRUPT_SHADOW: 11,
  NMI_INJECTED: 12,
  NMI_PENDING: 13,
  NMI_MASKED: 14,
  SIPI_VECTOR: 16, // u32
  FLAGS: 20, // u32
} as const;

/** struct kvm_xcrs: the header and the first entry, XCR0. */
export const Xcrs = { COUNT: 0, FLAGS: 4, XCR: 8, VALUE: 16 } as const;

/** The XSAVE area (SDM Vol. 1 sec. 13.4): legacy region, header, extended components from 576. */
export const Xsave = {
  FCW: 0, // u16
  FSW: 2, // u16
  FTW: 4, // u8, a bit a register: 1 is not empty
  FOP: 6, // u16
  FIP: 8, // u64
  FDP: 16, // u64
  MXCSR: 24, // u32
  ST: 32, // 16 bytes each, ST-relative
  XMM: 160, // 16 bytes each
  XSTATE_BV: 512, // u64
  XCOMP_BV: 520, // u64
  EXTENDED: 576,
} as const;

/** struct kvm_cpuid_entry2. */
export const CpuidEntry = { FUNCTION: 0, INDEX: 4, FLAGS: 8, EAX: 12, EBX: 16, ECX: 20, EDX: 24 } as const;
/** `kvm_cpuid_entry2.flags`: `index` counts. */
export const CPUID_SIGNIFICANT_INDEX = 1;

/** A structure's bytes and its little-endian fields. */
export class Struct {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  /** @param memory its size, for one of its own (off V8's heap: the address stays what it is), or where it is. */
  constructor(memory: number | Uint8Array) {
    this.bytes = typeof memory === "number" ? new Uint8Array(new ArrayBuffer(memory)) : memory;
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
  }

  u8(offset: number): number {
    return this.bytes[offset]!;
  }

  setU8(offset: number, value: number): void {
    this.bytes[offset] = value;
  }

  u16(offset: number): number {
    return this.view.getUint16(offset, true);
  }

  setU16(offset: number, value: number): void {
    this.view.setUint16(offset, value, true);
  }

  u32(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  setU32(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }

  u64(offset: number): bigint {
    return this.view.getBigUint64(offset, true);
  }

  setU64(offset: number, value: bigint): void {
    this.view.setBigUint64(offset, value, true);
  }

  clear(): this {
    this.bytes.fill(0);
    return this;
  }
}
