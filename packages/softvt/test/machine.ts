import { resetVcpuState } from "@skep/vcpu";
import { Cpu, Event, gpr, Seg, VCPUS } from "../src/cpu/layout.ts";
import { codeLinear } from "../src/cpu/lookup.ts";
import { Access, probe } from "../src/cpu/memory.ts";
import { updateMode } from "../src/cpu/mode.ts";
import { flushTlb } from "../src/cpu/paging.ts";
import { Slot } from "../src/cpu/slots.ts";
import { Decoder } from "../src/decode/decoder.ts";
import { CpuView, prepareRestore } from "../src/engine/vcpu-state.ts";
import { fn } from "../src/ir/builder.ts";
import { evaluate } from "../src/ir/evaluate.ts";
import type { Fn, UopField } from "../src/ir/ir.ts";
import { buildHandlers } from "../src/isa/handlers.ts";
import "../src/isa/index.ts";

/** Guest RAM: 4 MiB from guest-physical 0. MMIO lies above it. */
export const RAM_BYTES = 0x40_0000;
const RAM = 0x20_0000;
const EPT = 0x10_0000;
const PAGE_FLAGS = 0x11_0000;
const UOP = 0x800;

const linearOfCode = fn("linearOfCode", ["i64"], "i64", (f, rip) => f.return(codeLinear(f, rip)));

/** What a step led to: an exception that is to be delivered, an exit, or nothing. */
export type Outcome =
  | { kind: "done" }
  | { kind: "fault"; vector: number; error: number | undefined }
  | { kind: "exit"; reason: number };

/**
 * A processor that runs descriptions by the evaluator, an instruction at a time: the smallest dispatcher
 * there is. Slow, and independent of generated code.
 */
export class Machine {
  readonly memory = new DataView(new ArrayBuffer(RAM + RAM_BYTES));
  readonly #handlers = HANDLERS;
  readonly #decoder = new Decoder(HANDLERS);

  constructor() {
    prepareRestore(resetVcpuState())(new CpuView(this.memory.buffer, VCPUS));
    this.set32(Cpu.RFLAGS, 2);
    this.set64(Slot.CR4_ALLOWED, 0x37_0ffcn);
    this.set64(Slot.EFER_ALLOWED, 0xd01n);
    this.set64(Slot.XCR0_ALLOWED, 3n);
    for (let word = 0; word < 6; word++) this.set64(Cpu.TLB_FILLED + 8 * word, -1n);
    this.call(flushTlb);
    this.update();
    this.set32(Cpu.EPT, EPT);
    this.set32(Cpu.PAGE_FLAGS, PAGE_FLAGS);
    this.memory.setBigUint64(EPT, BigInt(EPT + 0x1000) | 7n, true);
    this.memory.setBigUint64(EPT + 0x1000, BigInt(EPT + 0x2000) | 7n, true);
    for (let i = 0; i < RAM_BYTES >> 21; i++)
      this.memory.setBigUint64(EPT + 0x2000 + 8 * i, BigInt(RAM + i * 0x20_0000) | 0x87n, true);
  }

  get32(field: number): number {
    return this.memory.getUint32(VCPUS + field, true);
  }
  get64(field: number): bigint {
    return this.memory.getBigUint64(VCPUS + field, true);
  }
  set32(field: number, value: number): void {
    this.memory.setInt32(VCPUS + field, value | 0, true);
  }
  set64(field: number, value: bigint): void {
    this.memory.setBigUint64(VCPUS + field, BigInt.asUintN(64, value), true);
  }
  reg(index: number): bigint {
    return this.get64(gpr(index));
  }
  setReg(index: number, value: bigint): void {
    this.set64(gpr(index), value);
  }
  get rip(): bigint {
    return this.get64(Cpu.RIP);
  }
  set rip(value: bigint) {
    this.set64(Cpu.RIP, value);
  }
  selector(seg: number): number {
    return this.get32(Cpu.SEG_SELECTOR + 4 * seg);
  }
  base(seg: number): bigint {
    return this.get64(Cpu.SEG_BASE + 8 * seg);
  }
  access(seg: number): number {
    return this.get32(Cpu.SEG_ACCESS + 4 * seg);
  }
  limit(seg: number): number {
    return this.get32(Cpu.SEG_LIMIT + 4 * seg);
  }
  /** Guest-physical memory. */
  read(bits: 8 | 16 | 32 | 64, gpa: number): bigint {
    let value = 0n;
    for (let i = bits / 8 - 1; i >= 0; i--)
      value = (value << 8n) | BigInt(this.memory.getUint8(RAM + gpa + i));
    return value;
  }
  write(bits: 8 | 16 | 32 | 64, gpa: number, value: bigint | number): void {
    for (let i = 0; i < bits / 8; i++)
      this.memory.setUint8(
        RAM + gpa + i,
        Number((BigInt.asUintN(64, BigInt(value)) >> BigInt(8 * i)) & 0xffn),
      );
  }
  bytes(gpa: number, ...values: number[]): void {
    values.forEach((value, i) => {
      this.memory.setUint8(RAM + gpa + i, value);
    });
  }

  call(fn: Fn, ...args: (number | bigint)[]): number | bigint | undefined {
    return evaluate(fn.body!().stmts, args, this.#context({})).value;
  }

  /** Sets a segment register, hidden part and all. */
  segment(seg: number, selector: number, base: bigint, limit: number, access: number): void {
    this.set32(Cpu.SEG_SELECTOR + 4 * seg, selector);
    this.set64(Cpu.SEG_BASE + 8 * seg, base);
    this.set32(Cpu.SEG_LIMIT + 4 * seg, limit);
    this.set32(Cpu.SEG_ACCESS + 4 * seg, access);
  }

  update(): void {
    this.call(updateMode);
  }

  /** The host's answers to what the current instruction asked for. */
  answer(...values: bigint[]): void {
    const count = this.get32(Cpu.REPLAY_COUNT);
    values.forEach((value, i) => {
      this.set64(Cpu.REPLAY + 8 * (count + i), value);
    });
    this.set32(Cpu.REPLAY_COUNT, count + values.length);
    this.set32(Cpu.REPLAY_NEXT, 0);
  }

  #context(fields: Partial<Record<UopField, number>>) {
    return {
      memory: this.memory,
      cpu: VCPUS,
      uop: UOP,
      field: (field: UopField): number => fields[field] ?? 0,
      host: (name: string): bigint | undefined => {
        if (name === "random") return 0x1234_5678_9abc_def0n;
        if (name === "codeWritten") return undefined;
        throw new Error(`host function ${name}`);
      },
    };
  }

  #outcome(): Outcome {
    const event = this.get32(Cpu.EVENT);
    this.set32(Cpu.EVENT, 0);
    switch (event) {
      case Event.FAULT:
        return {
          kind: "fault",
          vector: this.get32(Cpu.EXC_VECTOR),
          error: this.get32(Cpu.EXC_HAS_ERROR) ? this.get32(Cpu.EXC_ERROR) : undefined,
        };
      case Event.EXIT_RETRY:
      case Event.EXIT_DONE:
        return { kind: "exit", reason: this.get32(Cpu.EXIT_REASON) };
      case Event.SYNC:
        this.set32(Cpu.SYNCED, 1);
        return this.step();
      default:
        return { kind: "done" };
    }
  }

  /** Executes the instruction at RIP; a fault is reported, not delivered. */
  step(): Outcome {
    const rip = this.rip;
    const linear = this.call(linearOfCode, rip) as bigint;
    const host = (this.call(probe, linear, Access.EXECUTE, this.get32(Cpu.TLB)) as number) >>> 0;
    if (host <= 1) return this.#outcome();
    const pos = Number(linear & 0xfffn);
    const bytes = new Uint8Array(this.memory.buffer, host, 16);
    const decoded = this.#decoder.decode(bytes, 0, pos, this.get32(Cpu.MODE));
    const { form, ea } = decoded;
    if (form === undefined) return { kind: "fault", vector: 6, error: undefined };
    const pair = form.handlers[ea] ?? form.handlers.any!;
    const { stmts } = this.#handlers.list[pair.wanted]!.describe();
    this.set64(Cpu.RIP_BASE, rip - BigInt(pos));
    const { a, b, c, d, imm, imm2, length } = decoded;
    const fields = { pos: pos | (length << 12), a, b, c, d, imm, imm2 };
    // Address helpers read the micro-op itself.
    this.memory.setUint16(UOP + 2, fields.pos, true);
    for (const [i, value] of [a, b, c, d].entries()) this.memory.setUint8(UOP + 4 + i, value);
    this.memory.setInt32(UOP + 8, imm, true);
    this.memory.setInt32(UOP + 12, imm2, true);
    const { ending } = evaluate(stmts, [], this.#context(fields));
    if (ending?.kind === "next") {
      this.rip = rip + BigInt(length);
      this.set32(Cpu.REPLAY_COUNT, 0);
      return { kind: "done" };
    }
    if (ending?.kind !== "leave") throw new Error(`unexpected ending ${ending?.kind}`);
    return this.#outcome();
  }

  /** Writes machine code at RIP's linear address and executes it. */
  run(...code: number[]): Outcome {
    this.bytes(Number(this.call(linearOfCode, this.rip) as bigint), ...code);
    return this.step();
  }
}

const HANDLERS = buildHandlers();

/** A segment descriptor from its parts; `access` in VMCS format. */
export function descriptor(base: number, limit: number, access: number): bigint {
  const b = BigInt(base >>> 0);
  const l = BigInt((access & 0x8000 ? limit >>> 12 : limit) >>> 0);
  return (
    (l & 0xffffn) |
    ((b & 0xff_ffffn) << 16n) |
    (BigInt(access & 0xff) << 40n) |
    (((l >> 16n) & 15n) << 48n) |
    (BigInt((access >> 12) & 15) << 52n) |
    ((b >> 24n) << 56n)
  );
}

/** A gate of 8 bytes: `type` with P and DPL as in the access byte. */
export function gate(selector: number, offset: number, type: number, extra = 0): bigint {
  const o = BigInt(offset >>> 0);
  return (
    (o & 0xffffn) |
    (BigInt(selector) << 16n) |
    (BigInt(extra) << 32n) |
    (BigInt(type) << 40n) |
    ((o >> 16n) << 48n)
  );
}

export const GDT = 0x1000;
export const IDT = 0x2000;
export const TSS = 0x3000;

/** Selectors of the tables that `protectedMachine` and `longMachine` lay out. */
export const Sel = {
  CODE0: 0x08,
  DATA0: 0x10,
  CODE3: 0x1b,
  DATA3: 0x23,
  TSS: 0x28,
  /** The second half of a 16-byte TSS descriptor lies at 0x30. */
  CODE16: 0x38,
  CODE64: 0x40,
  CODE64_3: 0x4b,
  LDT: 0x50,
} as const;

function tables(m: Machine): void {
  const put = (selector: number, value: bigint): void => m.write(64, GDT + (selector & ~7), value);
  put(Sel.CODE0, descriptor(0, 0xffff_ffff, 0xc09b));
  put(Sel.DATA0, descriptor(0, 0xffff_ffff, 0xc093));
  put(Sel.CODE3, descriptor(0, 0xffff_ffff, 0xc0fb));
  put(Sel.DATA3, descriptor(0, 0xffff_ffff, 0xc0f3));
  put(Sel.TSS, descriptor(TSS, 0x67, 0x89));
  put(Sel.CODE16, descriptor(0, 0xffff, 0x009b));
  put(Sel.CODE64, descriptor(0, 0xffff_ffff, 0xa09b));
  put(Sel.CODE64_3, descriptor(0, 0xffff_ffff, 0xa0fb));
  m.set64(Cpu.GDT_BASE, BigInt(GDT));
  m.set32(Cpu.GDT_LIMIT, 0xff);
  m.set64(Cpu.IDT_BASE, BigInt(IDT));
  m.set32(Cpu.IDT_LIMIT, 0x7ff);
  m.segment(Seg.TR, Sel.TSS, BigInt(TSS), 0x67, 0x8b);
}

/** Flat 32-bit protected mode at CPL 0 or 3, paging off, RIP 0x8000, stack below 0x9000. */
export function protectedMachine(cpl: 0 | 3 = 0): Machine {
  const m = new Machine();
  tables(m);
  m.set64(Cpu.CR0, 0x11n);
  const dpl = cpl << 5;
  m.segment(Seg.CS, cpl === 0 ? Sel.CODE0 : Sel.CODE3, 0n, -1, 0xc09b | dpl);
  for (const seg of [Seg.ES, Seg.SS, Seg.DS, Seg.FS, Seg.GS])
    m.segment(seg, cpl === 0 ? Sel.DATA0 : Sel.DATA3, 0n, -1, 0xc093 | dpl);
  m.set32(Cpu.CPL, cpl);
  m.rip = 0x8000n;
  m.setReg(4, 0x9000n);
  // The stack for privilege level 0.
  m.write(32, TSS + 4, 0xa000);
  m.write(16, TSS + 8, Sel.DATA0);
  m.update();
  return m;
}

/** 64-bit mode at CPL 0 or 3; 4 MiB mapped one to one by 2 MiB pages, user accessible, page tables at 0x10_0000. */
export function longMachine(cpl: 0 | 3 = 0): Machine {
  const m = protectedMachine(cpl);
  m.write(64, 0x10_0000, 0x10_1007n);
  m.write(64, 0x10_1000, 0x10_2007n);
  for (let i = 0; i < 2; i++) m.write(64, 0x10_2000 + 8 * i, BigInt(i << 21) | 0x87n);
  m.set64(Cpu.CR3, 0x10_0000n);
  m.set64(Cpu.CR4, 0x20n);
  m.set64(Cpu.EFER, 0xd01n);
  m.set64(Cpu.CR0, 0x8001_0011n);
  m.segment(Seg.CS, cpl === 0 ? Sel.CODE64 : Sel.CODE64_3, 0n, -1, 0xa09b | (cpl << 5));
  m.write(64, TSS + 4, 0xa000);
  m.write(64, TSS + 0x24, 0xb008);
  m.set32(Cpu.IDT_LIMIT, 0xfff);
  m.update();
  return m;
}
