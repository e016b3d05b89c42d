import { expectEqual } from "../../testing/conformance/guest.ts";
import { hex } from "../../testing/conformance/layout.ts";
import type { KvmCase } from "./case.ts";
import { withMachine } from "./machine.ts";

/** 32-bit: starts the second processor at 0A00:0000 by INIT and two SIPIs, waits for its word, counts with it. */
const FIRST = hex`
  ; bits 32, at 0x8000
  c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword ptr [0xfee000f0], 0x1ff
  c7 05 10 03 e0 fe 00 00 00 01 ; mov dword ptr [0xfee00310], 0x01000000
  c7 05 00 03 e0 fe 00 45 00 00 ; mov dword ptr [0xfee00300], 0x00004500
  c7 05 00 03 e0 fe 0a 46 00 00 ; mov dword ptr [0xfee00300], 0x0000460a
  c7 05 00 03 e0 fe 0a 46 00 00 ; mov dword ptr [0xfee00300], 0x0000460a
  b9 f4 01 00 00                ; mov ecx, 500
  ; again:
  f0 ff 05 10 00 02 00          ; lock inc dword ptr [0x20010]
  e2 f7                         ; loop again
  ; wait:
  f3 90                         ; pause
  83 3d 00 00 02 00 01          ; cmp dword ptr [0x20000], 1
  75 f5                         ; jne wait
  e6 f4                         ; out 0xf4, al
  f4                            ; hlt
`;
const SECOND = hex`
  ; bits 16, at 0
  8c cb                      ; mov bx, cs
  b8 00 20                   ; mov ax, 0x2000
  8e d8                      ; mov ds, ax
  b9 f4 01                   ; mov cx, 500
  ; again:
  66 f0 ff 06 10 00          ; lock inc dword ptr [0x10]
  e2 f8                      ; loop again
  b0 77                      ; mov al, 0x77
  e6 e9                      ; out 0xe9, al
  66 c7 06 00 00 01 00 00 00 ; mov dword ptr [0], 1
  fa                         ; cli
  f4                         ; hlt
`;

/** Several vCPUs, each on a thread of its own. */
export const smpCases: readonly KvmCase[] = [
  {
    name: "INIT and SIPI start the second vCPU; both count in one word and reach devices",
    run: ({ engine }) =>
      withMachine(engine(), { vcpus: 2 }, async (m) => {
        expectEqual("activity before", m.vm.vcpus[1]!.save().activity, "wait-for-sipi");
        m.start("protected", FIRST);
        m.memory.load(0xa000, SECOND);
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("counter", m.memory.dma.readU32(0x2_0010), 1000);
        expectEqual("output", m.output, [0x77]);
        expectEqual("CS of the second", m.vm.vcpus[1]!.save().gpr[3]! & 0xffffn, 0xa00n);
      }),
  },
  {
    name: "a VM of two is stopped, saved and gone on with in another one",
    run: ({ engine }) =>
      withMachine(engine(), { vcpus: 2 }, async (m) => {
        m.start("protected", FIRST);
        m.memory.load(0xa000, SECOND);
        m.onOutput = () => void m.vm.pause();
        const run = m.vm.run();
        await m.changed(0x2_0010, 0);
        while (m.vm.state !== "paused") await new Promise((done) => setTimeout(done, 2));
        const state = structuredClone(m.vm.save());
        const ram = m.memory.dump(0, 0x3_0000);
        await m.vm.stop();
        await run;
        await withMachine(engine(), { vcpus: 2 }, async (other) => {
          other.memory.load(0, ram);
          other.vm.restore(state);
          expectEqual("outcome", (await other.run()).kind, "poweroff");
          expectEqual("counter", other.memory.dma.readU32(0x2_0010), 1000);
        });
      }),
  },
  {
    name: "a run is over where one halts for good and the other was never started",
    run: ({ engine }) =>
      withMachine(engine(), { vcpus: 2 }, async (m) => {
        m.start("real", Uint8Array.of(0xfa, 0xf4));
        expectEqual("outcome", (await m.run()).kind, "halted");
      }),
  },
];
