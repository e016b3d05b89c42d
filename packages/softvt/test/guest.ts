import { AddressSpace, RamArena } from "@skep/memory";
import {
  CpuidModel,
  type EngineVcpu,
  type EngineVm,
  type VcpuRunOptions,
  type VcpuStateV1,
  type VmExit,
} from "@skep/vcpu";
import type { CodeCacheStats } from "../src/engine/code-cache.ts";
import type { RegionStats } from "../src/engine/regions.ts";
import { createSoftvtEngine, type SoftvtOptions } from "../src/index.ts";

const RAM_BYTES = 4 * 2 ** 20;
const GDT = 0x1000;
const IDT = 0x2000;
const TSS = 0x3000;
const TABLES = 0x10_0000;

/** By the interpreter alone, and with everything compiled before it runs. */
export const TIERS = [
  ["interpreted", Number.POSITIVE_INFINITY],
  ["compiled", 0],
] as const;

/** These, and with code compiled after a few samples, while it runs. */
export const MIXED_TIERS = [...TIERS, ["compiled as it gets hot", 2]] as const;

export const CODE = 0x8000;
export const STACK = 0x9000;

/** What `Guest.open` takes beside the engine's options. */
export interface GuestOptions extends SoftvtOptions {
  /** All are at CODE at first, each with the same stack. Default 1. */
  readonly vcpus?: number;
}

/**
 * A guest on the engine itself: 64-bit mode at CPL 0, 4 MiB mapped one to one for everyone, GDT (0x08 code,
 * 0x10 data, 0x23 user data, 0x2b user code), IDT, TSS with RSP0 0xa000 and IST1 0xb000.
 */
export class Guest {
  readonly memory: AddressSpace;
  readonly vcpus: readonly EngineVcpu[];
  readonly #vm: EngineVm;

  private constructor(memory: AddressSpace, vm: EngineVm, vcpus: number) {
    this.memory = memory;
    this.#vm = vm;
    this.vcpus = Array.from({ length: vcpus }, (_, index) => vm.createVcpu(index));
  }

  static async open({ vcpus = 1, ...options }: GuestOptions = {}): Promise<Guest> {
    const engine = createSoftvtEngine(options);
    const arena = RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes });
    const memory = new AddressSpace(arena);
    memory.addRam(0, RAM_BYTES);
    const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus, tscHz: 1e9, model: "host" });
    const guest = new Guest(memory, await engine.createVm({ memory, vcpus, tscHz: 1e9, cpuid }), vcpus);
    guest.#prepare();
    return guest;
  }

  /** The first one. */
  get vcpu(): EngineVcpu {
    return this.vcpus[0]!;
  }

  /** Counters of the decoded code. */
  get codeStats(): CodeCacheStats {
    return (this.#vm as EngineVm & { codeStats: CodeCacheStats }).codeStats;
  }

  /** Counters of the compiled regions. */
  get regionStats(): RegionStats {
    return (this.#vm as EngineVm & { regionStats: RegionStats }).regionStats;
  }

  close(): Promise<void> {
    return this.#vm.close();
  }

  #prepare(): void {
    const u64 = (address: number, value: bigint): void => {
      this.memory.dma.writeU64(address, value);
    };
    u64(TABLES, BigInt(TABLES + 0x1000) | 7n);
    u64(TABLES + 0x1000, BigInt(TABLES + 0x2000) | 7n);
    u64(TABLES + 0x2000, 0x87n);
    u64(TABLES + 0x2008, 0x20_0087n);
    u64(GDT + 0x08, 0x00af_9b00_0000_ffffn);
    u64(GDT + 0x10, 0x00cf_9300_0000_ffffn);
    u64(GDT + 0x20, 0x00cf_f300_0000_ffffn);
    u64(GDT + 0x28, 0x00af_fb00_0000_ffffn);
    u64(TSS + 4, 0xa000n);
    u64(TSS + 0x24, 0xb000n);
    for (const vcpu of this.vcpus) vcpu.restore(this.#longMode(vcpu.save()));
  }

  #longMode(state: VcpuStateV1): VcpuStateV1 {
    const flat = (selector: number, access: number) => ({ selector, base: 0n, limit: 0xffff_ffff, access });
    for (const name of ["ds", "es", "fs", "gs", "ss"] as const) state[name] = flat(0x10, 0xc093);
    state.cs = flat(0x08, 0xa09b);
    state.tr = { selector: 0x30, base: BigInt(TSS), limit: 0x67, access: 0x8b };
    state.gdtr = { base: BigInt(GDT), limit: 0x7f };
    state.idtr = { base: BigInt(IDT), limit: 0xfff };
    state.cr0 = 0x8001_0033n;
    state.cr3 = BigInt(TABLES);
    state.cr4 = 0x620n;
    state.msrs = { ...state.msrs, c0000080: 0xd01n };
    state.rip = BigInt(CODE);
    state.gpr[4] = BigInt(STACK);
    state.activity = "active";
    return state;
  }

  /** An interrupt gate for `vector` with `code` behind it. */
  handler(vector: number, code: number[], options: { dpl?: number; ist?: number } = {}): void {
    const at = 0xc000 + vector * 64;
    this.code(at, ...code);
    const type = 0x8e | ((options.dpl ?? 0) << 5);
    const low = BigInt(at) | (0x08n << 16n) | (BigInt(options.ist ?? 0) << 32n) | (BigInt(type) << 40n);
    this.memory.dma.writeU64(IDT + 16 * vector, low);
    this.memory.dma.writeU64(IDT + 16 * vector + 8, 0n);
  }

  code(at: number, ...bytes: number[]): void {
    this.memory.dma.write(at, Uint8Array.from(bytes));
  }

  /** Changes registers. */
  set(change: (state: VcpuStateV1) => void, vcpu = this.vcpu): void {
    const state = vcpu.save();
    change(state);
    vcpu.restore(state);
  }

  run(options: Partial<VcpuRunOptions> = {}, vcpu = this.vcpu): VmExit {
    return vcpu.run({
      budget: 10_000,
      tsc: 0n,
      tscPerInstruction: 1,
      interruptWindow: false,
      singleStep: false,
      ...options,
    });
  }
}
