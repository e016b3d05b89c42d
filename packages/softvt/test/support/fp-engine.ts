import type { EngineResult } from "../../../../test/host-cpu/compare.ts";
import {
  CODE_START,
  HOST_LAYOUT,
  type HostEnd,
  type MemoryBytes,
} from "../../../../test/host-cpu/host-cpu.ts";
import { FxImage, type HostState } from "../../../../test/host-cpu/state.ts";
import { arithmeticFlags } from "../../src/cpu/flags.ts";
import { Cpu, Event, Mode, TLB_ENTRIES, TlbEntry } from "../../src/cpu/layout.ts";
import { updateSse } from "../../src/cpu/sse-state.ts";
import { CR0, CR4 } from "../../src/cpu/state.ts";
import { Decoder } from "../../src/decode/decoder.ts";
import { buildHandlers } from "../../src/isa/handlers.ts";
import { CPU_ADDRESS, compile, type TestModule } from "./module.ts";

const UOP = 0x7_0000;
const ARENA = 0x10_0000;

/** Tag word bits of an empty register. */
const EMPTY = 3;

/**
 * The instructions registered so far, compiled, with the memory windows of the host oracle: executes one
 * instruction at a time from a HostState, without the engine's dispatcher.
 */
export class FpEngine {
  readonly module: TestModule;
  readonly #decoder: Decoder;
  readonly #cpu: DataView;
  readonly #names: string[];

  constructor() {
    const table = buildHandlers();
    const snippets = table.list.map((handler, index) => ({
      name: `h${index}`,
      describe: () => handler.describe(),
    }));
    this.#names = table.list.map((handler) => handler.name);
    const specials = new Set<number>(Object.values(table.special));
    this.module = compile(
      [updateSse, arithmeticFlags],
      snippets.filter((_, index) => !specials.has(index)),
    );
    this.#decoder = new Decoder(table);
    this.#cpu = new DataView(this.module.memory.buffer, CPU_ADDRESS);
    this.#cpu.setUint32(Cpu.PAGE_FLAGS, 0x7_8000, true);
    const tlb = Cpu.TLBS;
    this.#cpu.setUint32(Cpu.TLB, CPU_ADDRESS + tlb, true);
    for (let i = 0; i < TLB_ENTRIES; i++)
      for (const tag of [TlbEntry.READ, TlbEntry.WRITE, TlbEntry.EXECUTE])
        this.#cpu.setBigUint64(tlb + i * 32 + tag, 1n, true);
    for (let page = 0; page < HOST_LAYOUT.DATA_BYTES; page += 0x1000) {
      const va = HOST_LAYOUT.DATA + page;
      const entry = tlb + ((va >>> 12) % TLB_ENTRIES) * 32;
      for (const tag of [TlbEntry.READ, TlbEntry.WRITE])
        this.#cpu.setBigUint64(entry + tag, BigInt(va), true);
      this.#cpu.setInt32(entry + TlbEntry.ADDEND, (ARENA + page - va) | 0, true);
    }
  }

  #setState(state: HostState): void {
    const { fx } = state;
    const cpu = this.#cpu;
    state.gpr.forEach((value, i) => {
      cpu.setBigUint64(Cpu.GPR + 8 * i, value, true);
    });
    const top = (fx.fsw >> 11) & 7;
    cpu.setUint32(Cpu.FCW, fx.fcw, true);
    // ES and B follow from the rest, as FXRSTOR's loading makes them.
    const pending = (fx.fsw & ~fx.fcw & 0x3f) !== 0 ? 0x8080 : 0;
    cpu.setUint32(Cpu.FSW, (fx.fsw & 0x477f) | pending, true);
    cpu.setUint32(Cpu.TOP, top, true);
    let tags = 0;
    for (let i = 0; i < 8; i++) if (((fx.ftw >> i) & 1) === 0) tags |= EMPTY << (2 * i);
    cpu.setUint32(Cpu.FTW, tags, true);
    for (let i = 0; i < 8; i++) {
      const at = Cpu.FPR + 16 * ((top + i) & 7);
      const value = fx.st(i);
      cpu.setBigUint64(at, BigInt.asUintN(64, value), true);
      cpu.setBigUint64(at + 8, value >> 64n, true);
    }
    for (let i = 0; i < 16; i++) {
      cpu.setBigUint64(Cpu.XMM + 16 * i, BigInt.asUintN(64, fx.xmm(i)), true);
      cpu.setBigUint64(Cpu.XMM + 16 * i + 8, fx.xmm(i) >> 64n, true);
    }
    this.module.bytes.set(fx.upper, CPU_ADDRESS + Cpu.YMM_HIGH);
    cpu.setBigUint64(Cpu.XCR0, 7n, true);
    cpu.setUint32(Cpu.MXCSR, fx.mxcsr, true);
    cpu.setUint32(Cpu.RFLAGS, (state.rflags & ~0x8d5) | 2, true);
    cpu.setUint32(Cpu.FLAG_KIND, 0, true);
    cpu.setUint32(Cpu.FLAG_AUX, state.rflags & 0x8d5, true);
    cpu.setBigUint64(Cpu.CR0, BigInt(CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.WP), true);
    cpu.setBigUint64(Cpu.CR4, BigInt(CR4.PAE | CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.OSXSAVE), true);
    cpu.setUint32(Cpu.EVENT, 0, true);
    cpu.setUint32(Cpu.MODE, Mode.CODE64 | Mode.FLAT, true);
    cpu.setBigUint64(Cpu.RIP_BASE, BigInt(CODE_START & ~0xfff), true);
    this.module.call.updateSse!();
  }

  /** Executes one instruction. @throws Error where it is not known. */
  run(
    code: Uint8Array,
    state: HostState,
    memory: readonly MemoryBytes[] = [],
    adjust: (cpu: DataView) => void = () => {},
  ): EngineResult {
    const cpu = this.#cpu;
    this.#setState(state);
    adjust(cpu);
    for (const { address, bytes } of memory) this.module.bytes.set(bytes, ARENA + address - HOST_LAYOUT.DATA);
    const data = this.module.bytes.subarray(ARENA, ARENA + HOST_LAYOUT.DATA_BYTES);
    const before = data.slice(0x7000, 0x9000);
    const padded = new Uint8Array(32);
    padded.set(code);
    const pos = CODE_START & 0xfff;
    const mode = this.#cpu.getUint32(Cpu.MODE, true);
    const decoded = this.#decoder.decode(padded, 0, pos, mode);
    let end: HostEnd = { kind: "landed" };
    if (decoded.form === undefined) end = { kind: "fault", vector: 6, errorCode: 0, address: undefined };
    else {
      const pair = decoded.form.handlers[decoded.ea] ?? decoded.form.handlers.any!;
      const view = this.module.memory;
      view.setUint16(UOP + 2, pos | (decoded.length << 12), true);
      [decoded.a, decoded.b, decoded.c, decoded.d].forEach((value, i) => {
        view.setUint8(UOP + 4 + i, value);
      });
      view.setInt32(UOP + 8, decoded.imm, true);
      view.setInt32(UOP + 12, decoded.imm2, true);
      const handler = this.module.call[`h${pair.wanted}`];
      if (handler === undefined) throw new Error(`no handler ${this.#names[pair.wanted]}`);
      const left = handler(UOP);
      const event = cpu.getUint32(Cpu.EVENT, true);
      if ((left === 1) !== (event !== 0)) throw new Error(`left ${left} with event ${event}`);
      if (event === Event.FAULT)
        end = {
          kind: "fault",
          vector: cpu.getUint32(Cpu.EXC_VECTOR, true),
          errorCode: cpu.getUint32(Cpu.EXC_ERROR, true),
          address: undefined,
        };
      else if (event !== 0) throw new Error(`event ${event}`);
    }
    const length = end.kind === "landed" ? decoded.length : 0;
    const writes: MemoryBytes[] = [];
    const after = data.subarray(0x7000, 0x9000);
    for (let i = 0; i < after.length; i++) {
      if (after[i] === before[i]) continue;
      const from = i;
      while (i < after.length && after[i] !== before[i]) i++;
      writes.push({ address: HOST_LAYOUT.DATA + 0x7000 + from, bytes: after.slice(from, i) });
    }
    for (const { address, bytes } of memory)
      data.fill(0, address - HOST_LAYOUT.DATA, address - HOST_LAYOUT.DATA + bytes.length);
    for (const { address, bytes } of writes)
      data.fill(0, address - HOST_LAYOUT.DATA, address - HOST_LAYOUT.DATA + bytes.length);
    return { end, rip: BigInt(CODE_START + length), writes, ...this.#state() };
  }

  #state(): Pick<EngineResult, "gpr" | "rflags"> & { fx: FxImage } {
    const cpu = this.#cpu;
    const gpr = new BigUint64Array(16);
    for (let i = 0; i < 16; i++) gpr[i] = cpu.getBigUint64(Cpu.GPR + 8 * i, true);
    const fx = new FxImage();
    const top = cpu.getUint32(Cpu.TOP, true);
    fx.fcw = cpu.getUint32(Cpu.FCW, true);
    fx.fsw = cpu.getUint32(Cpu.FSW, true) | (top << 11);
    const tags = cpu.getUint32(Cpu.FTW, true);
    for (let i = 0; i < 8; i++) if (((tags >> (2 * i)) & 3) !== EMPTY) fx.ftw |= 1 << i;
    for (let i = 0; i < 8; i++) {
      const at = Cpu.FPR + 16 * ((top + i) & 7);
      fx.setSt(i, (cpu.getBigUint64(at + 8, true) << 64n) | cpu.getBigUint64(at, true));
    }
    for (let i = 0; i < 16; i++) {
      const at = Cpu.XMM + 16 * i;
      fx.setXmm(i, (cpu.getBigUint64(at + 8, true) << 64n) | cpu.getBigUint64(at, true));
    }
    const upper = CPU_ADDRESS + Cpu.YMM_HIGH;
    fx.upper.set(this.module.bytes.subarray(upper, upper + fx.upper.length));
    fx.mxcsr = cpu.getUint32(Cpu.MXCSR, true);
    const rflags = this.module.call.arithmeticFlags!() | (cpu.getUint32(Cpu.RFLAGS, true) & ~2);
    return { gpr, rflags, fx };
  }
}
