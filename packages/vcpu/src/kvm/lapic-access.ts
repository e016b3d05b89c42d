/** KVM's local APICs, read and written: register pages and the MSRs beside them. */
import type { LocalApicStateV1 } from "../irqchip-state.ts";
import { type KvmLapic, lapicFromKvm, lapicToKvm } from "./lapic-state.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

const MSR_APIC_BASE = 0x1b;
const MSR_TSC_DEADLINE = 0x6e0;
/** IA32_APIC_BASE after RESET. */
const APIC_BASE_RESET = 0xfee0_0800n;
const APIC_BASE_BSP = 0x100n;

/** All local APICs of a VM. */
export class LocalApicAccess {
  /** The VM, while there is one. */
  host: { readonly native: Native } | undefined;
  readonly vcpus: number;
  readonly #fds: number[] = [];
  /** Register pages as the kernel made them. */
  readonly #made: Uint8Array[] = [];

  /** @throws RangeError unless there are 1 to 255 vCPUs. */
  constructor(vcpus: number) {
    if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > 255) {
      throw new RangeError(`vcpus: expected an integer from 1 to 255, got ${vcpus}`);
    }
    this.vcpus = vcpus;
  }

  /** vCPU `index` was made, with its local APIC in its RESET state. */
  add(index: number, fd: number): void {
    this.#fds[index] = fd;
    this.#made[index] = this.#registers(fd);
  }

  clear(): void {
    this.host = undefined;
    this.#fds.length = 0;
  }

  reset(): void {
    this.#fds.forEach((fd, i) => {
      const apicBase = APIC_BASE_RESET | (i === 0 ? APIC_BASE_BSP : 0n);
      this.#write(fd, { page: this.#made[i]!, apicBase, tscDeadline: 0n });
    });
  }

  /** @param lint0 level of the 8259s' INTR. */
  save(lint0: boolean): LocalApicStateV1[] {
    return this.#fds.map((fd) => {
      const tscDeadline = this.#msr(fd, MSR_TSC_DEADLINE);
      return lapicFromKvm(
        { page: this.#registers(fd), apicBase: this.#msr(fd, MSR_APIC_BASE), tscDeadline },
        lint0,
      );
    });
  }

  /**
   * What `write` takes, of states that have been checked.
   *
   * @param path of the state, for errors.
   * @throws StateError naming what these local APICs cannot hold.
   */
  convert(lapics: readonly LocalApicStateV1[], path: string): KvmLapic[] {
    return this.#fds.map((_, i) => lapicToKvm(lapics[i]!, this.#made[i]!, `${path}.lapics[${i}]`));
  }

  /** @throws KvmError where the kernel refuses. */
  write(lapics: readonly KvmLapic[]): void {
    this.#fds.forEach((fd, i) => {
      this.#write(fd, lapics[i]!);
    });
  }

  /** The TSC was set: deadlines are of the new one. The kernel worked out when they are due by the old one. */
  tscChanged(): void {
    for (const fd of this.#fds) {
      const deadline = this.#msr(fd, MSR_TSC_DEADLINE);
      if (deadline !== 0n) this.#setMsr(fd, MSR_TSC_DEADLINE, deadline);
    }
  }

  /** The mode before the registers, which are checked against it; the deadline last, which needs its timer's mode. */
  #write(fd: number, { page, apicBase, tscDeadline }: KvmLapic): void {
    this.#setMsr(fd, MSR_APIC_BASE, apicBase);
    const lapic = new Struct(Size.LAPIC);
    lapic.bytes.set(page);
    this.#native.ioctlStruct(fd, "KVM_SET_LAPIC", lapic);
    this.#setMsr(fd, MSR_TSC_DEADLINE, tscDeadline);
  }

  #registers(fd: number): Uint8Array {
    const lapic = new Struct(Size.LAPIC);
    this.#native.ioctlStruct(fd, "KVM_GET_LAPIC", lapic);
    return lapic.bytes;
  }

  #msr(fd: number, index: number): bigint {
    const msr = msrStruct(index, 0n);
    this.#native.ioctlStruct(fd, "KVM_GET_MSRS", msr);
    return msr.u64(16);
  }

  #setMsr(fd: number, index: number, value: bigint): void {
    this.#native.ioctlStruct(fd, "KVM_SET_MSRS", msrStruct(index, value));
  }

  get #native(): Native {
    if (!this.host) throw new RangeError("this interrupt controller belongs to no VM");
    return this.host.native;
  }
}

function msrStruct(index: number, value: bigint): Struct {
  const msr = new Struct(Size.MSRS_HEADER + Size.MSR_ENTRY);
  msr.setU32(0, 1);
  msr.setU32(8, index);
  msr.setU64(16, value);
  return msr;
}
