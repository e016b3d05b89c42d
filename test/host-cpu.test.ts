/**
 * The host oracle against what the manuals say of instructions whose outcome is certain.
 * Machine code is literal, so that the encoder has no part in its own proof.
 */

import { Worker } from "node:worker_threads";
import { afterAll, describe, expect, it } from "vitest";
import {
  CODE_START,
  HOST_LAYOUT,
  HostCpu,
  type HostResult,
  type RunOptions,
  STACK_START,
} from "./host-cpu/host-cpu.ts";
import { Random } from "./host-cpu/random.ts";
import { type HostState, hostState } from "./host-cpu/state.ts";

const opened = HostCpu.open();
const skipped = "unavailable" in opened ? opened.unavailable : "";
if (skipped) console.warn(`host CPU tests skipped: ${skipped}`);

// Registers and flags restated (SDM Vol. 1 fig. 3-4 and 3-8).
const RAX = 0;
const RCX = 1;
const RDX = 2;
const RBX = 3;
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;
const CF = 0x1;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const PF = 0x4;
const OF = 0x800;
const DF = 0x400;
const AC = 0x40000;
const ID = 0x200000;
const STATUS = 0x8d5;

/** (memory 1) (func (export "f") (param i32) (result i32) local.get 0  i32.load) */
const LOADER = Uint8Array.of(
  ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 3, 2, 1, 0, 5, 3, 1, 0, 1],
  ...[7, 5, 1, 1, 0x66, 0, 0, 10, 9, 1, 7, 0, 0x20, 0, 0x28, 2, 0, 0x0b],
);

describe.skipIf(skipped)(`the host's processor as an oracle${skipped ? ` (${skipped})` : ""}`, () => {
  const cpu = opened as HostCpu;
  afterAll(() => cpu.close());

  function run(
    code: number[],
    setup: (state: HostState) => void = () => {},
    options?: RunOptions,
  ): HostResult {
    const state = hostState(STACK_START);
    setup(state);
    return cpu.run(Uint8Array.from(code), state, options);
  }

  const landed = { kind: "landed" };
  const fault = (vector: number, errorCode = 0) => ({ kind: "fault", vector, errorCode, address: undefined });
  const pageFault = (errorCode: number, address: number) => ({
    kind: "fault",
    vector: 14,
    errorCode,
    address: BigInt(address),
  });

  describe("registers and flags", () => {
    it("gives back every register of a NOP as it was", () => {
      const random = new Random(1);
      const state = hostState(0);
      for (let i = 0; i < 16; i++) state.gpr[i] = random.u64();
      for (let i = 0; i < 16; i++) state.fx.setXmm(i, random.bits(128));
      state.rflags = CF | PF | AF | ZF | SF | OF | DF | AC | ID;
      state.fx.fcw = 0x27f;
      state.fx.fsw = 0x3800; // TOP = 7
      state.fx.ftw = 0x80;
      state.fx.mxcsr = 0x9fbf;
      state.fx.setSt(0, 0x3fff_8000000000000000n);
      state.fsBase = 0x60001000n;
      state.gsBase = 0xffffffffff600000n;
      const result = cpu.run(Uint8Array.of(0x90), state);

      expect(result.end).toEqual(landed);
      expect(result.rip).toBe(BigInt(CODE_START + 1));
      expect(result.gpr).toEqual(state.gpr);
      expect(result.rflags).toBe(state.rflags);
      for (let i = 0; i < 16; i++) expect(result.fx.xmm(i)).toBe(state.fx.xmm(i));
      for (const field of ["fcw", "fsw", "ftw", "mxcsr"] as const) {
        expect(result.fx[field], field).toBe(state.fx[field]);
      }
      expect(result.fx.st(0)).toBe(state.fx.st(0));
      expect([result.fsBase, result.gsBase]).toEqual([state.fsBase, state.gsBase]);
      expect(result.writes).toEqual([]);
    });

    // ADD: OF and CF by signed and unsigned overflow, AF by bit 3's carry, PF of the low byte (SDM Vol. 2A, ADD).
    it.each([
      [0x7fffffffn, 1n, 0x80000000n, OF | SF | AF | PF],
      [0xffffffffn, 1n, 0n, CF | ZF | AF | PF],
      [1n, 1n, 2n, 0],
      [0x80000000n, 0x80000000n, 0n, OF | CF | ZF | PF],
    ])("adds %x and %x", (a, b, sum, flags) => {
      const result = run([0x01, 0xd8], (s) => s.gpr.set([a, 0n, 0n, b])); // add eax, ebx
      expect(result.gpr[RAX]).toBe(sum);
      expect(result.rflags & STATUS).toBe(flags);
    });

    it("reads and writes memory through FS and GS bases, and leaves node its own", () => {
      const result = run(
        [0x64, 0x48, 0x8b, 0x01, 0x65, 0x48, 0x89, 0x41, 0x08],
        (s) => {
          s.fsBase = 0x60002000n; // mov rax, fs:[rcx]; mov gs:[rcx+8], rax
          s.gsBase = 0x60003000n;
          s.gpr[RCX] = 0x10n;
        },
        { memory: [{ address: 0x60002010, bytes: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }] },
      );
      expect(result.gpr[RAX]).toBe(0x0807060504030201n);
      expect(result.writes).toEqual([{ address: 0x60003018, bytes: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }]);
      expect(run([0xb8, 1, 0, 0, 0, 0xf3, 0x48, 0x0f, 0xae, 0xd0]).fsBase).toBe(1n); // mov eax, 1; wrfsbase rax
    });
  });

  describe("exceptions", () => {
    it("reports #DE with the instruction's address", () => {
      const result = run([0x90, 0xf7, 0xf1]); // nop; div ecx
      expect(result.end).toEqual(fault(0));
      expect(result.rip).toBe(BigInt(CODE_START + 1));
    });

    it("reports #UD", () => expect(run([0x0f, 0x0b]).end).toEqual(fault(6)));
    it("reports HLT's #GP", () => expect(run([0xf4]).end).toEqual(fault(13)));
    it("reports INT n's #GP with the gate's error code", () => {
      expect(run([0xcd, 0x20]).end).toEqual(fault(13, 0x20 * 8 + 2));
    });
    it("tells INT3 in the code from a landing", () => {
      const result = run([0xcc, 0x90]);
      expect(result.end).toEqual(fault(3));
      expect(result.rip).toBe(BigInt(CODE_START + 1));
    });
    it("reports INT1 as #DB", () => expect(run([0xf1]).end).toEqual(fault(1)));

    it("reports #GP for a non-canonical address and #SS for one on the stack", () => {
      const high = (s: HostState) => s.gpr.fill(0x8000_0000_0000_0000n);
      expect(run([0x8b, 0x00], high).end).toEqual(fault(13)); // mov eax, [rax]
      expect(run([0x8b, 0x04, 0x24], high).end).toEqual(fault(12)); // mov eax, [rsp]
      expect(run([0x8b, 0x45, 0x00], high).end).toEqual(fault(12)); // mov eax, [rbp]
    });

    // Error code: 1 present, 2 write, 4 user, 16 fetch (SDM Vol. 3A sec. 4.7).
    it.each([
      ["a read of a guard", [0x8b, 0x01], 0x60010000, 4],
      ["a write to a guard", [0x89, 0x01], 0x5fffffff, 6],
      ["a write to the read-only page", [0x89, 0x01], 0x60020ffc, 7],
      ["a write to code", [0x89, 0x01], 0x70000123, 7],
      ["a jump to data", [0xff, 0xe1], 0x60000123, 0x15],
      ["a jump to a guard", [0xff, 0xe1], 0x6fff0001, 0x14],
    ])("reports #PF for %s", (_, code, address, errorCode) => {
      const result = run(code, (s) => s.gpr.set([0n, BigInt(address)]));
      expect(result.end).toEqual(pageFault(errorCode, address));
    });

    it("reports the first inaccessible byte of a straddling access", () => {
      const result = run([0x48, 0x89, 0x01], (s) => s.gpr.set([~0n, 0x6000fffcn])); // mov [rcx], rax
      expect(result.end).toEqual(pageFault(6, 0x60010000));
      expect(result.writes).toEqual([]);
    });

    it("faults in the middle of code that ends at a guard", () => {
      const result = run([0x48], undefined, { address: 0x7000ffff }); // a REX prefix alone
      expect(result.end).toEqual(pageFault(0x14, 0x70010000));
      expect(result.rip).toBe(0x7000ffffn);
    });

    it("reports MOVAPS' #GP on a misaligned operand, and #AC under RFLAGS.AC", () => {
      expect(run([0x0f, 0x28, 0x01], (s) => s.gpr.set([0n, 0x60000008n])).end).toEqual(fault(13));
      const result = run([0x8b, 0x01], (s) => {
        s.gpr[RCX] = 0x60000001n;
        s.rflags = AC;
      });
      expect(result.end).toEqual(fault(17));
    });
  });

  describe("x87 and SSE", () => {
    it("adds in ST(0)", () => {
      const result = run([0xd8, 0xc1], (s) => {
        s.fx.ftw = 3; // fadd st(0), st(1) with TOP = 0
        s.fx.setSt(0, 0x3fff_8000000000000000n); // 1
        s.fx.setSt(1, 0x4000_c000000000000000n); // 3
      });
      expect(result.fx.st(0)).toBe(0x4001_8000000000000000n); // 4
      expect(result.fx.fsw).toBe(0);
    });

    it("reports a pending x87 exception as #MF at the next instruction", () => {
      const result = run([0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xd9, 0xd0], (s) => {
        s.fx.fcw = 0x37b; // fld1; fldz; fdivp; fnop with ZM clear
      });
      expect(result.end).toEqual(fault(16));
      expect(result.rip).toBe(BigInt(CODE_START + 6));
      expect(result.fx.fsw & 0x84).toBe(0x84); // ES, ZE
    });

    it("adds packed singles and raises MXCSR's sticky flags", () => {
      const result = run([0x0f, 0x58, 0xc1], (s) => {
        s.fx.setXmm(0, 0x7f7fffff_00000001_3f800000_7f800001n); // max, denormal, 1, SNaN
        s.fx.setXmm(1, 0x7f7fffff_00000001_33800000_3f800000n);
      });
      // Overflow to infinity, exact denormal sum, 1 + 2^-24 ties to even, quieted NaN.
      expect(result.fx.xmm(0)).toBe(0x7f800000_00000002_3f800000_7fc00001n);
      expect(result.fx.mxcsr).toBe(0x1f80 | 0x2b); // PE, OE, DE, IE
    });

    it("reports an unmasked SSE exception as #XM", () => {
      const result = run([0x0f, 0x5e, 0xc1], (s) => {
        s.fx.setXmm(0, 0x3f800000_3f800000_3f800000_3f800000n); // divps xmm0, xmm1 with ZM clear
        s.fx.mxcsr = 0x1d80;
      });
      expect(result.end).toEqual(fault(19));
      expect(result.fx.mxcsr).toBe(0x1d84);
      expect(result.rip).toBe(BigInt(CODE_START));
    });

    it("moves MMX registers over the x87 ones", () => {
      const result = run([0x0f, 0x6e, 0xc8], (s) => {
        s.gpr[RAX] = 0x12345678n; // movd mm1, eax
        s.fx.fsw = 0x1000; // TOP = 2
      });
      expect(result.fx.mm(1)).toBe(0x12345678n);
      expect(result.fx.ftw).toBe(0xff);
      expect(result.fx.fsw).toBe(0); // MMX instructions set TOP to 0 (SDM Vol. 1 sec. 9.6.2)
    });
  });

  describe("stack and branches", () => {
    const SP = BigInt(STACK_START);

    it("pushes and pops", () => {
      const push = run([0x50], (s) => s.gpr.set([0x1122334455667788n]));
      expect(push.gpr[RSP]).toBe(SP - 8n);
      const bytes = Uint8Array.of(0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11);
      expect(push.writes).toEqual([{ address: STACK_START - 8, bytes }]);

      const pop = run([0x59], undefined, { memory: [{ address: STACK_START, bytes }] });
      expect(pop.gpr[RCX]).toBe(0x1122334455667788n);
      expect(pop.gpr[RSP]).toBe(SP + 8n);
    });

    it("faults on a push below the window with RSP unchanged", () => {
      const result = run([0x50], (s) => {
        s.gpr[RSP] = 0x60000000n;
      });
      expect(result.end).toEqual(pageFault(6, 0x5ffffff8));
      expect(result.gpr[RSP]).toBe(0x60000000n);
    });

    it("calls and returns", () => {
      const call = run([0xe8, 0x00, 0x01, 0x00, 0x00], undefined, {
        address: 0x70008140,
        memory: [{ address: STACK_START - 8, bytes: Uint8Array.of(0, 0, 0, 0x70) }],
      });
      expect([call.end, call.rip]).toEqual([landed, 0x70008245n]);
      expect(call.writes).toEqual([
        { address: STACK_START - 8, bytes: Uint8Array.of(0x45, 0x81) }, // 70008145, its high half as before
      ]);
      const memory = [{ address: STACK_START, bytes: Uint8Array.of(0x40, 0x12, 0x00, 0x70) }];
      const ret = run([0xc2, 0x10, 0x00], undefined, { memory }); // ret 16
      expect([ret.end, ret.rip, ret.gpr[RSP]]).toEqual([landed, 0x70001240n, SP + 24n]);
    });

    it("branches by condition", () => {
      const je = [0x74, 0x20];
      expect(run(je).rip).toBe(BigInt(CODE_START + 2));
      expect(run(je, (s) => (s.rflags = ZF)).rip).toBe(BigInt(CODE_START + 0x22));
    });

    it("steps one instruction where asked, even a jump to nowhere", () => {
      const result = run([0xff, 0xe0, 0x90], (s) => s.gpr.set([0x1234n]), { step: true }); // jmp rax
      expect([result.end, result.rip, result.rflags]).toEqual([landed, 0x1234n, 0]);
    });

    it("ends code that does not end", () => {
      expect(run([0xeb, 0xfe]).end).toEqual({ kind: "timeout" });
      expect(run([0x90]).end).toEqual(landed);
    });

    it("reports system calls instead of making them", () => {
      // exit_group(7)
      const result = run([0x0f, 0x05], (s) => s.gpr.set([231n, 0n, 0n, 0n, 0n, 0n, 0n, 7n]));
      expect(result.end).toEqual({ kind: "syscall" });
      expect(run([0xcd, 0x80], (s) => s.gpr.set([1n, 0n, 0n, 7n]), { mode: 32 }).end).toEqual({
        kind: "syscall",
      });
    });
  });

  describe("32-bit code", () => {
    const run32 = (code: number[], setup?: (s: HostState) => void, options?: RunOptions) =>
      run(code, setup, { mode: 32, ...options });

    it("adjusts decimal sums", () => {
      // 79h + 35h = AEh, DAA gives 14h with CF and AF (SDM Vol. 2A, DAA's example).
      const result = run32([0x27], (s) => s.gpr.set([0xaen]));
      expect(result.end).toEqual(landed);
      expect(result.gpr[RAX]).toBe(0x14n);
      expect(result.rflags & (CF | AF)).toBe(CF | AF);
      expect(run([0x27]).end).toEqual(fault(6)); // invalid in 64-bit mode
    });

    it("pushes all registers", () => {
      const result = run32([0x60], (s) => s.gpr.set([1n, 2n, 3n, 4n, BigInt(STACK_START), 5n, 6n, 7n]));
      expect(result.gpr[RSP]).toBe(BigInt(STACK_START - 32));
      const stack = new Uint8Array(32);
      for (const { address, bytes } of result.writes) stack.set(bytes, address - (STACK_START - 32));
      expect([...new Uint32Array(stack.buffer)]).toEqual([7, 6, 5, STACK_START, 4, 3, 2, 1]);
    });

    it("treats 40h to 4Fh as INC and DEC", () => {
      const result = run32([0x40, 0x4b]);
      expect([result.gpr[RAX], result.gpr[RBX]]).toEqual([1n, 0xffffffffn]);
    });

    it("raises #OF and #BR", () => {
      expect(run32([0xce], (s) => (s.rflags = OF)).end).toEqual(fault(4));
      expect(run32([0xce]).end).toEqual(landed);
      expect(run32([0x62, 0x01], (s) => s.gpr.set([1n, 0x60000000n])).end).toEqual(fault(5)); // bound eax, [ecx]
    });

    it("loads far pointers, and gives node its selectors back", () => {
      const memory = [{ address: 0x60000000, bytes: Uint8Array.of(0x78, 0x56, 0x34, 0x12, 0x23, 0) }];
      const setup = (s: HostState) => s.gpr.set([0n, 0x60000000n]);
      const result = run32([0xc4, 0x01], setup, { memory }); // les eax, [ecx]
      expect([result.gpr[RAX], result.selectors.es]).toEqual([0x12345678n, 0x23]);
      expect(run([0x8c, 0xc0]).gpr[RAX]).toBe(0n); // mov eax, es
    });

    it("faults with error codes for bad selectors", () => {
      expect(run32([0x8e, 0xc0], (s) => s.gpr.set([0xfff4n])).end.kind).toBe("fault"); // mov es, ax
      expect(run32([0x8e, 0xc0], (s) => s.gpr.set([0xfff0n])).end).toEqual(fault(13, 0xfff0));
    });

    it("string instructions with DF", () => {
      const result = run32([0xf3, 0xaa], (s) => {
        s.rflags = DF; // rep stosb
        s.gpr.set([0x5an, 3n, 0n, 0n, 0n, 0n, 0n, 0x60000102n]);
      });
      expect(result.writes).toEqual([{ address: 0x60000100, bytes: Uint8Array.of(0x5a, 0x5a, 0x5a) }]);
      expect([result.gpr[RCX], result.gpr[RDI]]).toEqual([0n, 0x600000ffn]);
    });
  });

  describe("memory", () => {
    it("starts every run from the image", () => {
      const image = Uint8Array.from({ length: HOST_LAYOUT.DATA_BYTES }, (_, i) => i & 0xff);
      cpu.setImage(image);
      const write = run([0x88, 0x01], (s) => s.gpr.set([0xeen, 0x60000042n])); // mov [rcx], al
      expect(write.writes).toEqual([{ address: 0x60000042, bytes: Uint8Array.of(0xee) }]);
      const read = run([0x8a, 0x01], (s) => s.gpr.set([0n, 0x60000042n]));
      expect(read.gpr[RAX]).toBe(0x42n);
      expect(cpu.image()).toEqual(image);
      cpu.setImage(new Uint8Array(0));
      expect(run([0x8a, 0x01], (s) => s.gpr.set([1n, 0x60000042n])).gpr[RAX]).toBe(0n);
    });

    it("takes patches back", () => {
      const read = [0x48, 0x8b, 0x01]; // mov rax, [rcx]
      const setup = (s: HostState) => s.gpr.set([0n, 0x60000ffcn]);
      const memory = [{ address: 0x60000ffc, bytes: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }];
      expect(run(read, setup, { memory }).gpr[RAX]).toBe(0x0807060504030201n);
      expect(run(read, setup).gpr[RAX]).toBe(0n);
    });

    it("joins a write across a page into one run of bytes", () => {
      const result = run([0x48, 0x89, 0x01], (s) => s.gpr.set([~0n, 0x60000ffcn]));
      expect(result.writes).toEqual([{ address: 0x60000ffc, bytes: new Uint8Array(8).fill(0xff) }]);
    });

    it("holds the read-only page's content", () => {
      const result = run([0x8b, 0x01], (s) => s.gpr.set([0n, 0x60020010n]));
      const view = new DataView(cpu.readOnly.buffer);
      expect(result.gpr[RAX]).toBe(BigInt(view.getUint32(0x10, true)));
    });
  });

  it("refuses what it cannot set", () => {
    const state = hostState(0);
    expect(() => cpu.run(Uint8Array.of(0x90), state, { address: 0x70010000 })).toThrow(RangeError);
    expect(() => cpu.run(Uint8Array.of(0x90), { ...state, rflags: 0x100 })).toThrow(/rflags 0x100/);
    state.fx.mxcsr = 0x10000;
    expect(() => cpu.run(Uint8Array.of(0x90), state)).toThrow(/mxcsr/);
    const memory = [{ address: 0x6000ffff, bytes: new Uint8Array(2) }];
    expect(() => cpu.run(Uint8Array.of(0x90), hostState(0), { memory })).toThrow(/data window/);
  });

  it("runs 100,000 cases, a third of them faults, without harm to the process", () => {
    const random = new Random(2);
    const state = hostState(STACK_START);
    const before = process.memoryUsage().rss;
    const kinds = new Map<string, number>();
    for (let i = 0; i < 100_000; i++) {
      state.gpr[RAX] = random.integer(64);
      state.gpr[RCX] = random.integer(64);
      state.gpr[RDX] = 0n;
      state.gpr[RSI] = BigInt(HOST_LAYOUT.DATA + random.below(0x18000));
      state.gpr[RBP] = random.integer(64);
      // div rcx; mov [rsi], rax; addps xmm0, [rsi]
      const { end } = cpu.run(Uint8Array.of(0x48, 0xf7, 0xf1, 0x48, 0x89, 0x06, 0x0f, 0x58, 0x06), state);
      const kind = end.kind === "fault" ? `vector ${end.vector}` : end.kind;
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    expect([...kinds.keys()].sort()).toEqual(["landed", "vector 0", "vector 13", "vector 14"]);
    expect(process.memoryUsage().rss - before).toBeLessThan(128 << 20);
  });

  it("leaves V8 its wasm traps", () => {
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(LOADER));
    const load = exports.f as (address: number) => number;
    for (let i = 0; i < 100; i++) {
      run([0x8b, 0x00]);
      expect(load(0)).toBe(0);
      expect(() => load(0x7fffffff)).toThrow(WebAssembly.RuntimeError);
    }
  });

  it("passes on the wasm traps that another thread takes meanwhile", async () => {
    const shared = new Int32Array(new SharedArrayBuffer(8)); // stop, traps
    const source = `
      const { workerData: [loader, shared] } = require("node:worker_threads");
      const { f } = new WebAssembly.Instance(new WebAssembly.Module(loader)).exports;
      while (!Atomics.load(shared, 0)) {
        try { f(0x7fffffff); } catch { Atomics.add(shared, 1, 1); }
      }`;
    const worker = new Worker(source, { eval: true, workerData: [LOADER, shared] });
    const ended = new Promise<number>((resolve, reject) =>
      worker.once("exit", resolve).once("error", reject),
    );
    while (Atomics.load(shared, 1) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const before = Atomics.load(shared, 1);
    for (let i = 0; i < 5000 || Atomics.load(shared, 1) < before + 1000; i++) {
      expect(run([0x0f, 0x0b]).end.kind).toBe("fault");
    }
    Atomics.store(shared, 0, 1);
    expect(await ended).toBe(0);
  });

  it("knows the processor", () => {
    expect(cpu.features.has("sse2")).toBe(true); // every x86-64 processor
    expect(cpu.features.lacks("sse2")).toBeUndefined();
    expect(cpu.features.vendor).toMatch(/^[\w ]{12}$/);
    const popcnt = run([0xf3, 0x0f, 0xb8, 0xc1], (s) => s.gpr.set([0n, 0xffn]));
    expect(popcnt.gpr[RAX]).toBe(cpu.features.has("popcnt") ? 8n : 0n);
  });
});

describe("random operands", () => {
  it("repeats for a seed", () => {
    const draw = (seed: number) => {
      const random = new Random(seed);
      return [random.u32(), random.integer(64), random.float(80), random.vector("f32"), random.below(10)];
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
  });

  it("keeps within its sizes and reaches the edges", () => {
    const random = new Random(3);
    const seen = new Set<bigint>();
    for (let i = 0; i < 5000; i++) {
      for (const bits of [8, 16, 32, 64] as const) expect(random.integer(bits) >> BigInt(bits)).toBe(0n);
      expect(random.float(80) >> 80n).toBe(0n);
      expect(random.vector("f64") >> 128n).toBe(0n);
      seen.add(random.float(32));
    }
    for (const special of [
      0n,
      0x80000000n,
      1n,
      0x7f800000n,
      0xff800000n,
      0x7fc00000n,
      0x7f800001n,
      0x7f7fffffn,
    ]) {
      expect(seen, special.toString(16)).toContain(special);
    }
  });
});
