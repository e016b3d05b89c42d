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
import { buildUserSpace, UserSpace } from "./user-space.ts";

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
    buildUserSpace({
      readU64: (address) => memory.dma.readU64(address)!,
      writeU64: (address, value) => void memory.dma.writeU64(address, value),
      writeU8: (address, value) => void memory.dma.writeU8(address, value),
    });
  }

  /** `compileAfter`: as of the engine's options; 0 compiles all code before it runs. */
  static async open(readOnly: Uint8Array, compileAfter = COMPILE_AFTER): Promise<SoftCpu> {
    const engine = createSoftvtEngine({ compileAfter });
    const arena = RamArena.create({ ramBytes: UserSpace.RAM_BYTES, privateBytes: engine.arenaBytes });
    const memory = new AddressSpace(arena);
    memory.addRam(0, UserSpace.RAM_BYTES);
    const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus: 1, tscHz: 1e9, model: "host" });
    const vm = await engine.createVm({ memory, vcpus: 1, tscHz: 1e9, cpuid });
    const cpu = new SoftCpu(memory, vm);
    memory.load(UserSpace.READ_ONLY, readOnly);
    return cpu;
  }

  close(): Promise<void> {
    return this.#vm.close();
  }

  /** What the data window holds before a run, but for the run's own patches. */
  setImage(bytes: Uint8Array): void {
    this.#image = bytes.slice();
  }

  #window(bytes: number, base: number): Uint8Array {
    return this.#memory.view(base, bytes)!;
  }

  run({ code, state, options }: Pick<Case, "code" | "state" | "options">): EngineResult {
    const wide = (options.mode ?? 64) === 64;
    const address = options.address ?? CODE_START;
    const data = this.#window(HOST_LAYOUT.DATA_BYTES, UserSpace.DATA);
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
      tr: {
        selector: 0x40,
        base: UserSpace.KERNEL + BigInt(UserSpace.TSS),
        limit: UserSpace.TSS_LIMIT,
        access: 0x8b,
      },
      gdtr: { base: UserSpace.KERNEL + BigInt(UserSpace.GDT), limit: UserSpace.GDT_LIMIT },
      idtr: { base: UserSpace.KERNEL + BigInt(UserSpace.IDT), limit: UserSpace.IDT_LIMIT },
      cr0: UserSpace.CR0,
      cr3: BigInt(UserSpace.TABLES),
      cr4: UserSpace.CR4,
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
        xcr0: 7n,
        components: { 2: fx.upper.slice() },
      },
      msrs: { ...this.#blank.msrs, c0000080: UserSpace.EFER },
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
    for (const [start, end] of differingRuns(this.#window(bytes.length, UserSpace.CODE), bytes))
      this.#memory.load(UserSpace.CODE + start, bytes.subarray(start, end));
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
    fx.upper.set(after.fpu.components?.[2] ?? []);
    const base = {
      gpr: BigUint64Array.from(after.gpr),
      fx,
      fsBase: after.fs.base,
      gsBase: after.gs.base,
      writes,
    };
    const stub = Number(after.rip - UserSpace.KERNEL) - 1 - UserSpace.STUBS;
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
    const rsp = Number(after.gpr[4]! - UserSpace.KERNEL);
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
