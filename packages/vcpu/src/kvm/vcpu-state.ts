/**
 * A vCPU's state between the engine-neutral shape and KVM's structures.
 *
 * The order of writing is the kernel's: special registers before general ones, CR0 and EFER before MSRs that depend
 * on them, events last, since they depend on everything else (compare Documentation/virt/kvm/api.rst sec. 4.32).
 */
import type { SegmentState, VcpuStateV1 } from "../state.ts";
import { EventFlag, MpState, Shadow } from "./abi.ts";

import { readFpu, writeFpu, type XsaveComponent } from "./fpu-state.ts";
import { errnoName, type Native } from "./native.ts";
import { refusedState, SEGMENT_NAMES } from "./parse-state.ts";
import { DebugRegs, Dtable, Events, Regs, Segment, Size, Sregs, Struct, Xcrs } from "./structs.ts";

const SEGMENT_AT = {
  es: Sregs.ES,
  cs: Sregs.CS,
  ss: Sregs.SS,
  ds: Sregs.DS,
  fs: Sregs.FS,
  gs: Sregs.GS,
  ldtr: Sregs.LDTR,
  tr: Sregs.TR,
} as const;

const MSR_TSC_ADJUST = 0x3b;
const MSR_EFER = "c0000080";
/** IA32_APIC_BASE after RESET: enabled, at 0xFEE00000; the boot processor has bit 8. */
const APIC_BASE_RESET = 0xfee0_0800n;
const APIC_BASE_BSP = 0x100n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LMA = 1n << 10n;
const EFER_LME = 1n << 8n;
const UNUSABLE = 1 << 16;

/** What the host's KVM has, as far as states depend on it. */
export interface StateFeatures {
  /** MSRs that KVM keeps and that belong to a state. */
  readonly msrs: readonly number[];
  /** XSAVE components beyond x87 and SSE. */
  readonly components: readonly XsaveComponent[];
  /** Bytes of the XSAVE area; KVM_GET_XSAVE2 is used above 4096. */
  readonly xsaveBytes: number;
  readonly hasXcrs: boolean;
  readonly hasSregs2: boolean;
  readonly hasTscAdjust: boolean;
  /** The APIC is in the kernel: MP states other than RUNNABLE exist. */
  readonly hasKernelApic: boolean;
}

/** Reads and writes the whole state of one vCPU. */
export class VcpuStateAccess {
  readonly #native: Native;
  readonly #fd: number;
  readonly #index: number;
  readonly #features: StateFeatures;
  readonly #regs = new Struct(Size.REGS);
  readonly #sregs = new Struct(Size.SREGS2);
  readonly #debug = new Struct(Size.DEBUGREGS);
  readonly #events = new Struct(Size.VCPU_EVENTS);
  readonly #xcrs = new Struct(Size.XCRS);
  readonly #mpState = new Struct(4);
  readonly #xsave: Struct;
  readonly #msrs: Struct;
  /** What IA32_TSC's distance from the VM's clock was when TSC_ADJUST last was what is kept beside it. */
  #tscOffset = 0n;
  #tscAdjust = 0n;

  constructor(native: Native, fd: number, index: number, features: StateFeatures) {
    this.#native = native;
    this.#fd = fd;
    this.#index = index;
    this.#features = features;
    this.#xsave = new Struct(features.xsaveBytes);
    this.#msrs = new Struct(Size.MSRS_HEADER + (features.msrs.length + 1) * Size.MSR_ENTRY);
  }

  /** IA32_TSC's distance from the VM's clock: what was restored, and what the guest has moved since. */
  tscOffset(): bigint {
    if (!this.#features.hasTscAdjust) return this.#tscOffset;
    return BigInt.asUintN(64, this.#tscOffset + this.#readMsr(MSR_TSC_ADJUST) - this.#tscAdjust);
  }

  /** RFLAGS.IF set, nothing that holds interrupts back, and none injected already. */
  canTakeInterrupt(): boolean {
    const { rflags } = this.position();
    const events = this.#get("KVM_GET_VCPU_EVENTS", this.#events);
    const isFree =
      events.u8(Events.INTERRUPT_INJECTED) === 0 &&
      events.u8(Events.INTERRUPT_SHADOW) === 0 &&
      events.u8(Events.NMI_INJECTED) === 0 &&
      events.u8(Events.EXCEPTION_INJECTED) === 0;
    return isFree && (rflags & 0x200n) !== 0n;
  }

  /** RIP and RFLAGS alone. */
  position(): { rip: bigint; rflags: bigint } {
    const regs = this.#get("KVM_GET_REGS", this.#regs);
    return { rip: regs.u64(Regs.RIP), rflags: regs.u64(Regs.RFLAGS) };
  }

  /** Base of CS, for RIP's linear address. */
  codeBase(): bigint {
    return this.#get("KVM_GET_SREGS", this.#sregs).u64(Sregs.CS + Segment.BASE);
  }

  /** KVM's MP state; RUNNABLE where the APIC is not KVM's. */
  mpState(): number {
    return this.#features.hasKernelApic ? this.#get("KVM_GET_MP_STATE", this.#mpState).u32(0) : 0;
  }

  setMpState(state: number): void {
    if (!this.#features.hasKernelApic) return;
    this.#mpState.setU32(0, state);
    this.#native.ioctlStruct(this.#fd, "KVM_SET_MP_STATE", this.#mpState);
  }

  /** @param activity what is known of it where the APIC is not KVM's. */
  read(activity: VcpuStateV1["activity"]): VcpuStateV1 {
    const { hasSregs2, hasKernelApic } = this.#features;
    // First: asked for its MP state, KVM deals with an INIT or SIPI that waits, and these change the registers.
    const mpState = this.mpState();
    const regs = this.#get("KVM_GET_REGS", this.#regs);
    const sregs = this.#get(hasSregs2 ? "KVM_GET_SREGS2" : "KVM_GET_SREGS", this.#sregs);
    const debug = this.#get("KVM_GET_DEBUGREGS", this.#debug);
    const events = this.#get("KVM_GET_VCPU_EVENTS", this.#events);
    const table = (at: number) => ({
      base: sregs.u64(at + Dtable.BASE),
      limit: sregs.u16(at + Dtable.LIMIT),
    });
    const segments = Object.fromEntries(
      SEGMENT_NAMES.map((name) => [name, readSegment(sregs, SEGMENT_AT[name])]),
    ) as unknown as Record<(typeof SEGMENT_NAMES)[number], SegmentState>;
    const shadow = events.u8(Events.INTERRUPT_SHADOW);
    return {
      kind: "vcpu",
      version: 1,
      gpr: Regs.GPR.map((at) => regs.u64(at)),
      rip: regs.u64(Regs.RIP),
      rflags: regs.u64(Regs.RFLAGS),
      ...segments,
      gdtr: table(Sregs.GDTR),
      idtr: table(Sregs.IDTR),
      cr0: sregs.u64(Sregs.CR0),
      cr2: sregs.u64(Sregs.CR2),
      cr3: sregs.u64(Sregs.CR3),
      cr4: sregs.u64(Sregs.CR4),
      pdptrs: [0, 1, 2, 3].map((i) =>
        hasSregs2 && sregs.u64(Sregs.FLAGS2) !== 0n ? sregs.u64(Sregs.PDPTRS2 + 8 * i) : 0n,
      ) as VcpuStateV1["pdptrs"],
      dr: {
        dr0: debug.u64(DebugRegs.DB),
        dr1: debug.u64(DebugRegs.DB + 8),
        dr2: debug.u64(DebugRegs.DB + 16),
        dr3: debug.u64(DebugRegs.DB + 24),
        dr6: debug.u64(DebugRegs.DR6),
        dr7: debug.u64(DebugRegs.DR7),
      },
      msrs: { [MSR_EFER]: sregs.u64(Sregs.EFER), ...this.#readMsrs() },
      fpu: this.#readFpu(),
      activity: hasKernelApic ? activityOf(mpState) : activity,
      interruptibility: {
        sti: (shadow & Shadow.STI) !== 0,
        movSs: (shadow & Shadow.MOV_SS) !== 0,
        nmiBlocked: events.u8(Events.NMI_MASKED) !== 0,
      },
      pendingEvent: readEvent(events),
      pendingNmi: events.u8(Events.NMI_PENDING) !== 0,
      tscOffset: this.tscOffset(),
      instructions: 0n,
    };
  }

  /**
   * Writes a state that `parseVcpuState` gave.
   *
   * @throws StateError where this host's KVM does not take it: some of it may be written then.
   */
  write(state: VcpuStateV1): void {
    this.#writeSregs(state);
    const regs = this.#regs;
    Regs.GPR.forEach((at, i) => {
      regs.setU64(at, state.gpr[i]!);
    });
    regs.setU64(Regs.RIP, state.rip);
    regs.setU64(Regs.RFLAGS, state.rflags);
    this.#set("KVM_SET_REGS", regs, "gpr");
    this.#writeFpu(state);
    this.#writeMsrs(state);
    const { dr } = state;
    const debug = this.#debug.clear();
    [dr.dr0, dr.dr1, dr.dr2, dr.dr3].forEach((value, i) => {
      debug.setU64(DebugRegs.DB + 8 * i, value);
    });
    debug.setU64(DebugRegs.DR6, dr.dr6);
    debug.setU64(DebugRegs.DR7, dr.dr7);
    this.#set("KVM_SET_DEBUGREGS", debug, "dr");
    this.setMpState(
      state.activity === "active"
        ? MpState.RUNNABLE
        : state.activity === "halted"
          ? MpState.HALTED
          : MpState.INIT_RECEIVED,
    );
    this.#set("KVM_SET_VCPU_EVENTS", writeEvents(this.#events, state), "pendingEvent");
  }

  #writeSregs(state: VcpuStateV1): void {
    const { hasSregs2 } = this.#features;
    // What a state does not hold stays: TPR and APIC base are the interrupt controller's.
    const sregs = this.#get(hasSregs2 ? "KVM_GET_SREGS2" : "KVM_GET_SREGS", this.#sregs);
    for (const name of SEGMENT_NAMES) writeSegment(sregs, SEGMENT_AT[name], state[name]);
    for (const [at, table] of [
      [Sregs.GDTR, state.gdtr],
      [Sregs.IDTR, state.idtr],
    ] as const) {
      sregs.setU64(at + Dtable.BASE, table.base);
      sregs.setU16(at + Dtable.LIMIT, table.limit);
    }
    const efer = state.msrs[MSR_EFER] ?? 0n;
    sregs.setU64(Sregs.CR0, state.cr0);
    sregs.setU64(Sregs.CR2, state.cr2);
    sregs.setU64(Sregs.CR3, state.cr3);
    sregs.setU64(Sregs.CR4, state.cr4);
    sregs.setU64(Sregs.EFER, efer);
    if (!this.#features.hasKernelApic) {
      sregs.setU64(Sregs.APIC_BASE, APIC_BASE_RESET | (this.#index === 0 ? APIC_BASE_BSP : 0n));
    }
    const isPaging = (state.cr0 & CR0_PG) !== 0n;
    if (((efer & EFER_LMA) !== 0n) !== (isPaging && (efer & EFER_LME) !== 0n)) {
      throw refusedState("msrs.c0000080", "EFER.LMA must be what LME and CR0.PG say");
    }
    const usesPdptrs = isPaging && (state.cr4 & CR4_PAE) !== 0n && (efer & EFER_LMA) === 0n;
    if (hasSregs2) {
      sregs.setU64(Sregs.FLAGS2, usesPdptrs ? 1n : 0n);
      state.pdptrs.forEach((value, i) => {
        sregs.setU64(Sregs.PDPTRS2 + 8 * i, usesPdptrs ? value : 0n);
      });
    } else {
      // struct kvm_sregs ends with a bitmap of the interrupt that is injected; events carry it here.
      for (let i = 0; i < 4; i++) sregs.setU64(Sregs.FLAGS2 + 8 * i, 0n);
    }
    this.#set(hasSregs2 ? "KVM_SET_SREGS2" : "KVM_SET_SREGS", sregs, "cr0");
  }

  #readFpu(): VcpuStateV1["fpu"] {
    const { components, xsaveBytes, hasXcrs } = this.#features;
    this.#get(xsaveBytes > Size.XSAVE ? "KVM_GET_XSAVE2" : "KVM_GET_XSAVE", this.#xsave);
    const xcr0 = hasXcrs ? this.#get("KVM_GET_XCRS", this.#xcrs).u64(Xcrs.VALUE) : 1n;
    return readFpu(this.#xsave, xcr0, components);
  }

  #writeFpu(state: VcpuStateV1): void {
    const { components, hasXcrs } = this.#features;
    for (const [number, bytes] of Object.entries(state.fpu.components ?? {})) {
      const here = components.find((component) => component.number === Number(number));
      if (here?.bytes === bytes.length) continue;
      throw refusedState(`fpu.components.${number}`, "this host's processor has no such XSAVE component");
    }
    if (hasXcrs) {
      const xcrs = this.#xcrs.clear();
      xcrs.setU32(Xcrs.COUNT, 1);
      xcrs.setU64(Xcrs.VALUE, state.fpu.xcr0);
      this.#set("KVM_SET_XCRS", xcrs, "fpu.xcr0");
    } else if (state.fpu.xcr0 !== 1n) {
      throw refusedState("fpu.xcr0", "this host's KVM has no XSAVE for guests");
    }
    writeFpu(this.#xsave, state.fpu, components);
    this.#set("KVM_SET_XSAVE", this.#xsave, "fpu");
  }

  #readMsr(index: number): bigint {
    const msr = new Struct(Size.MSRS_HEADER + Size.MSR_ENTRY);
    msr.setU32(0, 1);
    msr.setU32(8, index);
    return this.#native.ioctlStruct(this.#fd, "KVM_GET_MSRS", msr) === 1 ? msr.u64(16) : 0n;
  }

  /** The state's MSRs; those that are zero and not everybody's are left out, so that other engines take the state. */
  #readMsrs(): Record<string, bigint> {
    const values: Record<string, bigint> = {};
    const { msrs, hasTscAdjust } = this.#features;
    const read = hasTscAdjust ? [...msrs, MSR_TSC_ADJUST] : msrs;
    const list = this.#msrs;
    // KVM stops at a register that this vCPU's CPUID hides; what follows is asked for again.
    for (let from = 0; from < read.length; ) {
      const asked = read.slice(from);
      list.setU32(0, asked.length);
      asked.forEach((index, i) => {
        list.setU32(Size.MSRS_HEADER + i * Size.MSR_ENTRY, index);
      });
      const got = this.#native.ioctlStruct(this.#fd, "KVM_GET_MSRS", list);
      for (let i = 0; i < got; i++) {
        const value = list.u64(Size.MSRS_HEADER + i * Size.MSR_ENTRY + 8);
        if (value !== 0n || isCommon(asked[i]!)) values[asked[i]!.toString(16)] = value;
      }
      from += got + 1;
    }
    return values;
  }

  #writeMsrs(state: VcpuStateV1): void {
    const { msrs, hasTscAdjust } = this.#features;
    const known = new Set([
      ...msrs,
      Number.parseInt(MSR_EFER, 16),
      ...(hasTscAdjust ? [MSR_TSC_ADJUST] : []),
    ]);
    for (const [key, value] of Object.entries(state.msrs)) {
      if (value === 0n || known.has(Number.parseInt(key, 16))) continue;
      throw refusedState(`msrs.${key}`, "this host's KVM does not keep that MSR");
    }
    for (const index of hasTscAdjust ? [...msrs, MSR_TSC_ADJUST] : msrs) {
      this.#writeMsr(index, state.msrs[index.toString(16)] ?? 0n);
    }
    this.#tscOffset = state.tscOffset;
    this.#tscAdjust = state.msrs[MSR_TSC_ADJUST.toString(16)] ?? 0n;
  }

  #writeMsr(index: number, value: bigint): void {
    const msr = new Struct(Size.MSRS_HEADER + Size.MSR_ENTRY);
    msr.setU32(0, 1);
    msr.setU32(8, index);
    msr.setU64(16, value);
    const written = this.#native.ioctlStruct(this.#fd, "KVM_SET_MSRS", msr);
    // A register that CPUID hides takes nothing; that is no loss where there is nothing to take.
    if (written !== 1 && value !== 0n) {
      throw refusedState(`msrs.${index.toString(16)}`, `KVM does not take the value 0x${value.toString(16)}`);
    }
  }

  #get(name: Parameters<Native["ioctlStruct"]>[1], struct: Struct): Struct {
    this.#native.ioctlStruct(this.#fd, name, struct);
    return struct;
  }

  #set(name: Parameters<Native["ioctlStruct"]>[1], struct: Struct, field: string): void {
    const result = this.#native.tryIoctlStruct(this.#fd, name, struct);
    if (result < 0) throw refusedState(field, `${name} refused the state with ${errnoName(-result)}`);
  }
}

/** Registers that every engine keeps, and every state names. */
function isCommon(index: number): boolean {
  return (
    index === 0x277 || (index >= 0x174 && index <= 0x176) || (index >= 0xc000_0081 && index <= 0xc000_0103)
  );
}

function activityOf(mpState: number): VcpuStateV1["activity"] {
  if (mpState === MpState.HALTED) return "halted";
  return mpState === MpState.UNINITIALIZED || mpState === MpState.INIT_RECEIVED ? "wait-for-sipi" : "active";
}

function readSegment(sregs: Struct, at: number): SegmentState {
  const bit = (field: number, position: number): number => (sregs.u8(at + field) & 1) << position;
  const access =
    (sregs.u8(at + Segment.TYPE) & 0xf) |
    bit(Segment.S, 4) |
    ((sregs.u8(at + Segment.DPL) & 3) << 5) |
    bit(Segment.PRESENT, 7) |
    bit(Segment.AVL, 12) |
    bit(Segment.L, 13) |
    bit(Segment.DB, 14) |
    bit(Segment.G, 15) |
    (sregs.u8(at + Segment.UNUSABLE) === 0 ? 0 : UNUSABLE);
  return {
    selector: sregs.u16(at + Segment.SELECTOR),
    base: sregs.u64(at + Segment.BASE),
    limit: sregs.u32(at + Segment.LIMIT),
    access,
  };
}

function writeSegment(sregs: Struct, at: number, { selector, base, limit, access }: SegmentState): void {
  const bit = (field: number, position: number): void => sregs.setU8(at + field, (access >> position) & 1);
  sregs.setU64(at + Segment.BASE, base);
  sregs.setU32(at + Segment.LIMIT, limit);
  sregs.setU16(at + Segment.SELECTOR, selector);
  sregs.setU8(at + Segment.TYPE, access & 0xf);
  sregs.setU8(at + Segment.DPL, (access >> 5) & 3);
  bit(Segment.S, 4);
  bit(Segment.AVL, 12);
  bit(Segment.L, 13);
  bit(Segment.DB, 14);
  bit(Segment.G, 15);
  const isUnusable = (access & UNUSABLE) !== 0;
  sregs.setU8(at + Segment.PRESENT, isUnusable ? 0 : (access >> 7) & 1);
  sregs.setU8(at + Segment.UNUSABLE, isUnusable ? 1 : 0);
}

function readEvent(events: Struct): VcpuStateV1["pendingEvent"] {
  if (events.u8(Events.EXCEPTION_INJECTED) !== 0 || events.u8(Events.EXCEPTION_PENDING) !== 0) {
    const hasCode = events.u8(Events.EXCEPTION_HAS_ERROR_CODE) !== 0;
    return {
      kind: "exception",
      vector: events.u8(Events.EXCEPTION_NR),
      errorCode: hasCode ? events.u32(Events.EXCEPTION_ERROR_CODE) : undefined,
    };
  }
  if (events.u8(Events.NMI_INJECTED) !== 0) return { kind: "nmi", vector: 2, errorCode: undefined };
  if (events.u8(Events.INTERRUPT_INJECTED) === 0) return undefined;
  const isSoft = events.u8(Events.INTERRUPT_SOFT) !== 0;
  return {
    kind: isSoft ? "software-interrupt" : "interrupt",
    vector: events.u8(Events.INTERRUPT_NR),
    errorCode: undefined,
  };
}

function writeEvents(events: Struct, state: VcpuStateV1): Struct {
  events.clear();
  const event = state.pendingEvent;
  if (event?.kind === "exception" || event?.kind === "software-exception") {
    events.setU8(Events.EXCEPTION_INJECTED, 1);
    events.setU8(Events.EXCEPTION_NR, event.vector);
    events.setU8(Events.EXCEPTION_HAS_ERROR_CODE, event.errorCode === undefined ? 0 : 1);
    events.setU32(Events.EXCEPTION_ERROR_CODE, event.errorCode ?? 0);
  } else if (event?.kind === "nmi") {
    events.setU8(Events.NMI_INJECTED, 1);
  } else if (event !== undefined) {
    events.setU8(Events.INTERRUPT_INJECTED, 1);
    events.setU8(Events.INTERRUPT_NR, event.vector);
    events.setU8(Events.INTERRUPT_SOFT, event.kind === "software-interrupt" ? 1 : 0);
  }
  const { sti, movSs, nmiBlocked } = state.interruptibility;
  events.setU8(Events.INTERRUPT_SHADOW, (sti ? Shadow.STI : 0) | (movSs ? Shadow.MOV_SS : 0));
  events.setU8(Events.NMI_PENDING, state.pendingNmi ? 1 : 0);
  events.setU8(Events.NMI_MASKED, nmiBlocked ? 1 : 0);
  events.setU32(Events.FLAGS, EventFlag.NMI_PENDING | EventFlag.SHADOW);
  return events;
}
