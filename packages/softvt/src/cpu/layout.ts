/**
 * Where the engine keeps things in the low part of the arena. Offsets in bytes.
 *
 * ```text
 * PRIVATE area (start of the arena)
 *   0x0000_0000  reserved (never handed out)
 *   VCPUS        one vCPU block each, VCPU_BYTES apart: registers, then its three TLBs
 *   HASH         block hash: (code address, mode) → micro-op
 *   LINES        one 64-bit map a page of the arena: which 64-byte lines hold decoded code
 *   UOPS         micro-op arena
 * ```
 */
export const MAX_VCPUS = 16;

/** TLB entry: read tag, write tag, execute tag (i64 each), addend (i32), arena page number (i32). */
export const TLB_ENTRY_BYTES = 32;
export const TLB_ENTRIES = 1024;
export const TLB_BYTES = TLB_ENTRIES * TLB_ENTRY_BYTES;
/** A tag that no address matches. */
export const TLB_INVALID = 1n;
export const TlbEntry = { READ: 0, WRITE: 8, EXECUTE: 16, ADDEND: 24, PAGE: 28 } as const;

/** Access modes, each with a TLB of its own: the same address may be allowed in one and not in another. */
export const TlbMode = {
  /** CPL 0 to 2; with SMAP on, user pages are refused. */
  SUPERVISOR: 0,
  /** CPL 0 to 2 with user data access allowed (RFLAGS.AC set, or SMAP off and so unused). */
  SUPERVISOR_AC: 1,
  USER: 2,
} as const;

/** Cached EPT translations: guest-physical page → arena page and permissions. Two i32 an entry. */
export const NTLB_ENTRIES = 1024;

/** General registers as the encoding numbers them. */
export const Gpr = { RAX: 0, RCX: 1, RDX: 2, RBX: 3, RSP: 4, RBP: 5, RSI: 6, RDI: 7 } as const;
/** Segment registers as the encoding numbers them; LDTR and TR follow. */
export const Seg = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDTR: 6, TR: 7 } as const;

let next = 0;
/** A field at a fixed offset. */
function at(offset: number, bytes: number, count: number): number {
  if (offset < next) throw new Error(`layout: ${offset} overlaps what ends at ${next}`);
  next = offset;
  return take(bytes, count);
}
/** The next field of `bytes` bytes, naturally aligned up to 16. */
function take(bytes: number, count = 1): number {
  const align = Math.min(bytes, 16);
  const offset = (next + align - 1) & -align;
  next = offset + bytes * count;
  return offset;
}

/**
 * Fields of a vCPU block. The first 256 bytes are what a micro-op's 8-bit register fields can name.
 * Types: i64 unless said otherwise.
 */
export const Cpu = {
  GPR: take(8, 16),
  /** Always zero: an absent base or index register. */
  ZERO: take(8),
  /** RIP of the current code page's first byte: RIP = RIP_BASE + offset in page. */
  RIP_BASE: take(8),
  TMP: take(8),
  /** Bases of ES, CS, SS, DS, FS, GS, LDTR, TR. */
  SEG_BASE: take(8, 8),
  /** RIP where the instruction stream goes on, valid while no micro-op runs and at `leave`. */
  RIP: take(8),

  XMM: at(256, 16, 16),
  /** Upper halves of YMM0 to YMM15, whose lower halves are the XMM registers. */
  YMM_HIGH: take(16, 16),
  /** x87 registers R0 to R7 (physical): significand i64, then sign and exponent i16. MMX registers alias the significands. */
  FPR: take(16, 8),
  /** i32 each. FSW without TOP, which has its own field; FTW as the full 16-bit tag word. */
  FCW: take(4),
  FSW: take(4),
  FTW: take(4),
  TOP: take(4),
  FOP: take(4),
  MXCSR: take(4),
  FIP: take(8),
  FDP: take(8),
  /** i32 each: selectors of FIP and FDP (outside 64-bit mode). */
  FCS: take(4),
  FDS: take(4),
  /** i32: exceptions of the floating-point operation under way, at FSW's positions (fpu/env.ts). */
  FP_FLAGS: take(4),
  /**
   * i32 each: the vector that SSE, AVX, MMX and x87 instructions have to raise before anything else, or 0.
   * They follow from CR0.EM, CR0.TS, CR4.OSFXSR, CR4.OSXSAVE and XCR0: `updateSse` (cpu/sse-state.ts) after each change.
   */
  SSE_OFF: take(4),
  AVX_OFF: take(4),
  MMX_OFF: take(4),
  X87_OFF: take(4),

  /** Lazy flags: i32 kind (see cpu/flags.ts), operand and result shifted to the top of 64 bits. */
  FLAG_KIND: take(4),
  /** i32: arithmetic flags at their RFLAGS positions, as far as FLAG_KIND says that they count. */
  FLAG_AUX: take(4),
  FLAG_A: take(8),
  FLAG_R: take(8),
  /** i32: all other RFLAGS bits, at their positions; bit 1 set; arithmetic bits zero. */
  RFLAGS: take(4),
  /** i32: current privilege level. */
  CPL: take(4),

  /** i32 each: selectors, limits (bytes) and access rights in VMCS format of ES to TR. */
  SEG_SELECTOR: take(4, 8),
  SEG_LIMIT: take(4, 8),
  SEG_ACCESS: take(4, 8),
  GDT_BASE: take(8),
  IDT_BASE: take(8),
  /** i32 */
  GDT_LIMIT: take(4),
  /** i32 */
  IDT_LIMIT: take(4),

  CR0: take(8),
  CR2: take(8),
  CR3: take(8),
  CR4: take(8),
  /** XCR0. */
  XCR0: take(8),
  PDPTR: take(8, 4),
  DR: take(8, 8),

  EFER: take(8),
  STAR: take(8),
  LSTAR: take(8),
  CSTAR: take(8),
  FMASK: take(8),
  KERNEL_GS_BASE: take(8),
  TSC_AUX: take(8),
  TSC_OFFSET: take(8),
  SYSENTER_CS: take(8),
  SYSENTER_ESP: take(8),
  SYSENTER_EIP: take(8),
  PAT: take(8),
  MISC_ENABLE: take(8),
  XSS: take(8),
  TSC_ADJUST: take(8),
  SPEC_CTRL: take(8),
  DEBUGCTL: take(8),

  /** i32: bits that select decoded code; see `Mode`. */
  MODE: take(4),
  /** i32: address of the TLB of the current access mode. */
  TLB: take(4),
  /** i32: arena offset of the table of page flags, one byte a page. */
  PAGE_FLAGS: take(4),
  /** i32: arena offset of the EPT PML4 table. */
  EPT: take(4),

  /** i32: why a micro-op left; see `Event`. Zero while nothing is up: memory helpers set it, callers test it. */
  EVENT: take(4),
  /** i32: vector and error code of a raised exception; HAS_ERROR 1 if the code is pushed. */
  EXC_VECTOR: take(4),
  EXC_ERROR: take(4),
  EXC_HAS_ERROR: take(4),
  /** i32: event to deliver at the next entry: 0 none, else 0x100 | vector, bit 9 NMI. */
  INJECT: take(4),
  /** i32: Shadow bits. */
  SHADOW: take(4),
  /** i32: 1 while the embedder wants an InterruptWindow exit. */
  WANT_WINDOW: take(4),
  /** i32: 0 active, 1 halted, 2 waits for SIPI. */
  ACTIVITY: take(4),
  /** i32: 1 from NMI delivery to IRET. */
  NMI_BLOCKED: take(4),
  /** i32: 1 an NMI is pending. */
  NMI_PENDING: take(4),

  /** i64: instructions retired, exact while no micro-op runs and after Event.SYNC. */
  ICOUNT: take(8),
  /** i64: TSC at ICOUNT_BASE, ticks before the vCPU's offset; TSC_STEP (f64) ticks an instruction. */
  TSC_BASE: take(8),
  TSC_STEP: take(8),
  ICOUNT_BASE: take(8),
  /** i32: 1 if ICOUNT is exact for the current instruction. */
  SYNCED: take(4),

  /** Exit block, i32 each: basic exit reason, then fields by reason; see cpu/exits.ts. */
  EXIT_REASON: take(4),
  EXIT_A: take(4),
  EXIT_B: take(4),
  EXIT_C: take(4),
  EXIT_D: take(4),
  EXIT_E: take(4),

  /**
   * Accesses that left the processor during the current instruction, so that it can be executed again after
   * the exit: i32 count, i32 next to replay, then the values (i64 each); ICOUNT of that instruction.
   */
  REPLAY_COUNT: take(4),
  REPLAY_NEXT: take(4),
  REPLAY_ICOUNT: take(8),
  REPLAY: take(8, 64),

  /** Bounce buffer for read-modify-write of memory that is not plain RAM: address i64, size i32, 16 bytes. */
  BOUNCE_ADDRESS: take(8),
  BOUNCE_SIZE: take(4),
  BOUNCE: take(16, 2),

  /** i32: micro-op whose direct branch wants its target patched in, or 0. */
  LINK: take(4),
  /** i32: 1 to stop after one instruction. */
  STEP: take(4),
  /** i32: micro-op of the instruction at which a region left with an event. */
  REGION_UOP: take(4),
  /** i32: 1 once code of a compiled region was overwritten since a region was entered. */
  REGION_STALE: take(4),
  /** i32: regions that wait for a call of theirs to come back. */
  REGION_DEPTH: take(4),
  /** i32: number of the handler `region`. */
  REGION_HANDLER: take(4),
  /** i64: RIP of the last call out of a region that met no region, 0: none since the host looked. */
  REGION_MISSED: take(8),
  /** i64: guest-physical address of the last translation that is not RAM. */
  MISS_GPA: take(8),
  /** i64: values kept for MSRs and the like by their owners. */
  SCRATCH: take(8, 64),

  /** FXSAVE and XSAVE areas on their way to and from memory: 512 bytes, the XSAVE header, AVX's component. */
  STAGE: take(16, 52),

  /**
   * Which linear regions have TLB entries that are parts of large pages, a bit each: 4096 bits by the number of
   * 2 MiB region, 64 bits by that of the 1 GiB region. INVLPG of a part must forget the whole page.
   */
  LARGE_2M: take(8, 64),
  LARGE_1G: take(8),
  /** Cached EPT translations. */
  NTLB: take(8, NTLB_ENTRIES),
  /** Groups of eight TLB entries, a bit each, that were filled since the last flush. */
  TLB_FILLED: take(8, 6),

  /** Three TLBs, in the order of `TlbMode`. */
  TLBS: at((next + 4095) & -4096, 16, (3 * TLB_BYTES) / 16),
} as const;

export const VCPU_BYTES = (next + 4095) & -4096;

/** `Cpu.MODE`: what decoded code depends on. The block hash's key holds these bits. */
export const Mode = {
  /** Bits 1:0: code size: 0 16-bit, 1 32-bit, 2 64-bit. */
  CODE16: 0,
  CODE32: 1,
  CODE64: 2,
  CODE_MASK: 3,
  /** SS.B: the stack pointer is 32 bits wide (outside 64-bit mode). */
  STACK32: 4,
  /** CS, DS, ES and SS are flat: base 0, limit 4 GiB, present, readable, expand-up, data segments writable. */
  FLAT: 8,
  /** CR0.PE clear, or RFLAGS.VM set: decode-time facts (LOCK, #UD of protected-mode instructions). */
  REAL: 16,
} as const;

/** `Cpu.EVENT`: what the dispatcher does when a micro-op leaves. */
export const Event = {
  NONE: 0,
  /** Instruction done; go on at `Cpu.RIP`. */
  BRANCH: 1,
  /** Exception at this instruction (a fault: RIP stays here), from EXC_*. */
  FAULT: 2,
  /** Leave the engine; this instruction is executed again on the next run. */
  EXIT_RETRY: 3,
  /** Leave the engine; this instruction is done, go on at `Cpu.RIP`. */
  EXIT_DONE: 4,
  /** Make ICOUNT exact and execute this micro-op again. */
  SYNC: 5,
  /** Not an instruction: look up `Cpu.RIP`. Where a run begins. */
  LOOKUP: 6,
  /** The budget is spent, or the one instruction of a step is done: go on at `Cpu.RIP`. */
  BUDGET: 8,
  /** Trap after this instruction (#DB single step, INT3, INTO): done, then exception from EXC_*, RIP in `Cpu.RIP`. */
  TRAP: 7,
} as const;

/** `Cpu.SHADOW`: interrupts held off for one instruction. */
export const Shadow = { STI: 1, MOV_SS: 2 } as const;

export const VCPUS = 0x1000;
/** Block hash: entries of 16 bytes: i32 code address, i32 mode | 0x100 (0 = empty), i32 micro-op, i32 unused. */
export const HASH = VCPUS + MAX_VCPUS * VCPU_BYTES;
export const HASH_ENTRIES = 32_768;
export const HASH_ENTRY_BYTES = 16;
export const LINES = HASH + HASH_ENTRIES * HASH_ENTRY_BYTES;
const ARENA_PAGES = 0x10_0000;
export const UOPS = LINES + ARENA_PAGES * 8;
export const UOP_BYTES = 16;
export const UOPS_BYTES = 48 * 1024 * 1024;
/** Bytes of the arena that the engine wants for itself. */
export const ARENA_BYTES = UOPS + UOPS_BYTES;

/** Offset of general register `index`. */
export const gpr = (index: number): number => Cpu.GPR + index * 8;
