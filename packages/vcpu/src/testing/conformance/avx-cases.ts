import { type CaseGroup, start } from "./case.ts";
import { ConformanceError, CR0, CR4, expectEqual, runToHalt, runToVector } from "./guest.ts";
import { hex, Layout, u64s } from "./layout.ts";
import type { Machine } from "./machine.ts";

const AVX_ON = CR4.OSFXSR | CR4.OSXMMEXCPT | CR4.OSXSAVE;
const X87 = 1n;
const SSE = 2n;
const AVX = 4n;
const ALL = X87 | SSE | AVX;
const UD = 6;
const NM = 7;
const GP = 13;

/** vpaddb ymm2, ymm1, ymm1; hlt */
const ADD = hex`
  c5 f5 fc d1 ; vpaddb ymm2, ymm1, ymm1
  f4          ; hlt
`;
const XSETBV = hex`
  31 c9    ; xor ecx, ecx
  31 d2    ; xor edx, edx
  0f 01 d1 ; xsetbv
  f4       ; hlt
`;

/** The 16 bytes that are `value`, from the least on. */
const halves = (value: bigint): [bigint, bigint] => [value & 0xffff_ffff_ffff_ffffn, value >> 64n];

/** Begins 64-bit code with XCR0 as given. */
function begin(m: Machine, code: Uint8Array, { xcr0 = ALL, cr0 = 0n, cr4 = AVX_ON, rax = 0n } = {}): void {
  if (!m.cpuid.has("avx")) throw new ConformanceError("the engine has no AVX: skip what needs it");
  start(m, "long", code, { cr0, cr4, registers: { rax } });
  const { state } = m;
  state.fpu.xcr0 = xcr0;
  m.vcpu.restore(state);
}

/** AVX as far as the machine around it matters: XCR0, faults, YMM state (SDM Vol. 1 ch. 13 and 14, Vol. 2A sec. 2.4). */
export const avxCases: CaseGroup = {
  title: "AVX",
  cases: [
    ...(
      [
        ["takes", ALL, true],
        ["takes", X87, true],
        ["takes", X87 | SSE, true],
        ["refuses", SSE | AVX, false],
        ["refuses", X87 | AVX, false],
        ["refuses", ALL | (1n << 62n), false],
      ] as const
    ).map(([verb, value, isTaken]) => ({
      name: `XSETBV ${verb} XCR0 0x${value.toString(16)}`,
      needs: ["long mode", "AVX"] as const,
      run(m: Machine): void {
        const code = Uint8Array.from(XSETBV);
        // xor edx, edx becomes mov edx, ebx
        if (value >> 32n !== 0n) code.set([0x89, 0xda], 2);
        begin(m, code, { xcr0: X87, rax: value & 0xffff_ffffn });
        const { state } = m;
        state.gpr[3] = value >> 32n;
        m.vcpu.restore(state);
        if (isTaken) expectEqual("XCR0", runToHalt(m).fpu.xcr0, value);
        else expectEqual("XCR0", runToVector(m, GP).state.fpu.xcr0, X87);
      },
    })),
    {
      name: "XSETBV is #UD without CR4.OSXSAVE",
      needs: ["long mode", "AVX"],
      run(m) {
        begin(m, XSETBV, { cr4: CR4.OSFXSR, rax: ALL });
        runToVector(m, UD);
      },
    },
    ...(
      [
        ["#UD without CR4.OSXSAVE", { cr4: CR4.OSFXSR }, UD],
        ["#UD without XCR0.AVX", { xcr0: X87 | SSE }, UD],
        ["#NM with CR0.TS", { cr0: CR0.TS }, NM],
        ["#UD before #NM", { cr0: CR0.TS, xcr0: X87 }, UD],
      ] as const
    ).map(([name, options, vector]) => ({
      name: `an AVX instruction is ${name}`,
      needs: ["long mode", "AVX"] as const,
      run(m: Machine): void {
        begin(m, ADD, options);
        runToVector(m, vector);
      },
    })),
    ...(
      [
        ["LOCK before VEX", hex`f0 c5 f5 fc d1 f4`],
        ["66 before VEX", hex`66 c5 f5 fc d1 f4`],
        ["F2 before VEX", hex`f2 c5 f5 fc d1 f4`],
        ["F3 before VEX", hex`f3 c5 f5 fc d1 f4`],
        ["REX before VEX", hex`48 c5 f5 fc d1 f4`],
        ["VEX.vvvv of VMOVDQU", hex`c5 f6 6f d1 f4`],
        ["VEX.L of VMOVD", hex`c5 fd 6e d0 f4`],
        ["VEX.L clear in VPERM2F128", hex`c4 e3 71 06 d1 00 f4`],
        ["VEX.W in VBROADCASTSS", hex`c4 e2 f9 18 08 f4`],
      ] as const
    ).map(([name, code]) => ({
      name: `refuses ${name}`,
      needs: ["long mode", "AVX"] as const,
      run(m: Machine): void {
        begin(m, code);
        const { state } = runToVector(m, UD);
        expectEqual("YMM2", state.fpu.components?.[2], undefined);
      },
    })),
    {
      name: "C5 with a register operand is #UD in real mode",
      needs: ["real mode", "AVX"],
      run(m) {
        if (!m.cpuid.has("avx")) throw new ConformanceError("the engine has no AVX: skip what needs it");
        start(m, "real", hex`c5 f5 fc d1 f4`, { cr4: AVX_ON });
        const { state } = m;
        state.fpu.xcr0 = ALL;
        m.vcpu.restore(state);
        runToVector(m, UD);
      },
    },
    {
      name: "clears upper halves by VEX.128 and VZEROUPPER, and keeps them by SSE",
      needs: ["long mode", "AVX"],
      run(m) {
        begin(
          m,
          hex`
          ; bits 64, at 0x8000
          c5 fe 6f 0c 25 00 00 02 00 ; vmovdqu ymm1, [0x20000]
          c5 fe 6f 14 25 00 00 02 00 ; vmovdqu ymm2, [0x20000]
          c5 fe 6f 1c 25 00 00 02 00 ; vmovdqu ymm3, [0x20000]
          c5 e9 fc d1                ; vpaddb xmm2, xmm2, xmm1
          66 0f fc d9                ; paddb xmm3, xmm1
          c5 fe 7f 0c 25 20 00 02 00 ; vmovdqu [0x20020], ymm1
          c5 fe 7f 14 25 40 00 02 00 ; vmovdqu [0x20040], ymm2
          c5 fe 7f 1c 25 60 00 02 00 ; vmovdqu [0x20060], ymm3
          c5 f8 77                   ; vzeroupper
          c5 fe 7f 1c 25 80 00 02 00 ; vmovdqu [0x20080], ymm3
          c5 fc 77                   ; vzeroall
          f4                         ; hlt
        `,
        );
        m.load(Layout.DATA, u64s(1n, 2n, 3n, 4n));
        const { fpu } = runToHalt(m);
        const read = (at: number): bigint[] => [0, 8, 16, 24].map((i) => m.u64(Layout.DATA + at + i));
        expectEqual("YMM1", read(0x20), [1n, 2n, 3n, 4n]);
        expectEqual("YMM2 by VEX.128", read(0x40), [2n, 4n, 0n, 0n]);
        expectEqual("YMM3 by SSE", read(0x60), [2n, 4n, 3n, 4n]);
        expectEqual("YMM3 after VZEROUPPER", read(0x80), [2n, 4n, 0n, 0n]);
        expectEqual("XMM3 after VZEROALL", fpu.xmm[3], 0n);
        expectEqual("upper halves", fpu.components?.[2], undefined);
      },
    },
    {
      name: "XSAVE has the upper halves behind its header, XRSTOR loads or clears them",
      needs: ["long mode", "AVX"],
      run(m) {
        begin(
          m,
          hex`
          ; bits 64, at 0x8000
          c5 fe 6f 0c 25 00 00 02 00    ; vmovdqu ymm1, [0x20000]
          c5 7e 6f 3c 25 00 00 02 00    ; vmovdqu ymm15, [0x20000]
          b8 07 00 00 00                ; mov eax, 7
          31 d2                         ; xor edx, edx
          48 0f ae 24 25 00 10 02 00    ; xsave64 [0x21000]
          c5 fc 77                      ; vzeroall
          b8 04 00 00 00                ; mov eax, 4
          48 0f ae 2c 25 00 10 02 00    ; xrstor64 [0x21000]
          c5 fe 7f 0c 25 20 00 02 00    ; vmovdqu [0x20020], ymm1
          48 c7 04 25 00 12 02 00 00 00 00 00 ; mov qword ptr [0x21200], 0
          48 0f ae 2c 25 00 10 02 00    ; xrstor64 [0x21000]
          c5 7e 7f 3c 25 40 00 02 00    ; vmovdqu [0x20040], ymm15
          f4                            ; hlt
        `,
        );
        m.load(Layout.DATA, u64s(1n, 2n, 3n, 4n));
        m.load(Layout.DATA + 0x1000, new Uint8Array(832));
        runToHalt(m);
        const read = (at: number, count: number): bigint[] =>
          Array.from({ length: count }, (_, i) => m.u64(Layout.DATA + at + 8 * i));
        expectEqual("XMM1 in the area", read(0x1000 + 160 + 16, 2), [1n, 2n]);
        expectEqual("YMM1's upper half", read(0x1000 + 576 + 16, 2), [3n, 4n]);
        expectEqual("YMM15's upper half", read(0x1000 + 576 + 240, 2), [3n, 4n]);
        expectEqual("loaded", read(0x20, 4), [0n, 0n, 3n, 4n]);
        expectEqual("cleared", read(0x40, 4), [0n, 0n, 0n, 0n]);
      },
    },
    {
      name: "CPUID's size of an XSAVE area follows XCR0",
      needs: ["long mode", "AVX", "CPUID"],
      run(m) {
        const code = hex`
          ; bits 64, at 0x8000
          b8 0d 00 00 00 ; mov eax, 0xd
          31 c9          ; xor ecx, ecx
          0f a2          ; cpuid
          f4             ; hlt
        `;
        begin(m, code, { xcr0: X87 | SSE });
        expectEqual("EBX without AVX", runToHalt(m).gpr[3], 576n);
        begin(m, code);
        expectEqual("EBX with AVX", runToHalt(m).gpr[3], 832n);
      },
    },
    {
      name: "upper halves are part of the state",
      needs: ["long mode", "AVX", "state"],
      run(m) {
        begin(
          m,
          hex`
          c5 fe 7f 0c 25 20 00 02 00 ; vmovdqu [0x20020], ymm1
          c5 cd ef f6                ; vpxor ymm6, ymm6, ymm6
          f4                         ; hlt
        `,
        );
        const { state } = m;
        const bytes = new Uint8Array(256);
        bytes.set(u64s(5n, 6n), 16);
        bytes.set(u64s(7n, 8n), 6 * 16);
        state.fpu.xmm[1] = (2n << 64n) | 1n;
        state.fpu.components = { 2: bytes };
        m.vcpu.restore(structuredClone(state));
        expectEqual("saved", [...m.state.fpu.components![2]!].join(), [...bytes].join());
        const after = runToHalt(m);
        const stored = [0, 8, 16, 24].map((i) => m.u64(Layout.DATA + 0x20 + i));
        expectEqual("YMM1", stored, [...halves(state.fpu.xmm[1]!), 5n, 6n]);
        bytes.fill(0, 6 * 16, 7 * 16);
        expectEqual("YMM6 cleared", [...after.fpu.components![2]!].join(), [...bytes].join());
      },
    },
  ],
};
