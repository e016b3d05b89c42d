import { ExitReason } from "../../exit.ts";
import { type CaseGroup, start } from "./case.ts";
import { expectEqual, expectRegisters, runToHalt, runToVector, TO_RING_3_AT_RAX } from "./guest.ts";
import { descriptor, gate, hex, Layout, Selector, u32s } from "./layout.ts";
import { PageTables, Pte } from "./page-tables.ts";

/** Exits of I/O instructions and EPT violations, and how their answers reach the guest (SDM Vol. 3C ch. 26 and 28). */
export const ioCases: CaseGroup = {
  title: "ports and memory-mapped I/O",
  cases: [
    {
      name: "IN and OUT in all sizes, by immediate and by DX",
      needs: ["real mode", "I/O"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          66 b8 44 33 22 11 ; mov eax, 0x11223344
          e6 10             ; out 0x10, al
          e7 11             ; out 0x11, ax
          66 e7 12          ; out 0x12, eax
          ba 34 12          ; mov dx, 0x1234
          ee                ; out dx, al
          ef                ; out dx, ax
          66 ef             ; out dx, eax
          66 b8 ff ff ff ff ; mov eax, 0xffffffff
          e4 20             ; in al, 0x20
          66 89 c3          ; mov ebx, eax
          ed                ; in ax, dx
          66 89 c1          ; mov ecx, eax
          66 ed             ; in eax, dx
          f4                ; hlt
        `,
        );
        m.onIn = (_, size) => [0, 0xa1, 0xb1b2, 0, 0xc1c2_c3c4][size]!;
        const state = runToHalt(m);
        expectEqual("exits", m.events, [
          { kind: "out", port: 0x10, size: 1, data: 0x44 },
          { kind: "out", port: 0x11, size: 2, data: 0x3344 },
          { kind: "out", port: 0x12, size: 4, data: 0x1122_3344 },
          { kind: "out", port: 0x1234, size: 1, data: 0x44 },
          { kind: "out", port: 0x1234, size: 2, data: 0x3344 },
          { kind: "out", port: 0x1234, size: 4, data: 0x1122_3344 },
          { kind: "in", port: 0x20, size: 1, data: 0xa1 },
          { kind: "in", port: 0x1234, size: 2, data: 0xb1b2 },
          { kind: "in", port: 0x1234, size: 4, data: 0xc1c2_c3c4 },
        ]);
        expectRegisters(state, { rbx: 0xffff_ffa1n, rcx: 0xffff_b1b2n, rax: 0xc1c2_c3c4n });
      },
    },
    {
      name: "a 32-bit IN clears the upper half of RAX, smaller ones keep the rest",
      needs: ["long mode", "I/O"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          48 c7 c0 ff ff ff ff ; mov rax, -1
          e4 20                ; in al, 0x20
          48 89 c3             ; mov rbx, rax
          e5 20                ; in eax, 0x20
          f4                   ; hlt
        `,
        );
        m.onIn = () => 0x8000_0000;
        expectRegisters(runToHalt(m), { rax: 0x8000_0000n, rbx: 0xffff_ffff_ffff_ff00n });
      },
    },
    {
      name: "string I/O, an element an exit, forwards and backwards",
      needs: ["real mode", "I/O"],
      run(m) {
        start(
          m,
          "real",
          hex`
          ; bits 16, at 0x8000
          fc       ; cld
          ba 00 03 ; mov dx, 0x300
          bf 00 20 ; mov di, 0x2000
          b9 03 00 ; mov cx, 3
          f3 6d    ; rep insw
          be 00 20 ; mov si, 0x2000
          6e       ; outsb
          b8 00 10 ; mov ax, 0x1000
          8e d8    ; mov ds, ax
          fd       ; std
          be 04 01 ; mov si, 0x104
          b9 02 00 ; mov cx, 2
          66 f3 6f ; rep outsd
          b9 00 00 ; mov cx, 0
          f3 6e    ; rep outsb
          f4       ; hlt
        `,
        );
        m.load(0x1_0100, u32s(0x4444_4444, 0x5555_5555));
        let next = 0x1111;
        m.onIn = () => next++;
        const state = runToHalt(m);
        expectEqual("exits", m.events, [
          { kind: "in", port: 0x300, size: 2, data: 0x1111 },
          { kind: "in", port: 0x300, size: 2, data: 0x1112 },
          { kind: "in", port: 0x300, size: 2, data: 0x1113 },
          { kind: "out", port: 0x300, size: 1, data: 0x11 },
          { kind: "out", port: 0x300, size: 4, data: 0x5555_5555 },
          { kind: "out", port: 0x300, size: 4, data: 0x4444_4444 },
        ]);
        expectEqual("memory", [m.u16(0x2000), m.u16(0x2002), m.u16(0x2004)], [0x1111, 0x1112, 0x1113]);
        expectRegisters(state, { rdi: 0x2006n, rcx: 0n });
        expectEqual("SI", state.gpr[6]! & 0xffffn, 0xfcn);
      },
    },
    {
      name: "ports in ring 3: by the I/O permission bitmap, or by IOPL",
      needs: ["protected mode", "I/O"],
      run(m) {
        const code = hex`
          ; bits 32, at 0x8100
          e4 60 ; in al, 0x60
          89 c3 ; mov ebx, eax
          e4 61 ; in al, 0x61
        `;
        start(m, "protected", TO_RING_3_AT_RAX, { registers: { rax: 0x8100n } });
        m.load(0x8100, code);
        // A TSS with a bitmap at 0x68 that allows port 0x60 (bit clear) and refuses 0x61.
        m.load(Layout.GDT + Selector.TSS, descriptor(Layout.TSS, 0x88, 0x8b));
        m.load(Layout.TSS + 0x68, new Uint8Array(0x21).fill(0xff));
        m.load(Layout.TSS + 0x68 + 0x60 / 8, Uint8Array.of(0xfe));
        const state = m.state;
        state.tr.limit = 0x88;
        m.vcpu.restore(state);
        m.onIn = () => 0x5a;
        const { sp } = runToVector(m, 13);
        expectEqual("error code, EIP", [m.u32(sp), m.u32(sp + 4)], [0, 0x8104]);
        expectEqual("exits", m.events, [{ kind: "in", port: 0x60, size: 1, data: 0x5a }]);

        start(m, "protected", TO_RING_3_AT_RAX, { registers: { rax: 0x8100n }, rflags: 0x3000n });
        m.load(
          0x8100,
          hex`
          ; bits 32, at 0x8100
          e4 61 ; in al, 0x61
          cd 81 ; int 0x81
        `,
        );
        m.load(Layout.IDT + 8 * 0x81, gate(Selector.CODE32, Layout.HANDLERS + 4 * 0x81, 0xee));
        runToVector(m, 0x81);
      },
    },
    {
      name: "MMIO reads and writes in all sizes",
      needs: ["long mode", "MMIO"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          bb 00 00 00 d0                ; mov ebx, 0xd0000000
          48 b8 88 77 66 55 44 33 22 11 ; mov rax, 0x1122334455667788
          88 03                         ; mov [rbx], al
          66 89 43 02                   ; mov [rbx+2], ax
          89 43 04                      ; mov [rbx+4], eax
          48 89 43 08                   ; mov [rbx+8], rax
          48 c7 c0 ff ff ff ff          ; mov rax, -1
          8a 43 11                      ; mov al, [rbx+0x11]
          48 c7 c1 ff ff ff ff          ; mov rcx, -1
          66 8b 4b 12                   ; mov cx, [rbx+0x12]
          48 c7 c2 ff ff ff ff          ; mov rdx, -1
          8b 53 14                      ; mov edx, [rbx+0x14]
          48 8b 73 18                   ; mov rsi, [rbx+0x18]
          0f b6 7b 21                   ; movzx edi, byte ptr [rbx+0x21]
          4c 0f bf 43 22                ; movsx r8, word ptr [rbx+0x22]
          f4                            ; hlt
        `,
        );
        m.onRead = (_, size) => (size === 8 ? [0xaaaa_bbbb, 0xcccc_dddd] : [0xfeed_8765, 0]);
        const state = runToHalt(m);
        const at = (address: number) => Layout.MMIO + address;
        expectEqual("exits", m.events, [
          { kind: "write", address: at(0), size: 1, data: 0x88, dataHigh: 0 },
          { kind: "write", address: at(2), size: 2, data: 0x7788, dataHigh: 0 },
          { kind: "write", address: at(4), size: 4, data: 0x5566_7788, dataHigh: 0 },
          { kind: "write", address: at(8), size: 8, data: 0x5566_7788, dataHigh: 0x1122_3344 },
          { kind: "read", address: at(0x11), size: 1, data: 0x65, dataHigh: 0 },
          { kind: "read", address: at(0x12), size: 2, data: 0x8765, dataHigh: 0 },
          { kind: "read", address: at(0x14), size: 4, data: 0xfeed_8765, dataHigh: 0 },
          { kind: "read", address: at(0x18), size: 8, data: 0xaaaa_bbbb, dataHigh: 0xcccc_dddd },
          { kind: "read", address: at(0x21), size: 1, data: 0x65, dataHigh: 0 },
          { kind: "read", address: at(0x22), size: 2, data: 0x8765, dataHigh: 0 },
        ]);
        expectRegisters(state, {
          rax: 0xffff_ffff_ffff_ff65n,
          rcx: 0xffff_ffff_ffff_8765n,
          rdx: 0xfeed_8765n,
          rsi: 0xcccc_dddd_aaaa_bbbbn,
          rdi: 0x65n,
          r8: 0xffff_ffff_ffff_8765n,
        });
      },
    },
    {
      name: "MMIO read-modify-write: one read, one write, with flags",
      needs: ["long mode", "MMIO"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          bb 00 01 00 d0 ; mov ebx, 0xd0000100
          b8 0f 00 00 00 ; mov eax, 0x0f
          09 03          ; or [rbx], eax
          f0 0f c1 43 04 ; lock xadd [rbx+4], eax
          86 43 08       ; xchg [rbx+8], al
          83 7b 0c 10    ; cmp dword ptr [rbx+12], 0x10
          0f 94 c1       ; sete cl
          f6 43 10 10    ; test byte ptr [rbx+16], 0x10
          0f 95 c2       ; setnz dl
          ff 73 18       ; push qword ptr [rbx+24]
          5e             ; pop rsi
          f4             ; hlt
        `,
        );
        m.onRead = () => [0x10, 0];
        const state = runToHalt(m);
        const kinds = m.events.map((event) =>
          "address" in event ? [event.kind, event.address & 0xff, event.data] : [],
        );
        expectEqual("exits", kinds, [
          ["read", 0, 0x10],
          ["write", 0, 0x1f],
          ["read", 4, 0x10],
          ["write", 4, 0x1f],
          ["read", 8, 0x10],
          ["write", 8, 0x10],
          ["read", 12, 0x10],
          ["read", 16, 0x10],
          ["read", 24, 0x10],
        ]);
        expectEqual("CL, DL", [state.gpr[1]! & 0xffn, state.gpr[2]! & 0xffn], [1n, 1n]);
        expectRegisters(state, { rsi: 0x10n });
      },
    },
    {
      name: "MMIO by string instructions, from and to a device",
      needs: ["long mode", "MMIO"],
      run(m) {
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          fc             ; cld
          be 00 00 00 d0 ; mov esi, 0xd0000000
          bf 00 00 02 00 ; mov edi, 0x20000
          b9 03 00 00 00 ; mov ecx, 3
          f3 a5          ; rep movsd
          be 00 00 02 00 ; mov esi, 0x20000
          bf 00 10 00 d0 ; mov edi, 0xd0001000
          b9 02 00 00 00 ; mov ecx, 2
          66 f3 a5       ; rep movsw
          be 00 20 00 d0 ; mov esi, 0xd0002000
          bf 00 30 00 d0 ; mov edi, 0xd0003000
          a4             ; movsb
          bf 00 40 00 d0 ; mov edi, 0xd0004000
          b8 77 00 00 00 ; mov eax, 0x77
          b9 02 00 00 00 ; mov ecx, 2
          f3 aa          ; rep stosb
          bf 00 50 00 d0 ; mov edi, 0xd0005000
          b9 04 00 00 00 ; mov ecx, 4
          f2 ae          ; repne scasb
          f4             ; hlt
        `,
        );
        let next = 0x100;
        m.onRead = (address) => [address >= 0xd000_5002 ? 0x77 : next++, 0];
        const state = runToHalt(m);
        const seen = m.events.map((event) =>
          "address" in event ? [event.kind, event.address - Layout.MMIO, event.size, event.data] : [],
        );
        expectEqual("exits", seen, [
          ["read", 0, 4, 0x100],
          ["read", 4, 4, 0x101],
          ["read", 8, 4, 0x102],
          ["write", 0x1000, 2, 0x100],
          ["write", 0x1002, 2, 0],
          ["read", 0x2000, 1, 0x03],
          ["write", 0x3000, 1, 0x03],
          ["write", 0x4000, 1, 0x77],
          ["write", 0x4001, 1, 0x77],
          ["read", 0x5000, 1, 0x04],
          ["read", 0x5001, 1, 0x05],
          ["read", 0x5002, 1, 0x77],
        ]);
        expectEqual("memory", [m.u32(0x2_0000), m.u32(0x2_0008)], [0x100, 0x102]);
        expectRegisters(state, { rcx: 1n, rdi: 0xd000_5003n });
      },
    },
    {
      name: "ROM is read and executed without exits, writes to it vanish",
      needs: ["protected mode", "MMIO"],
      run(m) {
        start(
          m,
          "protected",
          hex`
          ; bits 32, at 0x8000
          a1 00 01 ff ff                ; mov eax, [0xffff0100]
          c7 05 00 01 ff ff 78 56 34 12 ; mov dword ptr [0xffff0100], 0x12345678
          8b 1d 00 01 ff ff             ; mov ebx, [0xffff0100]
          ba 00 02 ff ff                ; mov edx, 0xffff0200
          ff d2                         ; call edx
          f4                            ; hlt
        `,
        );
        m.load(Layout.ROM + 0x100, u32s(0xcafe_f00d));
        m.load(
          Layout.ROM + 0x200,
          hex`
          ; bits 32, at 0xffff0200
          b9 0d 60 00 00 ; mov ecx, 0x600d
          c3             ; ret
        `,
        );
        expectRegisters(runToHalt(m), { rax: 0xcafe_f00dn, rbx: 0xcafe_f00dn, rcx: 0x600dn });
        expectEqual("exits", m.events, [
          { kind: "write", address: 0xffff_0100, size: 4, data: 0x1234_5678, dataHigh: 0 },
        ]);
      },
    },
    {
      name: "an exit's address is the guest-physical one behind the guest's page tables",
      needs: ["long mode", "paging", "MMIO"],
      run(m) {
        const tables = new PageTables("4-level");
        tables.mapLow(0x2_0000, Pte.P | Pte.W);
        tables.map(0x40_0000n, 0xd123_4000n, Pte.P | Pte.W);
        start(
          m,
          "long",
          hex`
          ; bits 64, at 0x8000
          8b 04 25 bc 0a 40 00 ; mov eax, [0x400abc]
          f4                   ; hlt
        `,
          { cr3: tables.root },
        );
        tables.install(m);
        m.onRead = () => [0x99, 0];
        expectRegisters(runToHalt(m), { rax: 0x99n });
        expectEqual("exits", m.events, [
          { kind: "read", address: 0xd123_4abc, size: 4, data: 0x99, dataHigh: 0 },
        ]);
      },
    },
    {
      name: "instruction fetch where there is no memory",
      needs: ["protected mode", "MMIO"],
      run(m) {
        start(
          m,
          "protected",
          hex`
          ; bits 32, at 0x8000
          b8 00 00 00 d0 ; mov eax, 0xd0000000
          ff e0          ; jmp eax
        `,
        );
        const stop = m.run();
        if (typeof stop === "string") throw new Error(`expected an exit, the run ended with ${stop}`);
        expectEqual("exit", stop.exit.reason, ExitReason.EptViolation);
        if (stop.exit.reason !== ExitReason.EptViolation) return;
        expectEqual("access, address", [stop.exit.access, stop.exit.address], ["execute", Layout.MMIO]);
      },
    },
  ],
};
