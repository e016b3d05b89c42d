import { type SegmentState, StateReader, type VcpuStateV1 } from "@skep/vcpu";
import { Cpu, Seg } from "../cpu/layout.ts";

/** The vCPU block as the host reads and writes it. */
export class CpuView {
  readonly #view: DataView;
  readonly base: number;

  constructor(buffer: ArrayBufferLike, base: number) {
    this.#view = new DataView(buffer);
    this.base = base;
  }
  get32(field: number): number {
    return this.#view.getInt32(this.base + field, true);
  }
  getU32(field: number): number {
    return this.#view.getUint32(this.base + field, true);
  }
  set32(field: number, value: number): void {
    this.#view.setInt32(this.base + field, value, true);
  }
  get64(field: number): bigint {
    return this.#view.getBigUint64(this.base + field, true);
  }
  set64(field: number, value: bigint): void {
    this.#view.setBigUint64(this.base + field, value, true);
  }
  /** A 64-bit count or pair of halves as a `number`; exact below 2^53. */
  getNumber64(field: number): number {
    return this.getU32(field + 4) * 0x1_0000_0000 + this.getU32(field);
  }
  /** `count` bytes from `field` on, in place. */
  bytes(field: number, count: number): Uint8Array {
    return new Uint8Array(this.#view.buffer, this.base + field, count);
  }
  setF64(field: number, value: number): void {
    this.#view.setFloat64(this.base + field, value, true);
  }
  get16(field: number): number {
    return this.#view.getUint16(this.base + field, true);
  }
  set16(field: number, value: number): void {
    this.#view.setUint16(this.base + field, value, true);
  }
}

/** Segment registers in the order of `Seg`. */
const SEGMENTS = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"] as const;

/** MSRs kept in the vCPU block, by index in lower-case hex. */
const MSRS: Readonly<Record<string, number>> = {
  "3b": Cpu.TSC_ADJUST,
  "174": Cpu.SYSENTER_CS,
  "175": Cpu.SYSENTER_ESP,
  "176": Cpu.SYSENTER_EIP,
  "1d9": Cpu.DEBUGCTL,
  "277": Cpu.PAT,
  da0: Cpu.XSS,
  c0000080: Cpu.EFER,
  c0000081: Cpu.STAR,
  c0000082: Cpu.LSTAR,
  c0000083: Cpu.CSTAR,
  c0000084: Cpu.FMASK,
  c0000102: Cpu.KERNEL_GS_BASE,
  c0000103: Cpu.TSC_AUX,
};

/** Every MSR kept here, as zero: what RESET leaves of those that it does not set. */
export const zeroMsrs = (): Record<string, bigint> =>
  Object.fromEntries(Object.keys(MSRS).map((index) => [index, 0n]));

const ACTIVITIES = ["active", "halted", "wait-for-sipi"] as const;
/** #DE, #BR, #UD, #NM, #TS, #NP, #SS, #GP, #PF, #MF, #AC, #XM by vector (SDM Vol. 3A table 7-1). */
const FAULTS = (1 << 0) | (7 << 5) | (0x1f << 10) | (3 << 16) | (1 << 19);
const XMM_REGISTERS = 16;
/** Number and size of the XSAVE component that the upper halves of YMM0 to YMM15 are (SDM Vol. 1 sec. 13.5.3). */
const AVX_COMPONENT = "2";
const AVX_BYTES = 256;
const CR0_PE = 1n;
const CR0_PG = 0x8000_0000n;

export function saveVcpu(cpu: CpuView, flags: number): VcpuStateV1 {
  const segment = (name: (typeof SEGMENTS)[number]): SegmentState => {
    const i = SEGMENTS.indexOf(name);
    return {
      selector: cpu.get32(Cpu.SEG_SELECTOR + 4 * i) & 0xffff,
      base: cpu.get64(Cpu.SEG_BASE + 8 * i),
      limit: cpu.getU32(Cpu.SEG_LIMIT + 4 * i),
      access: cpu.getU32(Cpu.SEG_ACCESS + 4 * i),
    };
  };
  const shadow = cpu.get32(Cpu.SHADOW);
  const inject = cpu.get32(Cpu.INJECT);
  const top = cpu.get32(Cpu.TOP) & 7;
  return {
    kind: "vcpu",
    version: 1,
    gpr: Array.from({ length: 16 }, (_, i) => cpu.get64(Cpu.GPR + 8 * i)),
    rip: cpu.get64(Cpu.RIP),
    rflags: BigInt((cpu.get32(Cpu.RFLAGS) | flags) >>> 0),
    es: segment("es"),
    cs: segment("cs"),
    ss: segment("ss"),
    ds: segment("ds"),
    fs: segment("fs"),
    gs: segment("gs"),
    ldtr: segment("ldtr"),
    tr: segment("tr"),
    gdtr: { base: cpu.get64(Cpu.GDT_BASE), limit: cpu.getU32(Cpu.GDT_LIMIT) },
    idtr: { base: cpu.get64(Cpu.IDT_BASE), limit: cpu.getU32(Cpu.IDT_LIMIT) },
    cr0: cpu.get64(Cpu.CR0),
    cr2: cpu.get64(Cpu.CR2),
    cr3: cpu.get64(Cpu.CR3),
    cr4: cpu.get64(Cpu.CR4),
    pdptrs: [0, 1, 2, 3].map((i) => cpu.get64(Cpu.PDPTR + 8 * i)) as [bigint, bigint, bigint, bigint],
    dr: {
      dr0: cpu.get64(Cpu.DR),
      dr1: cpu.get64(Cpu.DR + 8),
      dr2: cpu.get64(Cpu.DR + 16),
      dr3: cpu.get64(Cpu.DR + 24),
      dr6: cpu.get64(Cpu.DR + 48),
      dr7: cpu.get64(Cpu.DR + 56),
    },
    msrs: Object.fromEntries(Object.entries(MSRS).map(([index, field]) => [index, cpu.get64(field)])),
    fpu: {
      fcw: cpu.get32(Cpu.FCW) & 0xffff,
      fsw: (cpu.get32(Cpu.FSW) & ~0x3800 & 0xffff) | (top << 11),
      ftw: cpu.get32(Cpu.FTW) & 0xffff,
      fop: cpu.get32(Cpu.FOP) & 0x7ff,
      fip: cpu.get64(Cpu.FIP),
      fdp: cpu.get64(Cpu.FDP),
      registers: Array.from({ length: 8 }, (_, i) => ({
        significand: cpu.get64(Cpu.FPR + 16 * i),
        signExponent: cpu.get16(Cpu.FPR + 16 * i + 8),
      })),
      mxcsr: cpu.getU32(Cpu.MXCSR),
      xmm: Array.from(
        { length: XMM_REGISTERS },
        (_, i) => cpu.get64(Cpu.XMM + 16 * i) | (cpu.get64(Cpu.XMM + 16 * i + 8) << 64n),
      ),
      xcr0: cpu.get64(Cpu.XCR0),
      ...upperHalves(cpu),
    },
    activity: ACTIVITIES[cpu.get32(Cpu.ACTIVITY)] ?? "active",
    interruptibility: {
      sti: (shadow & 1) !== 0,
      movSs: (shadow & 2) !== 0,
      nmiBlocked: cpu.get32(Cpu.NMI_BLOCKED) !== 0,
    },
    pendingEvent:
      inject === 0 ? undefined : { kind: "interrupt", vector: inject & 0xff, errorCode: undefined },
    pendingNmi: cpu.get32(Cpu.NMI_PENDING) !== 0,
    tscOffset: cpu.get64(Cpu.TSC_OFFSET),
    instructions: cpu.get64(Cpu.ICOUNT),
  };
}

/** An unsigned 64-bit field, or -1 filled in by `fail`. */
function checked(reader: StateReader, field: string, value: unknown, bits = 64n): bigint {
  if (typeof value !== "bigint" || value < 0n || value >> bits !== 0n)
    throw reader.error(field, `an unsigned ${bits}-bit bigint`, value);
  return value;
}

function checkedNumber(reader: StateReader, field: string, value: unknown, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max)
    throw reader.error(field, `an integer from 0 to ${max}`, value);
  return value;
}

/** Checks `state` whole and gives the function that stores it; nothing is stored before. */
export function prepareRestore(state: unknown): (cpu: CpuView) => { rflags: number } {
  const reader = new StateReader(state, "vcpu", 1);
  const writes: ((cpu: CpuView) => void)[] = [];
  const put64 = (name: string, field: number, value: unknown): void => {
    const v = checked(reader, name, value);
    writes.push((cpu) => cpu.set64(field, v));
  };
  const put32 = (name: string, field: number, value: unknown, max = 0xffff_ffff): void => {
    const v = checkedNumber(reader, name, value, max);
    writes.push((cpu) => cpu.set32(field, v | 0));
  };
  reader.array("gpr", 16).forEach((value, i) => {
    put64(`gpr[${i}]`, Cpu.GPR + 8 * i, value);
  });
  put64("rip", Cpu.RIP, reader.unknown("rip"));
  SEGMENTS.forEach((name, i) => {
    const segment = reader.record(name);
    put32(`${name}.selector`, Cpu.SEG_SELECTOR + 4 * i, segment.selector, 0xffff);
    put64(`${name}.base`, Cpu.SEG_BASE + 8 * i, segment.base);
    put32(`${name}.limit`, Cpu.SEG_LIMIT + 4 * i, segment.limit);
    put32(`${name}.access`, Cpu.SEG_ACCESS + 4 * i, segment.access, 0x1_ffff);
  });
  for (const [name, base, limit] of [
    ["gdtr", Cpu.GDT_BASE, Cpu.GDT_LIMIT],
    ["idtr", Cpu.IDT_BASE, Cpu.IDT_LIMIT],
  ] as const) {
    const table = reader.record(name);
    put64(`${name}.base`, base, table.base);
    put32(`${name}.limit`, limit, table.limit, 0xffff);
  }
  for (const [name, field] of [
    ["cr0", Cpu.CR0],
    ["cr2", Cpu.CR2],
    ["cr3", Cpu.CR3],
    ["cr4", Cpu.CR4],
    ["tscOffset", Cpu.TSC_OFFSET],
    ["instructions", Cpu.ICOUNT],
  ] as const)
    put64(name, field, reader.unknown(name));
  const cr0 = checked(reader, "cr0", reader.unknown("cr0"));
  // Nothing takes a processor there, and nothing here is made for it (SDM Vol. 3A sec. 2.5, 26.3.1.1).
  if ((cr0 & CR0_PG) !== 0n && (cr0 & CR0_PE) === 0n) throw reader.error("cr0", "PE where PG is set", cr0);
  reader.array("pdptrs", 4).forEach((value, i) => {
    put64(`pdptrs[${i}]`, Cpu.PDPTR + 8 * i, value);
  });
  const dr = reader.record("dr");
  for (const i of [0, 1, 2, 3, 6, 7]) put64(`dr.dr${i}`, Cpu.DR + 8 * i, dr[`dr${i}`]);
  const msrs = reader.record("msrs");
  for (const [index, value] of Object.entries(msrs)) {
    // Zero is what one that is not kept reads as, if it reads at all.
    if (MSRS[index] === undefined && value !== 0n) {
      throw reader.error(`msrs.${index}`, "an MSR that this engine keeps", value);
    }
  }
  for (const [index, field] of Object.entries(MSRS)) put64(`msrs.${index}`, field, msrs[index] ?? 0n);
  const fpu = reader.record("fpu");
  put32("fpu.fcw", Cpu.FCW, fpu.fcw, 0xffff);
  const fsw = checkedNumber(reader, "fpu.fsw", fpu.fsw, 0xffff);
  writes.push((cpu) => {
    cpu.set32(Cpu.FSW, fsw & ~0x3800);
    cpu.set32(Cpu.TOP, (fsw >> 11) & 7);
  });
  put32("fpu.ftw", Cpu.FTW, fpu.ftw, 0xffff);
  put32("fpu.fop", Cpu.FOP, fpu.fop, 0x7ff);
  put64("fpu.fip", Cpu.FIP, fpu.fip);
  put64("fpu.fdp", Cpu.FDP, fpu.fdp);
  put32("fpu.mxcsr", Cpu.MXCSR, fpu.mxcsr, 0xffff);
  put64("fpu.xcr0", Cpu.XCR0, fpu.xcr0);
  const upper = readUpperHalves(reader, fpu.components);
  writes.push((cpu) => cpu.bytes(Cpu.YMM_HIGH, AVX_BYTES).set(upper));
  const registers = fpu.registers;
  if (!Array.isArray(registers) || registers.length !== 8)
    throw reader.error("fpu.registers", "an array of 8", registers);
  registers.forEach((register: unknown, i) => {
    if (typeof register !== "object" || register === null)
      throw reader.error(`fpu.registers[${i}]`, "an object", register);
    const { significand, signExponent } = register as Record<string, unknown>;
    put64(`fpu.registers[${i}].significand`, Cpu.FPR + 16 * i, significand);
    const high = checkedNumber(reader, `fpu.registers[${i}].signExponent`, signExponent, 0xffff);
    writes.push((cpu) => cpu.set16(Cpu.FPR + 16 * i + 8, high));
  });
  const xmm = fpu.xmm;
  if (!Array.isArray(xmm) || xmm.length !== 16) throw reader.error("fpu.xmm", "an array of 16", xmm);
  xmm.forEach((value: unknown, i) => {
    const v = checked(reader, `fpu.xmm[${i}]`, value, 128n);
    writes.push((cpu) => {
      cpu.set64(Cpu.XMM + 16 * i, BigInt.asUintN(64, v));
      cpu.set64(Cpu.XMM + 16 * i + 8, v >> 64n);
    });
  });
  const activity = ACTIVITIES.indexOf(reader.unknown("activity") as (typeof ACTIVITIES)[number]);
  if (activity < 0) throw reader.error("activity", ACTIVITIES.join(" or "), reader.unknown("activity"));
  const blocked = reader.record("interruptibility");
  for (const name of ["sti", "movSs", "nmiBlocked"])
    if (typeof blocked[name] !== "boolean")
      throw reader.error(`interruptibility.${name}`, "a boolean", blocked[name]);
  const event = readEvent(reader);
  const pendingNmi = reader.boolean("pendingNmi") || event.isNmi;
  const nmiBlocked = blocked.nmiBlocked === true && !event.isNmi;
  const rflags = Number(checked(reader, "rflags", reader.unknown("rflags"), 32n));
  writes.push((cpu) => {
    cpu.set32(Cpu.ACTIVITY, activity);
    cpu.set32(Cpu.SHADOW, (blocked.sti === true ? 1 : 0) | (blocked.movSs === true ? 2 : 0));
    cpu.set32(Cpu.NMI_BLOCKED, nmiBlocked ? 1 : 0);
    cpu.set32(Cpu.NMI_PENDING, pendingNmi ? 1 : 0);
    cpu.set32(Cpu.INJECT, event.inject);
    // SS.DPL is the privilege level (SDM Vol. 3C sec. 25.4.1); virtual-8086 mode runs at 3.
    const dpl = (cpu.get32(Cpu.SEG_ACCESS + 4 * Seg.SS) >> 5) & 3;
    cpu.set32(Cpu.CPL, (rflags & 0x2_0000) !== 0 ? 3 : (cpu.getU32(Cpu.CR0) & 1) === 0 ? 0 : dpl);
    for (const field of [Cpu.REPLAY_COUNT, Cpu.REPLAY_NEXT, Cpu.SYNCED, Cpu.LINK, Cpu.EVENT])
      cpu.set32(field, 0);
  });
  return (cpu) => {
    for (const write of writes) write(cpu);
    return { rflags };
  };
}

/** The YMM registers' upper halves as a state has them: left out where all are zero, which is their initial state. */
function upperHalves(cpu: CpuView): { components?: Record<string, Uint8Array> } {
  const bytes = cpu.bytes(Cpu.YMM_HIGH, AVX_BYTES).slice();
  return bytes.some((byte) => byte !== 0) ? { components: { [AVX_COMPONENT]: bytes } } : {};
}

/**
 * AVX's component of a state. This engine has none beyond: others in their initial state, which is all zeros, are no loss.
 */
function readUpperHalves(reader: StateReader, components: unknown): Uint8Array {
  const none = new Uint8Array(AVX_BYTES);
  if (components === undefined) return none;
  if (typeof components !== "object" || components === null)
    throw reader.error("fpu.components", "an object", components);
  let found = none;
  for (const [number, bytes] of Object.entries(components)) {
    if (bytes instanceof Uint8Array && bytes.every((byte) => byte === 0)) continue;
    const field = `fpu.components.${number}`;
    if (number !== AVX_COMPONENT) throw reader.error(field, "no XSAVE component beyond AVX's", bytes);
    if (!(bytes instanceof Uint8Array) || bytes.length !== AVX_BYTES)
      throw reader.error(field, `${AVX_BYTES} bytes`, bytes);
    found = bytes.slice();
  }
  return found;
}

/** An event whose delivery the engine that saved had begun and not ended. */
function readEvent(reader: StateReader): { readonly inject: number; readonly isNmi: boolean } {
  const pending = reader.unknown("pendingEvent");
  if (pending === undefined || pending === null) return { inject: 0, isNmi: false };
  const { kind, vector } = pending as Record<string, unknown>;
  const checkedVector = checkedNumber(reader, "pendingEvent.vector", vector, 255);
  if (kind === "interrupt") return { inject: 0x100 | checkedVector, isNmi: false };
  if (kind === "nmi") return { inject: 0, isNmi: true };
  // A fault leaves RIP at its instruction, which raises it again.
  if (kind === "exception" && ((FAULTS >>> checkedVector) & 1) !== 0) return { inject: 0, isNmi: false };
  throw reader.error("pendingEvent.kind", `"interrupt", "nmi" or a fault's "exception"`, kind);
}
