/** vCPU states that another engine saved: what this one has not, and events whose delivery had begun. */
import { AddressSpace, RamArena } from "@skep/memory";
import { createSoftvtEngine } from "@skep/softvt";
import { CpuidModel, type EngineVcpu, StateError, type VcpuStateV1 } from "@skep/vcpu";
import { beforeAll, describe, expect, it } from "vitest";

let vcpu: EngineVcpu;

beforeAll(async () => {
  const engine = createSoftvtEngine();
  const memory = new AddressSpace(RamArena.create({ ramBytes: 0x1_0000, privateBytes: engine.arenaBytes }));
  memory.addRam(0, 0x1_0000);
  const tscHz = 1_000_000_000;
  const cpuid = new CpuidModel(engine.supportedCpuid, { vcpus: 1, tscHz });
  vcpu = (await engine.createVm({ memory, vcpus: 1, tscHz, cpuid })).createVcpu(0);
});

/** Restores the RESET state with a change, and gives what is saved then. */
function restored(change: (state: VcpuStateV1) => void): VcpuStateV1 {
  vcpu.reset("reset");
  const state = vcpu.save();
  change(state);
  vcpu.restore(structuredClone(state));
  return vcpu.save();
}

describe("a state of another engine", () => {
  it("may have AVX's component, and others in their initial state only", () => {
    const components = (all: Record<string, number[]>) => (state: VcpuStateV1) => {
      state.fpu.components = Object.fromEntries(
        Object.entries(all).map(([number, bytes]) => [number, Uint8Array.from(bytes)]),
      );
    };
    const upper = Array.from({ length: 256 }, (_, i) => i);
    expect(restored(components({ 2: upper, 9: [0, 0] })).fpu.components).toEqual({
      2: Uint8Array.from(upper),
    });
    expect(restored(components({ 2: [0, 0, 0] }))).not.toHaveProperty("fpu.components");
    expect(() => restored(components({ 9: [0, 1] }))).toThrow(StateError);
    expect(() => restored(components({ 9: [0, 1] }))).toThrow(
      "vcpu.fpu.components.9: expected no XSAVE component beyond AVX's",
    );
    expect(() => restored(components({ 2: [0, 1] }))).toThrow("vcpu.fpu.components.2: expected 256 bytes");
  });

  it("may have MSRs that are not kept here where they are zero; what it leaves out is zero", () => {
    restored((state) => {
      state.msrs["3b"] = 7n;
    });
    const zero = vcpu.save();
    delete zero.msrs["3b"];
    vcpu.restore({ ...zero, msrs: { ...zero.msrs, "48": 0n } });
    expect(vcpu.save().msrs).toMatchObject({ "3b": 0n });
    expect(() => vcpu.restore({ ...zero, msrs: { "4b564d01": 1n } })).toThrow(
      "vcpu.msrs.4b564d01: expected an MSR",
    );
  });

  const event = (kind: string, vector: number) => (state: VcpuStateV1) => {
    state.pendingEvent = { kind, vector, errorCode: undefined } as VcpuStateV1["pendingEvent"];
  };

  it.each([0, 5, 6, 7, 10, 11, 12, 13, 14, 16, 17, 19])(
    "fault %i: its instruction raises it again",
    (vector) => {
      expect(restored(event("exception", vector)).pendingEvent).toBeUndefined();
    },
  );

  it("an NMI that was being delivered is pending again", () => {
    const state = restored((before) => {
      event("nmi", 2)(before);
      before.interruptibility.nmiBlocked = true;
    });
    expect(state).toMatchObject({ pendingNmi: true, interruptibility: { nmiBlocked: false } });
  });

  it("an interrupt is injected", () => {
    const pendingEvent = { kind: "interrupt", vector: 0x45, errorCode: undefined };
    expect(restored(event("interrupt", 0x45))).toMatchObject({ pendingEvent });
  });

  it.each([
    ["exception", 1],
    ["exception", 3],
    ["software-interrupt", 0x80],
  ])("%s %i cannot be gone on with", (kind, vector) => {
    expect(() => restored(event(kind, vector))).toThrow("vcpu.pendingEvent.kind: expected");
  });
});
