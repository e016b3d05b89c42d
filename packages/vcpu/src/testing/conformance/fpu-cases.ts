import { type CaseGroup, start } from "./case.ts";
import { CR0, CR4, expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { hex, Layout, u32s, u64s } from "./layout.ts";

const SSE_ON = CR4.OSFXSR | CR4.OSXMMEXCPT;

/** x87 and SSE as far as the machine around them matters: control, state, exceptions (SDM Vol. 1 ch. 8, 10, 11). */
export const fpuCases: CaseGroup<Guest> = {
  title: "x87 and SSE",
  cases: [
    {
      name: "computes with the x87's stack, in extended precision",
      needs: ["long mode", "FPU"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          db e3                ; fninit
          d9 e8                ; fld1
          d9 eb                ; fldpi
          d8 c1                ; fadd st, st(1)
          dd 14 25 00 00 02 00 ; fst qword ptr [0x20000]
          db 3c 25 08 00 02 00 ; fstp tbyte ptr [0x20008]
          df e0                ; fnstsw ax
          d9 3c 25 20 00 02 00 ; fnstcw [0x20020]
          db 04 25 24 00 02 00 ; fild dword ptr [0x20024]
          de c9                ; fmulp st(1), st
          db 1c 25 28 00 02 00 ; fistp dword ptr [0x20028]
          f4                   ; hlt
        `,
        );
        guest.load(Layout.DATA + 0x24, u32s(-42));
        const state = runToHalt(guest);
        expectEqual("double", guest.u64(0x2_0000), 0x4010_90fd_aa22_168cn);
        expectEqual("extended", [guest.u64(0x2_0008), guest.u16(0x2_0010)], [0x8487_ed51_10b4_611an, 0x4001]);
        expectEqual("TOP", (state.gpr[0]! >> 11n) & 7n, 7n);
        expectEqual("control word", guest.u16(0x2_0020), 0x37f);
        expectEqual("integer", guest.u32(0x2_0028) | 0, -42);
      },
    },
    {
      name: "raises #MF at WAIT after an unmasked x87 exception",
      needs: ["long mode", "FPU"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          db e3                         ; fninit
          66 c7 04 25 00 00 02 00 7b 03 ; mov word ptr [0x20000], 0x37b
          d9 2c 25 00 00 02 00          ; fldcw [0x20000]
          d9 e8                         ; fld1
          d9 ee                         ; fldz
          de f9                         ; fdivp st(1), st
          90                            ; nop
          9b                            ; fwait
          f4                            ; hlt
        `,
        );
        const { sp } = runToVector(guest, 16);
        expectEqual("RIP", guest.u64(sp), 0x801an);
      },
    },
    {
      name: "raises #MF at the next x87 instruction after an unmasked exception",
      needs: ["long mode", "FPU"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          db e3                         ; fninit
          66 c7 04 25 00 00 02 00 7b 03 ; mov word ptr [0x20000], 0x37b
          d9 2c 25 00 00 02 00          ; fldcw [0x20000]
          d9 e8                         ; fld1
          d9 ee                         ; fldz
          de f9                         ; fdivp st(1), st
          90                            ; nop
          d9 e8                         ; fld1
          f4                            ; hlt
        `,
        );
        const { sp } = runToVector(guest, 16);
        expectEqual("RIP", guest.u64(sp), 0x801an);
      },
    },
    {
      name: "saves and restores x87 and SSE state with FXSAVE",
      needs: ["long mode", "FPU", "SSE"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          db e3                         ; fninit
          d9 e8                         ; fld1
          f3 0f 6f 1c 25 00 08 02 00    ; movdqu xmm3, [0x20800]
          f3 44 0f 6f 3c 25 10 08 02 00 ; movdqu xmm15, [0x20810]
          0f ae 04 25 00 00 02 00       ; fxsave [0x20000]
          db e3                         ; fninit
          66 0f ef db                   ; pxor xmm3, xmm3
          66 45 0f ef ff                ; pxor xmm15, xmm15
          0f ae 0c 25 00 00 02 00       ; fxrstor [0x20000]
          f3 0f 7f 1c 25 20 08 02 00    ; movdqu [0x20820], xmm3
          dd 1c 25 30 08 02 00          ; fstp qword ptr [0x20830]
          f4                            ; hlt
        `,
          { cr4: SSE_ON },
        );
        guest.load(Layout.DATA + 0x800, u64s(1n, 2n, 3n, 4n));
        const state = runToHalt(guest);
        expectEqual("FCW, FSW", [guest.u16(0x2_0000), guest.u16(0x2_0002)], [0x37f, 0x3800]);
        expectEqual("abridged tag", guest.u8(0x2_0004), 0x80);
        expectEqual("MXCSR", guest.u32(0x2_0018), 0x1f80);
        expectEqual("ST0", [guest.u64(0x2_0020), guest.u16(0x2_0028)], [0x8000_0000_0000_0000n, 0x3fff]);
        expectEqual("XMM3", [guest.u64(0x2_0000 + 160 + 48), guest.u64(0x2_0000 + 168 + 48)], [1n, 2n]);
        expectEqual("XMM3 again", [guest.u64(0x2_0820), guest.u64(0x2_0828)], [1n, 2n]);
        expectEqual("XMM15", state.fpu.xmm[15], (4n << 64n) | 3n);
        expectEqual("1.0", guest.u64(0x2_0830), 0x3ff0_0000_0000_0000n);
      },
    },
    {
      name: "raises #GP for 16-byte operands that are not aligned",
      needs: ["long mode", "SSE"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          0f 28 04 25 00 00 02 00 ; movaps xmm0, [0x20000]
          0f 10 04 25 08 00 02 00 ; movups xmm0, [0x20008]
          0f 28 04 25 08 00 02 00 ; movaps xmm0, [0x20008]
        `,
          { cr4: SSE_ON },
        );
        const { sp } = runToVector(guest, 13);
        expectEqual("error code, RIP", [guest.u64(sp), guest.u64(sp + 8)], [0n, 0x8010n]);
      },
    },
    {
      name: "raises #XM for an unmasked SSE exception, #UD without OSXMMEXCPT",
      needs: ["long mode", "SSE"],
      run(guest) {
        for (const [cr4, vector] of [
          [SSE_ON, 19],
          [CR4.OSFXSR, 6],
        ] as const) {
          start(
            guest,
            "long",
            hex`
            ; bits 64, at 0x8000
            c7 04 25 00 00 02 00 80 1d 00 00 ; mov dword ptr [0x20000], 0x1d80
            0f ae 14 25 00 00 02 00        ; ldmxcsr [0x20000]
            66 0f ef c9                    ; pxor xmm1, xmm1
            b8 00 00 80 3f                 ; mov eax, 0x3f800000
            66 0f 6e c0                    ; movd xmm0, eax
            f3 0f 5e c1                    ; divss xmm0, xmm1
          `,
            { cr4 },
          );
          const { state, sp } = runToVector(guest, vector);
          expectEqual("RIP", guest.u64(sp), 0x8020n);
          if (vector === 19) expectEqual("MXCSR.ZE", state.fpu.mxcsr & 4, 4);
          expectEqual("XMM0", state.fpu.xmm[0], 0x3f80_0000n);
        }
      },
    },
    {
      name: "raises #UD for SSE without OSFXSR, #NM with TS",
      needs: ["long mode", "SSE"],
      run(guest) {
        const code = hex`
          ; bits 64, at 0x8000
          0f 57 c0 ; xorps xmm0, xmm0
        `;
        start(guest, "long", code);
        runToVector(guest, 6);
        start(guest, "long", code, { cr4: SSE_ON, cr0: CR0.TS });
        runToVector(guest, 7);
        start(guest, "long", code, { cr4: SSE_ON, cr0: CR0.EM });
        runToVector(guest, 6);
      },
    },
    {
      name: "refuses reserved bits of MXCSR",
      needs: ["long mode", "SSE"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          c7 04 25 00 00 02 00 00 00 01 00 ; mov dword ptr [0x20000], 0x10000
          0f ae 14 25 00 00 02 00        ; ldmxcsr [0x20000]
        `,
          { cr4: SSE_ON },
        );
        expectEqual("error code", guest.u64(runToVector(guest, 13).sp), 0n);
      },
    },
    {
      name: "converts what does not fit to the indefinite integer",
      needs: ["long mode", "SSE"],
      run(guest) {
        start(
          guest,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 b8 00 00 00 00 00 00 f8 7f ; mov rax, 0x7ff8000000000000
          66 48 0f 6e c0                ; movq xmm0, rax
          f2 0f 2c d8                   ; cvttsd2si ebx, xmm0
          f2 48 0f 2c c8                ; cvttsd2si rcx, xmm0
          48 b8 00 00 00 00 00 00 e0 c1 ; mov rax, 0xc1e0000000000000
          66 48 0f 6e c0                ; movq xmm0, rax
          f2 0f 2c d0                   ; cvttsd2si edx, xmm0
          48 b8 00 00 00 00 00 00 04 40 ; mov rax, 0x4004000000000000
          66 48 0f 6e c0                ; movq xmm0, rax
          f2 0f 2d f0                   ; cvtsd2si esi, xmm0
          0f ae 1c 25 00 00 02 00       ; stmxcsr [0x20000]
          f4                            ; hlt
        `,
          { cr4: SSE_ON },
        );
        expectRegisters(runToHalt(guest), {
          rbx: 0x8000_0000n,
          rcx: 0x8000_0000_0000_0000n,
          rdx: 0x8000_0000n,
          rsi: 2n,
        });
        // IE from the NaNs, PE from 2.5.
        expectEqual("MXCSR", guest.u32(0x2_0000), 0x1fa1);
      },
    },
  ],
};
