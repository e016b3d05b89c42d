import { ExitReason } from "../../exit.ts";
import type { VcpuStateV1 } from "../../state.ts";
import { type CaseGroup, start } from "./case.ts";
import {
  ConformanceError,
  CR0,
  CR4,
  expectEqual,
  expectRegisters,
  runToHalt,
  runToVector,
  startImage,
} from "./guest.ts";
import { gate64, hex, Layout, Selector } from "./layout.ts";
import { Machine } from "./machine.ts";

/** A second machine with the same engine, RAM and vCPU state. */
async function transplant(m: Machine): Promise<Machine> {
  const other = await Machine.create(m.engine);
  other.load(0, m.memory.dump(0, Layout.RAM_BYTES));
  other.vcpu.restore(structuredClone(m.state));
  return other;
}

/** The vCPU's state: after RESET and INIT (SDM Vol. 3A table 10-1), saved and restored. */
export const stateCases: CaseGroup = {
  title: "state",
  cases: [
    {
      name: "RESET",
      needs: ["state"],
      run(m) {
        const state = m.state;
        expectEqual("kind", [state.kind, state.version], ["vcpu", 1]);
        expectRegisters(state, { rip: 0xfff0n, rflags: 2n, rax: 0n, rsp: 0n });
        expectEqual("CS", state.cs, { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, access: 0x9b });
        for (const name of ["ds", "es", "fs", "gs", "ss"] as const) {
          expectEqual(name, state[name], { selector: 0, base: 0n, limit: 0xffff, access: 0x93 });
        }
        expectEqual("GDTR", state.gdtr, { base: 0n, limit: 0xffff });
        expectEqual("IDTR", state.idtr, { base: 0n, limit: 0xffff });
        expectEqual("CR0", state.cr0, 0x6000_0010n);
        expectEqual("CR2, CR3, CR4", [state.cr2, state.cr3, state.cr4], [0n, 0n, 0n]);
        expectEqual("DR6, DR7", [state.dr.dr6, state.dr.dr7], [0xffff_0ff0n, 0x400n]);
        expectEqual("EFER", state.msrs.c0000080 ?? 0n, 0n);
        expectEqual("MXCSR", state.fpu.mxcsr, 0x1f80);
        expectEqual("x87 control, status", [state.fpu.fcw, state.fpu.fsw], [0x40, 0]);
        expectEqual("activity", state.activity, "active");
      },
    },
    {
      name: "the first instruction is the one at 0xFFFFFFF0",
      needs: ["real mode", "state"],
      run(m) {
        m.load(
          Layout.ROM + 0xfff0,
          hex`
          ; bits 16, at 0xfff0
          2e a1 00 01    ; mov ax, cs:[0x100]
          ea 00 80 00 00 ; jmp far ptr 0x0000:0x8000
        `,
        );
        m.load(Layout.ROM + 0x100, Uint8Array.of(0x34, 0x12));
        m.load(
          Layout.CODE,
          hex`
          ; bits 16, at 0x8000
          8c cb ; mov bx, cs
          f4    ; hlt
        `,
        );
        expectRegisters(runToHalt(m), { rax: 0x1234n, rbx: 0n, rip: 0x8003n });
      },
    },
    {
      name: "INIT resets registers and keeps x87, SSE and MSRs",
      needs: ["long mode", "state"],
      run(m) {
        const { state } = startImage("long", { cr4: CR4.OSFXSR });
        state.fpu.xmm[5] = 0x1111n << 64n;
        state.fpu.fcw = 0x37f;
        state.msrs.c0000082 = 0xffff_8000_0000_1000n;
        state.dr.dr0 = 0x1234n;
        state.dr.dr7 = 0x401n;
        m.vcpu.restore(state);
        m.vcpu.reset("init");
        const after = m.state;
        expectRegisters(after, { rip: 0xfff0n, rsp: 0n, rflags: 2n });
        expectEqual("CS", after.cs, { selector: 0xf000, base: 0xffff_0000n, limit: 0xffff, access: 0x9b });
        expectEqual("CR0 without CD and NW", after.cr0 & ~0x6000_0000n, CR0.ET);
        expectEqual("CR3, CR4, EFER", [after.cr3, after.cr4, after.msrs.c0000080 ?? 0n], [0n, 0n, 0n]);
        expectEqual("DR0, DR7", [after.dr.dr0, after.dr.dr7], [0n, 0x400n]);
        expectEqual("XMM5", after.fpu.xmm[5], 0x1111n << 64n);
        expectEqual("x87 control", after.fpu.fcw, 0x37f);
        expectEqual("LSTAR", after.msrs.c0000082, 0xffff_8000_0000_1000n);
        expectEqual("activity of the bootstrap processor", after.activity, "active");
      },
    },
    {
      name: "INIT makes an application processor wait for SIPI, which starts it once",
      needs: ["real mode", "state", "SMP"],
      vcpus: 2,
      run(m) {
        const other = m.vcpus[1]!;
        other.reset("init");
        expectEqual("activity", other.save().activity, "wait-for-sipi");
        other.startup(0x9a);
        const state = other.save();
        expectEqual("activity", state.activity, "active");
        expectEqual("CS", [state.cs.selector, state.cs.base, state.rip], [0x9a00, 0x9_a000n, 0n]);
        other.startup(0x55);
        expectEqual("CS after a second SIPI", other.save().cs.selector, 0x9a00);
      },
    },
    {
      name: "what was restored is what is saved",
      needs: ["long mode", "state"],
      run(m) {
        const { state } = startImage("long", { rflags: 0x202n, cr4: CR4.OSFXSR | CR4.DE | CR4.PGE });
        state.gpr = state.gpr.map(
          (_, i) => (BigInt(i + 1) * 0x0123_4567_89ab_cdefn) & 0xffff_ffff_ffff_ffffn,
        );
        state.rip = 0xffff_ffff_8123_4567n;
        state.cr2 = 0xdead_beef_0000n;
        state.dr = { dr0: 1n, dr1: 0xffff_8000_0000_0000n, dr2: 3n, dr3: 4n, dr6: 0xffff_0ff1n, dr7: 0x455n };
        state.fs = { selector: 0, base: 0x7fff_1234_5000n, limit: 0xffff_ffff, access: 0x1_c093 };
        state.gs = { selector: 0x10, base: 0xffff_8880_0000_0000n, limit: 0xffff_ffff, access: 0xc093 };
        state.ldtr = { selector: 0x58, base: 0x4_5678n, limit: 0x7f, access: 0x82 };
        state.gdtr = { base: 0xffff_fe00_0000_1000n, limit: 0x7f };
        state.idtr = { base: 0xffff_fe00_0000_0000n, limit: 0xfff };
        state.msrs.c0000081 = 0x0023_0010_0000_0000n;
        state.msrs.c0000102 = 0x1234n;
        state.msrs["174"] = 0x10n;
        state.fpu = {
          ...state.fpu,
          fcw: 0x37f,
          fsw: 0x3800,
          ftw: 0x3fff,
          registers: state.fpu.registers.map((_, i) => ({
            significand: 0x8000_0000_0000_0000n + BigInt(i),
            signExponent: 0x3fff + i,
          })),
          xmm: state.fpu.xmm.map((_, i) => (BigInt(i) << 100n) | BigInt(i)),
          mxcsr: 0x1fa0,
        };
        state.interruptibility = { sti: true, movSs: false, nmiBlocked: true };
        state.pendingNmi = true;
        state.tscOffset = BigInt.asUintN(64, -12345n);
        m.vcpu.restore(structuredClone(state));
        const saved = m.state;
        for (const [name, expected] of Object.entries(state) as [keyof VcpuStateV1, unknown][]) {
          if (name === "msrs") {
            for (const [index, value] of Object.entries(state.msrs))
              expectEqual(`msrs.${index}`, saved.msrs[index], value);
          } else if (name !== "instructions" && name !== "pdptrs") {
            expectEqual(name, saved[name], expected);
          }
        }
      },
    },
    {
      name: "a guest goes on in a fresh vCPU, at any instruction",
      needs: ["long mode", "state", "instruction counts"],
      async run(m) {
        const code = hex`
          ; bits 64, at 0x8000
          b9 14 00 00 00 ; mov ecx, 20
          31 c0          ; xor eax, eax
          ; again:
          48 01 c8       ; add rax, rcx
          48 11 c3       ; adc rbx, rax
          48 c1 c3 05    ; rol rbx, 5
          53             ; push rbx
          5a             ; pop rdx
          f2 48 0f 2a c1 ; cvtsi2sd xmm0, rcx
          f2 0f 58 c8    ; addsd xmm1, xmm0
          e2 e9          ; loop again
          f4             ; hlt
        `;
        const start64 = (machine: Machine): void => start(machine, "long", code, { cr4: CR4.OSFXSR });
        start64(m);
        const expected = runToHalt(m);
        for (const budget of [1, 5, 37, 111]) {
          start64(m);
          expectEqual("exit", m.step(0, { budget }).reason, ExitReason.PreemptionTimer);
          const other = await transplant(m);
          try {
            const state = runToHalt(other);
            expectEqual("general-purpose registers", state.gpr, expected.gpr);
            expectEqual("RFLAGS", state.rflags, expected.rflags);
            expectEqual("XMM1", state.fpu.xmm[1], expected.fpu.xmm[1]);
          } finally {
            await other.close();
          }
        }
      },
    },
    {
      name: "a pending interrupt is part of the state",
      needs: ["long mode", "state", "interrupts"],
      async run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          f4 ; hlt
        `,
          { rflags: 0x202n },
        );
        m.vcpu.injectInterrupt(0x77);
        expectEqual("saved event", m.state.pendingEvent?.vector, 0x77);
        const other = await transplant(m);
        try {
          runToVector(other, 0x77);
        } finally {
          await other.close();
        }
      },
    },
    {
      name: "a halted vCPU stays halted in its new place, and wakes there",
      needs: ["long mode", "state", "interrupts"],
      async run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          fb ; sti
          f4 ; hlt
          f4 ; hlt
        `,
        );
        m.load(Layout.IDT + 16 * 0x40, gate64(Selector.CODE64, 0x8200, 0x8e));
        m.load(
          0x8200,
          hex`
          ; bits 64, at 0x8200
          b9 05 00 00 00 ; mov ecx, 5
          48 cf          ; iretq
        `,
        );
        expectEqual("exit", m.run(), "halt");
        const other = await transplant(m);
        try {
          expectEqual("activity", other.state.activity, "halted");
          other.vcpu.injectInterrupt(0x40);
          expectRegisters(runToHalt(other), { rcx: 5n, rip: 0x8003n });
        } finally {
          await other.close();
        }
      },
    },
    {
      name: "a broken state is refused, and nothing changes",
      needs: ["state"],
      run(m) {
        start(m, "long", Uint8Array.of(0xf4), { registers: { rax: 0x1234n } });
        const before = m.state;
        const broken: readonly (readonly [string, (state: Record<string, unknown>) => void])[] = [
          [
            "another kind",
            (s) => {
              s.kind = "disk";
            },
          ],
          [
            "another version",
            (s) => {
              s.version = 2;
            },
          ],
          [
            "too few registers",
            (s) => {
              s.gpr = [1n];
            },
          ],
          [
            "a register that is no bigint",
            (s) => {
              s.gpr = new Array(16).fill(0);
            },
          ],
          [
            "a register beyond 64 bits",
            (s) => {
              s.gpr = new Array(16).fill(1n << 64n);
            },
          ],
          [
            "no RIP",
            (s) => {
              s.rip = undefined;
            },
          ],
          [
            "a segment without a base",
            (s) => {
              s.cs = { selector: 8, limit: 0, access: 0 };
            },
          ],
          [
            "paging without protection",
            (s) => {
              s.cr0 = 0x8000_0000n;
            },
          ],
          [
            "no FPU",
            (s) => {
              s.fpu = null;
            },
          ],
          [
            "an activity that is none",
            (s) => {
              s.activity = "asleep";
            },
          ],
          [
            "an MSR that is no bigint",
            (s) => {
              s.msrs = { c0000080: 5 };
            },
          ],
        ];
        for (const state of [null, undefined, 5, "state", []]) refuse(m, String(state), state);
        for (const [name, change] of broken) {
          const state = { ...structuredClone(before), gpr: before.gpr.map(() => 7n) } as unknown as Record<
            string,
            unknown
          >;
          change(state);
          refuse(m, name, state);
          expectEqual("state afterwards", m.state, before);
        }
      },
    },
  ],
};

function refuse(m: Machine, what: string, state: unknown): void {
  try {
    m.vcpu.restore(state);
  } catch (error) {
    if (error instanceof Error && error.name === "StateError") return;
    throw new ConformanceError(`${what}: expected a StateError, got ${String(error)}`);
  }
  throw new ConformanceError(`${what}: expected a StateError, the state was taken`);
}
