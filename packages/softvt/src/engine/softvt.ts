import type { AddressSpace } from "@skep/memory";
import {
  type CpuidTable,
  cpuidFeature,
  type Engine,
  type EngineProbe,
  type EngineVcpu,
  type EngineVm,
  type EngineVmOptions,
} from "@skep/vcpu";
import { ARENA_BYTES, Cpu, MAX_VCPUS, Mode, UOPS_BYTES, VCPU_BYTES, VCPUS } from "../cpu/layout.ts";
import { PHYSICAL_ADDRESS_BITS } from "../cpu/state.ts";
import { CodeCache } from "./code-cache.ts";
import { FEATURES } from "./features.ts";
import { type EngineCode, type EngineExports, loadEngine } from "./module.ts";
import type { CodePlace } from "./region-reader.ts";
import { type RegionStats, Regions } from "./regions.ts";
import { type AllowedBits, SoftVcpu } from "./vcpu.ts";
import { CpuView } from "./vcpu-state.ts";

/** CPUID as this engine backs it: flags, address width, XSAVE components. */
const supportedCpuid: CpuidTable = {
  query(_index, leaf, subleaf) {
    const out = { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    for (const name of FEATURES) {
      const feature = cpuidFeature(name);
      if (feature.leaf === leaf && feature.subleaf === subleaf)
        out[feature.register] = (out[feature.register] | (1 << feature.bit)) >>> 0;
    }
    if (leaf === 0x8000_0008) out.eax = PHYSICAL_ADDRESS_BITS | (48 << 8);
    if (leaf === 0xd && subleaf === 0) {
      // x87 and SSE in the legacy area, the header, then AVX.
      out.eax = 7;
      out.ebx = 832;
      out.ecx = 832;
    }
    if (leaf === 0xd && subleaf === 2) {
      out.eax = 256;
      out.ebx = 576;
    }
    return out;
  },
};

/** CR4, XCR0 and EFER bits that go with CPUID flags (SDM Vol. 3A sec. 2.5, 2.6, 2.2.1). */
function allowedBits(cpuid: CpuidTable): AllowedBits {
  const has = (name: string): boolean => {
    const f = cpuidFeature(name);
    return ((cpuid.query(0, f.leaf, f.subleaf)[f.register] >>> f.bit) & 1) === 1;
  };
  const cr4: [string, bigint][] = [
    ["vme", 3n],
    ["tsc", 4n],
    ["de", 8n],
    ["pse", 0x10n],
    ["pae", 0x20n],
    ["mce", 0x40n],
    ["pge", 0x80n],
    ["fxsr", 0x200n],
    ["sse", 0x400n],
    ["umip", 0x800n],
    ["fsgsbase", 0x1_0000n],
    ["pcid", 0x2_0000n],
    ["xsave", 0x4_0000n],
    ["smep", 0x10_0000n],
    ["smap", 0x20_0000n],
  ];
  return {
    // PCE needs no flag: RDPMC then faults for want of counters, or not.
    cr4: cr4.reduce((bits, [name, bit]) => (has(name) ? bits | bit : bits), 0x100n),
    xcr0: has("xsave") ? (has("avx") ? 7n : 3n) : 0n,
    efer: (has("syscall") || has("lm") ? 1n : 0n) | (has("lm") ? 0x500n : 0n) | (has("nx") ? 0x800n : 0n),
  };
}

class SoftVm implements EngineVm {
  readonly #options: EngineVmOptions;
  readonly #code: EngineCode;
  readonly #cache: CodeCache;
  readonly #regions: Regions;
  readonly #vcpus: SoftVcpu[] = [];
  readonly #instances: EngineExports[] = [];
  readonly #allowed: AllowedBits;

  constructor(
    options: EngineVmOptions,
    code: EngineCode,
    tuning: Tuning,
    compiler: RegionCompiler | undefined,
  ) {
    this.#options = options;
    this.#code = code;
    const { memory } = options;
    const { arena } = memory;
    this.#allowed = allowedBits(options.cpuid);
    this.#cache = new CodeCache(
      arena.memory.buffer,
      arena.flags,
      code.table,
      (page) => {
        for (const instance of this.#instances) instance.dropWriteTags(page);
      },
      () => {
        for (const vcpu of this.#vcpus) vcpu.cpu.set32(Cpu.LINK, 0);
      },
      tuning.decodedBytes,
    );
    const { compileAfter, compiledBytes } = tuning;
    this.#regions = new Regions(
      this.#cache,
      code.table,
      arena.memory.buffer,
      {
        hotSamples: compileAfter,
        maxBytes: compiledBytes,
        cpu: options.vcpus === 1 ? VCPUS : undefined,
      },
      compiler,
    );
    memory.setCodeWatcher((offset, length) => this.#cache.written(offset, length));
    memory.setMappingsWatcher(() => this.invalidateMappings());
    memory.dirty.setClearedWatcher(() => {
      for (const instance of this.#instances) instance.flushTlb();
    });
  }

  /** Counters of the decoded code, for benches and tests. */
  get codeStats(): CodeCache["stats"] {
    return this.#cache.stats;
  }

  /** Counters of the compiled regions. */
  get regionStats(): Readonly<RegionStats> {
    return this.#regions.stats;
  }

  createVcpu(index: number): EngineVcpu {
    if (!Number.isInteger(index) || index < 0 || index >= this.#options.vcpus)
      throw new RangeError(`index: expected an integer from 0 to ${this.#options.vcpus - 1}, got ${index}`);
    const { arena } = this.#options.memory;
    const base = VCPUS + index * VCPU_BYTES;
    const cache = this.#cache;
    const place = (host: number, mode: number, rip = cpu.get64(Cpu.RIP)): CodePlace => {
      const base = rip - BigInt(host & 0xfff);
      // Outside of 64-bit mode and flat segments what is a page's neighbour in RIP may be none.
      const isLinear = (mode & Mode.FLAT) !== 0 || (mode & Mode.CODE_MASK) === Mode.CODE64;
      const pageAt = (offset: number): number => {
        if (offset === 0) return host - (host & 0xfff);
        return isLinear ? exports.codeAddress(BigInt.asUintN(64, base + BigInt(offset))) >>> 0 : 0;
      };
      return { host, mode, pageAt };
    };
    const random = new Uint32Array(2);
    const env = {
      memory: arena.memory,
      cpu: new WebAssembly.Global({ value: "i32", mutable: false }, base),
      decode: (host: number, mode: number) => {
        const uop = cache.decode(host >>> 0, mode);
        this.#regions.promote(place(host >>> 0, mode));
        return uop;
      },
      decodeStraddling: (host: number, next: number, mode: number, uop: number) =>
        cache.decodeStraddling(host >>> 0, next >>> 0, mode, uop >>> 0),
      decodeStep: (host: number, mode: number) => cache.decodeStep(host >>> 0, mode),
      codeWritten: (host: number, length: number) => cache.written(host >>> 0, length),
      random: () => {
        globalThis.crypto.getRandomValues(random);
        return (BigInt(random[0]!) << 32n) | BigInt(random[1]!);
      },
    };
    const instance = new WebAssembly.Instance(this.#code.module, { env });
    const exports = instance.exports as unknown as EngineExports;
    this.#instances.push(exports);
    const cpu = new CpuView(arena.memory.buffer, base);
    cpu.set32(Cpu.REGION_HANDLER, this.#code.table.special.region);
    cpu.set32(Cpu.PAGE_FLAGS, arena.flagsOffset);
    cpu.set32(Cpu.EPT, this.#options.memory.ept.pointer & ~0xfff);
    // Regions import what the interpreter's cases call.
    const imports = { env: { ...instance.exports, ...env } };
    this.#regions.addHost({
      table: exports.regions,
      instantiate: (module) => new WebAssembly.Instance(module, imports).exports,
      setStale: () => cpu.set32(Cpu.REGION_STALE, 1),
    });
    const sample = (): void => {
      const host = exports.codeAddress(cpu.get64(Cpu.RIP)) >>> 0;
      if (host !== 0) this.#regions.sample(place(host, cpu.get32(Cpu.MODE)));
      const missed = cpu.get64(Cpu.REGION_MISSED);
      if (missed !== 0n) {
        cpu.set64(Cpu.REGION_MISSED, 0n);
        const at = exports.codeAddress(missed) >>> 0;
        if (at !== 0) this.#regions.missed(place(at, cpu.get32(Cpu.MODE), missed));
      }
    };
    const vcpu = new SoftVcpu(index, cpu, exports, this.#allowed, sample);
    this.#vcpus[index] = vcpu;
    return vcpu;
  }

  invalidateMappings(): void {
    for (const instance of this.#instances) {
      instance.flushNtlb();
      instance.flushTlb();
    }
    this.#cache.flush();
  }

  async close(): Promise<void> {
    const memory: AddressSpace = this.#options.memory;
    memory.setCodeWatcher(undefined);
    memory.setMappingsWatcher(undefined);
    this.#regions.close();
    this.#vcpus.length = 0;
    this.#instances.length = 0;
  }
}

export interface SoftvtOptions {
  /**
   * Room for decoded code, in bytes from 4 KiB to 48 MiB (the default). When it is full everything is decoded anew:
   * little room finds errors in that, and costs speed.
   */
  readonly decodedBytes?: number;
  /**
   * How often a slice must end in a page's code before that is compiled to WebAssembly of its own: 0 compiles
   * everything before it first runs, which finds errors in that and costs speed, `Infinity` nothing. Default 64.
   */
  readonly compileAfter?: number;
  /**
   * Room for compiled code, in bytes of WebAssembly from 64 KiB to 512 MiB, default 16 MiB; a module counts 4 KiB more than
   * it has. One takes some 5 bytes of the process's memory. When it is full, what was not seen to run is dropped.
   */
  readonly compiledBytes?: number;
}

type Tuning = Required<SoftvtOptions>;
type RegionCompiler = typeof import("../region/index.ts");
const DEFAULT_COMPILE_AFTER = 64;

const MIN_DECODED_BYTES = 4096;
const DEFAULT_COMPILED_BYTES = 16 * 2 ** 20;
const MIN_COMPILED_BYTES = 2 ** 16;
const MAX_COMPILED_BYTES = 2 ** 29;

/**
 * The software VT-x engine: runs anywhere that WebAssembly with SIMD and shared memory does.
 *
 * @throws RangeError where an option is out of range.
 */
export function createSoftvtEngine(options: SoftvtOptions = {}): Engine {
  const {
    decodedBytes = UOPS_BYTES,
    compileAfter = DEFAULT_COMPILE_AFTER,
    compiledBytes = DEFAULT_COMPILED_BYTES,
  } = options;
  checkInteger("decodedBytes", decodedBytes, MIN_DECODED_BYTES, UOPS_BYTES);
  checkInteger("compiledBytes", compiledBytes, MIN_COMPILED_BYTES, MAX_COMPILED_BYTES);
  if (!(compileAfter === Number.POSITIVE_INFINITY || (Number.isInteger(compileAfter) && compileAfter >= 0)))
    throw new RangeError(`compileAfter: expected a whole number or Infinity, got ${compileAfter}`);
  return {
    name: "softvt",
    maxVcpus: MAX_VCPUS,
    hasIrqchip: false,
    countsInstructions: true,
    arenaBytes: ARENA_BYTES,
    supportedCpuid,
    async probe(): Promise<EngineProbe> {
      try {
        await loadEngine();
        return {
          usable: true,
          evidence: "WebAssembly with SIMD and shared memory: the software engine compiles",
        };
      } catch (error) {
        return { usable: false, evidence: `the software engine's module does not compile: ${String(error)}` };
      }
    },
    async createVm(vmOptions: EngineVmOptions): Promise<EngineVm> {
      const compiler = compileAfter === 0 ? await import("../region/index.ts") : undefined;
      return new SoftVm(
        vmOptions,
        await loadEngine(),
        { decodedBytes, compileAfter, compiledBytes },
        compiler,
      );
    },
  };
}

function checkInteger(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new RangeError(`${name}: expected an integer from ${min} to ${max}, got ${value}`);
}
