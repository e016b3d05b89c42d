import { ExitReason, type VmExit } from "../../exit.ts";
import { resetVcpuState } from "../../reset-state.ts";
import type { SegmentState, VcpuStateV1 } from "../../state.ts";
import {
  descriptor,
  GDT_ENTRIES,
  GDT_LIMIT,
  gate,
  gate64,
  hex,
  Layout,
  Selector,
  u32s,
  u64s,
} from "./layout.ts";

/** 64-bit general-purpose registers in the order of `VcpuStateV1.gpr`. */
export const REGISTERS = [
  "rax",
  "rcx",
  "rdx",
  "rbx",
  "rsp",
  "rbp",
  "rsi",
  "rdi",
  "r8",
  "r9",
  "r10",
  "r11",
  "r12",
  "r13",
  "r14",
  "r15",
] as const;
export type Register = (typeof REGISTERS)[number];

/** Processor modes in which a guest can start, at CPL 0 with interrupts off. */
export type StartMode =
  /** CS, DS, ES, SS = 0, SP = 0x7000. */
  | "real"
  /** Flat 32-bit segments, no paging. */
  | "protected"
  /** 64-bit code; the first GiB and the device hole mapped one to one with 2 MiB user pages. */
  | "long";

export interface StartOptions {
  /** Instruction pointer. Default `Layout.CODE`. */
  readonly entry?: number;
  readonly registers?: Partial<Record<Register, bigint>>;
  readonly rflags?: bigint;
  /** Bits set besides the mode's own. */
  readonly cr0?: bigint;
  readonly cr4?: bigint;
  readonly efer?: bigint;
  /** Page tables of one's own. */
  readonly cr3?: bigint;
  /** With PAE paging: the four entries at CR3, which the processor holds in registers. */
  readonly pdptrs?: VcpuStateV1["pdptrs"];
}

/** How a run ended. */
export type StopReason = "halt" | "triple-fault" | "endless" | { readonly exit: VmExit };

/** Bits of CR0, CR4 and EFER (SDM Vol. 3A sec. 2.5 and 2.2.1). */
export const CR0 = {
  PE: 1n << 0n,
  MP: 1n << 1n,
  EM: 1n << 2n,
  TS: 1n << 3n,
  ET: 1n << 4n,
  NE: 1n << 5n,
  WP: 1n << 16n,
  AM: 1n << 18n,
  PG: 1n << 31n,
} as const;
export const CR4 = {
  VME: 1n << 0n,
  TSD: 1n << 2n,
  DE: 1n << 3n,
  PSE: 1n << 4n,
  PAE: 1n << 5n,
  PGE: 1n << 7n,
  OSFXSR: 1n << 9n,
  OSXMMEXCPT: 1n << 10n,
  UMIP: 1n << 11n,
  FSGSBASE: 1n << 16n,
  PCIDE: 1n << 17n,
  OSXSAVE: 1n << 18n,
  SMEP: 1n << 20n,
  SMAP: 1n << 21n,
} as const;
export const EFER = { SCE: 1n << 0n, LME: 1n << 8n, LMA: 1n << 10n, NXE: 1n << 11n } as const;

/** Memory and registers before a guest runs, in one shape for engines and for the oracle. */
export interface StartImage {
  readonly state: VcpuStateV1;
  /** What the mode needs in memory: tables and handlers. */
  readonly memory: readonly (readonly [address: number, bytes: Uint8Array])[];
}

/** A guest of which only processor and memory matter: the cases that any processor can be asked. */
export interface Guest {
  /** Writes bytes at a guest-physical address. */
  load(address: number, bytes: Uint8Array): void;
  /** Writes the mode's tables, and sets the processor's state. Before `load`s that change the tables. */
  enter(mode: StartMode, options?: StartOptions): void;
  /** Runs until HLT. */
  run(): StopReason;
  /** State after `run`. */
  readonly state: VcpuStateV1;
  u8(address: number): number;
  u16(address: number): number;
  u32(address: number): number;
  u64(address: number): bigint;
}

/** Value of a general-purpose register, 64 bits. */
export function register(state: VcpuStateV1, name: Register): bigint {
  return state.gpr[REGISTERS.indexOf(name)]!;
}

/** A failed expectation of a conformance case. */
export class ConformanceError extends Error {
  override readonly name = "ConformanceError";
}

/** @throws ConformanceError where `actual` is not `expected`. */
export function expectEqual<T>(what: string, actual: T, expected: T): void {
  if (show(actual) !== show(expected)) {
    throw new ConformanceError(`${what}: expected ${show(expected)}, got ${show(actual)}`);
  }
}

/** @throws ConformanceError where a register differs. */
export function expectRegisters(
  state: VcpuStateV1,
  expected: Partial<Record<Register | "rip" | "cr2" | "rflags", bigint>>,
): void {
  for (const [name, value] of Object.entries(expected)) {
    const actual =
      name === "rip" || name === "cr2" || name === "rflags" ? state[name] : register(state, name as Register);
    expectEqual(name, actual, value);
  }
}

/** Runs the guest, which must end in HLT: with RIP behind one. */
export function runToHalt(guest: Guest): VcpuStateV1 {
  expectEqual("end of run", describeStop(guest.run()), "halt");
  const { state } = guest;
  expectEqual("instruction before RIP", guest.u8(Number(state.cs.base + state.rip) - 1), 0xf4);
  return state;
}

/**
 * Runs the guest, which must end in the handler of exception or interrupt `vector`.
 *
 * @returns the state there, and the linear address of the top of the stack, where the frame is.
 */
export function runToVector(guest: Guest, vector: number): { state: VcpuStateV1; sp: number } {
  const state = runToHalt(guest);
  const isHandler = state.rip === BigInt(Layout.HANDLERS + 4 * vector + 3);
  if (!isHandler) {
    const other = Number(state.rip) - Layout.HANDLERS - 3;
    const where =
      other >= 0 && other % 4 === 0 && other < 1024
        ? `in the handler of vector ${other / 4}`
        : `at RIP ${show(state.rip)}`;
    throw new ConformanceError(`expected the handler of vector ${vector}, the guest halted ${where}`);
  }
  expectEqual("AL in the handler", Number(register(state, "rax") & 0xffn), vector);
  const base = state.ss.base;
  return { state, sp: Number(base + register(state, "rsp")) };
}

export function describeStop(stop: StopReason): string {
  if (typeof stop === "string") return stop;
  const name = Object.entries(ExitReason).find(([, reason]) => reason === stop.exit.reason)?.[0];
  return `exit ${name ?? stop.exit.reason}`;
}

export function show(value: unknown): string {
  if (typeof value === "bigint") return `0x${value.toString(16)}`;
  if (typeof value === "number") return `0x${value.toString(16)}`;
  if (Array.isArray(value)) return `[${value.map(show).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    return `{${Object.entries(value)
      .map(([key, field]) => `${key}: ${show(field)}`)
      .join(", ")}}`;
  }
  return String(value);
}

/** 32-bit code that goes to ring 3 at the address in EAX, with the flags as they are (SDM Vol. 3A sec. 6.8.6). */
export const TO_RING_3_AT_RAX = hex`
  66 b9 3b 00    ; mov cx, 0x3b
  8e d9          ; mov ds, ecx
  8e c1          ; mov es, ecx
  6a 3b          ; push 0x3b
  68 00 64 00 00 ; push 0x6400
  9c             ; pushf
  6a 33          ; push 0x33
  50             ; push eax
  cf             ; iretd
`;

/** Tables and state for a start mode. */
export function startImage(mode: StartMode, options: StartOptions = {}): StartImage {
  const state = resetVcpuState();
  const memory: [number, Uint8Array][] = [];
  state.gpr[2] = 0n;
  state.gpr[4] = BigInt(Layout.STACK);
  for (const [name, value] of Object.entries(options.registers ?? {})) {
    state.gpr[REGISTERS.indexOf(name as Register)] = value;
  }
  state.rip = BigInt(options.entry ?? Layout.CODE);
  state.rflags = (options.rflags ?? 0n) | 2n;
  for (let v = 0; v < 256; v++) {
    // mov al, v; hlt
    memory.push([Layout.HANDLERS + 4 * v, Uint8Array.of(0xb0, v, 0xf4, 0xf4)]);
  }
  if (mode === "real") {
    state.cs = segment(0, 0, 0xffff, 0x9b);
    state.idtr = { base: 0n, limit: 0x3ff };
    state.cr0 = CR0.ET | (options.cr0 ?? 0n);
    for (let v = 0; v < 256; v++) memory.push([Layout.IVT + 4 * v, u32s(Layout.HANDLERS + 4 * v)]);
  } else {
    const isLong = mode === "long";
    const data = segment(Selector.DATA, 0, 0xffff_ffff, 0xc093);
    for (const name of ["ds", "es", "fs", "gs", "ss"] as const) state[name] = { ...data };
    state.cs = isLong
      ? segment(Selector.CODE64, 0, 0xffff_ffff, 0xa09b)
      : segment(Selector.CODE32, 0, 0xffff_ffff, 0xc09b);
    state.ldtr = { selector: 0, base: 0n, limit: 0, access: 0x1_0000 };
    state.tr = segment(Selector.TSS, Layout.TSS, 0x67, 0x8b);
    state.gdtr = { base: BigInt(Layout.GDT), limit: GDT_LIMIT };
    state.idtr = { base: BigInt(Layout.IDT), limit: isLong ? 0xfff : 0x7ff };
    memory.push([Layout.GDT, u64s(...GDT_ENTRIES)]);
    memory.push([Layout.GDT + Selector.TSS, descriptor(Layout.TSS, 0x67, 0x8b)]);
    for (let v = 0; v < 256; v++) {
      const handler = Layout.HANDLERS + 4 * v;
      memory.push(
        isLong
          ? [Layout.IDT + 16 * v, gate64(Selector.CODE64, handler, 0x8e)]
          : [Layout.IDT + 8 * v, gate(Selector.CODE32, handler, 0x8e)],
      );
    }
    state.cr0 = CR0.PE | CR0.ET | CR0.NE | (options.cr0 ?? 0n);
    state.cr4 = options.cr4 ?? 0n;
    state.cr3 = options.cr3 ?? 0n;
    state.pdptrs = options.pdptrs ?? [0n, 0n, 0n, 0n];
    let efer = options.efer ?? 0n;
    if (isLong) {
      state.cr0 |= CR0.PG;
      state.cr4 |= CR4.PAE;
      efer |= EFER.LME | EFER.LMA;
      state.cr3 = options.cr3 ?? BigInt(Layout.PAGE_TABLES);
      memory.push(...longTables(), [Layout.TSS, longTss()]);
    } else {
      // I/O map base past the limit: no port is allowed by it (SDM Vol. 1 sec. 20.5.2).
      memory.push([
        Layout.TSS,
        u32s(0, Layout.KERNEL_STACK, Selector.DATA, ...new Array<number>(22).fill(0)),
      ]);
      memory.push([Layout.TSS + 100, u32s(0x0068_0000)]);
    }
    state.msrs.c0000080 = efer;
  }
  return { state, memory };
}

function segment(selector: number, base: number, limit: number, access: number): SegmentState {
  return { selector, base: BigInt(base), limit, access };
}

/** PML4, PDPT, page directories for the first GiB and for the GiB of the device hole; 2 MiB pages. */
function longTables(): [number, Uint8Array][] {
  const base = Layout.PAGE_TABLES;
  const [pdpt, low, high] = [base + 0x1000, base + 0x2000, base + 0x3000];
  const pages = (start: number): Uint8Array =>
    u64s(...Array.from({ length: 512 }, (_, i) => BigInt(start + i * 0x20_0000) | 0xe7n));
  return [
    [base, u64s(BigInt(pdpt) | 7n, ...new Array<bigint>(511).fill(0n))],
    [pdpt, u64s(BigInt(low) | 0x27n, 0n, 0n, BigInt(high) | 0x27n, ...new Array<bigint>(508).fill(0n))],
    [low, pages(0)],
    [high, pages(0xc000_0000)],
  ];
}

function longTss(): Uint8Array {
  const bytes = new Uint8Array(0x68);
  const view = new DataView(bytes.buffer);
  view.setUint32(4, Layout.KERNEL_STACK, true);
  view.setUint32(0x24, Layout.IST1, true);
  view.setUint16(0x66, 0x68, true);
  return bytes;
}
