import { describe, expect, it } from "vitest";
import { CODE_START, STACK_START } from "../../../test/host-cpu/host-cpu.ts";
import { type HostState, hostState } from "../../../test/host-cpu/state.ts";
import { Cpu } from "../src/cpu/layout.ts";
import "../src/isa/x87/index.ts";
import "../src/isa/sse-float/index.ts";
import { FpEngine } from "./support/fp-engine.ts";

// Vectors (SDM Vol. 3A table 6-1), CR0 and CR4 bits (sec. 2.5), restated.
const [UD, NM, MF, XM] = [6, 7, 16, 19];
const [MP, EM, TS, NE] = [2, 4, 8, 0x20];
const [OSFXSR, OSXMMEXCPT] = [0x200, 0x400];

const engine = new FpEngine();

/** Runs an instruction with other CR0 and CR4; gives the vector it faults with, or "landed". */
function run(
  code: number[],
  {
    cr0 = NE,
    cr4 = OSFXSR | OSXMMEXCPT,
    setup = () => {},
  }: { cr0?: number; cr4?: number; setup?: (s: HostState) => void },
): { end: number | string; state: ReturnType<FpEngine["run"]> } {
  const host = hostState(STACK_START);
  setup(host);
  const state = engine.run(Uint8Array.from(code), host, [], (cpu) => {
    cpu.setBigUint64(Cpu.CR0, BigInt(cr0 | 1), true);
    cpu.setBigUint64(Cpu.CR4, BigInt(cr4), true);
    engine.module.call.updateSse!();
  });
  return { end: state.end.kind === "fault" ? state.end.vector : state.end.kind, state };
}

const FADD = [0xd8, 0xc1];
const FNSTSW = [0xdf, 0xe0];
const FNINIT = [0xdb, 0xe3];
const FNCLEX = [0xdb, 0xe2];
const FLDCW = [0xd9, 0x2b];
const FWAIT = [0x9b];
const ADDPS = [0x0f, 0x58, 0xca];
const STMXCSR = [0x0f, 0xae, 0x1b];
const CVTPI2PS = [0x0f, 0x2a, 0xca];

describe("device not available (SDM Vol. 3A table 2-2)", () => {
  it.each([
    [0, "landed", "landed"],
    [TS, NM, "landed"],
    [MP, "landed", "landed"],
    [MP | TS, NM, NM],
    [EM, NM, "landed"],
    [EM | TS, NM, "landed"],
    [EM | MP, NM, "landed"],
    [EM | MP | TS, NM, NM],
  ])("CR0 bits %i: x87 %s, WAIT %s", (bits, x87, wait) => {
    const setup = (s: HostState): void => {
      s.gpr[3] = 0x60008000n;
      s.fx.ftw = 0xff;
    };
    for (const code of [FADD, FNSTSW, FNINIT, FNCLEX, FLDCW])
      expect(run(code, { cr0: NE | bits, setup }).end).toBe(x87);
    expect(run(FWAIT, { cr0: NE | bits }).end).toBe(wait);
  });

  it.each([
    [0, OSFXSR, "landed"],
    [TS, OSFXSR, NM],
    [EM, OSFXSR, UD],
    [EM | TS, OSFXSR, UD],
    [0, 0, UD],
    [TS, 0, UD],
  ])("CR0 bits %i, CR4 %i: SSE %s", (bits, cr4, expected) => {
    const setup = (s: HostState): void => {
      s.gpr[3] = 0x60008000n;
    };
    for (const code of [ADDPS, STMXCSR, CVTPI2PS])
      expect(run(code, { cr0: NE | bits, cr4, setup }).end).toBe(expected);
  });
});

describe("pending x87 exceptions (SDM Vol. 1 sec. 8.7)", () => {
  /** Divide error unmasked and flagged. */
  const pending = (s: HostState): void => {
    s.fx.fcw = 0x37b;
    s.fx.fsw = 4;
    s.fx.ftw = 0xff;
    s.gpr[3] = 0x60008000n;
  };

  it("stop waiting instructions", () => {
    for (const code of [FADD, FLDCW, FWAIT, CVTPI2PS]) expect(run(code, { setup: pending }).end).toBe(MF);
  });

  it("do not stop the others, nor SSE without MMX registers", () => {
    for (const code of [FNSTSW, FNINIT, FNCLEX, ADDPS, STMXCSR])
      expect(run(code, { setup: pending }).end).toBe("landed");
  });

  it("are ignored with CR0.NE clear: FERR# has no line to go to", () => {
    for (const code of [FADD, FWAIT]) expect(run(code, { cr0: 0, setup: pending }).end).toBe("landed");
  });

  it("show in ES and B, go by FNCLEX, and by masking", () => {
    expect(Number(run(FNSTSW, { setup: pending }).state.gpr[0]! & 0xffffn)).toBe(0x8084);
    expect(run(FNCLEX, { setup: pending }).state.fx!.fsw).toBe(0);
    expect(run([0xd9, 0xe8], { setup: (s) => (s.fx.fcw = 0x37f) }).state.fx!.fsw).toBe(0x3800); // FLD1
  });
});

describe("pointers", () => {
  it("FIP follows every non-control instruction, FDP and FOP unmasked exceptions", () => {
    const view = (field: number): bigint =>
      new DataView(engine.module.memory.buffer, 0x1000).getBigUint64(field, true);
    const fop = (): number => new DataView(engine.module.memory.buffer, 0x1000).getUint32(Cpu.FOP, true);
    run(FNINIT, {});
    run([0xd9, 0xe8], {});
    expect([view(Cpu.FIP), view(Cpu.FDP), fop()]).toEqual([BigInt(CODE_START), 0n, 0]);
    // FDIV m32 by zero, unmasked. The code is not mapped here: its opcode cannot be read back.
    run([0xd8, 0x73, 0x10], {
      setup: (s) => {
        s.fx.fcw = 0x37b;
        s.fx.ftw = 0xff;
        s.fx.setSt(0, 0x3fff_8000000000000000n);
        s.gpr[3] = 0x60008000n;
      },
    });
    expect([view(Cpu.FIP), view(Cpu.FDP)]).toEqual([BigInt(CODE_START), 0x60008010n]);
  });
});

describe("unmasked SSE exceptions (SDM Vol. 1 sec. 11.5)", () => {
  const setup = (s: HostState): void => {
    s.fx.mxcsr = 0x1f80 & ~0x200; // ZM clear
    s.fx.setXmm(1, 0x3f800000_3f800000_3f800000_3f800000n);
  };
  const DIVPS = [0x0f, 0x5e, 0xca];

  it("#XM, or #UD without CR4.OSXMMEXCPT, the destination unchanged and the flag set", () => {
    const { end, state } = run(DIVPS, { setup });
    expect([end, state.fx!.mxcsr & 0x3f, state.fx!.xmm(1)]).toEqual([
      XM,
      4,
      0x3f800000_3f800000_3f800000_3f800000n,
    ]);
    expect(run(DIVPS, { cr4: OSFXSR, setup }).end).toBe(UD);
  });

  it("LDMXCSR refuses reserved bits", () => {
    const host = hostState(STACK_START);
    host.gpr[3] = 0x60008000n;
    const load = (bytes: number[]): unknown =>
      engine.run(Uint8Array.of(0x0f, 0xae, 0x13), host, [
        { address: 0x60008000, bytes: Uint8Array.from(bytes) },
      ]).end;
    expect(load([0x80, 0x1f, 1, 0])).toMatchObject({ kind: "fault", vector: 13 });
    expect(load([0x80, 0x1f, 0, 0])).toEqual({ kind: "landed" });
  });
});
