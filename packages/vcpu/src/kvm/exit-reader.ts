/**
 * The engine's edge: what KVM_RUN left in struct kvm_run, as VM exits in VT-x's vocabulary, and the answers back
 * into it.
 *
 * KVM reports some things wholesale that the contract has one by one: a string instruction's elements in one
 * KVM_EXIT_IO, three-byte pieces of a straddling MMIO access. They are handed on in pieces, each answered before
 * the next, and only then is the vCPU entered again.
 */
import { type EptViolationExit, ExitReason, type IoExit, type MsrExit, type VmExit } from "../exit.ts";
import { EMULATION_FAILURE_HAS_BYTES, InternalError, KvmExit } from "./abi.ts";
import {
  Run,
  RunDebug,
  RunEmulationFailure,
  RunEoi,
  RunException,
  RunFailEntry,
  RunHypercall,
  RunInternal,
  RunIo,
  RunMmio,
  RunMsr,
  RunSystemEvent,
  type Struct,
} from "./structs.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** What is no VM exit: the engine deals with it and enters again. */
export type KvmEvent =
  | { readonly event: "ioapic-eoi"; readonly vector: number }
  /** The guest lowered its task priority by CR8, which `kvm_run.cr8` tells with every exit. */
  | { readonly event: "tpr" }
  /** Nothing to do but to enter again. */
  | { readonly event: "again" }
  | { readonly event: "dirty-ring-full" };

/** What is no guest's doing, or beyond KVM: becomes a `KvmExitError`. */
export interface KvmFailure {
  readonly failure: "KVM_FAIL_ENTRY" | "KVM_INTERNAL_ERROR" | "KVM_UNEXPECTED_EXIT";
  readonly exit: string;
  readonly suberror: bigint;
  readonly what: string;
  /** The instruction's bytes where KVM gave them. */
  readonly instruction: Uint8Array | undefined;
}

const AGAIN: KvmEvent = { event: "again" };
const TPR: KvmEvent = { event: "tpr" };
const RING_FULL: KvmEvent = { event: "dirty-ring-full" };
const HALT: VmExit = { reason: ExitReason.Hlt };
const TRIPLE_FAULT: VmExit = { reason: ExitReason.TripleFault };
const WINDOW: VmExit = { reason: ExitReason.InterruptWindow };
const KICKED: VmExit = { reason: ExitReason.ExternalInterrupt };
const STEPPED: VmExit = { reason: ExitReason.MonitorTrapFlag };

const VECTOR_DB = 1;
/** DR6.BS: a single step. */
const DR6_BS = 1n << 14n;
const SUBERRORS: Readonly<Record<number, string>> = {
  [InternalError.EMULATION]: "an instruction that KVM cannot emulate",
  [InternalError.SIMUL_EX]: "two exceptions at once that KVM cannot deliver",
  [InternalError.DELIVERY_EV]: "an exit in the middle of an event's delivery",
  [InternalError.UNEXPECTED_EXIT_REASON]: "an exit of the processor that KVM does not know",
};

export class ExitReader {
  readonly #run: Struct;
  readonly #io: Mutable<IoExit> = {
    reason: ExitReason.IoInstruction,
    port: 0,
    size: 1,
    direction: "in",
    data: 0,
  };
  readonly #mmio: Mutable<EptViolationExit> = {
    reason: ExitReason.EptViolation,
    address: 0,
    size: 1,
    access: "read",
    data: 0,
    dataHigh: 0,
  };
  readonly #msr: Mutable<MsrExit> = {
    reason: ExitReason.Rdmsr,
    index: 0,
    value: 0n,
    fault: false,
  };
  /** Where in kvm_run the piece under way is, and how far the pieces go. */
  #at = 0;
  #left = 0;
  #pending: "io" | "mmio" | "msr" | undefined;

  constructor(run: Struct) {
    this.#run = run;
  }

  /** Whether KVM waits for the next entry to complete an instruction. */
  get isPending(): boolean {
    return this.#pending !== undefined;
  }

  /** Stores the answer of the exit that was given out last; the next piece of the same KVM exit, if there is one. */
  advance(): VmExit | undefined {
    const pending = this.#pending;
    if (pending === undefined) return undefined;
    if (pending === "msr") this.#answerMsr();
    else if (pending === "io") this.#answerIo();
    else this.#answerMmio();
    if (this.#left > 0) return pending === "io" ? this.#nextIo() : this.#nextMmio();
    this.#pending = undefined;
    return undefined;
  }

  /** What KVM_RUN came back with. */
  read(): VmExit | KvmEvent | KvmFailure {
    const run = this.#run;
    const reason = run.u32(Run.EXIT_REASON);
    switch (reason) {
      case KvmExit.IO:
        this.#pending = "io";
        this.#io.port = run.u16(RunIo.PORT);
        this.#io.size = run.u8(RunIo.SIZE) as 1 | 2 | 4;
        this.#io.direction = run.u8(RunIo.DIRECTION) === 0 ? "in" : "out";
        this.#at = run.u32(RunIo.DATA_OFFSET);
        this.#left = run.u32(RunIo.COUNT);
        return this.#nextIo();

      case KvmExit.MMIO: {
        this.#pending = "mmio";
        this.#mmio.access = run.u8(RunMmio.IS_WRITE) === 0 ? "read" : "write";
        this.#mmio.address = run.u32(RunMmio.ADDRESS) + run.u32(RunMmio.ADDRESS + 4) * 2 ** 32;
        this.#mmio.size = 1;
        this.#at = RunMmio.DATA;
        this.#left = run.u32(RunMmio.LENGTH);
        return this.#nextMmio();
      }

      case KvmExit.X86_RDMSR:
      case KvmExit.X86_WRMSR: {
        this.#pending = "msr";
        const isRead = reason === KvmExit.X86_RDMSR;
        const msr = this.#msr;
        msr.reason = isRead ? ExitReason.Rdmsr : ExitReason.Wrmsr;
        msr.index = run.u32(RunMsr.INDEX);
        msr.value = isRead ? 0n : run.u64(RunMsr.DATA);
        msr.fault = false;
        return msr;
      }

      case KvmExit.HLT:
        return HALT;
      case KvmExit.SHUTDOWN:
        return TRIPLE_FAULT;
      case KvmExit.IRQ_WINDOW_OPEN:
        return WINDOW;
      case KvmExit.INTR:
      case KvmExit.NMI:
        return KICKED;
      case KvmExit.DEBUG:
        return this.#readDebug();
      case KvmExit.IOAPIC_EOI:
        return { event: "ioapic-eoi", vector: run.u8(RunEoi.VECTOR) };
      case KvmExit.SET_TPR:
      case KvmExit.TPR_ACCESS:
        return TPR;
      case KvmExit.DIRTY_RING_FULL:
        return RING_FULL;
      case KvmExit.X86_BUS_LOCK:
      case KvmExit.NOTIFY:
        // The guest split a lock or ran long without an interrupt window: it may.
        return AGAIN;

      case KvmExit.FAIL_ENTRY: {
        const hardware = run.u64(RunFailEntry.HARDWARE_REASON);
        return this.#failure(
          "KVM_FAIL_ENTRY",
          hardware,
          `the processor refused to enter the guest (hardware reason 0x${hardware.toString(16)}, on processor ` +
            `${run.u32(RunFailEntry.CPU)}): its state is one that VM entry does not allow`,
        );
      }
      case KvmExit.INTERNAL_ERROR:
        return this.#readInternalError();
      case KvmExit.EXCEPTION: {
        const vector = run.u32(RunException.VECTOR);
        return this.#unexpected(BigInt(vector), `exception ${vector} that nobody asked for`);
      }
      case KvmExit.HYPERCALL: {
        const number = run.u64(RunHypercall.NUMBER);
        return this.#unexpected(number, `hypercall ${number}, which was not enabled`);
      }
      case KvmExit.SYSTEM_EVENT: {
        const type = run.u32(RunSystemEvent.TYPE);
        return this.#unexpected(
          BigInt(type),
          `system event ${type}, which x86 guests without SEV do not raise`,
        );
      }
      default:
        // Hyper-V's and Xen's, TDX's, guest_memfd's faults: of features that this engine does not turn on. And
        // KVM_EXIT_UNKNOWN, with the hardware's own reason.
        return this.#unexpected(
          run.u64(Run.EXIT),
          `an exit of a feature that is not turned on (0x${run.u64(Run.EXIT).toString(16)})`,
        );
    }
  }

  #nextIo(): VmExit {
    const io = this.#io;
    this.#left--;
    io.data = io.direction === "out" ? this.#load(this.#at, io.size) : 0;
    return io;
  }

  #answerIo(): void {
    const { size, direction, data } = this.#io;
    if (direction === "in") this.#store(this.#at, size, data);
    this.#at += size;
  }

  #nextMmio(): VmExit {
    const mmio = this.#mmio;
    const left = this.#left;
    mmio.size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    this.#left -= mmio.size;
    const isWrite = mmio.access === "write";
    mmio.data = isWrite ? this.#load(this.#at, mmio.size === 8 ? 4 : mmio.size) : 0;
    mmio.dataHigh = isWrite && mmio.size === 8 ? this.#run.u32(this.#at + 4) : 0;
    return mmio;
  }

  #answerMmio(): void {
    const mmio = this.#mmio;
    const { size } = mmio;
    if (mmio.access === "read") {
      this.#store(this.#at, size === 8 ? 4 : size, mmio.data);
      if (size === 8) this.#run.setU32(this.#at + 4, mmio.dataHigh);
    }
    this.#at += size;
    mmio.address += size;
  }

  #answerMsr(): void {
    const { fault, value } = this.#msr;
    this.#run.setU8(RunMsr.ERROR, fault ? 1 : 0);
    if (this.#run.u32(Run.EXIT_REASON) === KvmExit.X86_RDMSR) this.#run.setU64(RunMsr.DATA, value);
  }

  #load(at: number, size: number): number {
    return size === 1 ? this.#run.u8(at) : size === 2 ? this.#run.u16(at) : this.#run.u32(at);
  }

  #store(at: number, size: number, value: number): void {
    if (size === 1) this.#run.setU8(at, value);
    else if (size === 2) this.#run.setU16(at, value);
    else this.#run.setU32(at, value);
  }

  #readDebug(): VmExit {
    const vector = this.#run.u32(RunDebug.EXCEPTION);
    if (vector === VECTOR_DB && (this.#run.u64(RunDebug.DR6) & DR6_BS) !== 0n) return STEPPED;
    return { reason: ExitReason.ExceptionOrNmi, vector, errorCode: undefined };
  }

  #readInternalError(): KvmFailure {
    const run = this.#run;
    const suberror = run.u32(RunInternal.SUBERROR);
    const count = Math.min(run.u32(RunInternal.NDATA), 16);
    let instruction: Uint8Array | undefined;
    const hasBytes = (run.u64(RunEmulationFailure.FLAGS) & EMULATION_FAILURE_HAS_BYTES) !== 0n;
    if (suberror === InternalError.EMULATION && count >= 3 && hasBytes) {
      const size = Math.min(run.u8(RunEmulationFailure.INSN_SIZE), 15);
      const at = RunEmulationFailure.INSN_BYTES;
      instruction = run.bytes.slice(at, at + size);
    }
    const data = Array.from(
      { length: count },
      (_, i) => `0x${run.u64(RunInternal.DATA + 8 * i).toString(16)}`,
    );
    const what = SUBERRORS[suberror] ?? "a suberror that this version does not know";
    const said = data.length > 0 ? `; KVM's data: ${data.join(" ")}` : "";
    return this.#failure(
      "KVM_INTERNAL_ERROR",
      BigInt(suberror),
      `suberror ${suberror}, ${what}${said}`,
      instruction,
    );
  }

  #unexpected(suberror: bigint, what: string): KvmFailure {
    return this.#failure("KVM_UNEXPECTED_EXIT", suberror, what);
  }

  #failure(
    failure: KvmFailure["failure"],
    suberror: bigint,
    what: string,
    instruction?: Uint8Array,
  ): KvmFailure {
    const reason = this.#run.u32(Run.EXIT_REASON);
    const name = Object.entries(KvmExit).find(([, value]) => value === reason)?.[0] ?? String(reason);
    return { failure, exit: `KVM_EXIT_${name}`, suberror, what, instruction };
  }
}
