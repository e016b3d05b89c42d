/** One vCPU of KVM: its file descriptor, its shared page, and both of the engine contract's ways to run it. */
import type { EngineVcpu, VcpuRunOptions } from "../engine.ts";
import { StateError, VmStateError } from "../errors.ts";
import { ExitReason, type VmExit } from "../exit.ts";
import { resetVcpuState } from "../reset-state.ts";
import type { VcpuStateV1 } from "../state.ts";
import { GuestDebug, MpState, TscAttribute } from "./abi.ts";
import { KvmExitError } from "./errors.ts";
import { ExitReader, type KvmEvent, type KvmFailure } from "./exit-reader.ts";
import { KickTimer } from "./kick-timer.ts";
import { KICK_SIGNAL, kvmError, MapFlag, type Mapping, type Native } from "./native.ts";
import { parseVcpuState } from "./parse-state.ts";
import { Run, Size, Struct } from "./structs.ts";
import { type StateFeatures, VcpuStateAccess } from "./vcpu-state.ts";

/** What a vCPU asks of its VM. */
export interface VcpuHost {
  readonly native: Native;
  readonly fd: number;
  /** Bytes of struct kvm_run and what follows it (KVM_GET_VCPU_MMAP_SIZE). */
  readonly runBytes: number;
  readonly features: StateFeatures;
  readonly tscHz: number;
  readonly hasTscOffset: boolean;
  /** KVM_SET_CPUID2's entries for vCPU `index`. */
  cpuid(index: number): Struct;
  /** CPUID leaf 1 EAX: what RESET leaves in EDX. */
  readonly signature: number;
  /** Deals with what is no VM exit. */
  onEvent(event: KvmEvent): void;
  /** Bytes at a guest-physical address, as far as there is memory. */
  peek(address: number, length: number): Uint8Array;
}

const PREEMPTED: VmExit = { reason: ExitReason.PreemptionTimer };
const KICKED: VmExit = { reason: ExitReason.ExternalInterrupt };
const EINTR = 4;
const EAGAIN = 11;
/**
 * KVM does not count instructions. A budget is then time: the clock takes 10 ns for an instruction as long as nobody
 * tells it better (`RealClock`), so this gives back the time that it meant.
 */
const NS_PER_BUDGETED = 10;
/** A KVM that emulates needs most of it to begin: the first entry of a vCPU takes several hundred microseconds. */
const MIN_SLICE_NS = 2_000_000;
const MAX_SLICE_NS = 10_000_000;
const MSR_TSC = 0x10;
/** A step between the VM's clock and the guest's TSC beyond this means that time stood still: set the TSC again. */
const TSC_STEP_MS = 1;
const INSTRUCTION_BYTES = 15;

export class KvmVcpu implements EngineVcpu {
  readonly index: number;
  readonly hasOwnTsc = true;
  /** KVM does not count. */
  readonly instructions = 0;
  readonly fd: number;
  /** Longest time of a run on the calling thread, in ns; probes want more than a slice. */
  sliceLimitNs = MAX_SLICE_NS;

  readonly #host: VcpuHost;
  readonly #native: Native;
  readonly #kickTimer: KickTimer;
  readonly #mapping: Mapping;
  readonly #run: Struct;
  readonly #reader: ExitReader;
  readonly #state: VcpuStateAccess;
  /** What an exit hid behind another one: given out by the next run before the guest is entered. */
  #deferred: VmExit | undefined;
  #cr8: { reason: typeof ExitReason.CrAccess; register: 8; direction: "write"; value: number } | undefined;
  #tpr = 0;
  /** Where the APIC is not KVM's, KVM does not know of it. */
  #activity: VcpuStateV1["activity"] = "active";
  /** kvm_run's word on interrupts is of the last exit; anything that was set since makes it stale. */
  #isFresh = false;
  #isStepping = false;
  #isClosed = false;
  /** The clock's TSC and the host's time when the guest's TSC was last known to agree. */
  #tscAt: { tsc: bigint; ms: number } | undefined;

  constructor(host: VcpuHost, index: number) {
    const { native } = host;
    this.index = index;
    this.#host = host;
    this.#native = native;
    this.#kickTimer = KickTimer.ofThread(native);
    this.fd = native.ioctl(host.fd, "KVM_CREATE_VCPU", index);
    let mapping: Mapping | undefined;
    try {
      mapping = native.map(this.fd, 0, host.runBytes, MapFlag.SHARED);
      this.#mapping = mapping;
      this.#run = new Struct(mapping.bytes);
      this.#reader = new ExitReader(this.#run);
      native.ioctlStruct(this.fd, "KVM_SET_CPUID2", host.cpuid(index));
      this.#setSignalMask();
      this.#state = new VcpuStateAccess(native, this.fd, index, host.features);
      this.reset("reset");
    } catch (error) {
      if (mapping) native.unmap(mapping);
      native.close(this.fd);
      throw error;
    }
  }

  /** Where struct kvm_run is, for the vCPU's thread. */
  get runAddress(): bigint {
    return this.#mapping.address;
  }

  // Running on the calling thread.

  run(options: VcpuRunOptions): VmExit {
    this.#expectOpen();
    const early = this.#takeDeferred() ?? this.#reader.advance();
    if (early !== undefined) return early;
    if (options.tscJumped !== false) this.#followClock(options.tsc);
    this.#run.setU8(Run.REQUEST_INTERRUPT_WINDOW, options.interruptWindow ? 1 : 0);
    this.#setStepping(options.singleStep);
    this.#activity = "active";
    const ns = Math.min(Math.max(options.budget * NS_PER_BUDGETED, MIN_SLICE_NS), this.sliceLimitNs);
    let isWhole = this.#kickTimer.arm(ns);
    for (;;) {
      const exit = this.finish(this.#native.run(this.fd), PREEMPTED);
      if (exit === undefined) continue;
      if (exit !== PREEMPTED || isWhole) return exit;
      // That was an earlier run's time, perhaps before a single instruction.
      isWhole = this.#kickTimer.arm(ns);
    }
  }

  // Running on a thread of its own: what the VM's thread does before and after.

  /** Stores the last exit's answer; an exit that needs no entry, if one is left. */
  prepare(): VmExit | undefined {
    this.#expectOpen();
    return this.#takeDeferred() ?? this.#reader.advance();
  }

  /** The next KVM_RUN returns at once, having completed what the last exit began. */
  setImmediateExit(isOn: boolean): void {
    if (!this.#isClosed) this.#run.setU8(Run.IMMEDIATE_EXIT, isOn ? 1 : 0);
  }

  /**
   * What KVM_RUN's `result` (0 or -errno) means; `undefined` where the engine has dealt with it and the vCPU
   * is to be entered again.
   *
   * @param interrupted the exit that a signal stands for.
   * @throws KvmExitError where KVM gave up on the guest. @throws KvmError where KVM_RUN failed.
   */
  finish(result: number, interrupted: VmExit = KICKED): VmExit | undefined {
    this.#isFresh = true;
    if (result === -EINTR) {
      this.#native.eatKick();
      this.#kickTimer.wentOff();
      return interrupted;
    }
    // A vCPU that waits for INIT was woken without it.
    if (result === -EAGAIN) return interrupted;
    if (result < 0) throw kvmError("KVM_RUN", -result);
    const exit = this.#reader.read();
    if ("failure" in exit) return this.#fail(exit);
    if ("event" in exit) {
      this.#host.onEvent(exit);
      return this.#readTpr();
    }
    if (exit.reason === ExitReason.Hlt) this.#activity = "halted";
    const tpr = this.#readTpr();
    if (tpr === undefined) return exit;
    this.#deferred = exit;
    return tpr;
  }

  // Interrupts, where the interrupt controller is not KVM's.

  canTakeInterrupt(): boolean {
    this.#expectOpen();
    if (!this.#isFresh) return this.#state.canTakeInterrupt();
    const run = this.#run;
    return run.u8(Run.READY_FOR_INTERRUPT_INJECTION) !== 0 && run.u8(Run.IF_FLAG) !== 0;
  }

  injectInterrupt(vector: number): void {
    this.#expectOpen();
    const interrupt = new Struct(Size.INTERRUPT);
    interrupt.setU32(0, vector);
    this.#native.ioctlStruct(this.fd, "KVM_INTERRUPT", interrupt);
    this.#isFresh = false;
  }

  injectNmi(): void {
    this.#expectOpen();
    this.#native.ioctl(this.fd, "KVM_NMI");
    this.#isFresh = false;
  }

  // State.

  save(): VcpuStateV1 {
    this.#expectOpen();
    this.#complete();
    return this.#state.read(this.#activity);
  }

  restore(state: unknown): void {
    this.#expectOpen();
    const parsed = parseVcpuState(state);
    const before = this.save();
    try {
      this.#write(parsed);
    } catch (error) {
      if (error instanceof StateError) this.#write(before);
      throw error;
    }
  }

  reset(kind: "reset" | "init"): void {
    this.#expectOpen();
    // KVM would finish a half-done instruction in the state that is written below.
    this.#complete();
    const state = resetVcpuState(this.#host.signature);
    if (kind === "init") {
      // SDM Vol. 3A table 10-1: x87, SSE and MSRs stay, and of CR0 the cache's bits.
      const before = this.save();
      state.fpu = before.fpu;
      state.msrs = { ...before.msrs, c0000080: 0n };
      state.cr0 = (state.cr0 & ~0x6000_0000n) | (before.cr0 & 0x6000_0000n);
      state.tscOffset = before.tscOffset;
      if (this.index > 0) state.activity = "wait-for-sipi";
    }
    this.#write(state);
  }

  startup(vector: number): void {
    const state = this.save();
    if (state.activity !== "wait-for-sipi") return;
    state.cs = { ...state.cs, selector: vector << 8, base: BigInt(vector << 12) };
    state.rip = 0n;
    state.activity = "active";
    this.#write(state);
  }

  /** Halted with interrupts off, or waiting for another processor's INIT or SIPI. */
  isStuck(): boolean {
    this.#expectOpen();
    const mpState = this.#state.mpState();
    if (mpState === MpState.UNINITIALIZED || mpState === MpState.INIT_RECEIVED) return true;
    return mpState === MpState.HALTED && (this.#state.position().rflags & 0x200n) === 0n;
  }

  /** What would be added to the host's TSC for a vCPU without an offset of its own, were its TSC `tsc` now. */
  tscBase(tsc: bigint): bigint {
    const offset = this.#tscOffsetAttribute("KVM_GET_DEVICE_ATTR", 0n);
    return BigInt.asUintN(64, offset + tsc - this.#readTsc());
  }

  /** Makes the TSC what `base` says, and this vCPU's own offset. */
  setTscBase(base: bigint): void {
    const offset = BigInt.asUintN(64, base + this.#state.tscOffset());
    this.#tscOffsetAttribute("KVM_SET_DEVICE_ATTR", offset);
  }

  /** The same for hosts that know no offset: KVM itself brings those in step that are written at about one time. */
  setTsc(tsc: bigint): void {
    const msr = this.#tscMsr();
    msr.setU64(16, BigInt.asUintN(64, tsc + this.#state.tscOffset()));
    this.#native.ioctlStruct(this.fd, "KVM_SET_MSRS", msr);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#native.unmap(this.#mapping);
    this.#native.close(this.fd);
  }

  #write(state: VcpuStateV1): void {
    this.#state.write(state);
    this.#activity = state.activity;
    this.#isFresh = false;
    this.#deferred = undefined;
    this.#tscAt = undefined;
  }

  /** An instruction that KVM has left half done is finished, so that the registers are those between two. */
  #complete(): void {
    if (!this.#reader.isPending) return;
    const piece = this.#reader.advance();
    if (piece !== undefined) {
      this.#deferred = piece;
      return;
    }
    const run = this.#run;
    run.setU8(Run.IMMEDIATE_EXIT, 1);
    try {
      const exit = this.finish(this.#native.run(this.fd));
      if (exit !== undefined && exit !== KICKED) this.#deferred = exit;
    } finally {
      run.setU8(Run.IMMEDIATE_EXIT, 0);
    }
  }

  #takeDeferred(): VmExit | undefined {
    if (this.#cr8 !== undefined) {
      this.#tpr = this.#cr8.value;
      this.#cr8 = undefined;
    }
    const deferred = this.#deferred;
    this.#deferred = undefined;
    return deferred;
  }

  /** Where KVM has no APIC, CR8 is kvm_run's: a change is what VT-x calls a CR access. */
  #readTpr(): VmExit | undefined {
    if (this.#host.features.hasKernelApic) return undefined;
    // The rest of CR8 is reserved and 0 (SDM Vol. 3A sec. 2.5).
    const value = this.#run.u8(Run.CR8) & 0xf;
    if (value === this.#tpr) return undefined;
    this.#cr8 = { reason: ExitReason.CrAccess, register: 8, direction: "write", value };
    return this.#cr8;
  }

  #setSignalMask(): void {
    const mask = new Struct(12);
    mask.setU32(0, 8);
    // Everything stays blocked inside KVM_RUN but the kick: other signals are for the process's other threads.
    mask.setU64(4, ~(1n << BigInt(KICK_SIGNAL - 1)));
    this.#native.ioctlStruct(this.fd, "KVM_SET_SIGNAL_MASK", mask);
  }

  #setStepping(isOn: boolean): void {
    if (this.#isStepping === isOn) return;
    this.#isStepping = isOn;
    const debug = new Struct(Size.GUEST_DEBUG);
    debug.setU32(0, isOn ? GuestDebug.ENABLE | GuestDebug.SINGLESTEP : 0);
    this.#native.ioctlStruct(this.fd, "KVM_SET_GUEST_DEBUG", debug);
  }

  /** The guest's TSC runs by itself; it is set where the VM's clock was restored or stood still meanwhile. */
  #followClock(tsc: bigint): void {
    const ms = performance.now();
    const last = this.#tscAt;
    const elapsedMs = last === undefined ? 0 : (Number(tsc - last.tsc) * 1000) / this.#host.tscHz;
    if (last !== undefined && Math.abs(ms - last.ms - elapsedMs) < TSC_STEP_MS) return;
    if (this.#host.hasTscOffset) this.setTscBase(this.tscBase(tsc));
    else this.setTsc(tsc);
    this.#tscAt = { tsc, ms };
  }

  #readTsc(): bigint {
    const msr = this.#tscMsr();
    this.#native.ioctlStruct(this.fd, "KVM_GET_MSRS", msr);
    return msr.u64(16);
  }

  #tscMsr(): Struct {
    const msr = new Struct(Size.MSRS_HEADER + Size.MSR_ENTRY);
    msr.setU32(0, 1);
    msr.setU32(8, MSR_TSC);
    return msr;
  }

  /** KVM_VCPU_TSC_OFFSET: reads or writes what is added to the host's TSC. */
  #tscOffsetAttribute(name: "KVM_GET_DEVICE_ATTR" | "KVM_SET_DEVICE_ATTR", value: bigint): bigint {
    const cell = new Struct(8);
    cell.setU64(0, value);
    const attribute = new Struct(Size.DEVICE_ATTR);
    attribute.setU32(4, TscAttribute.GROUP);
    attribute.setU64(8, BigInt(TscAttribute.OFFSET));
    attribute.setU64(16, this.#native.address(cell.bytes));
    this.#native.ioctlStruct(this.fd, name, attribute);
    return cell.u64(0);
  }

  #fail(failure: KvmFailure): VmExit {
    const { rip } = this.#state.position();
    const linear = BigInt.asUintN(64, this.#state.codeBase() + rip);
    const instruction = failure.instruction ?? this.#instructionAt(linear);
    // An instruction fetch where there is no memory is what KVM cannot emulate; the contract has an exit for it.
    const address = this.#translate(linear);
    if (failure.failure === "KVM_INTERNAL_ERROR" && failure.suberror === 1n && address !== undefined) {
      if (this.#host.peek(address, 1).length === 0) {
        return {
          reason: ExitReason.EptViolation,
          address,
          size: 1,
          access: "execute",
          data: 0,
          dataHigh: 0,
        };
      }
    }
    const bytes = Array.from(instruction, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    throw new KvmExitError(
      failure.failure,
      `vCPU ${this.index} at linear address 0x${linear.toString(16)}: ${failure.exit}, ${failure.what}; ` +
        `instruction bytes: ${bytes || "none could be read"}`,
      { exit: failure.exit, suberror: failure.suberror, instruction, rip: linear },
    );
  }

  #instructionAt(linear: bigint): Uint8Array {
    const address = this.#translate(linear);
    return address === undefined ? new Uint8Array() : this.#host.peek(address, INSTRUCTION_BYTES);
  }

  /** Guest-physical address behind the guest's page tables. */
  #translate(linear: bigint): number | undefined {
    const translation = new Struct(Size.TRANSLATION);
    translation.setU64(0, linear);
    if (this.#native.tryIoctlStruct(this.fd, "KVM_TRANSLATE", translation) < 0) return undefined;
    return translation.u8(16) === 0 ? undefined : Number(translation.u64(8));
  }

  #expectOpen(): void {
    if (this.#isClosed) throw new VmStateError(`vCPU ${this.index}`, "open", "closed");
  }
}
