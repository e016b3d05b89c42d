/** The states of KVM's local APICs: register pages and the MSRs beside them. */
import type { StateReader } from "../state-reader.ts";
import type { Native } from "./native.ts";
import { Size, Struct } from "./structs.ts";

const MSR_APIC_BASE = 0x1b;
const MSR_TSC_DEADLINE = 0x6e0;
/** IA32_APIC_BASE after RESET. */
const APIC_BASE_RESET = 0xfee0_0800n;
const APIC_BASE_BSP = 0x100n;

/** One local APIC: its register page (SDM Vol. 3A table 11-1) and the MSRs beside it. */
export interface KvmLocalApicStateV1 {
  registers: Uint8Array;
  apicBase: bigint;
  tscDeadline: bigint;
}

/** All local APICs of a VM. */
export class LocalApicAccess {
  /** The VM, while there is one. */
  host: { readonly native: Native } | undefined;
  readonly #vcpus: number;
  readonly #fds: number[] = [];
  /** Register pages as the kernel made them. */
  readonly #made: Uint8Array[] = [];

  /** @throws RangeError unless there are 1 to 255 vCPUs. */
  constructor(vcpus: number) {
    if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > 255) {
      throw new RangeError(`vcpus: expected an integer from 1 to 255, got ${vcpus}`);
    }
    this.#vcpus = vcpus;
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
      this.#write(fd, { registers: this.#made[i]!, apicBase, tscDeadline: 0n });
    });
  }

  save(): KvmLocalApicStateV1[] {
    return this.#fds.map((fd) => ({
      registers: this.#registers(fd),
      apicBase: this.#msr(fd, MSR_APIC_BASE),
      tscDeadline: this.#msr(fd, MSR_TSC_DEADLINE),
    }));
  }

  /** The field `lapics` of a saved state. @throws StateError */
  parse(reader: StateReader): KvmLocalApicStateV1[] {
    const u64 = (field: string, value: unknown): bigint => {
      if (typeof value === "bigint" && value >= 0n && value >> 64n === 0n) return value;
      throw reader.error(field, "an unsigned 64-bit bigint", value);
    };
    return reader.array("lapics", this.#vcpus).map((value, i) => {
      const { registers, apicBase, tscDeadline } = (value ?? {}) as Record<string, unknown>;
      if (!(registers instanceof Uint8Array) || registers.length !== Size.LAPIC) {
        throw reader.error(`lapics[${i}].registers`, `${Size.LAPIC} bytes`, registers);
      }
      return {
        registers,
        apicBase: u64(`lapics[${i}].apicBase`, apicBase),
        tscDeadline: u64(`lapics[${i}].tscDeadline`, tscDeadline),
      };
    });
  }

  /** Writes what `parse` gave. @throws KvmError where the kernel refuses. */
  write(lapics: readonly KvmLocalApicStateV1[]): void {
    this.#fds.forEach((fd, i) => {
      this.#write(fd, lapics[i]!);
    });
  }

  /** The mode before the registers, which are checked against it; the deadline last, which needs its timer's mode. */
  #write(fd: number, { registers, apicBase, tscDeadline }: KvmLocalApicStateV1): void {
    this.#setMsr(fd, MSR_APIC_BASE, apicBase);
    const lapic = new Struct(Size.LAPIC);
    lapic.bytes.set(registers);
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
