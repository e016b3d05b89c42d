/**
 * One instruction through the decoder and the BigInt evaluator, in the shape of the host oracle
 * (test/host-cpu): the descriptions' meaning, apart from any generated code.
 *
 * Memory is what the TLB holds: the data window and the read-only page, filled in by hand. An access
 * elsewhere would walk page tables that are not there: cases must not fault.
 */
import { differingRuns } from "../../../../test/differential/runs.ts";
import type { Case } from "../../../../test/host-cpu/cases.ts";
import type { EngineResult } from "../../../../test/host-cpu/compare.ts";
import { CODE_START, HOST_LAYOUT, type MemoryBytes } from "../../../../test/host-cpu/host-cpu.ts";
import { FxImage } from "../../../../test/host-cpu/state.ts";
import { arithmeticFlags } from "../../src/cpu/flags.ts";
import {
  Cpu,
  Event,
  Mode,
  TLB_BYTES,
  TLB_ENTRIES,
  TLB_ENTRY_BYTES,
  TlbEntry,
  TlbMode,
} from "../../src/cpu/layout.ts";
import { RFLAGS } from "../../src/cpu/state.ts";
import { Decoder } from "../../src/decode/decoder.ts";
import { evaluate } from "../../src/ir/evaluate.ts";
import type { UopField } from "../../src/ir/ir.ts";
import { buildHandlers, type Handler } from "../../src/isa/handlers.ts";

const CPU = 0x1000;
const PAGE_FLAGS = 0x4_0000;
const DATA = 0x10_0000;
const READ_ONLY = DATA + HOST_LAYOUT.DATA_BYTES;
const ARENA_BYTES = READ_ONLY + HOST_LAYOUT.READ_ONLY_BYTES;
const UOP = 0x8_0000;
const INT3 = 0xcc;
const REPORTED = 0x24_4dd5;

export class EvaluatorCpu {
  readonly #handlers = buildHandlers();
  readonly #decoder = new Decoder(this.#handlers);
  readonly #arena = new Uint8Array(ARENA_BYTES);
  readonly #view = new DataView(this.#arena.buffer);
  readonly #bodies = new Map<number, ReturnType<Handler["describe"]>>();
  readonly #image: Uint8Array;

  constructor(image: Uint8Array, readOnly: Uint8Array) {
    this.#image = image;
    this.#arena.set(readOnly, READ_ONLY);
    const tlb = CPU + Cpu.TLBS + TlbMode.USER * TLB_BYTES;
    for (let i = 0; i < TLB_ENTRIES; i++)
      for (const tag of [TlbEntry.READ, TlbEntry.WRITE, TlbEntry.EXECUTE])
        this.#view.setBigUint64(tlb + i * TLB_ENTRY_BYTES + tag, 1n, true);
    const map = (va: number, arena: number, bytes: number, writable: boolean): void => {
      for (let page = 0; page < bytes; page += 4096) {
        const entry = tlb + (((va + page) >>> 12) % TLB_ENTRIES) * TLB_ENTRY_BYTES;
        this.#view.setBigUint64(entry + TlbEntry.READ, BigInt(va + page), true);
        if (writable) this.#view.setBigUint64(entry + TlbEntry.WRITE, BigInt(va + page), true);
        this.#view.setInt32(entry + TlbEntry.ADDEND, arena - va, true);
      }
    };
    map(HOST_LAYOUT.DATA, DATA, HOST_LAYOUT.DATA_BYTES, true);
    map(HOST_LAYOUT.READ_ONLY, READ_ONLY, HOST_LAYOUT.READ_ONLY_BYTES, false);
    this.#set32(Cpu.TLB, tlb);
    this.#set32(Cpu.PAGE_FLAGS, PAGE_FLAGS);
    this.#set32(Cpu.CPL, 3);
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

  /** Runs a case. `end` is "landed" or a fault with its vector; other fault details are not modelled. */
  run(test: Case): EngineResult {
    const mode = Mode.FLAT | (test.options.mode === 64 ? Mode.CODE64 : Mode.CODE32 | Mode.STACK32);
    this.#enter(test, mode);
    const bytes = new Uint8Array(32).fill(INT3);
    bytes.set(test.code);
    const page = CODE_START & ~0xfff;
    const decoded = this.#decoder.decode(bytes, 0, CODE_START & 0xfff, mode);
    this.#set64(Cpu.RIP_BASE, BigInt(page));
    const { form, length } = decoded;
    if (form === undefined) return this.#result(test, 6, CODE_START);
    const index = (form.handlers[decoded.ea] ?? form.handlers.any!).wanted;
    let body = this.#bodies.get(index);
    if (body === undefined) {
      body = this.#handlers.list[index]!.describe();
      this.#bodies.set(index, body);
    }
    const fields: Record<UopField, number> = {
      pos: (CODE_START & 0xfff) | (length << 12),
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
    const { ending } = evaluate(body.stmts, [], this.#context(fields));
    if (ending?.kind === "next") return this.#result(test, undefined, CODE_START + length);
    if (ending?.kind === "leave" && this.#get32(Cpu.EVENT) === Event.FAULT)
      return this.#result(test, this.#get32(Cpu.EXC_VECTOR), CODE_START);
    throw new Error(`${test.name}: ended by ${ending?.kind}, event ${this.#get32(Cpu.EVENT)}`);
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

  #enter(test: Case, mode: number): void {
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
    this.#set64(Cpu.SEG_BASE + 8 * 4, state.fsBase);
    this.#set64(Cpu.SEG_BASE + 8 * 5, state.gsBase);
    // ES CS SS DS FS GS as a Linux process has them.
    const selectors = test.options.mode === 64 ? [0, 0x33, 0x2b, 0, 0, 0] : [0x2b, 0x23, 0x2b, 0x2b, 0, 0];
    // Flat, present, writable data; 32-bit readable code.
    for (let i = 0; i < 6; i++) {
      this.#set32(Cpu.SEG_LIMIT + 4 * i, -1);
      this.#set32(Cpu.SEG_ACCESS + 4 * i, i === 1 ? 0xc0fb : 0xc0f3);
      this.#set32(Cpu.SEG_SELECTOR + 4 * i, selectors[i]!);
    }
    this.#set32(Cpu.MODE, mode);
    this.#set32(Cpu.EVENT, Event.NONE);
    this.#arena.set(this.#image, DATA);
    for (const { address, bytes } of test.options.memory)
      this.#arena.set(bytes, DATA + address - HOST_LAYOUT.DATA);
  }

  #result(test: Case, vector: number | undefined, rip: number): EngineResult {
    const fx = new FxImage(test.state.fx.bytes.slice());
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
      end:
        vector === undefined
          ? { kind: "landed" }
          : { kind: "fault", vector, errorCode: 0, address: undefined },
      rip: BigInt(rip),
      gpr: BigUint64Array.from({ length: 16 }, (_, i) => this.#get64(Cpu.GPR + 8 * i)),
      rflags: (this.#get32(Cpu.RFLAGS) | status) & REPORTED,
      fx,
      writes: this.#writes(test),
    };
  }

  #writes(test: Case): MemoryBytes[] {
    const before = this.#image.slice();
    for (const { address, bytes } of test.options.memory) before.set(bytes, address - HOST_LAYOUT.DATA);
    const after = this.#arena.subarray(DATA, DATA + before.length);
    return differingRuns(after, before).map(([start, end]) => ({
      address: HOST_LAYOUT.DATA + start,
      bytes: after.slice(start, end),
    }));
  }
}

const RFLAGS_STATUS = 0x8d5;
