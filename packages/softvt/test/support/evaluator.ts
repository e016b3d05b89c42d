/**
 * One instruction, or one after the other, through the decoder and the BigInt evaluator, in the shape of the host oracle (test/host-cpu): the
 * descriptions' meaning, apart from any generated code. The page walk, segments and faults are the descriptions' own;
 * what the dispatcher does, fetching code and delivering faults, is not here.
 *
 * ```text
 * arena 0          guest-physical memory, by EPT at its own addresses: the tables of user-space.ts, the windows
 * arena 4 MiB      the vCPU block, EPT, page flags, the micro-op
 * ```
 */
import { differingRuns } from "../../../../test/differential/runs.ts";
import { buildUserSpace, UserSpace } from "../../../../test/differential/user-space.ts";
import type { Case } from "../../../../test/host-cpu/cases.ts";
import type { EngineResult } from "../../../../test/host-cpu/compare.ts";
import {
  CODE_START,
  HOST_LAYOUT,
  type HostEnd,
  type MemoryBytes,
} from "../../../../test/host-cpu/host-cpu.ts";
import { FxImage } from "../../../../test/host-cpu/state.ts";
import { arithmeticFlags } from "../../src/cpu/flags.ts";
import {
  Cpu,
  Event,
  Mode,
  TLB_BYTES,
  TLB_ENTRIES,
  TLB_ENTRY_BYTES,
  TLB_INVALID,
  TlbEntry,
  TlbMode,
  VCPU_BYTES,
} from "../../src/cpu/layout.ts";
import { fill } from "../../src/cpu/paging.ts";
import { RFLAGS } from "../../src/cpu/state.ts";
import { Decoder } from "../../src/decode/decoder.ts";
import { evaluate } from "../../src/ir/evaluate.ts";
import type { UopField } from "../../src/ir/ir.ts";
import { buildHandlers, type Handler } from "../../src/isa/handlers.ts";

const LARGE_PAGE = 0x20_0000;
const CPU = UserSpace.RAM_BYTES;
const EPT = CPU + VCPU_BYTES;
const PAGE_FLAGS = EPT + 3 * 4096;
const UOP = PAGE_FLAGS + 4096;
const ARENA_BYTES = UOP + 4096;
const INT3 = 0xcc;
const REPORTED = 0x24_4dd5;
/** An EPT entry's and a page's: read, write and execute; a 2 MiB page. */
const EPT_ALL = 7n;
const EPT_LARGE = 0x80n;
const TR = 7;
const LDTR = 6;
const UNUSABLE = 0x1_0000;

/** Code with the state that it starts from. */
export type Runnable = Pick<Case, "code" | "state"> & {
  readonly options: Pick<Case["options"], "mode" | "memory" | "address">;
};

const UNDEFINED_OPCODE: HostEnd = { kind: "fault", vector: 6, errorCode: 0, address: undefined };

export class EvaluatorCpu {
  readonly #handlers = buildHandlers();
  readonly #decoder = new Decoder(this.#handlers);
  readonly #arena = new Uint8Array(ARENA_BYTES);
  readonly #view = new DataView(this.#arena.buffer);
  readonly #bodies = new Map<number, ReturnType<Handler["describe"]>>();
  readonly #image: Uint8Array;

  constructor(image: Uint8Array, readOnly: Uint8Array) {
    const view = this.#view;
    this.#image = image;
    buildUserSpace({
      readU64: (address) => view.getBigUint64(address, true),
      writeU64: (address, value) => view.setBigUint64(address, value, true),
      writeU8: (address, value) => view.setUint8(address, value),
    });
    this.#arena.set(readOnly, UserSpace.READ_ONLY);
    view.setBigUint64(EPT, BigInt(EPT + 4096) | EPT_ALL, true);
    view.setBigUint64(EPT + 4096, BigInt(EPT + 8192) | EPT_ALL, true);
    for (let page = 0; page < UserSpace.RAM_BYTES; page += LARGE_PAGE)
      view.setBigUint64(EPT + 8192 + (page / LARGE_PAGE) * 8, BigInt(page) | EPT_LARGE | EPT_ALL, true);

    for (let i = 0; i < 3 * TLB_ENTRIES; i++)
      for (const tag of [TlbEntry.READ, TlbEntry.WRITE, TlbEntry.EXECUTE])
        this.#set64(Cpu.TLBS + i * TLB_ENTRY_BYTES + tag, TLB_INVALID);
    this.#set32(Cpu.PAGE_FLAGS, PAGE_FLAGS);
    this.#set32(Cpu.EPT, EPT);
    const { CR0, CR4, EFER, KERNEL } = UserSpace;
    const registers: [field: number, value: bigint][] = [
      [Cpu.CR0, CR0],
      [Cpu.CR3, BigInt(UserSpace.TABLES)],
      [Cpu.CR4, CR4],
      [Cpu.EFER, EFER],
      [Cpu.XCR0, 7n],
      [Cpu.GDT_BASE, KERNEL + BigInt(UserSpace.GDT)],
      [Cpu.IDT_BASE, KERNEL + BigInt(UserSpace.IDT)],
      [Cpu.SEG_BASE + 8 * TR, KERNEL + BigInt(UserSpace.TSS)],
    ];
    for (const [field, value] of registers) this.#set64(field, value);
    this.#set32(Cpu.GDT_LIMIT, UserSpace.GDT_LIMIT);
    this.#set32(Cpu.IDT_LIMIT, UserSpace.IDT_LIMIT);
    this.#set32(Cpu.SEG_SELECTOR + 4 * TR, 0x40);
    this.#set32(Cpu.SEG_LIMIT + 4 * TR, UserSpace.TSS_LIMIT);
    this.#set32(Cpu.SEG_ACCESS + 4 * TR, 0x8b);
    this.#set32(Cpu.SEG_ACCESS + 4 * LDTR, UNUSABLE);
  }

  #get32(field: number): number {
    return this.#view.getInt32(CPU + field, true);
  }
  #set32(field: number, value: number): void {
    this.#view.setInt32(CPU + field, value, true);
  }
  #get64(field: number): bigint {
    return this.#view.getBigUint64(CPU + field, true);
  }
  #set64(field: number, value: bigint): void {
    this.#view.setBigUint64(CPU + field, value, true);
  }

  /** Runs a case: one instruction. */
  run(test: Case): EngineResult {
    const mode = Mode.FLAT | (test.options.mode === 64 ? Mode.CODE64 : Mode.CODE32 | Mode.STACK32);
    this.#enter(test, mode);
    const bytes = new Uint8Array(32).fill(INT3);
    bytes.set(test.code);
    const { kind, end, rip } = this.#execute(bytes, BigInt(CODE_START), mode);
    return kind === "branch" ? this.#land(test, rip) : this.#result(test, end, rip);
  }

  /**
   * Runs code from its first byte until it leaves it, or faults.
   *
   * @throws Error where that takes more than `most` instructions; a step of a repeated one counts as one.
   */
  runSequence(test: Runnable, most = 10_000): EngineResult {
    const { mode: bits, address = CODE_START } = test.options;
    const mode = Mode.FLAT | (bits === 64 ? Mode.CODE64 : Mode.CODE32 | Mode.STACK32);
    this.#enter(test, mode);
    const padded = new Uint8Array(test.code.length + 32).fill(INT3);
    padded.set(test.code);
    let rip = BigInt(address);
    for (let count = 0; count < most; count++) {
      const at = Number(rip - BigInt(address));
      if (at < 0 || at >= test.code.length) return this.#land(test, rip);
      const step = this.#execute(padded.subarray(at, at + 32), rip, mode);
      if (step.kind === "fault") return this.#result(test, step.end, step.rip);
      rip = bits === 64 ? step.rip : step.rip & 0xffff_ffffn;
    }
    throw new Error(`no end after ${most} instructions`);
  }

  /** Executes the instruction that `bytes` begin with, at `rip`: where control goes, or what it raises, and with which RIP. */
  #execute(
    bytes: Uint8Array,
    rip: bigint,
    mode: number,
  ): { kind: "next" | "branch" | "fault"; end: HostEnd; rip: bigint } {
    const pos = Number(rip & 0xfffn);
    const decoded = this.#decoder.decode(bytes, 0, pos, mode);
    this.#set64(Cpu.RIP_BASE, rip - BigInt(pos));
    this.#set32(Cpu.SYNCED, 0);
    this.#set32(Cpu.SHADOW, 0);
    const { form, length } = decoded;
    if (form === undefined) return { kind: "fault", end: UNDEFINED_OPCODE, rip };
    const index = (form.handlers[decoded.ea] ?? form.handlers.any!).wanted;
    let body = this.#bodies.get(index);
    if (body === undefined) {
      body = this.#handlers.list[index]!.describe();
      this.#bodies.set(index, body);
    }
    const fields: Record<UopField, number> = {
      pos: pos | (length << 12),
      a: decoded.a,
      b: decoded.b,
      c: decoded.c,
      d: decoded.d,
      imm: decoded.imm,
      imm2: decoded.imm2,
    };
    // Functions read the micro-op from memory.
    this.#view.setUint16(UOP + 2, fields.pos, true);
    this.#arena.set([fields.a, fields.b, fields.c, fields.d], UOP + 4);
    this.#view.setInt32(UOP + 8, fields.imm, true);
    this.#view.setInt32(UOP + 12, fields.imm2, true);
    const landed: HostEnd = { kind: "landed" };
    for (;;) {
      const { ending } = evaluate(body.stmts, [], this.#context(fields));
      switch (ending?.kind) {
        case "next":
          return { kind: "next", end: landed, rip: rip + BigInt(length) };
        case "branch":
        case "jump":
          return { kind: "branch", end: landed, rip: BigInt(ending.values.at(-1)!) };
        case "leave":
          break;
        default:
          throw new Error(`${form.spec.name}: ended by ${ending?.kind}`);
      }
      const event = this.#get32(Cpu.EVENT);
      this.#set32(Cpu.EVENT, Event.NONE);
      switch (event) {
        case Event.BRANCH:
          return { kind: "branch", end: landed, rip: this.#get64(Cpu.RIP) };
        case Event.FAULT:
          return { kind: "fault", end: this.#exception(), rip };
        case Event.TRAP:
          return { kind: "fault", end: this.#exception(), rip: this.#get64(Cpu.RIP) };
        case Event.SYNC:
          this.#set32(Cpu.SYNCED, 1);
          continue;
        default:
          throw new Error(`${form.spec.name}: left with event ${event}`);
      }
    }
  }

  /** Goes on at `rip`: in a stub of the processor's own, at an instruction, or where nothing can be fetched. */
  #land(test: Runnable, rip: bigint): EngineResult {
    if (this.#get32(Cpu.CPL) === 0) return this.#delivered(test, Number(rip - UserSpace.KERNEL));
    const FETCH = 2;
    const page = evaluate(fill.body!().stmts, [rip, FETCH, this.#get32(Cpu.TLB)], this.#context()).value;
    const end: HostEnd = page === 0 ? this.#exception() : { kind: "landed" };
    this.#set32(Cpu.EVENT, Event.NONE);
    return this.#result(test, end, rip);
  }

  /** An exception or interrupt that the instruction itself delivered: what it was is in the stack's frame. */
  #delivered(test: Runnable, address: number): EngineResult {
    const rsp = Number(this.#get64(Cpu.GPR + 8 * 4) - UserSpace.KERNEL);
    const frame = (i: number): bigint => this.#view.getBigUint64(rsp + 8 * i, true);
    this.#set64(Cpu.GPR + 8 * 4, frame(3));
    const vector = (address - UserSpace.STUBS) / 16;
    return this.#result(test, { kind: "fault", vector, errorCode: 0, address: undefined }, frame(0));
  }

  #exception(): HostEnd {
    const vector = this.#get32(Cpu.EXC_VECTOR);
    const errorCode = this.#get32(Cpu.EXC_HAS_ERROR) !== 0 ? this.#get32(Cpu.EXC_ERROR) : 0;
    return { kind: "fault", vector, errorCode, address: vector === 14 ? this.#get64(Cpu.CR2) : undefined };
  }

  #context(fields?: Record<UopField, number>): Parameters<typeof evaluate>[2] {
    return {
      memory: this.#view,
      cpu: CPU,
      uop: UOP,
      field: (name) => fields![name],
      host: (name) => {
        throw new Error(`host function ${name}`);
      },
    };
  }

  #enter(test: Runnable, mode: number): void {
    const { state } = test;
    state.gpr.forEach((value, i) => {
      this.#set64(Cpu.GPR + 8 * i, test.options.mode === 64 ? value : i < 8 ? value & 0xffff_ffffn : 0n);
    });
    this.#set32(Cpu.FLAG_KIND, 0);
    this.#set32(Cpu.FLAG_AUX, state.rflags & RFLAGS_STATUS);
    this.#set32(Cpu.RFLAGS, (state.rflags & ~RFLAGS_STATUS) | RFLAGS.ONE | RFLAGS.IF);
    const { fx } = state;
    const top = (fx.fsw >> 11) & 7;
    this.#set32(Cpu.FCW, fx.fcw);
    this.#set32(Cpu.FSW, fx.fsw & ~0x3800);
    this.#set32(Cpu.TOP, top);
    this.#set32(Cpu.MXCSR, fx.mxcsr);
    let tags = 0;
    for (let i = 0; i < 8; i++) {
      if ((fx.ftw & (1 << i)) === 0) tags |= 3 << (2 * i);
      const value = fx.st((i - top) & 7);
      this.#set64(Cpu.FPR + 16 * i, BigInt.asUintN(64, value));
      this.#view.setUint16(CPU + Cpu.FPR + 16 * i + 8, Number(value >> 64n), true);
    }
    this.#set32(Cpu.FTW, tags);
    for (let i = 0; i < 16; i++) {
      this.#set64(Cpu.XMM + 16 * i, BigInt.asUintN(64, fx.xmm(i)));
      this.#set64(Cpu.XMM + 16 * i + 8, fx.xmm(i) >> 64n);
    }
    this.#arena.set(fx.upper, CPU + Cpu.YMM_HIGH);
    this.#set64(Cpu.SEG_BASE + 8 * 4, state.fsBase);
    this.#set64(Cpu.SEG_BASE + 8 * 5, state.gsBase);
    // ES CS SS DS FS GS as a Linux process has them.
    const selectors = test.options.mode === 64 ? [0, 0x33, 0x2b, 0, 0, 0] : [0x2b, 0x23, 0x2b, 0x2b, 0, 0];
    // Flat, present, writable data; 64-bit or 32-bit readable code.
    const code = test.options.mode === 64 ? 0xa0fb : 0xc0fb;
    for (let i = 0; i < 6; i++) {
      this.#set32(Cpu.SEG_LIMIT + 4 * i, -1);
      this.#set32(Cpu.SEG_ACCESS + 4 * i, i === 1 ? code : 0xc0f3);
      this.#set32(Cpu.SEG_SELECTOR + 4 * i, selectors[i]!);
    }
    this.#set32(Cpu.MODE, mode);
    this.#set32(Cpu.CPL, 3);
    this.#set32(Cpu.TLB, CPU + Cpu.TLBS + TlbMode.USER * TLB_BYTES);
    this.#arena.set(this.#image, UserSpace.DATA);
    for (const { address, bytes } of test.options.memory)
      this.#arena.set(bytes, UserSpace.DATA + address - HOST_LAYOUT.DATA);
  }

  #result(test: Runnable, end: HostEnd, rip: bigint): EngineResult {
    const upper = this.#arena.slice(CPU + Cpu.YMM_HIGH, CPU + Cpu.YMM_HIGH + 256);
    const fx = new FxImage(test.state.fx.bytes.slice(), upper);
    const top = this.#get32(Cpu.TOP);
    fx.fcw = this.#get32(Cpu.FCW);
    fx.fsw = this.#get32(Cpu.FSW) | (top << 11);
    fx.mxcsr = this.#get32(Cpu.MXCSR);
    fx.ftw = 0;
    for (let i = 0; i < 8; i++) {
      if (((this.#get32(Cpu.FTW) >> (2 * i)) & 3) !== 3) fx.ftw |= 1 << i;
      const high = this.#view.getUint16(CPU + Cpu.FPR + 16 * i + 8, true);
      fx.setSt((i - top) & 7, (BigInt(high) << 64n) | this.#get64(Cpu.FPR + 16 * i));
    }
    for (let i = 0; i < 16; i++)
      fx.setXmm(i, (this.#get64(Cpu.XMM + 16 * i + 8) << 64n) | this.#get64(Cpu.XMM + 16 * i));
    const status = evaluate(arithmeticFlags.body!().stmts, [], this.#context()).value as number;
    return {
      end,
      rip,
      gpr: BigUint64Array.from({ length: 16 }, (_, i) => this.#get64(Cpu.GPR + 8 * i)),
      rflags: (this.#get32(Cpu.RFLAGS) | status) & REPORTED,
      fx,
      fsBase: this.#get64(Cpu.SEG_BASE + 8 * 4),
      gsBase: this.#get64(Cpu.SEG_BASE + 8 * 5),
      writes: this.#writes(test),
    };
  }

  #writes(test: Runnable): MemoryBytes[] {
    const before = this.#image.slice();
    for (const { address, bytes } of test.options.memory) before.set(bytes, address - HOST_LAYOUT.DATA);
    const after = this.#arena.subarray(UserSpace.DATA, UserSpace.DATA + before.length);
    return differingRuns(after, before).map(([start, end]) => ({
      address: HOST_LAYOUT.DATA + start,
      bytes: after.slice(start, end),
    }));
  }
}

const RFLAGS_STATUS = 0x8d5;
