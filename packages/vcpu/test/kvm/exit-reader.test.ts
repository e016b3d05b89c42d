import { ExitReason } from "@skep/vcpu";
import { ExitReader, structs } from "@skep/vcpu/kvm/testing";
import { describe, expect, it } from "vitest";

/** struct kvm_run as the kernel leaves it; offsets restated from linux/kvm.h. */
function page(exitReason: number): structs.Struct {
  const run = new structs.Struct(0x2000);
  run.setU32(8, exitReason);
  return run;
}

describe("what KVM_RUN left", () => {
  it("KVM_EXIT_IO with three elements comes as three exits, answers go where the kernel looks", () => {
    const run = page(2);
    run.setU8(32, 0);
    run.setU8(33, 2);
    run.setU16(34, 0x1f0);
    run.setU32(36, 3);
    run.setU64(40, 0x1000n);
    const reader = new ExitReader(run);
    const ports: number[] = [];
    for (let exit = reader.read(); exit !== undefined; exit = reader.advance()!) {
      if (!("reason" in exit) || exit.reason !== ExitReason.IoInstruction) throw new Error("no I/O");
      ports.push(exit.port);
      exit.data = 0x1100 + ports.length;
    }
    expect(ports).toEqual([0x1f0, 0x1f0, 0x1f0]);
    expect([run.u16(0x1000), run.u16(0x1002), run.u16(0x1004), run.u16(0x1006)]).toEqual([
      0x1101, 0x1102, 0x1103, 0,
    ]);
    expect(reader.isPending).toBe(false);
  });

  it.each([
    [8, [[0, 8]]],
    [
      7,
      [
        [0, 4],
        [4, 2],
        [6, 1],
      ],
    ],
    [
      3,
      [
        [0, 2],
        [2, 1],
      ],
    ],
    [1, [[0, 1]]],
  ] as const)("KVM_EXIT_MMIO of %d bytes comes in pieces that the contract has", (length, pieces) => {
    const run = page(6);
    run.setU64(32, 0xf_ffff_0000n);
    run.setU32(48, length);
    run.setU8(52, 0);
    const reader = new ExitReader(run);
    const seen: number[][] = [];
    for (let exit = reader.read(); exit !== undefined; exit = reader.advance()!) {
      if (!("reason" in exit) || exit.reason !== ExitReason.EptViolation) throw new Error("no MMIO");
      seen.push([exit.address - 0xf_ffff_0000, exit.size]);
      expect(exit.access).toBe("read");
      exit.data = 0x4433_2211;
      exit.dataHigh = 0x8877_6655;
    }
    expect(seen).toEqual(pieces);
    expect(run.u8(40)).toBe(0x11);
    // What lies behind the data is the length, and untouched.
    if (length < 8) expect(run.u8(40 + length)).toBe(0);
    expect(run.u32(48)).toBe(length);
  });

  it("a write's data, of eight bytes", () => {
    const run = page(6);
    run.setU64(32, 0xd000_0000n);
    run.setU64(40, 0x8877_6655_4433_2211n);
    run.setU32(48, 8);
    run.setU8(52, 1);
    expect(new ExitReader(run).read()).toMatchObject({
      access: "write",
      data: 0x4433_2211,
      dataHigh: 0x8877_6655,
    });
  });

  it("RDMSR and WRMSR, their answers and refusals", () => {
    const run = page(29);
    run.setU32(44, 0x1a0);
    const reader = new ExitReader(run);
    const exit = reader.read();
    if (!("reason" in exit) || exit.reason !== ExitReason.Rdmsr) throw new Error("no RDMSR");
    exit.value = 0x1234_5678_9abc_def0n;
    reader.advance();
    expect([run.u64(48), run.u8(32)]).toEqual([0x1234_5678_9abc_def0n, 0]);
    run.setU32(8, 30);
    run.setU64(48, 7n);
    const write = reader.read();
    if (!("reason" in write) || write.reason !== ExitReason.Wrmsr) throw new Error("no WRMSR");
    expect([write.index, write.value]).toEqual([0x1a0, 7n]);
    write.fault = true;
    reader.advance();
    expect(run.u8(32)).toBe(1);
  });

  it.each([
    [5, ExitReason.Hlt],
    [7, ExitReason.InterruptWindow],
    [8, ExitReason.TripleFault],
    [10, ExitReason.ExternalInterrupt],
    [16, ExitReason.ExternalInterrupt],
  ])("exit reason %d is %d", (kvm, reason) => {
    expect(new ExitReader(page(kvm)).read()).toEqual({ reason });
  });

  it.each([
    [11, "tpr"],
    [12, "tpr"],
    [26, "ioapic-eoi"],
    [31, "dirty-ring-full"],
    [33, "again"],
    [37, "again"],
  ])("exit reason %d is the engine's own to deal with: %s", (kvm, event) => {
    expect(new ExitReader(page(kvm)).read()).toMatchObject({ event });
  });

  it("a single step, and another debug exception", () => {
    const run = page(4);
    run.setU32(32, 1);
    run.setU64(48, 0x4000n);
    expect(new ExitReader(run).read()).toEqual({ reason: ExitReason.MonitorTrapFlag });
    run.setU64(48, 1n);
    expect(new ExitReader(run).read()).toMatchObject({ reason: ExitReason.ExceptionOrNmi, vector: 1 });
  });

  it("KVM_EXIT_FAIL_ENTRY carries the hardware's reason", () => {
    const run = page(9);
    run.setU64(32, 0x8000_0021n);
    run.setU32(40, 3);
    expect(new ExitReader(run).read()).toMatchObject({
      failure: "KVM_FAIL_ENTRY",
      exit: "KVM_EXIT_FAIL_ENTRY",
      suberror: 0x8000_0021n,
      what: expect.stringMatching(/0x80000021, on processor 3/),
    });
  });

  it("KVM_EXIT_INTERNAL_ERROR carries the suberror, and the instruction where KVM gives it", () => {
    const run = page(17);
    run.setU32(32, 1);
    run.setU32(36, 4);
    run.setU64(40, 1n);
    run.setU8(48, 3);
    run.bytes.set([0x0f, 0x0b, 0x90], 49);
    expect(new ExitReader(run).read()).toMatchObject({
      failure: "KVM_INTERNAL_ERROR",
      suberror: 1n,
      instruction: Uint8Array.of(0x0f, 0x0b, 0x90),
    });
    run.setU32(32, 3);
    const other = new ExitReader(run).read();
    expect(other).toMatchObject({ suberror: 3n, instruction: undefined });
    expect("what" in other && other.what).toMatch(
      /^suberror 3, an exit in the middle of an event's delivery/,
    );
  });

  it("every other reason is an error with its name", () => {
    const names: Record<number, string> = {};
    for (const reason of [
      0, 1, 3, 13, 14, 15, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28, 32, 34, 35, 36, 38, 39, 40, 99,
    ]) {
      const read = new ExitReader(page(reason)).read();
      if (!("failure" in read)) throw new Error(`exit reason ${reason} was taken`);
      expect(read.failure).toBe("KVM_UNEXPECTED_EXIT");
      names[reason] = read.exit;
    }
    expect(names).toMatchObject({
      0: "KVM_EXIT_UNKNOWN",
      24: "KVM_EXIT_SYSTEM_EVENT",
      39: "KVM_EXIT_MEMORY_FAULT",
      99: "KVM_EXIT_99",
    });
  });
});
