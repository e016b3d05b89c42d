/**
 * KVM's interface as x86-64 Linux has it: ioctl numbers, capabilities and exit reasons, restated from
 * include/uapi/linux/kvm.h and Documentation/virt/kvm/api.rst. Structures are in `structs.ts`. A test compares
 * both with the installed headers.
 */
import { Size } from "./structs.ts";

/** asm-generic/ioctl.h: direction 31:30, size 29:16, type 15:8, number 7:0; KVM's type is 0xAE. */
const KVM_TYPE = 0xae00;
const NONE = 0;
const TO_KERNEL = 1;
const FROM_KERNEL = 2;
const BOTH = 3;
const DIRECTION_SCALE = 2 ** 30;
const SIZE_SCALE = 2 ** 16;

function ioctl(number: number, direction: number = NONE, bytes = 0): number {
  return direction * DIRECTION_SCALE + bytes * SIZE_SCALE + KVM_TYPE + number;
}

/** The API version that has not changed since Linux 2.6.22 (api.rst sec. 4.1). */
export const KVM_API_VERSION = 12;

/** ioctls by the name that the kernel gives them, which is also the name in error messages. */
export const Ioctl = {
  // The system's: /dev/kvm.
  KVM_GET_API_VERSION: ioctl(0x00),
  KVM_CREATE_VM: ioctl(0x01),
  KVM_GET_MSR_INDEX_LIST: ioctl(0x02, BOTH, 4),
  KVM_CHECK_EXTENSION: ioctl(0x03),
  KVM_GET_VCPU_MMAP_SIZE: ioctl(0x04),
  KVM_GET_SUPPORTED_CPUID: ioctl(0x05, BOTH, Size.CPUID2_HEADER),

  // A VM's.
  KVM_CREATE_VCPU: ioctl(0x41),
  KVM_GET_DIRTY_LOG: ioctl(0x42, TO_KERNEL, Size.DIRTY_LOG),
  KVM_SET_USER_MEMORY_REGION: ioctl(0x46, TO_KERNEL, Size.MEMORY_REGION),
  KVM_SET_TSS_ADDR: ioctl(0x47),
  KVM_SET_IDENTITY_MAP_ADDR: ioctl(0x48, TO_KERNEL, 8),
  KVM_CREATE_IRQCHIP: ioctl(0x60),
  KVM_IRQ_LINE: ioctl(0x61, TO_KERNEL, Size.IRQ_LEVEL),
  KVM_GET_IRQCHIP: ioctl(0x62, BOTH, Size.IRQCHIP),
  KVM_SET_IRQCHIP: ioctl(0x63, FROM_KERNEL, Size.IRQCHIP),
  KVM_SET_GSI_ROUTING: ioctl(0x6a, TO_KERNEL, Size.IRQ_ROUTING_HEADER),
  KVM_IRQFD: ioctl(0x76, TO_KERNEL, Size.IRQFD),
  KVM_CREATE_PIT2: ioctl(0x77, TO_KERNEL, Size.PIT_CONFIG),
  KVM_IOEVENTFD: ioctl(0x79, TO_KERNEL, Size.IOEVENTFD),
  KVM_SET_CLOCK: ioctl(0x7b, TO_KERNEL, Size.CLOCK_DATA),
  KVM_GET_CLOCK: ioctl(0x7c, FROM_KERNEL, Size.CLOCK_DATA),
  KVM_GET_PIT2: ioctl(0x9f, FROM_KERNEL, Size.PIT_STATE2),
  KVM_SET_PIT2: ioctl(0xa0, TO_KERNEL, Size.PIT_STATE2),
  KVM_ENABLE_CAP: ioctl(0xa3, TO_KERNEL, Size.ENABLE_CAP),
  KVM_SIGNAL_MSI: ioctl(0xa5, TO_KERNEL, Size.MSI),
  KVM_CLEAR_DIRTY_LOG: ioctl(0xc0, BOTH, Size.CLEAR_DIRTY_LOG),
  KVM_X86_SET_MSR_FILTER: ioctl(0xc6, TO_KERNEL, Size.MSR_FILTER),
  KVM_RESET_DIRTY_RINGS: ioctl(0xc7),

  // A vCPU's.
  KVM_RUN: ioctl(0x80),
  KVM_GET_REGS: ioctl(0x81, FROM_KERNEL, Size.REGS),
  KVM_SET_REGS: ioctl(0x82, TO_KERNEL, Size.REGS),
  KVM_GET_SREGS: ioctl(0x83, FROM_KERNEL, Size.SREGS),
  KVM_SET_SREGS: ioctl(0x84, TO_KERNEL, Size.SREGS),
  KVM_TRANSLATE: ioctl(0x85, BOTH, Size.TRANSLATION),
  KVM_INTERRUPT: ioctl(0x86, TO_KERNEL, Size.INTERRUPT),
  KVM_GET_MSRS: ioctl(0x88, BOTH, Size.MSRS_HEADER),
  KVM_SET_MSRS: ioctl(0x89, TO_KERNEL, Size.MSRS_HEADER),
  KVM_SET_SIGNAL_MASK: ioctl(0x8b, TO_KERNEL, 4),
  KVM_GET_LAPIC: ioctl(0x8e, FROM_KERNEL, Size.LAPIC),
  KVM_SET_LAPIC: ioctl(0x8f, TO_KERNEL, Size.LAPIC),
  KVM_SET_CPUID2: ioctl(0x90, TO_KERNEL, Size.CPUID2_HEADER),
  KVM_GET_MP_STATE: ioctl(0x98, FROM_KERNEL, 4),
  KVM_SET_MP_STATE: ioctl(0x99, TO_KERNEL, 4),
  KVM_NMI: ioctl(0x9a),
  KVM_SET_GUEST_DEBUG: ioctl(0x9b, TO_KERNEL, Size.GUEST_DEBUG),
  KVM_GET_VCPU_EVENTS: ioctl(0x9f, FROM_KERNEL, Size.VCPU_EVENTS),
  KVM_SET_VCPU_EVENTS: ioctl(0xa0, TO_KERNEL, Size.VCPU_EVENTS),
  KVM_GET_DEBUGREGS: ioctl(0xa1, FROM_KERNEL, Size.DEBUGREGS),
  KVM_SET_DEBUGREGS: ioctl(0xa2, TO_KERNEL, Size.DEBUGREGS),
  KVM_SET_TSC_KHZ: ioctl(0xa2),
  KVM_GET_TSC_KHZ: ioctl(0xa3),
  KVM_GET_XSAVE: ioctl(0xa4, FROM_KERNEL, Size.XSAVE),
  KVM_SET_XSAVE: ioctl(0xa5, TO_KERNEL, Size.XSAVE),
  KVM_GET_XCRS: ioctl(0xa6, FROM_KERNEL, Size.XCRS),
  KVM_SET_XCRS: ioctl(0xa7, TO_KERNEL, Size.XCRS),
  KVM_KVMCLOCK_CTRL: ioctl(0xad),
  KVM_GET_SREGS2: ioctl(0xcc, FROM_KERNEL, Size.SREGS2),
  KVM_SET_SREGS2: ioctl(0xcd, TO_KERNEL, Size.SREGS2),
  KVM_GET_XSAVE2: ioctl(0xcf, FROM_KERNEL, Size.XSAVE),
  KVM_SET_DEVICE_ATTR: ioctl(0xe1, TO_KERNEL, Size.DEVICE_ATTR),
  KVM_GET_DEVICE_ATTR: ioctl(0xe2, TO_KERNEL, Size.DEVICE_ATTR),
  KVM_HAS_DEVICE_ATTR: ioctl(0xe3, TO_KERNEL, Size.DEVICE_ATTR),
} as const;
export type IoctlName = keyof typeof Ioctl;

/** Capabilities by KVM_CHECK_EXTENSION's numbers. */
export const Capability = {
  KVM_CAP_IRQCHIP: 0,
  KVM_CAP_USER_MEMORY: 3,
  KVM_CAP_SET_TSS_ADDR: 4,
  KVM_CAP_EXT_CPUID: 7,
  KVM_CAP_NR_VCPUS: 9,
  KVM_CAP_NR_MEMSLOTS: 10,
  KVM_CAP_MP_STATE: 14,
  KVM_CAP_USER_NMI: 22,
  KVM_CAP_SET_GUEST_DEBUG: 23,
  KVM_CAP_IRQ_ROUTING: 25,
  KVM_CAP_IRQFD: 32,
  KVM_CAP_PIT2: 33,
  KVM_CAP_PIT_STATE2: 35,
  KVM_CAP_IOEVENTFD: 36,
  KVM_CAP_SET_IDENTITY_MAP_ADDR: 37,
  KVM_CAP_ADJUST_CLOCK: 39,
  KVM_CAP_VCPU_EVENTS: 41,
  KVM_CAP_DEBUGREGS: 50,
  KVM_CAP_ENABLE_CAP: 54,
  KVM_CAP_XSAVE: 55,
  KVM_CAP_XCRS: 56,
  KVM_CAP_TSC_CONTROL: 60,
  KVM_CAP_GET_TSC_KHZ: 61,
  KVM_CAP_MAX_VCPUS: 66,
  KVM_CAP_TSC_DEADLINE_TIMER: 72,
  KVM_CAP_SIGNAL_MSI: 77,
  KVM_CAP_READONLY_MEM: 81,
  KVM_CAP_ENABLE_CAP_VM: 98,
  KVM_CAP_SPLIT_IRQCHIP: 121,
  KVM_CAP_VCPU_ATTRIBUTES: 127,
  KVM_CAP_X2APIC_API: 129,
  KVM_CAP_IMMEDIATE_EXIT: 136,
  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: 168,
  KVM_CAP_X86_USER_SPACE_MSR: 188,
  KVM_CAP_X86_MSR_FILTER: 189,
  KVM_CAP_DIRTY_LOG_RING: 192,
  KVM_CAP_SREGS2: 200,
  KVM_CAP_EXIT_ON_EMULATION_FAILURE: 204,
  KVM_CAP_XSAVE2: 208,
  KVM_CAP_VM_TSC_CONTROL: 214,
  KVM_CAP_DIRTY_LOG_RING_ACQ_REL: 223,
} as const;
export type CapabilityName = keyof typeof Capability;

/** `kvm_run.exit_reason`: all of them, other architectures' included, so that each has its name in an error. */
export const KvmExit = {
  UNKNOWN: 0,
  EXCEPTION: 1,
  IO: 2,
  HYPERCALL: 3,
  DEBUG: 4,
  HLT: 5,
  MMIO: 6,
  IRQ_WINDOW_OPEN: 7,
  SHUTDOWN: 8,
  FAIL_ENTRY: 9,
  INTR: 10,
  SET_TPR: 11,
  TPR_ACCESS: 12,
  S390_SIEIC: 13,
  S390_RESET: 14,
  DCR: 15,
  NMI: 16,
  INTERNAL_ERROR: 17,
  OSI: 18,
  PAPR_HCALL: 19,
  S390_UCONTROL: 20,
  WATCHDOG: 21,
  S390_TSCH: 22,
  EPR: 23,
  SYSTEM_EVENT: 24,
  S390_STSI: 25,
  IOAPIC_EOI: 26,
  HYPERV: 27,
  ARM_NISV: 28,
  X86_RDMSR: 29,
  X86_WRMSR: 30,
  DIRTY_RING_FULL: 31,
  AP_RESET_HOLD: 32,
  X86_BUS_LOCK: 33,
  XEN: 34,
  RISCV_SBI: 35,
  RISCV_CSR: 36,
  NOTIFY: 37,
  LOONGARCH_IOCSR: 38,
  MEMORY_FAULT: 39,
  TDX: 40,
} as const;

/** KVM_EXIT_INTERNAL_ERROR's suberrors. */
export const InternalError = {
  EMULATION: 1,
  SIMUL_EX: 2,
  DELIVERY_EV: 3,
  UNEXPECTED_EXIT_REASON: 4,
} as const;
/** `emulation_failure.flags`: the instruction's bytes are there. */
export const EMULATION_FAILURE_HAS_BYTES = 1n;

/** `kvm_mp_state`. */
export const MpState = {
  RUNNABLE: 0,
  /** An application processor after RESET: waits for INIT. */
  UNINITIALIZED: 1,
  /** After INIT: waits for a start-up IPI. */
  INIT_RECEIVED: 2,
  HALTED: 3,
  SIPI_RECEIVED: 4,
} as const;

/** `kvm_userspace_memory_region.flags`. */
export const MemoryFlag = { LOG_DIRTY_PAGES: 1, READONLY: 2 } as const;

/** `kvm_vcpu_events.flags`: which fields KVM_SET_VCPU_EVENTS takes. */
export const EventFlag = { NMI_PENDING: 1, SIPI_VECTOR: 2, SHADOW: 4, SMM: 8, PAYLOAD: 16 } as const;
/** `kvm_vcpu_events.interrupt.shadow`. */
export const Shadow = { MOV_SS: 1, STI: 2 } as const;

/** `kvm_guest_debug.control`. */
export const GuestDebug = { ENABLE: 1, SINGLESTEP: 2 } as const;

/** `kvm_irqfd.flags`, `kvm_ioeventfd.flags`. */
export const IrqfdFlag = { DEASSIGN: 1, RESAMPLE: 2 } as const;
export const IoeventfdFlag = { DATAMATCH: 1, PIO: 2, DEASSIGN: 4 } as const;

/** `kvm_irq_routing_entry.type`, and the chips of KVM_IRQ_ROUTING_IRQCHIP and KVM_GET_IRQCHIP. */
export const RoutingType = { IRQCHIP: 1, MSI: 2 } as const;
export const IrqChipId = { PIC_MASTER: 0, PIC_SLAVE: 1, IOAPIC: 2 } as const;

/** KVM_CAP_X86_USER_SPACE_MSR: which failed accesses come to user space. */
export const MsrExitReason = { INVAL: 1, UNKNOWN: 2, FILTER: 4 } as const;
/** `kvm_msr_filter_range.flags`; at most 16 ranges. */
export const MsrFilter = { READ: 1, WRITE: 2, MAX_RANGES: 16 } as const;

/** KVM_CAP_X2APIC_API: 32-bit destinations in MSIs and LAPIC states; no broadcast by 0xFF. */
export const X2apicApi = { USE_32BIT_IDS: 1n, DISABLE_BROADCAST_QUIRK: 2n } as const;

/** KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const MANUAL_PROTECT_ENABLE = 1n;
/** Where a vCPU's dirty ring is mapped, in pages of its file descriptor; flags of `kvm_dirty_gfn`. */
export const DIRTY_RING_PAGE_OFFSET = 64;
export const DirtyGfn = { DIRTY: 1, RESET: 2 } as const;

/** KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET (Documentation/virt/kvm/devices/vcpu.rst sec. 4). */
export const TscAttribute = { GROUP: 0, OFFSET: 0 } as const;
