/** The software engine made to look like the host's user mode, for comparison with it case by case. */
import { AddressSpace, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import {
  CpuidModel,
  type EngineVcpu,
  type EngineVm,
  ExitReason,
  type SegmentState,
  type VcpuStateV1,
} from "@skep/vcpu";
import type { Case } from "../host-cpu/cases.ts";
import type { EngineResult } from "../host-cpu/compare.ts";
import { CODE_START, HOST_LAYOUT, type HostEnd } from "../host-cpu/host-cpu.ts";
import { FxImage, RFLAGS } from "../host-cpu/state.ts";
import { differingRuns } from "./runs.ts";

/** Linear address of guest-physical 0 for the engine's own tables and stubs: out of the tests' reach. */
const KERNEL = 0xffff_8000_0000_0000n;
/** Guest-physical layout. The windows are mapped at their host addresses by the page tables. */
const GDT = 0x1000;
const IDT = 0x2000;
const TSS = 0x3000;
const STUBS = 0x4000;
const STACK_TOP = 0x8000;
const TABLES = 0x10_0000;
const DATA = 0x20_0000;
const READ_ONLY = 0x21_0000;
const CODE = 0x22_0000;
const RAM_BYTES = 0x40_0000;
const TF = 0x100;
/** `SKEP_COMPILE_AFTER=0` has everything compiled before it runs: some ms a case. */
const COMPILE_AFTER = Number(process.env.SKEP_COMPILE_AFTER ?? Number.POSITIVE_INFINITY);

const flat = (selector: number, access: number): SegmentState => ({
  selector,
  base: 0n,
  limit: 0xffff_ffff,
  access,
});
const nothing: SegmentState = { selector: 0, base: 0n, limit: 0, access: 0x1_0000 };

export class SoftCpu {
  readonly #memory: AddressSpace;
  readonly #vm: EngineVm;
  readonly #vcpu: EngineVcpu;
  readonly #blank: VcpuStateV1;
  readonly #before = new Uint8Array(HOST_LAYOUT.DATA_BYTES);
  #image = new Uint8Array(HOST_LAYOUT.DATA_BYTES);

  private constructor(memory: AddressSpace, vm: EngineVm) {
    this.#memory = memory;
    this.#vm = vm;
    this.#vcpu = vm.createVcpu(0);
    this.#blank = this.#vcpu.save();
    this.#buildTables();
  }

  /** `compileAfter`: as of the engine's options; 0 compiles all code before it runs. */
  static async open(readOnly: Uint8Array, compileAfter = COMPILE_AFTER): Promise<SoftCpu> {
    const engine = createSoftvtEngine({ compileAfter });
    const arena = RamArena.create({ ramBytes: RAM_BYTES, privateBytes: engine.arenaBytes });
    const memory = new AddressSpace(arena);
    memory.addRam(0, RAM_BYTES);
    const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus: 1, tscHz: 1e9, model: "host" });
    const vm = await engine.createVm({ memory, vcpus: 1, tscHz: 1e9, cpuid });
    const cpu = new SoftCpu(memory, vm);
    memory.load(READ_ONLY, readOnly);
    return cpu;
  }

  close(): Promise<void> {
    return this.#vm.close();
  }

  /** What the data window holds before a run, but for the run's own patches. */
  setImage(bytes: Uint8Array): void {
    this.#image = bytes.slice();
  }

  #u64(address: number, value: bigint): void {
    this.#memory.dma.writeU64(address, value);
  }

  #buildTables(): void {
    // One PML4, one PDPT, a directory for the gigabyte of the windows and one for the kernel's own pages.
    let next = TABLES + 0x2000;
    const table = (): number => {
      next += 0x1000;
      return next - 0x1000;
    };
    this.#u64(TABLES, BigInt(TABLES + 0x1000) | 7n);
    const directories = new Map<number, number>();
    const map = (linear: number, physical: number, bytes: number, flags: bigint): void => {
      for (let offset = 0; offset < bytes; offset += 0x1000) {
        const va = linear + offset;
        const gib = Math.floor(va / 2 ** 30);
        let pd = directories.get(gib);
        if (pd === undefined) {
          pd = table();
          directories.set(gib, pd);
          this.#u64(TABLES + 0x1000 + gib * 8, BigInt(pd) | 7n);
        }
        const slot = pd + ((va >>> 21) & 511) * 8;
        let pt = Number(this.#memory.dma.readU64(slot)! & ~0xfffn);
        if (pt === 0) {
          pt = table();
          this.#u64(slot, BigInt(pt) | 7n);
        }
        this.#u64(pt + ((va >>> 12) & 511) * 8, BigInt(physical + offset) | flags);
      }
    };
    const NX = 1n << 63n;
    // The kernel's 2 MiB, by a large page.
    const pdpt = table();
    const pd = table();
    this.#u64(TABLES + 256 * 8, BigInt(pdpt) | 3n);
    this.#u64(pdpt, BigInt(pd) | 3n);
    this.#u64(pd, 0x83n);
    map(HOST_LAYOUT.DATA, DATA, HOST_LAYOUT.DATA_BYTES, 7n | NX);
    map(HOST_LAYOUT.READ_ONLY, READ_ONLY, HOST_LAYOUT.READ_ONLY_BYTES, 5n | NX);
    map(HOST_LAYOUT.CODE, CODE, HOST_LAYOUT.CODE_BYTES, 5n);

    this.#u64(GDT + 0x08, 0x00af_9b00_0000_ffffn);
    this.#u64(GDT + 0x10, 0x00cf_9300_0000_ffffn);
    this.#u64(GDT + 0x20, 0x00cf_fb00_0000_ffffn);
    this.#u64(GDT + 0x28, 0x00cf_f300_0000_ffffn);
    this.#u64(GDT + 0x30, 0x00af_fb00_0000_ffffn);
    // The I/O permission map lies beyond the limit: no port is allowed.
    this.#u64(TSS + 0x60, 0xffff_0000_0000_0000n);
    this.#u64(TSS + 4, KERNEL + BigInt(STACK_TOP));
    for (let vector = 0; vector < 256; vector++) {
      const stub = STUBS + vector * 16;
      this.#memory.load(stub, Uint8Array.of(0xf4));
      const dpl = vector === 3 || vector === 4 ? 3n : 0n;
      const gate =
        BigInt(stub & 0xffff) | (8n << 16n) | ((0x8en | (dpl << 5n)) << 40n) | (BigInt(stub >>> 16) << 48n);
      this.#u64(IDT + vector * 16, gate);
      this.#u64(IDT + vector * 16 + 8, KERNEL >> 32n);
    }
  }

  #window(bytes: number, base: number): Uint8Array {
    return this.#memory.view(base, bytes)!;
  }

  run({ code, state, options }: Pick<Case, "code" | "state" | "options">): EngineResult {
    const wide = (options.mode ?? 64) === 64;
    const address = options.address ?? CODE_START;
    const data = this.#window(HOST_LAYOUT.DATA_BYTES, DATA);
    data.set(this.#image);
    for (const patch of options.memory ?? []) data.set(patch.bytes, patch.address - HOST_LAYOUT.DATA);
    this.#before.set(data);
    const offset = address - HOST_LAYOUT.CODE;
    const codeBytes = new Uint8Array(HOST_LAYOUT.CODE_BYTES).fill(0xcc);
    codeBytes.set(code, offset);
    // Only what changed since the last run: a whole window would throw all decoded code away.
    this.#load(codeBytes);

    const fx = state.fx;
    const segment = wide ? nothing : flat(0x2b, 0xc0f3);
    const s: VcpuStateV1 = {
      ...this.#blank,
      gpr: [...state.gpr].map((v) => (wide ? v : v & 0xffff_ffffn)),
      rip: BigInt(address),
      rflags: BigInt(state.rflags | 2 | 0x200 | (options.step === true ? TF : 0)),
      cs: wide ? flat(0x33, 0xa0fb) : flat(0x23, 0xc0fb),
      ss: flat(0x2b, 0xc0f3),
      ds: segment,
      es: segment,
      fs: { ...nothing, base: state.fsBase },
      gs: { ...nothing, base: state.gsBase },
      ldtr: nothing,
      tr: { selector: 0x40, base: KERNEL + BigInt(TSS), limit: 0x67, access: 0x8b },
      gdtr: { base: KERNEL + BigInt(GDT), limit: 0x37 },
      idtr: { base: KERNEL + BigInt(IDT), limit: 0xfff },
      // PG WP AM NE ET MP PE; SMAP and SMEP off as no user access of the kernel's is tested here.
      cr0: 0x8005_0033n,
      cr3: BigInt(TABLES),
      cr4: 0x5_0620n,
      fpu: {
        ...this.#blank.fpu,
        fcw: fx.fcw,
        fsw: fx.fsw,
        ftw: fullTags(fx),
        mxcsr: fx.mxcsr,
        registers: Array.from({ length: 8 }, (_, physical) => {
          const value = fx.st((physical - ((fx.fsw >> 11) & 7) + 8) & 7);
          return { significand: BigInt.asUintN(64, value), signExponent: Number((value >> 64n) & 0xffffn) };
        }),
        xmm: Array.from({ length: 16 }, (_, i) => fx.xmm(i)),
        xcr0: 3n,
      },
      msrs: { ...this.#blank.msrs, c0000080: 0xd01n },
      activity: "active",
    };
    this.#vcpu.restore(s);
    const exit = this.#vcpu.run({
      budget: 100_000,
      tsc: 0n,
      tscPerInstruction: 1,
      interruptWindow: false,
      singleStep: false,
    });
    const after = this.#vcpu.save();
    const inside = { start: BigInt(address), end: BigInt(address + code.length) };
    return this.#result(exit.reason, after, data, { step: options.step === true, inside });
  }

  #load(bytes: Uint8Array): void {
    for (const [start, end] of differingRuns(this.#window(bytes.length, CODE), bytes))
      this.#memory.load(CODE + start, bytes.subarray(start, end));
  }

  #result(
    reason: number,
    after: VcpuStateV1,
    data: Uint8Array,
    how: { step: boolean; inside: { start: bigint; end: bigint } },
  ): EngineResult {
    const { step, inside } = how;
    const writes = differingRuns(data, this.#before).map(([start, end]) => ({
      address: HOST_LAYOUT.DATA + start,
      bytes: data.slice(start, end),
    }));
    const fx = new FxImage();
    fx.fcw = after.fpu.fcw;
    fx.fsw = after.fpu.fsw;
    fx.mxcsr = after.fpu.mxcsr;
    let tags = 0;
    for (let i = 0; i < 8; i++) if (((after.fpu.ftw >> (2 * i)) & 3) !== 3) tags |= 1 << i;
    fx.ftw = tags;
    const top = (after.fpu.fsw >> 11) & 7;
    for (const [physical, r] of after.fpu.registers.entries())
      fx.setSt((physical - top + 8) & 7, r.significand | (BigInt(r.signExponent) << 64n));
    for (const [i, v] of after.fpu.xmm.entries()) fx.setXmm(i, v);
    const base = {
      gpr: BigUint64Array.from(after.gpr),
      fx,
      fsBase: after.fs.base,
      gsBase: after.gs.base,
      writes,
    };
    const stub = Number(after.rip - KERNEL) - 1 - STUBS;
    if (reason !== ExitReason.Hlt || after.cs.selector !== 8 || stub < 0 || stub % 16 !== 0)
      return {
        ...base,
        end:
          reason === ExitReason.PreemptionTimer
            ? { kind: "timeout" }
            : { kind: "fault", vector: -reason, errorCode: 0, address: undefined },
        rip: after.rip,
        rflags: Number(after.rflags) & RFLAGS.REPORTED,
      };
    const vector = stub / 16;
    const rsp = Number(after.gpr[4]! - KERNEL);
    const hasError = ((0x2_7d00 >> vector) & 1) === 1 && vector < 32;
    const frame = (i: number): bigint => this.#memory.dma.readU64(rsp + (hasError ? 8 : 0) + 8 * i)!;
    const errorCode = hasError ? Number(this.#memory.dma.readU64(rsp)!) : 0;
    let rip = frame(0);
    base.gpr[4] = frame(3);
    let end: HostEnd = { kind: "fault", vector, errorCode, address: vector === 14 ? after.cr2 : undefined };
    if (vector === 3 && !(rip > inside.start && rip <= inside.end)) {
      end = { kind: "landed" };
      rip -= 1n;
    } else if (vector === 1 && step) end = { kind: "landed" };
    const rflags = Number(frame(2)) & RFLAGS.REPORTED & ~(step ? TF : 0);
    return { ...base, end, rip, rflags };
  }
}

/** The full tag word from an abridged one: only empty or not matters to the comparison. */
function fullTags(fx: FxImage): number {
  let tags = 0;
  for (let i = 0; i < 8; i++) if (((fx.ftw >> i) & 1) === 0) tags |= 3 << (2 * i);
  return tags;
}
