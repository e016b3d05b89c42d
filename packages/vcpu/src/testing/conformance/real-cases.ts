import { type CaseGroup, start } from "./case.ts";
import { expectEqual, expectRegisters, type Guest, runToHalt, runToVector } from "./guest.ts";
import { hex } from "./layout.ts";

/** Status flags that instructions compute: CF, PF, AF, ZF, SF, OF (SDM Vol. 1 sec. 3.4.3.1). */
const STATUS = 0x8d5n;

/** Real-address mode (SDM Vol. 3B ch. 21), and what any mode computes. */
export const realCases: CaseGroup<Guest> = {
  title: "real mode",
  cases: [
    {
      name: "computes, with flags",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          b8 ff 7f          ; mov ax, 0x7fff
          83 c0 01          ; add ax, 1
          9c                ; pushf
          5b                ; pop bx
          b9 05 00          ; mov cx, 5
          83 e9 07          ; sub cx, 7
          9c                ; pushf
          5a                ; pop dx
          66 b8 78 56 34 12 ; mov eax, 0x12345678
          66 c1 c0 08       ; rol eax, 8
          66 be ff ff ff ff ; mov esi, -1
          66 6b f6 03       ; imul esi, esi, 3
          66 0f be f9       ; movsx edi, cl
          f4                ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, { rcx: 0xfffen, rsi: 0xffff_fffdn, rdi: 0xffff_fffen });
        expectEqual("EAX", state.gpr[0], 0x3456_7812n);
        // 0x7fff + 1: SF, OF, AF, PF (0x00 has even parity).
        expectEqual("flags of add", state.gpr[3]! & STATUS, 0x894n);
        // 5 - 7: CF, SF, AF; 0xfe has odd parity.
        expectEqual("flags of sub", state.gpr[2]! & STATUS, 0x91n);
      },
    },
    {
      name: "multiplies and divides",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          b8 fe ff    ; mov ax, 0xfffe
          bb 34 12    ; mov bx, 0x1234
          f7 e3       ; mul bx
          a3 00 20    ; mov [0x2000], ax
          89 16 02 20 ; mov [0x2002], dx
          b8 f9 ff    ; mov ax, -7
          99          ; cwd
          bb 02 00    ; mov bx, 2
          f7 fb       ; idiv bx
          a3 04 20    ; mov [0x2004], ax
          89 16 06 20 ; mov [0x2006], dx
          b0 80       ; mov al, -128
          b3 ff       ; mov bl, -1
          f6 eb       ; imul bl
          a3 08 20    ; mov [0x2008], ax
          b8 07 05    ; mov ax, 0x0507
          d4 0a       ; aam
          a3 0a 20    ; mov [0x200a], ax
          b8 07 02    ; mov ax, 0x0207
          d5 0a       ; aad
          a3 0c 20    ; mov [0x200c], ax
          b0 9a       ; mov al, 0x9a
          27          ; daa
          a2 0e 20    ; mov [0x200e], al
          f4          ; hlt
        `,
        );
        runToHalt(guest);
        expectEqual("mul", [guest.u16(0x2002), guest.u16(0x2000)], [0x1233, 0xdb98]);
        expectEqual("idiv", [guest.u16(0x2004), guest.u16(0x2006)], [0xfffd, 0xffff]);
        expectEqual("imul", guest.u16(0x2008), 0x0080);
        expectEqual("aam", guest.u16(0x200a), 0x0007);
        expectEqual("aad", guest.u16(0x200c), 0x001b);
        expectEqual("daa", guest.u8(0x200e), 0x00);
      },
    },
    {
      name: "addresses through segments, 20 bits and more",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          b8 34 12          ; mov ax, 0x1234
          8e d8             ; mov ds, ax
          c7 06 10 00 ef be ; mov word ptr [0x0010], 0xbeef
          bb 10 00          ; mov bx, 0x10
          be fe ff          ; mov si, -2
          c7 40 04 fe ca    ; mov word ptr [bx+si+4], 0xcafe
          b8 ff ff          ; mov ax, 0xffff
          8e c0             ; mov es, ax
          26 c6 06 20 00 77 ; mov byte ptr es:[0x0020], 0x77
          bd 00 60          ; mov bp, 0x6000
          c7 46 00 5a 5a    ; mov word ptr [bp], 0x5a5a
          f4                ; hlt
        `,
        );
        runToHalt(guest);
        expectEqual("ds:[10h]", guest.u16(0x12350), 0xbeef);
        expectEqual("ds:[12h]", guest.u16(0x12352), 0xcafe);
        expectEqual("ss:[bp]", guest.u16(0x6000), 0x5a5a);
      },
    },
    {
      name: "calls near and far, and returns",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          e8 08 00       ; call near_one
          9a 00 01 00 08 ; call far ptr 0x0800:0x0100
          89 e2          ; mov dx, sp
          f4             ; hlt
          ; near_one:
          bb 11 11       ; mov bx, 0x1111
          c3             ; ret
        `,
        );
        guest.load(
          0x8100,
          hex`
          ; bits 16, at 0x100
          8c c9 ; mov cx, cs
          89 e6 ; mov si, sp
          cb    ; retf
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, { rbx: 0x1111n, rcx: 0x800n, rsi: 0x6ffcn, rdx: 0x7000n });
        expectEqual("pushed CS:IP", [guest.u16(0x6ffe), guest.u16(0x6ffc)], [0, 0x8008]);
      },
    },
    {
      name: "loops, jumps on conditions and sets bytes on them",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          31 c0    ; xor ax, ax
          b9 0a 00 ; mov cx, 10
          ; again:
          01 c8    ; add ax, cx
          e2 fc    ; loop again
          83 f8 37 ; cmp ax, 55
          75 0b    ; jne bad
          0f 9d c3 ; setge bl
          0f 90 c7 ; seto bh
          b9 00 00 ; mov cx, 0
          e3 03    ; jcxz good
          ; bad:
          ba 01 00 ; mov dx, 1
          ; good:
          f4       ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), { rax: 55n, rbx: 1n, rcx: 0n, rdx: 0n });
      },
    },
    {
      name: "moves, stores, scans and compares strings, both ways",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          fc          ; cld
          be 00 20    ; mov si, 0x2000
          bf 00 21    ; mov di, 0x2100
          b9 05 00    ; mov cx, 5
          f3 a4       ; rep movsb
          89 36 00 22 ; mov [0x2200], si
          89 3e 02 22 ; mov [0x2202], di
          fd          ; std
          bf 1f 21    ; mov di, 0x211f
          b9 04 00    ; mov cx, 4
          b0 aa       ; mov al, 0xaa
          f3 aa       ; rep stosb
          89 3e 04 22 ; mov [0x2204], di
          fc          ; cld
          bf 00 20    ; mov di, 0x2000
          b9 09 00    ; mov cx, 9
          b0 6c       ; mov al, 0x6c
          f2 ae       ; repne scasb
          89 0e 06 22 ; mov [0x2206], cx
          be 00 20    ; mov si, 0x2000
          bf 00 21    ; mov di, 0x2100
          b9 09 00    ; mov cx, 9
          f3 a6       ; repe cmpsb
          89 0e 08 22 ; mov [0x2208], cx
          b9 00 00    ; mov cx, 0
          f3 a5       ; rep movsw
          89 3e 0a 22 ; mov [0x220a], di
          f4          ; hlt
        `,
        );
        guest.load(0x2000, Uint8Array.of(0x68, 0x65, 0x6c, 0x6c, 0x6f, 0x21));
        runToHalt(guest);
        expectEqual("copy", guest.u32(0x2100), 0x6c6c_6568);
        expectEqual("si, di", [guest.u16(0x2200), guest.u16(0x2202)], [0x2005, 0x2105]);
        expectEqual("stosb down", guest.u32(0x211c), 0xaaaa_aaaa);
        expectEqual("di after stosb", guest.u16(0x2204), 0x211b);
        expectEqual("cx after scasb", guest.u16(0x2206), 6);
        expectEqual("cx after cmpsb", guest.u16(0x2208), 3);
        expectEqual("di after rep with cx = 0", guest.u16(0x220a), 0x2106);
      },
    },
    {
      name: "takes a divide error through the vector table, as a fault",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          f9       ; stc
          bb 00 00 ; mov bx, 0
          ; fault:
          f7 f3    ; div bx
          f4       ; hlt
        `,
          { rflags: 0x200n },
        );
        const { state, sp } = runToVector(guest, 0);
        expectEqual(
          "pushed IP, CS, FLAGS",
          [guest.u16(sp), guest.u16(sp + 2), guest.u16(sp + 4)],
          [0x8004, 0, 0x203],
        );
        expectEqual("IF in the handler", state.rflags & 0x200n, 0n);
      },
    },
    {
      name: "takes INT n, INT3 and INTO as traps, and comes back with IRET",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          c7 06 0c 01 21 80 ; mov word ptr [0x10c], offset @handler
          c7 06 0c 00 21 80 ; mov word ptr [0xc], offset @handler
          c7 06 10 00 21 80 ; mov word ptr [0x10], offset @handler
          31 c9             ; xor cx, cx
          cd 43             ; int 0x43
          cc                ; int3
          b0 7f             ; mov al, 0x7f
          04 01             ; add al, 1
          ce                ; into
          89 e2             ; mov dx, sp
          9c                ; pushf
          5e                ; pop si
          f4                ; hlt
          ; handler:
          41                ; inc cx
          80 26 fe 6f fe    ; and byte ptr [0x6ffe], 0xfe
          cf                ; iret
        `,
        );
        const state = runToHalt(guest);
        expectRegisters(state, { rcx: 3n, rdx: 0x7000n });
        // OF, SF and AF of the add came back through IRET.
        expectEqual("flags", state.gpr[6]! & STATUS, 0x890n);
      },
    },
    {
      name: "raises #UD and #BR as faults, without error codes",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          c7 06 18 00 23 80          ; mov word ptr [0x18], offset @handler
          c7 06 14 00 23 80          ; mov word ptr [0x14], offset @handler
          66 c7 06 00 20 05 00 09 00 ; mov dword ptr [0x2000], 0x00090005
          bb 0a 00                   ; mov bx, 10
          0f 0b                      ; ud2
          90                         ; nop
          90                         ; nop
          62 1e 00 20                ; bound bx, dword ptr [0x2000]
          89 e2                      ; mov dx, sp
          f4                         ; hlt
          ; handler:
          41                         ; inc cx
          89 e5                      ; mov bp, sp
          83 46 00 04                ; add word ptr [bp], 4
          cf                         ; iret
        `,
        );
        expectRegisters(runToHalt(guest), { rcx: 2n, rdx: 0x7000n });
      },
    },
    {
      name: "raises #GP beyond a segment's 64 KiB",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          66 bb 00 00 01 00 ; mov ebx, 0x10000
          67 8a 03          ; mov al, [ebx]
          f4                ; hlt
        `,
        );
        const { sp } = runToVector(guest, 13);
        expectEqual("pushed IP", guest.u16(sp), 0x8006);
      },
    },
    {
      name: "raises #SS at a word that crosses the stack segment's end",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          bc 00 40 ; mov sp, 0x4000
          bd ff ff ; mov bp, 0xffff
          8b 46 00 ; mov ax, [bp]
          f4       ; hlt
        `,
        );
        const { sp } = runToVector(guest, 12);
        expectEqual("pushed IP", guest.u16(sp), 0x8006);
      },
    },
    {
      name: "keeps a segment's limit when it leaves protected mode (big real mode)",
      needs: ["real mode", "protected mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          fa                      ; cli
          0f 01 16 2b 80          ; lgdt [@pointer]
          0f 20 c0                ; mov eax, cr0
          0c 01                   ; or al, 1
          0f 22 c0                ; mov cr0, eax
          bb 10 00                ; mov bx, 0x10
          8e db                   ; mov ds, bx
          24 fe                   ; and al, 0xfe
          0f 22 c0                ; mov cr0, eax
          31 db                   ; xor bx, bx
          8e db                   ; mov ds, bx
          66 bb 00 00 02 00       ; mov ebx, 0x00020000
          67 66 c7 03 ce fa ed fe ; mov dword ptr [ebx], 0xfeedface
          f4                      ; hlt
          ; pointer:
          17 00                   ; dw 0x17
          00 10 00 00             ; dd 0x1000
        `,
        );
        guest.load(0x1010, Uint8Array.of(0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0));
        runToHalt(guest);
        expectEqual("far beyond 64 KiB", guest.u32(0x2_0000), 0xfeed_face);
      },
    },
    {
      name: "executes what it has just written",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          b9 03 00    ; mov cx, 3
          31 db       ; xor bx, bx
          ; again:
          ; patched:
          b0 01       ; mov al, 1
          00 c3       ; add bl, al
          fe 06 06 80 ; inc byte ptr [@patched+1]
          e2 f6       ; loop again
          f4          ; hlt
        `,
        );
        expectRegisters(runToHalt(guest), { rbx: 6n });
      },
    },
    {
      // The SDM asks for a jump in between (Vol. 3A sec. 9.1.3); processors since the Pentium do without.
      name: "executes what it has just written into the very next instruction",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          c7 06 06 80 90 90 ; mov word ptr [@next], 0x9090
          ; next:
          eb fe             ; jmp next
          f4                ; hlt
        `,
        );
        runToHalt(guest);
      },
    },
    {
      name: "executes code written by a string instruction over itself",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          e8 15 00 ; call routine
          a3 00 20 ; mov [0x2000], ax
          be 1c 80 ; mov si, offset @second
          bf 18 80 ; mov di, offset @routine
          b9 04 00 ; mov cx, 4
          f3 a4    ; rep movsb
          e8 04 00 ; call routine
          a3 02 20 ; mov [0x2002], ax
          f4       ; hlt
          ; routine:
          b8 11 11 ; mov ax, 0x1111
          c3       ; ret
          ; second:
          b8 22 22 ; mov ax, 0x2222
          c3       ; ret
        `,
        );
        runToHalt(guest);
        expectEqual("before and after", [guest.u16(0x2000), guest.u16(0x2002)], [0x1111, 0x2222]);
      },
    },
    {
      name: "locks read-modify-write instructions",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          66 b8 05 00 00 00          ; mov eax, 5
          66 c7 06 00 20 64 00 00 00 ; mov dword ptr [0x2000], 100
          66 f0 0f c1 06 00 20       ; lock xadd [0x2000], eax
          66 bb 07 00 00 00          ; mov ebx, 7
          66 89 c1                   ; mov ecx, eax
          66 b8 69 00 00 00          ; mov eax, 105
          66 f0 0f b1 1e 00 20       ; lock cmpxchg [0x2000], ebx
          0f 94 c2                   ; setz dl
          66 b8 01 00 00 00          ; mov eax, 1
          66 f0 0f b1 1e 00 20       ; lock cmpxchg [0x2000], ebx
          0f 94 c6                   ; setz dh
          66 89 c6                   ; mov esi, eax
          66 b8 11 22 33 44          ; mov eax, 0x44332211
          66 87 06 10 20             ; xchg [0x2010], eax
          f0 ff 06 10 20             ; lock inc word ptr [0x2010]
          f0 0f ba 2e 14 20 03       ; lock bts word ptr [0x2014], 3
          f0 f6 1e 00 20             ; lock neg byte ptr [0x2000]
          66 b8 00 00 00 00          ; mov eax, 0
          66 ba 00 00 00 00          ; mov edx, 0
          66 bb 88 77 66 55          ; mov ebx, 0x55667788
          66 b9 44 33 22 11          ; mov ecx, 0x11223344
          f0 0f c7 0e 18 20          ; lock cmpxchg8b [0x2018]
          f4                         ; hlt
        `,
        );
        const state = runToHalt(guest);
        expectEqual("xadd's old value", guest.u32(0x2000), 0xf9);
        expectEqual("accumulator of the failed cmpxchg", state.gpr[6], 7n);
        expectEqual("xchg, inc", guest.u32(0x2010), 0x4433_2212);
        expectEqual("bts", guest.u16(0x2014), 8);
        expectEqual("cmpxchg8b", guest.u64(0x2018), 0x1122_3344_5566_7788n);
      },
    },
    {
      name: "refuses LOCK before instructions that cannot have it",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          f0    ; db 0xf0
          89 d8 ; mov ax, bx
          f4    ; hlt
        `,
        );
        const { sp } = runToVector(guest, 6);
        expectEqual("pushed IP", guest.u16(sp), 0x8000);
      },
    },
    {
      name: "refuses an instruction of more than 15 bytes",
      needs: ["real mode"],
      run(guest) {
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90 ; db 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90
          f4                             ; hlt
        `,
        );
        const { sp } = runToVector(guest, 13);
        expectEqual("pushed IP", guest.u16(sp), 0x8000);
      },
    },
    {
      name: "goes through protected mode into long mode and back",
      needs: ["real mode", "protected mode", "long mode"],
      run(guest) {
        guest.enter("long");
        start(
          guest,
          "real",
          hex`
          ; bits 16, at 0x8000
          0f 01 16 b0 80                ; lgdt [@gdt]
          0f 20 c0                      ; mov eax, cr0
          66 83 c8 01                   ; or eax, 1
          0f 22 c0                      ; mov cr0, eax
          ea 14 80 08 00                ; jmp far ptr 0x08:@protected
          ; bits 32
          ; protected:
          66 b8 10 00                   ; mov ax, 0x10
          8e d8                         ; mov ds, ax
          8e d0                         ; mov ss, ax
          0f 20 e0                      ; mov eax, cr4
          83 c8 20                      ; or eax, 0x20
          0f 22 e0                      ; mov cr4, eax
          b8 00 00 01 00                ; mov eax, 0x10000
          0f 22 d8                      ; mov cr3, eax
          b9 80 00 00 c0                ; mov ecx, 0xc0000080
          0f 32                         ; rdmsr
          0d 00 01 00 00                ; or eax, 0x100
          0f 30                         ; wrmsr
          0f 20 c0                      ; mov eax, cr0
          0d 00 00 00 80                ; or eax, 0x80000000
          0f 22 c0                      ; mov cr0, eax
          0f 32                         ; rdmsr
          a3 00 00 02 00                ; mov [0x20000], eax
          ea 54 80 00 00 28 00          ; jmp far ptr 0x28:@long
          ; bits 64
          ; long:
          49 b8 f0 de bc 9a 78 56 34 12 ; mov r8, 0x123456789abcdef0
          4c 89 04 25 08 00 02 00       ; mov [0x20008], r8
          6a 18                         ; push 0x18
          68 6f 80 00 00                ; push @compat
          48 cb                         ; rex.w retf
          ; bits 16
          ; compat:
          0f 20 c0                      ; mov eax, cr0
          66 25 ff ff ff 7f             ; and eax, 0x7fffffff
          0f 22 c0                      ; mov cr0, eax
          66 b9 80 00 00 c0             ; mov ecx, 0xc0000080
          0f 32                         ; rdmsr
          66 25 ff fe ff ff             ; and eax, 0xfffffeff
          0f 30                         ; wrmsr
          0f 32                         ; rdmsr
          66 a3 10 00                   ; mov [0x20010], eax
          b8 20 00                      ; mov ax, 0x20
          8e d0                         ; mov ss, ax
          8e d8                         ; mov ds, ax
          0f 20 c0                      ; mov eax, cr0
          24 fe                         ; and al, 0xfe
          0f 22 c0                      ; mov cr0, eax
          ea a5 80 00 00                ; jmp far ptr 0:@real
          ; real:
          31 c0                         ; xor ax, ax
          8e d8                         ; mov ds, ax
          c7 06 00 20 0d 60             ; mov word ptr [0x2000], 0x600d
          f4                            ; hlt
          ; gdt:
          ff 00                         ; dw 0xff
          00 10 00 00                   ; dd 0x1000
        `,
        );
        const state = runToHalt(guest);
        expectEqual("EFER in compatibility mode", guest.u32(0x2_0000), 0x500);
        expectEqual("64-bit store", guest.u64(0x2_0008), 0x1234_5678_9abc_def0n);
        expectEqual("EFER after leaving", guest.u32(0x2_0010), 0);
        expectEqual("back in real mode", guest.u16(0x2000), 0x600d);
        expectEqual("CR0.PE and PG", state.cr0 & 0x8000_0001n, 0n);
        expectEqual("CS", state.cs.base, 0n);
      },
    },
  ],
};
