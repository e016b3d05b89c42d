import { Cpu } from "./layout.ts";

const slot = (index: number): number => Cpu.SCRATCH + index * 8;

/** Who uses which of the vCPU block's 64 scratch values (i64 each; fields of 32 bits use the low half). */
export const Slot = {
  /** i32, host to engine: 1 makes the RDMSR or WRMSR that is being answered raise #GP(0). Cleared when read. */
  MSR_FAULT: slot(0),
  /** i64: bits of CR4, XCR0 and IA32_EFER that this vCPU's CPUID model lets the guest set. */
  CR4_ALLOWED: slot(1),
  XCR0_ALLOWED: slot(2),
  EFER_ALLOWED: slot(3),
  /** i32: 1 if the instruction just executed takes no single-step trap (it delivered an event). */
  NO_STEP_TRAP: slot(4),
  /** i32: 1 once a task switch has taken effect: a fault behind that point belongs to the new task. */
  TASK_COMMITTED: slot(5),

  /** The stack that an event or far transfer pushes its frame on, until it is committed; see cpu/frame.ts. */
  FRAME_BASE: slot(8),
  FRAME_MASK: slot(9),
  FRAME_SP: slot(10),
  FRAME_LIMIT: slot(11),
  FRAME_ACCESS: slot(12),
  FRAME_TLB: slot(13),
  FRAME_ERROR: slot(14),
} as const;
