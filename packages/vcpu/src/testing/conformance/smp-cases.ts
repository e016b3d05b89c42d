import { InstructionClock, RealClock } from "../../clocks.ts";
import { MsrModel } from "../../msr.ts";
import { RunLoop } from "../../run-loop.ts";
import { HostScheduler } from "../../scheduler.ts";
import { FakeInterrupts } from "../fake-platform.ts";
import type { CaseGroup } from "./case.ts";
import { ConformanceError, expectEqual, startImage } from "./guest.ts";
import { hex, Layout } from "./layout.ts";
import { type Machine, TSC_HZ } from "./machine.ts";

/** Port that ends a run. */
const STOP_PORT = 0xf4;
/** Interrupt command register's low and high half in the xAPIC page (SDM Vol. 3A sec. 11.6.1). */
const ICR_LOW = 0x300;
const ICR_HIGH = 0x310;

/**
 * Runs both vCPUs under the run loop until one writes to the stop port. Its interrupt controller knows the ICR: fixed
 * interrupts, NMI, INIT and start-up IPIs to the vCPU named in the high half.
 */
async function runTogether(m: Machine): Promise<FakeInterrupts> {
  const interrupts = new FakeInterrupts(m.vcpus.length);
  for (const apic of interrupts.apics) {
    const store = apic.write.bind(apic);
    apic.write = (offset, size, value) => {
      store(offset, size, value);
      if (offset !== ICR_LOW) return;
      const target = apic.read(ICR_HIGH, 4) >>> 24;
      const vector = value & 0xff;
      const mode = (value >>> 8) & 7;
      if (mode === 0) interrupts.raise(target, vector);
      if (mode === 4) interrupts.signals!.nmi(target);
      if (mode === 5) interrupts.signals!.init(target);
      if (mode === 6) interrupts.signals!.startup(target, vector);
    };
  }
  const clock = m.engine.countsInstructions ? new InstructionClock() : new RealClock();
  const msrs = new MsrModel(interrupts, { vcpus: m.vcpus.length, physicalBits: 36, tscHz: TSC_HZ });
  const scheduler = new HostScheduler();
  const parts = { memory: m.memory, interrupts, cpuid: m.cpuid, msrs, clock, scheduler };
  const loop = new RunLoop(m.vcpus, parts, { sliceInstructions: 1000, haltedForever: "wait" });
  interrupts.connect(loop);
  let isStopped = false;
  m.memory.ports.add(
    STOP_PORT,
    1,
    {
      read: () => 0,
      write: () => {
        isStopped = true;
        loop.stop();
      },
    },
    "stop port",
  );
  clock.timer(() => loop.stop()).arm(m.engine.countsInstructions ? 50_000_000 : 20_000_000_000);
  // RunLoop put the second vCPU to wait for SIPI; the first one starts here.
  const { state, memory } = startImage("protected");
  for (const [address, bytes] of memory) m.load(address, bytes);
  m.vcpu.restore(state);
  const end = await loop.run();
  if (end.kind === "crash") throw end.error;
  if (!isStopped) throw new ConformanceError("the guests did not come to an end");
  return interrupts;
}

/** Starts the second vCPU at 0A00:0000 by INIT and two start-up IPIs, and waits until it has set [0x20000]. */
const START_OTHER = hex`
  ; bits 32, at 0x8000
  c7 05 10 03 e0 fe 00 00 00 01 ; mov dword ptr [0xfee00310], 0x01000000
  c7 05 00 03 e0 fe 00 45 00 00 ; mov dword ptr [0xfee00300], 0x00004500
  c7 05 00 03 e0 fe 0a 46 00 00 ; mov dword ptr [0xfee00300], 0x0000460a
  c7 05 00 03 e0 fe 0a 46 00 00 ; mov dword ptr [0xfee00300], 0x0000460a
  ; wait_for_it:
  f3 90                         ; pause
  83 3d 00 00 02 00 00          ; cmp dword ptr [0x20000], 0
  74 f5                         ; je wait_for_it
`;

function concatenate(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** Several processors (SDM Vol. 3A ch. 9). */
export const smpCases: CaseGroup = {
  title: "several vCPUs",
  cases: [
    {
      name: "INIT and SIPI start the second one",
      needs: ["protected mode", "real mode", "MMIO", "SMP"],
      vcpus: 2,
      async run(m) {
        m.load(
          Layout.CODE,
          concatenate(
            START_OTHER,
            hex`
          ; bits 32, at 0x8000
          e6 f4 ; out 0xf4, al
          f4    ; hlt
        `,
          ),
        );
        m.load(
          0xa000,
          hex`
          ; bits 16, at 0
          8c cb                      ; mov bx, cs
          b8 00 20                   ; mov ax, 0x2000
          8e d8                      ; mov ds, ax
          66 c7 06 04 00 78 56 34 12 ; mov dword ptr [4], 0x12345678
          66 c7 06 00 00 01 00 00 00 ; mov dword ptr [0], 1
          f4                         ; hlt
        `,
        );
        await runTogether(m);
        expectEqual("written by the second", m.u32(Layout.DATA + 4), 0x1234_5678);
        expectEqual("its CS", m.vcpus[1]!.save().gpr[3], 0xa00n);
      },
    },
    {
      name: "a counter behind a spinlock, and one with LOCK, lose nothing",
      needs: ["protected mode", "real mode", "MMIO", "SMP"],
      vcpus: 2,
      async run(m) {
        m.load(
          Layout.CODE,
          concatenate(
            START_OTHER,
            hex`
          ; bits 32, at 0x8000
          b9 b8 0b 00 00                ; mov ecx, 3000
          ; again:
          f0 ff 05 10 00 02 00          ; lock inc dword ptr [0x20010]
          ; acquire:
          b8 01 00 00 00                ; mov eax, 1
          87 05 14 00 02 00             ; xchg [0x20014], eax
          85 c0                         ; test eax, eax
          74 04                         ; jz locked
          f3 90                         ; pause
          eb ed                         ; jmp acquire
          ; locked:
          a1 18 00 02 00                ; mov eax, [0x20018]
          40                            ; inc eax
          a3 18 00 02 00                ; mov [0x20018], eax
          c7 05 14 00 02 00 00 00 00 00 ; mov dword ptr [0x20014], 0
          e2 cf                         ; loop again
          ; wait_for_other:
          f3 90                         ; pause
          83 3d 1c 00 02 00 01          ; cmp dword ptr [0x2001c], 1
          75 f5                         ; jne wait_for_other
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
          ),
        );
        m.load(
          0xa000,
          hex`
          ; bits 16, at 0
          b8 00 20                   ; mov ax, 0x2000
          8e d8                      ; mov ds, ax
          66 c7 06 00 00 01 00 00 00 ; mov dword ptr [0], 1
          b9 b8 0b                   ; mov cx, 3000
          ; again:
          66 f0 ff 06 10 00          ; lock inc dword ptr [0x10]
          ; acquire:
          66 b8 01 00 00 00          ; mov eax, 1
          66 87 06 14 00             ; xchg [0x14], eax
          66 85 c0                   ; test eax, eax
          74 04                      ; jz locked
          f3 90                      ; pause
          eb ec                      ; jmp acquire
          ; locked:
          66 a1 18 00                ; mov eax, [0x18]
          66 40                      ; inc eax
          66 a3 18 00                ; mov [0x18], eax
          66 c7 06 14 00 00 00 00 00 ; mov dword ptr [0x14], 0
          e2 d1                      ; loop again
          66 c7 06 1c 00 01 00 00 00 ; mov dword ptr [0x1c], 1
          f4                         ; hlt
        `,
        );
        await runTogether(m);
        expectEqual("LOCK INC", m.u32(Layout.DATA + 0x10), 6000);
        expectEqual("behind the lock", m.u32(Layout.DATA + 0x18), 6000);
      },
    },
    {
      name: "an interprocessor interrupt and an NMI wake the halted second one",
      needs: ["protected mode", "real mode", "MMIO", "interrupts", "SMP"],
      vcpus: 2,
      async run(m) {
        m.load(
          Layout.CODE,
          concatenate(
            START_OTHER,
            hex`
          ; bits 32, at 0x8000
          c7 05 00 03 e0 fe 55 40 00 00 ; mov dword ptr [0xfee00300], 0x00004055
          ; wait_for_interrupt:
          f3 90                         ; pause
          83 3d 00 00 02 00 02          ; cmp dword ptr [0x20000], 2
          75 f5                         ; jne wait_for_interrupt
          c7 05 00 03 e0 fe 00 44 00 00 ; mov dword ptr [0xfee00300], 0x00004400
          ; wait_for_nmi:
          f3 90                         ; pause
          83 3d 00 00 02 00 03          ; cmp dword ptr [0x20000], 3
          75 f5                         ; jne wait_for_nmi
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
          ),
        );
        // Real mode's vectors: 0x55 at 0x154, NMI at 8; both count in [2000:0000].
        m.load(
          0xa000,
          hex`
          ; bits 16, at 0
          fa                         ; cli
          31 c0                      ; xor ax, ax
          8e d8                      ; mov ds, ax
          8e d0                      ; mov ss, ax
          bc 00 6c                   ; mov sp, 0x6c00
          66 c7 06 54 01 00 01 00 0a ; mov dword ptr [0x154], 0x0a000100
          66 c7 06 08 00 00 01 00 0a ; mov dword ptr [0x8], 0x0a000100
          b8 00 20                   ; mov ax, 0x2000
          8e d8                      ; mov ds, ax
          66 c7 06 00 00 01 00 00 00 ; mov dword ptr [0], 1
          fb                         ; sti
          ; again:
          f4                         ; hlt
          eb fd                      ; jmp again
        `,
        );
        m.load(
          0xa100,
          hex`
          ; bits 16, at 0x100
          66 ff 06 00 00 ; inc dword ptr [0]
          cf             ; iret
        `,
        );
        const interrupts = await runTogether(m);
        expectEqual("acknowledged", interrupts.acknowledged, [[], [0x55]]);
      },
    },
    {
      name: "code that one writes, the other executes",
      needs: ["protected mode", "real mode", "MMIO", "SMP"],
      vcpus: 2,
      async run(m) {
        m.load(
          Layout.CODE,
          concatenate(
            START_OTHER,
            hex`
          ; bits 32, at 0x8000
          c6 05 01 a2 00 00 22          ; mov byte ptr [0xa201], 0x22
          c7 05 04 00 02 00 01 00 00 00 ; mov dword ptr [0x20004], 1
          ; wait_for_it_again:
          f3 90                         ; pause
          83 3d 08 00 02 00 00          ; cmp dword ptr [0x20008], 0
          74 f5                         ; je wait_for_it_again
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
          ),
        );
        m.load(
          0xa000,
          hex`
          ; bits 16, at 0
          b8 00 20                   ; mov ax, 0x2000
          8e d8                      ; mov ds, ax
          9a 00 02 00 0a             ; call far ptr 0x0a00:0x200
          88 c3                      ; mov bl, al
          66 c7 06 00 00 01 00 00 00 ; mov dword ptr [0], 1
          ; wait_for_change:
          f3 90                      ; pause
          66 83 3e 04 00 00          ; cmp dword ptr [4], 0
          74 f6                      ; je wait_for_change
          9a 00 02 00 0a             ; call far ptr 0x0a00:0x200
          88 dc                      ; mov ah, bl
          66 c7 06 08 00 01 00 00 00 ; mov dword ptr [8], 1
          f4                         ; hlt
        `,
        );
        m.load(
          0xa200,
          hex`
          ; bits 16, at 0x200
          b0 11 ; mov al, 0x11
          cb    ; retf
        `,
        );
        await runTogether(m);
        expectEqual("AX of the second", m.vcpus[1]!.save().gpr[0]! & 0xffffn, 0x1122n);
      },
    },
  ],
};
