import type { AccessSize } from "@skep/memory";
import type { CpuidTable, EngineVcpu } from "./engine.ts";
import { GuestCrashError } from "./errors.ts";
import { type EptViolationExit, ExitReason, type VmExit } from "./exit.ts";
import type { InterruptController, LocalApicPort } from "./irq.ts";
import type { MsrModel } from "./msr.ts";
import { Msr } from "./msr-index.ts";

/** The part of an address space that exits lead to; `AddressSpace` of `@skep/memory` is one. */
export interface ExitBuses {
  readonly ports: {
    read(port: number, size: AccessSize): number;
    write(port: number, size: AccessSize, value: number): void;
  };
  /** Low four bytes, unsigned; the high four of an 8-byte read are in `lastHigh` until the next read. */
  readMmio(address: number, size: AccessSize | 8): number;
  readonly lastHigh: number;
  writeMmio(address: number, size: AccessSize | 8, value: number, high?: number): void;
}

/** Who answers a guest's exits. */
export interface ExitHandlers {
  readonly memory: ExitBuses;
  readonly interrupts: InterruptController;
  readonly cpuid: CpuidTable;
  readonly msrs: MsrModel;
  /** A debugger: gets the exits of single steps and of exceptions that it asked the engine for. */
  readonly onDebugExit?: (
    vcpu: EngineVcpu,
    exit: VmExit,
  ) => typeof AfterExit.CONTINUE | typeof AfterExit.PAUSE;
}

/** What the run loop does with the vCPU after an exit. */
export const AfterExit = {
  /** Run on. */
  CONTINUE: 0,
  /** The slice is over: let the next vCPU run. */
  YIELD: 1,
  /** HLT: nothing to run until an interrupt. */
  HALT: 2,
  /** The VM is over; `ExitDispatcher.crash` says why. */
  CRASH: 3,
  /** Stop all vCPUs: a debugger has the word. */
  PAUSE: 4,
} as const;
export type AfterExit = (typeof AfterExit)[keyof typeof AfterExit];

/** An xAPIC's registers fill one page (SDM Vol. 3A sec. 11.4.1). */
const APIC_PAGE_BYTES = 0x1000;

const APIC_BASE_ENABLE = 1n << 11n;
const CPUID_APIC = 1 << 9;

/** What KVM answers to a hypercall that it does not know (ENOSYS of its hypercall ABI). */
const HYPERCALL_UNKNOWN = BigInt.asUintN(64, -1000n);

/**
 * Answers VM exits: one exhaustive switch, from exit reason to whoever owns the port, the address or the
 * register. Answers are written into the exit; nothing here throws at a guest, nothing on the I/O path
 * allocates.
 */
export class ExitDispatcher {
  /** Why the VM is over, after `AfterExit.CRASH`. */
  crash: GuestCrashError | undefined;

  readonly #handlers: ExitHandlers;
  readonly #localApics: readonly LocalApicPort[];

  constructor(handlers: ExitHandlers, vcpus: number) {
    this.#handlers = handlers;
    this.#localApics = Array.from({ length: vcpus }, (_, index) => handlers.interrupts.localApic(index));
  }

  handle(vcpu: EngineVcpu, exit: VmExit): AfterExit {
    const { memory, cpuid, msrs } = this.#handlers;
    switch (exit.reason) {
      case ExitReason.PreemptionTimer:
      case ExitReason.ExternalInterrupt:
      case ExitReason.Pause:
        return AfterExit.YIELD;

      case ExitReason.IoInstruction:
        if (exit.direction === "in") exit.data = memory.ports.read(exit.port, exit.size);
        else memory.ports.write(exit.port, exit.size, exit.data);
        return AfterExit.CONTINUE;

      case ExitReason.EptViolation:
        return this.#handleEptViolation(vcpu, exit);

      case ExitReason.InterruptWindow:
      case ExitReason.NmiWindow:
        return AfterExit.CONTINUE;

      case ExitReason.Hlt:
        return AfterExit.HALT;

      case ExitReason.Rdmsr: {
        const value = msrs.read(vcpu.index, exit.index);
        exit.fault = value === undefined;
        exit.value = value ?? 0n;
        return AfterExit.CONTINUE;
      }

      case ExitReason.Wrmsr:
        exit.fault = !msrs.write(vcpu.index, exit.index, exit.value);
        return AfterExit.CONTINUE;

      case ExitReason.CrAccess: {
        const apic = this.#localApics[vcpu.index]!;
        if (exit.direction === "read") exit.value = apic.getTpr();
        else apic.setTpr(exit.value);
        return AfterExit.CONTINUE;
      }

      case ExitReason.Cpuid: {
        const result = cpuid.query(vcpu.index, exit.leaf, exit.subleaf);
        exit.eax = result.eax;
        exit.ebx = result.ebx;
        exit.ecx = result.ecx;
        exit.edx = exit.leaf === 1 ? this.#hideDisabledApic(vcpu, result.edx) : result.edx;
        return AfterExit.CONTINUE;
      }

      case ExitReason.Vmcall:
        exit.result = HYPERCALL_UNKNOWN;
        return AfterExit.CONTINUE;

      case ExitReason.MonitorTrapFlag:
      case ExitReason.ExceptionOrNmi:
        return this.#handlers.onDebugExit?.(vcpu, exit) ?? this.#failUnknown(vcpu, exit);

      case ExitReason.TripleFault:
        return this.#fail(vcpu, "TRIPLE_FAULT", "a fault while delivering a double fault (triple fault)");

      case ExitReason.InvalidGuestState:
        return this.#fail(vcpu, "INVALID_GUEST_STATE", "a processor state that VM entry refuses");

      case ExitReason.EptMisconfiguration:
        return this.#fail(
          vcpu,
          "EPT_MISCONFIGURATION",
          `a reserved EPT entry for guest-physical ${hex(exit.address)}`,
        );

      default:
        return this.#failUnknown(vcpu, exit satisfies never);
    }
  }

  #handleEptViolation(vcpu: EngineVcpu, exit: EptViolationExit): AfterExit {
    const { memory } = this.#handlers;
    const { address, size } = exit;
    const apic = this.#localApics[vcpu.index]!;
    const base = apic.mmioBase;
    const isApic = base !== undefined && address >= base && address < base + APIC_PAGE_BYTES;
    if (exit.access === "read") {
      if (isApic && size !== 8) {
        exit.data = apic.read(address - base, size);
      } else if (isApic) {
        exit.data = apic.read(address - base, 4);
        exit.dataHigh = apic.read(address - base + 4, 4);
      } else {
        exit.data = memory.readMmio(address, size);
        if (size === 8) exit.dataHigh = memory.lastHigh;
      }
      return AfterExit.CONTINUE;
    }
    if (exit.access === "write") {
      if (isApic && size !== 8) {
        apic.write(address - base, size, exit.data);
      } else if (isApic) {
        apic.write(address - base, 4, exit.data);
        apic.write(address - base + 4, 4, exit.dataHigh);
      } else {
        memory.writeMmio(address, size, exit.data, exit.dataHigh);
      }
      return AfterExit.CONTINUE;
    }
    return this.#fail(
      vcpu,
      "EXECUTE_UNMAPPED",
      `an instruction fetch from guest-physical ${hex(address)}, where there is no memory`,
    );
  }

  /** CPUID's APIC flag mirrors IA32_APIC_BASE bit 11 (SDM Vol. 3A sec. 11.4.3). */
  #hideDisabledApic(vcpu: EngineVcpu, edx: number): number {
    const base = this.#localApics[vcpu.index]!.readMsr(Msr.IA32_APIC_BASE) ?? 0n;
    return (base & APIC_BASE_ENABLE) !== 0n ? edx : (edx & ~CPUID_APIC) >>> 0;
  }

  /** An engine that keeps the contract does not get here; one that does not must not spin here. */
  #failUnknown(vcpu: EngineVcpu, { reason }: Pick<VmExit, "reason">): AfterExit {
    return this.#fail(vcpu, "UNEXPECTED_EXIT", `an exit with reason ${reason} that nobody asked for`);
  }

  #fail(vcpu: EngineVcpu, code: string, what: string): AfterExit {
    const { rip, cs } = vcpu.save();
    const where = `CS ${hex(cs.selector)}:RIP 0x${rip.toString(16)}`;
    this.crash = new GuestCrashError(code, `vCPU ${vcpu.index} ended at ${where} with ${what}`);
    return AfterExit.CRASH;
  }
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
