import { ExitReason } from "../../exit.ts";
import { expectEqual } from "../../testing/conformance/guest.ts";
import { hex } from "../../testing/conformance/layout.ts";
import { type KvmCase, SkipCase } from "./case.ts";
import { COUNTER_GUEST } from "./guests.ts";
import { DEVICE_BASE, withMachine } from "./machine.ts";

const sleep = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

/** Exits, kicks and saved states of vCPUs on threads of their own. */
export const runCases: readonly KvmCase[] = [
  {
    name: "ports: each access reaches its device, answers reach the guest, and HLT with interrupts off ends the run",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "real",
          hex`
          ; bits 16, at 0x8000
          b0 21 ; mov al, 0x21
          e6 e9 ; out 0xe9, al
          e4 e9 ; in al, 0xe9
          e6 e9 ; out 0xe9, al
          fa    ; cli
          f4    ; hlt
        `,
        );
        expectEqual("outcome", (await m.run()).kind, "halted");
        expectEqual("output", m.output, [0x21, 0x5a]);
        expectEqual("I/O exits", m.vm.exitCounts[ExitReason.IoInstruction], 3);
      }),
  },
  {
    name: "MMIO in three sizes, and a string instruction's elements one by one",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          bb 00 00 00 d0                ; mov ebx, 0xd0000000
          c7 03 44 33 22 11             ; mov dword ptr [ebx], 0x11223344
          66 c7 43 04 66 55             ; mov word ptr [ebx+4], 0x5566
          c6 43 06 77                   ; mov byte ptr [ebx+6], 0x77
          8b 43 10                      ; mov eax, [ebx+0x10]
          66 8b 4b 14                   ; mov cx, [ebx+0x14]
          be 00 00 02 00                ; mov esi, 0x20000
          ba e9 00 00 00                ; mov edx, 0xe9
          b9 04 00 00 00                ; mov ecx, 4
          fc                            ; cld
          f3 6e                         ; rep outsb
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
        );
        m.memory.load(0x2_0000, Uint8Array.of(5, 6, 7, 8));
        m.onRead = (offset) => (offset === 0x10 ? 0xcafe_f00d : 0xbeef);
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("EAX", m.state.gpr[0], 0xcafe_f00dn);
        expectEqual("output", m.output, [5, 6, 7, 8]);
        expectEqual("accesses", m.accesses, [
          { kind: "write", offset: 0, size: 4, value: 0x1122_3344 },
          { kind: "write", offset: 4, size: 2, value: 0x5566 },
          { kind: "write", offset: 6, size: 1, value: 0x77 },
          { kind: "read", offset: 0x10, size: 4, value: 0xcafe_f00d },
          { kind: "read", offset: 0x14, size: 2, value: 0xbeef },
        ]);
      }),
  },
  {
    name: "what the guest asked for takes effect before its next instruction, with the last one completed",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "real",
          hex`
          ; bits 16, at 0x8000
          e4 e9 ; in al, 0xe9
          e6 f4 ; out 0xf4, al
          b0 99 ; mov al, 0x99
          f4    ; hlt
        `,
        );
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        const { rip, gpr } = m.state;
        expectEqual("RIP", rip, 0x8004n);
        expectEqual("AL", gpr[0]! & 0xffn, 0x5an);
      }),
  },
  {
    name: "a kick brings a guest out that never exits; it goes on where it was",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("real", COUNTER_GUEST);
        const run = m.vm.run();
        let last = 0;
        for (let round = 0; round < 20; round++) {
          await m.changed(0x3000, last);
          await m.vm.pause();
          last = m.memory.dma.readU32(0x3000)!;
          await sleep(2);
          expectEqual("counter while it is paused", m.memory.dma.readU32(0x3000), last);
          m.vm.resume();
        }
        await m.vm.stop();
        expectEqual("outcome", (await run).kind, "stopped");
        expectEqual("kicks", m.vm.exitCounts[ExitReason.ExternalInterrupt]! >= 20, true);
      }),
  },
  {
    name: "timers of the VM's clock fire while the guest never exits",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("real", COUNTER_GUEST);
        const fired: number[] = [];
        const timer = m.vm.clock.timer((deadline) => {
          fired.push(deadline);
          if (fired.length < 5) timer.arm(deadline + 3_000_000);
          else m.vm.powerOff();
        });
        timer.arm(3_000_000);
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("deadlines", fired, [3e6, 6e6, 9e6, 12e6, 15e6]);
      }),
  },
  {
    name: "a saved VM goes on in another one",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("real", COUNTER_GUEST, { registers: { rbx: 0x1234_5678n, r9: 0xffff_0000_1111_2222n } });
        const run = m.vm.run();
        await m.changed(0x3000, 0);
        await m.vm.pause();
        const state = m.vm.save();
        const ram = m.memory.dump(0, 0x1_0000);
        await m.vm.stop();
        await run;
        await withMachine(engine(), {}, async (other) => {
          other.memory.load(0, ram);
          other.vm.restore(structuredClone(state));
          const saved = other.vm.save();
          expectEqual("state", { ...saved.vcpus[0] }, { ...state.vcpus[0] });
          const before = other.memory.dma.readU32(0x3000)!;
          const second = other.vm.run();
          expectEqual("the counter went on", (await other.changed(0x3000, before)) > before, true);
          await other.vm.stop();
          await second;
          expectEqual(
            "registers",
            [other.state.gpr[3], other.state.gpr[9]],
            [0x1234_5678n, 0xffff_0000_1111_2222n],
          );
        });
      }),
  },
  {
    name: "the TSC follows the VM's clock: it stands still while the VM is paused",
    run: ({ engine, isEmulating }) =>
      withMachine(engine(), {}, async (m) => {
        if (isEmulating)
          throw new SkipCase("a KVM that emulates gives guests the host's TSC, whatever its offset");
        // Writes the TSC's low half to [0x3000] for ever.
        m.start(
          "real",
          hex`
          ; bits 16, at 0x8000
          ; again:
          0f 31          ; rdtsc
          66 a3 00 30    ; mov [0x3000], eax
          66 89 16 04 30 ; mov [0x3004], edx
          eb f3          ; jmp again
        `,
        );
        const run = m.vm.run();
        await m.changed(0x3000, 0);
        await m.vm.pause();
        // Between the guest's last reading and now is what a busy host took; the clock says how much in all.
        const ticks = (): bigint => BigInt(Math.ceil((m.vm.clock.now() * m.vm.clock.tscHz) / 1e9));
        const before = m.memory.dma.readU64(0x3000)!;
        expectEqual("not ahead of the clock", before <= ticks(), true);
        await sleep(300);
        m.vm.resume();
        await m.changed(0x3000, Number(before & 0xffff_ffffn));
        await m.vm.stop();
        await run;
        const after = m.memory.dma.readU64(0x3000)!;
        expectEqual("it went on", after > before, true);
        expectEqual("not ahead of the clock, which stood still", after <= ticks(), true);
      }),
  },
  {
    name: "RDMSR and WRMSR of what the VM's model keeps, #GP for what nobody knows",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.vm.msrs.presetMtrrs(0xc000_0000);
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          b9 ff 02 00 00 ; mov ecx, 0x2ff
          0f 32          ; rdmsr
          89 c3          ; mov ebx, eax
          b9 78 56 34 12 ; mov ecx, 0x12345678
          0f 32          ; rdmsr
          f4             ; hlt
        `,
        );
        expectEqual("outcome", (await m.run()).kind, "halted");
        // In the handler of #GP: `mov al, 13; hlt`.
        expectEqual("AL", m.state.gpr[0]! & 0xffn, 13n);
        expectEqual("IA32_MTRR_DEF_TYPE", m.state.gpr[3], m.vm.msrs.read(0, 0x2ff));
      }),
  },
  {
    name: "an access beside every device reads as ones",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          a1 00 00 00 e0 ; mov eax, [0xe0000000]
          e5 99          ; in eax, 0x99
          e6 f4          ; out 0xf4, al
          f4             ; hlt
        `,
        );
        await m.run();
        expectEqual("EAX", m.state.gpr[0], 0xffff_ffffn);
        expectEqual("device", [DEVICE_BASE, m.accesses.length], [DEVICE_BASE, 0]);
      }),
  },
];
