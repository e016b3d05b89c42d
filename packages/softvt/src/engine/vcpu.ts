import {
  type EngineVcpu,
  ExitReason,
  resetVcpuState,
  type VcpuRunOptions,
  type VcpuStateV1,
  type VmExit,
} from "@skep/vcpu";
import { Cpu, Event, Mode } from "../cpu/layout.ts";
import { Slot } from "../cpu/slots.ts";
import type { EngineExports } from "./module.ts";
import { type CpuView, prepareRestore, saveVcpu, zeroMsrs } from "./vcpu-state.ts";

const ACTIVITY_ACTIVE = 0;
const ACTIVITY_WAIT_FOR_SIPI = 2;

/** Which privileged bits the guest's CPUID lets it set; see `Slot`. */
export interface AllowedBits {
  readonly cr4: bigint;
  readonly xcr0: bigint;
  readonly efer: bigint;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };
type ExitOf<R extends VmExit["reason"]> = Mutable<Extract<VmExit, { reason: R }>>;

/** One vCPU of the software engine: its block in the arena, and an instance of the module that runs it. */
export class SoftVcpu implements EngineVcpu {
  readonly index: number;
  readonly cpu: CpuView;
  readonly #exports: EngineExports;
  readonly #sample: () => void;
  /** The exit that the guest's current instruction waits for an answer to, if any. */
  #answer: VmExit | undefined;
  /** An exit that came while an instruction was completed for a save: the next run gives it out. */
  #deferred: VmExit | undefined;

  readonly #io: ExitOf<30> = { reason: ExitReason.IoInstruction, port: 0, size: 1, direction: "in", data: 0 };
  readonly #ept: ExitOf<48> = {
    reason: ExitReason.EptViolation,
    address: 0,
    size: 1,
    access: "read",
    data: 0,
    dataHigh: 0,
  };
  readonly #msr: { reason: 31 | 32; index: number; value: bigint; fault: boolean } = {
    reason: ExitReason.Rdmsr,
    index: 0,
    value: 0n,
    fault: false,
  };
  readonly #cr: ExitOf<28> = { reason: ExitReason.CrAccess, register: 8, direction: "read", value: 0 };
  readonly #cpuid: ExitOf<10> = {
    reason: ExitReason.Cpuid,
    leaf: 0,
    subleaf: 0,
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
  };
  readonly #plain: { reason: VmExit["reason"] } = { reason: ExitReason.Hlt };

  /** `sample`: called where a slice's budget ended. */
  constructor(index: number, cpu: CpuView, exports: EngineExports, allowed: AllowedBits, sample: () => void) {
    this.index = index;
    this.#sample = sample;
    this.cpu = cpu;
    this.#exports = exports;
    cpu.set64(Slot.CR4_ALLOWED, allowed.cr4);
    cpu.set64(Slot.XCR0_ALLOWED, allowed.xcr0);
    cpu.set64(Slot.EFER_ALLOWED, allowed.efer);
    // Fresh memory is all zero tags, which would match page 0: the first flush must visit every entry.
    for (let word = 0; word < 6; word++) cpu.set64(Cpu.TLB_FILLED + 8 * word, 0xffff_ffff_ffff_ffffn);
    this.reset("reset");
  }

  get instructions(): number {
    return this.cpu.getNumber64(Cpu.ICOUNT);
  }

  run(options: VcpuRunOptions): VmExit {
    const { cpu } = this;
    if (this.#deferred !== undefined) {
      const exit = this.#deferred;
      this.#deferred = undefined;
      return exit;
    }
    if (this.#answer !== undefined) this.#takeAnswer(this.#answer);
    this.#answer = undefined;
    if (cpu.get32(Cpu.ACTIVITY) === ACTIVITY_WAIT_FOR_SIPI) return this.#simple(ExitReason.Hlt);
    cpu.set32(Cpu.ACTIVITY, ACTIVITY_ACTIVE);
    cpu.set32(Cpu.WANT_WINDOW, options.interruptWindow ? 1 : 0);
    cpu.set32(Cpu.STEP, options.singleStep ? 1 : 0);
    cpu.set64(Cpu.ICOUNT_BASE, cpu.get64(Cpu.ICOUNT));
    cpu.set64(Cpu.TSC_BASE, options.tsc);
    cpu.setF64(Cpu.TSC_STEP, options.tscPerInstruction);
    cpu.set32(Cpu.EVENT, Event.LOOKUP);
    // The budget is counted in bytes of micro-ops, in 31 bits.
    const budget = Math.max(0, Math.min(options.budget, 0x7ff_ffff) - 1) * 16;
    const reason = this.#exports.run(budget);
    if (reason === ExitReason.PreemptionTimer) this.#sample();
    return this.#exit(reason);
  }

  #simple(reason: VmExit["reason"]): VmExit {
    this.#plain.reason = reason;
    return this.#plain as VmExit;
  }

  #exit(reason: number): VmExit {
    const { cpu } = this;
    switch (reason) {
      case ExitReason.IoInstruction: {
        const exit = this.#io;
        exit.port = cpu.get32(Cpu.EXIT_A);
        exit.size = cpu.get32(Cpu.EXIT_B) as 1 | 2 | 4;
        exit.direction = cpu.get32(Cpu.EXIT_C) === 1 ? "in" : "out";
        exit.data = cpu.getU32(Cpu.EXIT_D);
        this.#answer = exit;
        return exit;
      }
      case ExitReason.EptViolation: {
        const exit = this.#ept;
        const how = cpu.get32(Cpu.EXIT_C);
        exit.address = cpu.getNumber64(Cpu.EXIT_A);
        exit.size = (how & 0xff) as 1 | 2 | 4 | 8;
        exit.access = how >> 8 === 0 ? "read" : how >> 8 === 1 ? "write" : "execute";
        exit.data = cpu.getU32(Cpu.EXIT_D);
        exit.dataHigh = cpu.getU32(Cpu.EXIT_E);
        if (exit.access === "write" && exit.size < 4) exit.data &= (1 << (exit.size * 8)) - 1;
        this.#answer = exit;
        return exit;
      }
      case ExitReason.Rdmsr:
      case ExitReason.Wrmsr: {
        const exit = this.#msr;
        exit.reason = reason;
        exit.index = cpu.getU32(Cpu.EXIT_A);
        exit.value = cpu.get64(Cpu.EXIT_B);
        exit.fault = false;
        this.#answer = exit as VmExit;
        return exit as VmExit;
      }
      case ExitReason.CrAccess: {
        const exit = this.#cr;
        exit.direction = cpu.get32(Cpu.EXIT_A) === 0 ? "write" : "read";
        exit.value = cpu.get32(Cpu.EXIT_B) & 15;
        this.#answer = exit;
        return exit;
      }
      case ExitReason.Cpuid: {
        const exit = this.#cpuid;
        exit.leaf = cpu.getU32(Cpu.EXIT_A);
        exit.subleaf = cpu.getU32(Cpu.EXIT_B);
        this.#answer = exit;
        return exit;
      }
      case ExitReason.Vmcall: {
        const gpr = (i: number): bigint => cpu.get64(Cpu.GPR + 8 * i);
        const exit: VmExit = {
          reason: ExitReason.Vmcall,
          number: gpr(0),
          args: [gpr(3), gpr(1), gpr(2), gpr(6)],
          result: 0n,
        };
        this.#answer = exit;
        return exit;
      }
      default:
        return this.#simple(reason as VmExit["reason"]);
    }
  }

  /** Puts the host's answers where the instruction, executed again, finds them. */
  #takeAnswer(exit: VmExit): void {
    switch (exit.reason) {
      case ExitReason.IoInstruction:
        this.#replay(exit.data, 0);
        break;
      case ExitReason.EptViolation:
        this.#replay(exit.data, exit.dataHigh);
        break;
      case ExitReason.Rdmsr:
      case ExitReason.Wrmsr:
        this.cpu.set64(Cpu.EXIT_B, BigInt.asUintN(64, exit.value));
        this.#replay(this.cpu.getU32(Cpu.EXIT_B), this.cpu.getU32(Cpu.EXIT_C));
        if (exit.fault) this.cpu.set32(Slot.MSR_FAULT, 1);
        break;
      case ExitReason.CrAccess:
        this.#replay(exit.value, 0);
        break;
      case ExitReason.Cpuid:
        this.#replay(exit.eax, exit.ebx);
        this.#replay(exit.ecx, exit.edx);
        break;
      case ExitReason.Vmcall: {
        const is64 = (this.cpu.get32(Cpu.MODE) & Mode.CODE_MASK) === Mode.CODE64;
        this.cpu.set64(Cpu.GPR, BigInt.asUintN(is64 ? 64 : 32, exit.result));
        return;
      }
      default:
        return;
    }
    this.cpu.set32(Cpu.REPLAY_NEXT, 0);
  }

  /**
   * Executes the instruction whose exit was answered, and no other: a state is that between two instructions. Where it
   * exits again (another piece of an access, another turn of a REP), a state begins it anew.
   */
  #complete(): void {
    if (this.#answer === undefined || this.#deferred !== undefined) return;
    this.#takeAnswer(this.#answer);
    this.#answer = undefined;
    const { cpu } = this;
    if (cpu.get32(Cpu.REPLAY_NEXT) >= cpu.get32(Cpu.REPLAY_COUNT)) return;
    cpu.set32(Cpu.WANT_WINDOW, 0);
    cpu.set32(Cpu.STEP, 1);
    cpu.set64(Cpu.ICOUNT_BASE, cpu.get64(Cpu.ICOUNT));
    cpu.set32(Cpu.EVENT, Event.LOOKUP);
    const reason = this.#exports.run(0);
    if (reason !== ExitReason.MonitorTrapFlag) this.#deferred = this.#exit(reason);
  }

  #replay(low: number, high: number): void {
    const count = this.cpu.get32(Cpu.REPLAY_COUNT);
    this.cpu.set32(Cpu.REPLAY + count * 8, low | 0);
    this.cpu.set32(Cpu.REPLAY + count * 8 + 4, high | 0);
    this.cpu.set32(Cpu.REPLAY_COUNT, count + 1);
  }

  canTakeInterrupt(): boolean {
    const { cpu } = this;
    return (
      this.#answer === undefined &&
      (cpu.get32(Cpu.RFLAGS) & 0x200) !== 0 &&
      cpu.get32(Cpu.SHADOW) === 0 &&
      cpu.get32(Cpu.INJECT) === 0 &&
      cpu.get32(Cpu.REPLAY_NEXT) >= cpu.get32(Cpu.REPLAY_COUNT) &&
      cpu.get32(Cpu.ACTIVITY) !== ACTIVITY_WAIT_FOR_SIPI
    );
  }

  injectInterrupt(vector: number): void {
    if (!Number.isInteger(vector) || vector < 0 || vector > 255)
      throw new RangeError(`vector: expected an integer from 0 to 255, got ${vector}`);
    this.cpu.set32(Cpu.INJECT, 0x100 | vector);
  }

  injectNmi(): void {
    this.cpu.set32(Cpu.NMI_PENDING, 1);
  }

  save(): VcpuStateV1 {
    this.#complete();
    return saveVcpu(this.cpu, this.#exports.arithmeticFlags());
  }

  restore(state: unknown): void {
    const apply = prepareRestore(state);
    this.#answer = undefined;
    this.#deferred = undefined;
    const { rflags } = apply(this.cpu);
    this.#exports.writeFlags(rflags);
    this.#exports.flushTlb();
    this.#exports.flushNtlb();
    this.#exports.updateSse();
    this.#exports.updateMode();
  }

  reset(kind: "reset" | "init"): void {
    const state = resetVcpuState();
    // `restore` leaves alone what a state does not name: EFER.LMA must not outlive a reset.
    state.msrs = { ...zeroMsrs(), ...state.msrs };
    if (kind === "init") {
      // INIT keeps the FPU, most MSRs, and CR0's cache bits (SDM Vol. 3A table 10-1).
      const before = this.save();
      state.fpu = before.fpu;
      state.msrs = { ...before.msrs, c0000080: 0n };
      state.cr0 = (before.cr0 & 0x6000_0000n) | 0x10n;
      state.tscOffset = before.tscOffset;
      state.instructions = before.instructions;
      if (this.index !== 0) state.activity = "wait-for-sipi";
    } else if (this.index !== 0) state.activity = "wait-for-sipi";
    this.restore(state);
  }

  startup(vector: number): void {
    if (this.cpu.get32(Cpu.ACTIVITY) !== ACTIVITY_WAIT_FOR_SIPI) return;
    const state = this.save();
    state.cs = { selector: vector << 8, base: BigInt(vector) << 12n, limit: 0xffff, access: 0x9b };
    state.rip = 0n;
    state.activity = "active";
    this.restore(state);
  }
}
