/**
 * Who keeps which MSR on KVM: KVM itself what the processor acts on, the VM's `MsrModel` what is only a value (so that
 * a state saved here resumes on any engine). The model's are denied by KVM's filter (api.rst sec. 4.97) and come
 * as exits, as do those that KVM does not know.
 */
import { Msr } from "../msr-index.ts";
import { MsrFilter } from "./abi.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

/** Ranges of the model's registers, [first, last]. */
const MODEL_RANGES: readonly (readonly [first: number, last: number])[] = [
  [Msr.IA32_PLATFORM_ID, Msr.IA32_PLATFORM_ID],
  [Msr.IA32_FEATURE_CONTROL, Msr.IA32_FEATURE_CONTROL],
  [Msr.IA32_BIOS_SIGN_ID, Msr.IA32_BIOS_SIGN_ID],
  [Msr.MSR_PLATFORM_INFO, Msr.MSR_PLATFORM_INFO],
  [Msr.IA32_MTRRCAP, Msr.IA32_MTRRCAP],
  [Msr.IA32_MCG_CAP, Msr.IA32_MCG_CTL],
  [Msr.IA32_MISC_ENABLE, Msr.IA32_MISC_ENABLE],
  [Msr.IA32_MTRR_PHYSBASE0, Msr.IA32_MTRR_PHYSBASE0 + 15],
  [Msr.IA32_MTRR_FIX64K_00000, Msr.IA32_MTRR_FIX64K_00000],
  [Msr.IA32_MTRR_FIX16K_80000, Msr.IA32_MTRR_FIX16K_A0000],
  [Msr.IA32_MTRR_FIX4K_C0000, Msr.IA32_MTRR_FIX4K_F8000],
  [Msr.IA32_MTRR_DEF_TYPE, Msr.IA32_MTRR_DEF_TYPE],
  [Msr.IA32_MC0_CTL, Msr.IA32_MC0_CTL + 15],
];
/** Those of a local APIC that is not KVM's. */
const APIC_RANGES: typeof MODEL_RANGES = [
  [Msr.IA32_APIC_BASE, Msr.IA32_APIC_BASE],
  [Msr.IA32_TSC_DEADLINE, Msr.IA32_TSC_DEADLINE],
];

/** Makes KVM leave the model's registers to us. @throws KvmError */
export function setMsrFilter(native: Native, vmFd: number, hasKernelApic: boolean): void {
  const ranges = hasKernelApic ? MODEL_RANGES : [...MODEL_RANGES, ...APIC_RANGES];
  const filter = new Struct(Size.MSR_FILTER);
  // A clear bit denies; 64 bits are enough for the longest range.
  const denied = new Uint8Array(new ArrayBuffer(8));
  ranges.forEach(([first, last], i) => {
    const at = 8 + i * Size.MSR_FILTER_RANGE;
    filter.setU32(at, MsrFilter.READ | MsrFilter.WRITE);
    filter.setU32(at + 4, last - first + 1);
    filter.setU32(at + 8, first);
    filter.setU64(at + 16, native.address(denied));
  });
  native.ioctlStruct(vmFd, "KVM_X86_SET_MSR_FILTER", filter);
}

/**
 * Registers of a vCPU's state that KVM keeps, where this kernel has them. Not here: EFER and the segment bases,
 * which the special registers hold; the TSC, which follows the VM's clock; the APIC's, which are its state.
 */
const STATE_MSRS: readonly number[] = [
  Msr.IA32_SPEC_CTRL,
  Msr.IA32_TSX_CTRL,
  Msr.IA32_SYSENTER_CS,
  Msr.IA32_SYSENTER_ESP,
  Msr.IA32_SYSENTER_EIP,
  Msr.IA32_PAT,
  Msr.IA32_XSS,
  Msr.IA32_STAR,
  Msr.IA32_LSTAR,
  Msr.IA32_CSTAR,
  Msr.IA32_FMASK,
  Msr.IA32_KERNEL_GS_BASE,
  Msr.IA32_TSC_AUX,
];
/** KVM's own (Documentation/virt/kvm/x86/msr.rst): kvmclock, asynchronous page faults, steal time, EOI. */
const KVM_STATE_MSRS: readonly number[] = [
  0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04, 0x4b56_4d05, 0x4b56_4d06,
];

/** Those of the state's registers that this kernel saves. @throws KvmError */
export function stateMsrs(native: Native, kvmFd: number): readonly number[] {
  const list = new Struct(4 + 4 * 1024);
  list.setU32(0, 1024);
  native.ioctlStruct(kvmFd, "KVM_GET_MSR_INDEX_LIST", list);
  const kept = new Set<number>();
  for (let i = 0; i < list.u32(0); i++) kept.add(list.u32(4 + 4 * i));
  return [...STATE_MSRS, ...KVM_STATE_MSRS].filter((index) => kept.has(index));
}
