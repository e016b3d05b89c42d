/** Whether KVM is really usable: the device, its capabilities, and how fast a guest runs. */
import { existsSync, readFileSync } from "node:fs";
import { AddressSpace, RamArena } from "@skep/memory";
import { CpuidModel } from "../cpuid.ts";
import type { EngineProbe, EngineProbeOptions } from "../engine.ts";
import { EngineUnavailableError, SkepError } from "../errors.ts";
import { ExitReason } from "../exit.ts";
import { resetVcpuState } from "../reset-state.ts";
import type { SegmentState, VcpuStateV1 } from "../state.ts";
import { KvmHost } from "./host.ts";
import type { KvmVcpu } from "./vcpu.ts";
import { KvmVm } from "./vm.ts";

/** Longest that the probe lets the guest run. */
const PROBE_NS = 20_000_000;
/**
 * Instructions a second below which KVM is taken to emulate. Processors with VT-x or SVM do billions, also two levels
 * deep; a KVM that emulates does less than two million, and the software engine some hundred million.
 */
const CRAWL_PER_S = 10e6;
/** A run of this length is timed well enough, in seconds. */
const ENOUGH_S = 0.004;
const PAGE_TABLES = 0x1000;
const CODE = 0x8000;

/**
 * Opens KVM, runs a short 64-bit loop and says what came of it; where it is to be quick, only if the processor does not say
 * that it has VT-x or SVM, without which KVM emulates. Never rejects.
 */
export async function probeKvm(device: string, { quick = false }: EngineProbeOptions): Promise<EngineProbe> {
  try {
    const flag = virtualizationFlag();
    if (quick && flag !== undefined) {
      KvmHost.open(device).close();
      return { usable: true, evidence: `${device} opens, the processor has ${flag}; no guest was run` };
    }
    const perSecond = measure(device);
    const pace = `a 64-bit guest runs ${describePace(perSecond)} instructions a second`;
    const processor =
      flag === undefined ? "the processor shows neither vmx nor svm" : `the processor has ${flag}`;
    if (perSecond >= CRAWL_PER_S) return { usable: true, evidence: `${device} opens, ${processor}, ${pace}` };
    return {
      usable: false,
      evidence: `${device} opens, but ${pace}: this KVM emulates it (${processor}); 64-bit systems would get nowhere`,
    };
  } catch (error) {
    if (error instanceof EngineUnavailableError) {
      const evidence = error.message.replace(/^engine "kvm": /, "");
      return { usable: false, evidence, isAbsent: !existsSync(device) };
    }
    const why = error instanceof SkepError ? error.message : String(error);
    return {
      usable: false,
      evidence: `${device} opens, but a 64-bit guest of three instructions failed: ${why}`,
    };
  }
}

/** vmx or svm of /proc/cpuinfo. */
function virtualizationFlag(): "vmx" | "svm" | undefined {
  try {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
    return flags.includes("vmx") ? "vmx" : flags.includes("svm") ? "svm" : undefined;
  } catch {
    return undefined;
  }
}

function describePace(perSecond: number): string {
  const [unit, scale] =
    perSecond >= 1e9 ? ["billion", 1e9] : perSecond >= 1e6 ? ["million", 1e6] : ["thousand", 1e3];
  const count = perSecond / scale;
  return `${count >= 10 ? Math.round(count) : count.toFixed(1)} ${unit}`;
}

/** Counts ECX down in 64-bit code until it is 0 or the time is over; instructions a second. */
function measure(device: string): number {
  const host = KvmHost.open(device);
  let vm: KvmVm;
  try {
    const memory = new AddressSpace(RamArena.create({ ramBytes: 0x1_0000, extraBytes: 0x1_0000 }));
    memory.addRam(0, 0x1_0000);
    const { tscHz } = host;
    const cpuid = new CpuidModel(host.cpuid, { model: "host", vcpus: 1, tscHz });
    vm = new KvmVm(host, { memory, vcpus: 1, tscHz, cpuid }, undefined);
    memory.dma.writeU64(PAGE_TABLES, BigInt(PAGE_TABLES + 0x1000) | 3n);
    memory.dma.writeU64(PAGE_TABLES + 0x1000, BigInt(PAGE_TABLES + 0x2000) | 3n);
    memory.dma.writeU64(PAGE_TABLES + 0x2000, 0x83n);
    // again: dec ecx; jnz again; hlt
    memory.load(CODE, Uint8Array.of(0xff, 0xc9, 0x75, 0xfc, 0xf4));
  } catch (error) {
    host.close();
    throw error;
  }
  try {
    const vcpu = vm.createVcpu(0) as KvmVcpu;
    vcpu.sliceLimitNs = PROBE_NS;
    const options = {
      budget: PROBE_NS,
      tsc: 0n,
      tscPerInstruction: 1,
      interruptWindow: false,
      singleStep: false,
    };
    // The first runs pay for the guest's first page tables and for cold caches; what counts is the best, of runs that
    // grow until one is long enough to be timed or three were cut off.
    let best = 0;
    let cutOff = 0;
    for (let rounds = 1 << 10; ; ) {
      vcpu.restore(longModeState(BigInt(rounds)));
      const start = performance.now();
      const exit = vcpu.run(options);
      const seconds = (performance.now() - start) / 1000;
      const isWhole = exit.reason === ExitReason.Hlt;
      const left = isWhole ? 0 : Number(vcpu.save().gpr[1]! & 0xffff_ffffn);
      best = Math.max(best, (2 * (rounds - left)) / seconds);
      const isEnough = rounds >= 1 << 28 || (seconds >= ENOUGH_S && rounds > 1 << 16);
      if ((isWhole && isEnough) || (!isWhole && ++cutOff === 3)) return best;
      if (isWhole) rounds *= 4;
    }
  } finally {
    void vm.close();
  }
}

/** 64-bit mode at CODE, the first 2 MiB mapped one to one. */
function longModeState(rounds: bigint): VcpuStateV1 {
  const state = resetVcpuState();
  const data = (): SegmentState => ({ selector: 0x10, base: 0n, limit: 0xffff_ffff, access: 0xc093 });
  for (const name of ["ds", "es", "fs", "gs", "ss"] as const) state[name] = data();
  state.cs = { selector: 8, base: 0n, limit: 0xffff_ffff, access: 0xa09b };
  state.tr = { selector: 0x18, base: 0n, limit: 0x67, access: 0x8b };
  state.cr0 = 0x8000_0031n;
  state.cr3 = BigInt(PAGE_TABLES);
  state.cr4 = 0x20n;
  state.msrs.c0000080 = 0x500n;
  state.rip = BigInt(CODE);
  state.gpr[1] = rounds;
  return state;
}
