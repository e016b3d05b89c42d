import { ExitReason } from "../../exit.ts";
import type { IrqChipStateV1 } from "../../irqchip-state.ts";
import { expectEqual, type StartMode } from "../../testing/conformance/guest.ts";
import { gate, hex, Layout, Selector } from "../../testing/conformance/layout.ts";
import type { KvmCase } from "./case.ts";
import {
  APIC_GUEST,
  HANDLER,
  IOAPIC_GUEST,
  PIC_GUEST,
  PIC_HANDLER,
  PIT_GUEST,
  STOP_HANDLER,
} from "./guests.ts";
import { DEVICE_BASE, type KvmMachine, withMachine } from "./machine.ts";

/** Starts a guest that says 1 when it is ready and gets `vector`, whose handler says 2 and turns the machine off. */
async function runToInterrupt(
  m: KvmMachine,
  code: Uint8Array,
  vector: number,
  raise: () => void,
  mode: StartMode = "protected",
): Promise<void> {
  m.start(mode, code);
  m.memory.load(Layout.IDT + 8 * vector, gate(Selector.CODE32, HANDLER, 0x8e));
  m.memory.load(HANDLER, STOP_HANDLER);
  m.onOutput = (value) => {
    if (value === 1) raise();
  };
  expectEqual("outcome", (await m.run()).kind, "poweroff");
  expectEqual("output", m.output, [1, 2]);
}

/** 32-bit: writes 3 to port 0x500 and 7 to the device's offset 0x20 a thousand times, reads from it, and stops. */
const DOORBELL_GUEST = hex`
  ; bits 32, at 0x8000
  b9 e8 03 00 00                ; mov ecx, 1000
  66 ba 00 05                   ; mov dx, 0x500
  ; again:
  66 b8 03 00                   ; mov ax, 3
  66 ef                         ; out dx, ax
  c7 05 20 00 00 d0 07 00 00 00 ; mov dword ptr [0xd0000020], 7
  e2 ee                         ; loop again
  c7 05 20 00 00 d0 08 00 00 00 ; mov dword ptr [0xd0000020], 8
  b0 01                         ; mov al, 1
  e6 e9                         ; out 0xe9, al
  ; wait:
  f3 90                         ; pause
  eb fc                         ; jmp wait
`;

/** KVM's interrupt controller, and events that pass no exit. */
export const interruptCases: readonly KvmCase[] = [
  {
    name: "a line through the 8259: three edges, three interrupts",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("real", PIC_GUEST);
        m.memory.load(HANDLER, PIC_HANDLER);
        const line = m.irqchip.isaLine(4);
        m.onOutput = () => {
          if (m.output.length > 3) return;
          line.set(false);
          line.set(true);
        };
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("output", m.output, [1, 2, 2, 2]);
        expectEqual("exits of HLT", m.vm.exitCounts[ExitReason.Hlt], 0);
      }),
  },
  {
    name: "KVM's own 8254: ticks without an exit, state saved and restored",
    run: ({ engine }) =>
      withMachine(engine(), { pit: true }, async (m) => {
        m.start("real", PIT_GUEST);
        m.memory.load(HANDLER, PIC_HANDLER);
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("output", m.output, [2, 2, 2]);
        // Three ticks' words and the last; 8254 and 8259 are the kernel's.
        expectEqual("I/O exits", m.vm.exitCounts[ExitReason.IoInstruction], 4);
        const saved = m.irqchip.save();
        const counter0 = saved.pit!.counters[0]!;
        expectEqual("counter 0", [counter0.control, counter0.n], [0x34, 0x2e9c]);
        m.irqchip.reset();
        m.irqchip.restore(structuredClone(saved));
        expectEqual("count", m.irqchip.save().pit!.counters[0]!.n, 0x2e9c);
      }),
  },
  {
    name: "a line through the I/O APIC, wired-OR of two",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const [first, second] = [m.irqchip.line(20), m.irqchip.line(20)];
        await runToInterrupt(m, IOAPIC_GUEST, 0x45, () => {
          first.set(true);
          second.set(true);
          first.set(false);
        });
      }),
  },
  {
    name: "a message-signalled interrupt, sent",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        await runToInterrupt(m, APIC_GUEST, 0x51, () => m.irqchip.send(0xfee0_0000, 0x51));
      }),
  },
  {
    name: "what is no message is dropped",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        await runToInterrupt(m, APIC_GUEST, 0x51, () => {
          m.irqchip.send(0x1000, 0x52);
          m.irqchip.send(0xfee7_f000, 0x53);
          m.irqchip.send(0xfee0_0000, 0x51);
        });
      }),
  },
  {
    name: "irqfd: an input of the I/O APIC by a file descriptor",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const irqFd = m.irqchip.irqFd(20);
        await runToInterrupt(m, IOAPIC_GUEST, 0x45, () => irqFd.trigger());
        irqFd.close();
        irqFd.close();
      }),
  },
  {
    name: "irqfd: a message by a file descriptor, two of them apart",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const other = m.irqchip.msiFd(0xfee0_0000, 0x52);
        const irqFd = m.irqchip.msiFd(0xfee0_0000, 0x53);
        await runToInterrupt(m, APIC_GUEST, 0x53, () => irqFd.trigger());
        other.close();
        // What is left open goes with the VM; closing it afterwards is harmless.
        await m.close();
        irqFd.close();
        irqFd.trigger();
      }),
  },
  {
    name: "ioeventfd: doorbells at a port and in memory ring without exits; another value exits",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const rings = { port: 0, memory: 0 };
        let isOver = false;
        const check = (): void => {
          // Rings of a quick succession come as one; what is counted after the end is told in the next run.
          if (!isOver && m.output.length > 0 && rings.port > 0 && rings.memory > 0) m.vm.powerOff();
        };
        const port = m.kvm.addDoorbell({ space: "port", address: 0x500, bytes: 2, value: 3n }, () => {
          rings.port++;
          check();
        });
        m.kvm.addDoorbell({ space: "memory", address: DEVICE_BASE + 0x20, bytes: 4, value: 7n }, () => {
          rings.memory++;
          check();
        });
        m.onOutput = check;
        m.start("protected", DOORBELL_GUEST);
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("rings", [rings.port > 0, rings.memory > 0], [true, true]);
        expectEqual("accesses", m.accesses, [{ kind: "write", offset: 0x20, size: 4, value: 8 }]);
        expectEqual("I/O exits", m.vm.exitCounts[ExitReason.IoInstruction], 1);
        isOver = true;
        port.close();
        m.start(
          "real",
          hex`
          ; bits 16, at 0x8000
          ba 00 05 ; mov dx, 0x500
          b8 03 00 ; mov ax, 3
          ef       ; out dx, ax
          e6 f4    ; out 0xf4, al
          f4       ; hlt
        `,
        );
        const before = rings.port;
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("rings of a closed doorbell", rings.port, before);
        expectEqual("I/O exits", m.vm.exitCounts[ExitReason.IoInstruction], 3);
      }),
  },
  {
    name: "the state of the interrupt controllers: saved, reset, restored",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.start("protected", IOAPIC_GUEST);
        m.onOutput = (value) => {
          if (value === 1) void m.vm.pause();
        };
        const run = m.vm.run();
        while (m.vm.state !== "paused") await new Promise((done) => setTimeout(done, 1));
        const saved = m.irqchip.save();
        m.irqchip.reset();
        const reset = m.irqchip.save();
        expectEqual(
          "reset changed something",
          JSON.stringify(show(reset)) === JSON.stringify(show(saved)),
          false,
        );
        m.irqchip.restore(structuredClone(saved));
        expectEqual("restored", show(m.irqchip.save()), show(saved));
        for (const [field, value] of [
          ["lapics", []],
          ["ioapic", { ...saved.ioapic, low: [] }],
          ["pic", { ...saved.pic, version: 2 }],
          ["kind", "kvm-irqchip"],
        ] as const) {
          let refused: unknown;
          try {
            m.irqchip.restore({ ...saved, [field]: value });
          } catch (error) {
            refused = error;
          }
          expectEqual(`a broken ${field}`, refused instanceof Error && refused.name, "StateError");
        }
        expectEqual("unchanged by refused states", show(m.irqchip.save()), show(saved));
        // The restored I/O APIC still leads input 20 to vector 0x45.
        m.memory.load(Layout.IDT + 8 * 0x45, gate(Selector.CODE32, HANDLER, 0x8e));
        m.memory.load(HANDLER, STOP_HANDLER);
        m.vm.resume();
        m.irqchip.line(20).set(true);
        expectEqual("outcome", (await run).kind, "poweroff");
      }),
  },
];

/** Comparable: JSON has no bigint, and a timer counts on. */
function show(state: IrqChipStateV1): unknown {
  const lapics = state.lapics.map(({ apicBase, timer: _, ...lapic }) => ({
    ...lapic,
    apicBase: `${apicBase}`,
  }));
  return { ...state, lapics };
}
