import { expectEqual } from "../../testing/conformance/guest.ts";
import { hex } from "../../testing/conformance/layout.ts";
import { type KvmCase, SkipCase } from "./case.ts";
import { type KvmMachine, RAM_BYTES, ROM_BASE, withMachine } from "./machine.ts";

/** 32-bit: writes to pages 0x100 and 0x103, and turns the machine off. */
const WRITER = hex`
  ; bits 32, at 0x8000
  c7 05 00 00 10 00 01 00 00 00 ; mov dword ptr [0x100000], 1
  c7 05 10 30 10 00 02 00 00 00 ; mov dword ptr [0x103010], 2
  e6 f4                         ; out 0xf4, al
  f4                            ; hlt
`;

/** Numbers of the pages in [first, first + count) that the log calls written. */
function written(m: KvmMachine, first: number, count: number): number[] {
  const bitmap = m.memory.dirty.collect(first * 4096, count * 4096);
  return Array.from({ length: count }, (_, i) => i)
    .filter((i) => (bitmap[i >> 3]! & (1 << (i & 7))) !== 0)
    .map((i) => first + i);
}

async function checkDirtyLog(m: KvmMachine): Promise<void> {
  const all = written(m, 0x100, 0x10);
  expectEqual("pages when nobody has asked before", all.length, 0x10);
  for (let round = 0; round < 3; round++) {
    expectEqual("pages before the guest ran", written(m, 0x100, 0x10), []);
    m.start("protected", WRITER);
    expectEqual("outcome", (await m.run()).kind, "poweroff");
    m.memory.dma.writeU8(0x10_5000, 1);
    expectEqual("pages the guest and a device wrote", written(m, 0x100, 0x10), [0x100, 0x103, 0x105]);
  }
}

/** Memory slots over an address space, ROM, the dirty log, memory beside the arena. */
export const memoryCases: readonly KvmCase[] = [
  {
    name: "ROM is read and executed without exits, and not written",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        m.memory.load(ROM_BASE + 0x100, Uint8Array.of(0x78, 0x56, 0x34, 0x12));
        // mov ecx, 0x600d; ret
        m.memory.load(ROM_BASE + 0x200, Uint8Array.of(0xb9, 0x0d, 0x60, 0, 0, 0xc3));
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          c7 05 00 f1 ff ff ff 00 00 00 ; mov dword ptr [0xfffff100], 0xff
          a1 00 f1 ff ff                ; mov eax, [0xfffff100]
          ba 00 f2 ff ff                ; mov edx, 0xfffff200
          ff d2                         ; call edx
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
        );
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("EAX, ECX", [m.state.gpr[0], m.state.gpr[1]], [0x1234_5678n, 0x600dn]);
      }),
  },
  {
    name: "memory that comes and goes while the VM is there",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const code = hex`
          ; bits 32, at 0x8000
          a1 00 00 00 c0 ; mov eax, [0xc0000000]
          e6 f4          ; out 0xf4, al
          f4             ; hlt
        `;
        const offset = m.memory.arena.allocate(0x1000);
        m.memory.arena.bytes.set([0x11, 0x22, 0x33, 0x44], offset);
        const claim = m.memory.addDeviceRam(0xc000_0000, offset, 0x1000, "display");
        m.start("protected", code);
        await m.run();
        expectEqual("EAX, mapped", m.state.gpr[0], 0x4433_2211n);
        claim.release();
        m.start("protected", code);
        await m.run();
        expectEqual("EAX, unmapped", m.state.gpr[0], 0xffff_ffffn);
      }),
  },
  {
    name: "the dirty log: a bitmap for each slot, protected by hand",
    run: ({ engine }) => withMachine(engine(), {}, checkDirtyLog),
  },
  {
    name: "the dirty log: a ring for each vCPU",
    run: ({ engine }) => withMachine(engine({ dirtyRingEntries: 1024 }), {}, checkDirtyLog),
  },
  {
    name: "a dirty ring that is full is emptied, and the guest goes on",
    run: ({ engine, isEmulating }) =>
      withMachine(engine({ dirtyRingEntries: 1024 }), {}, async (m) => {
        if (isEmulating) throw new SkipCase("a KVM that emulates goes on writing when the ring is full");
        written(m, 0, RAM_BYTES / 4096);
        written(m, 0, RAM_BYTES / 4096);
        m.start(
          "protected",
          hex`
          ; bits 32, at 0x8000
          bb 00 00 10 00 ; mov ebx, 0x100000
          ; again:
          c6 03 01       ; mov byte ptr [ebx], 1
          81 c3 00 10 00 00 ; add ebx, 0x1000
          81 fb 00 00 40 00 ; cmp ebx, 0x400000
          72 ef          ; jb again
          e6 f4          ; out 0xf4, al
          f4             ; hlt
        `,
        );
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("pages", written(m, 0x100, 0x300).length, 0x300);
      }),
  },
  {
    name: "host memory beside the arena, beyond 4 GiB",
    run: ({ engine }) =>
      withMachine(engine(), {}, async (m) => {
        const region = m.kvm.addHostMemory(0x2_0000_0000, 64 * 2 ** 20, "RAM from 8 GiB");
        const view = region.view(0x123_4000, 8);
        view.set([1, 2, 3, 4, 5, 6, 7, 8]);
        // 64-bit: the page tables of the start mode, and a 1 GiB... entry by 2 MiB pages at 512 GiB's first slot.
        m.start(
          "long",
          hex`
          ; bits 64, at 0x8000
          48 b8 00 40 23 01 00 00 00 00 ; mov rax, 0x1234000
          48 bb 00 00 00 00 80 00 00 00 ; mov rbx, 0x8000000000
          48 8b 0c 18                   ; mov rcx, [rax+rbx]
          48 ff c1                      ; inc rcx
          48 89 4c 18 08                ; mov [rax+rbx+8], rcx
          e6 f4                         ; out 0xf4, al
          f4                            ; hlt
        `,
        );
        const tables = 0x3_0000;
        m.memory.dma.writeU64(0x1_0008, BigInt(tables) | 3n);
        m.memory.dma.writeU64(tables, BigInt(tables + 0x1000) | 3n);
        for (let i = 0n; i < 32n; i++) {
          m.memory.dma.writeU64(tables + 0x1000 + 8 * Number(i), (0x2_0000_0000n + i * 0x20_0000n) | 0x83n);
        }
        expectEqual("outcome", (await m.run()).kind, "poweroff");
        expectEqual("RCX", m.state.gpr[1], 0x0807_0605_0403_0202n);
        expectEqual("written", [...region.view(0x123_4008, 8)], [2, 2, 3, 4, 5, 6, 7, 8]);
      }),
  },
];
