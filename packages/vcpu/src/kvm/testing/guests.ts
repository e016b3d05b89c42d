/** Small guests that several cases share; machine code with its assembly beside it. */
import { hex } from "../../testing/conformance/layout.ts";

/** Where `gate()`s of the interrupt cases lead. */
export const HANDLER = 0xa000;

/** 32-bit: enables the local APIC, says so at the debug port, and halts with interrupts on until something comes. */
export const APIC_GUEST = hex`
  ; bits 32, at 0x8000
  c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword ptr [0xfee000f0], 0x1ff
  b0 01                         ; mov al, 1
  e6 e9                         ; out 0xe9, al
  fb                            ; sti
  ; again:
  f4                            ; hlt
  eb fd                         ; jmp again
`;

/** 32-bit interrupt handler: ends the interrupt, tells the debug port, and turns the machine off. */
export const STOP_HANDLER = hex`
  ; bits 32, at 0xa000
  c7 05 b0 00 e0 fe 00 00 00 00 ; mov dword ptr [0xfee000b0], 0
  b0 02                         ; mov al, 2
  e6 e9                         ; out 0xe9, al
  e6 f4                         ; out 0xf4, al
  f4                            ; hlt
`;

/** 32-bit: sets I/O APIC input 20 to vector 0x45 (edge), then as APIC_GUEST. */
export const IOAPIC_GUEST = hex`
  ; bits 32, at 0x8000
  c7 05 f0 00 e0 fe ff 01 00 00 ; mov dword ptr [0xfee000f0], 0x1ff
  c7 05 00 00 c0 fe 39 00 00 00 ; mov dword ptr [0xfec00000], 0x39
  c7 05 10 00 c0 fe 00 00 00 00 ; mov dword ptr [0xfec00010], 0
  c7 05 00 00 c0 fe 38 00 00 00 ; mov dword ptr [0xfec00000], 0x38
  c7 05 10 00 c0 fe 45 00 00 00 ; mov dword ptr [0xfec00010], 0x45
  b0 01                         ; mov al, 1
  e6 e9                         ; out 0xe9, al
  fb                            ; sti
  ; again:
  f4                            ; hlt
  eb fd                         ; jmp again
`;

/** 16-bit: sets the 8259 up, IRQ 4 at vector 0x24, halts; each interrupt says 2, the third turns the machine off. */
export const PIC_GUEST = hex`
  ; bits 16, at 0x8000
  fa                ; cli
  c7 06 90 00 00 a0 ; mov word ptr [0x90], 0xa000
  c7 06 92 00 00 00 ; mov word ptr [0x92], 0
  b0 11             ; mov al, 0x11
  e6 20             ; out 0x20, al
  b0 20             ; mov al, 0x20
  e6 21             ; out 0x21, al
  b0 04             ; mov al, 4
  e6 21             ; out 0x21, al
  b0 01             ; mov al, 1
  e6 21             ; out 0x21, al
  b0 ef             ; mov al, 0xef
  e6 21             ; out 0x21, al
  31 db             ; xor bx, bx
  b0 01             ; mov al, 1
  e6 e9             ; out 0xe9, al
  fb                ; sti
  ; again:
  f4                ; hlt
  83 fb 03          ; cmp bx, 3
  72 fa             ; jb again
  e6 f4             ; out 0xf4, al
  f4                ; hlt
`;
export const PIC_HANDLER = hex`
  ; bits 16, at 0xa000
  43    ; inc bx
  b0 20 ; mov al, 0x20
  e6 20 ; out 0x20, al
  b0 02 ; mov al, 2
  e6 e9 ; out 0xe9, al
  cf    ; iret
`;

/** 16-bit: counts in [0x3000] for ever. */
export const COUNTER_GUEST = hex`
  ; bits 16, at 0x8000
  ; again:
  66 ff 06 00 30 ; inc dword ptr [0x3000]
  eb f9          ; jmp again
`;

/** 16-bit: KVM's 8254 at 100 Hz through the 8259, IRQ 0 at vector 0x20; the third tick turns the machine off. */
export const PIT_GUEST = hex`
  ; bits 16, at 0x8000
  fa                ; cli
  c7 06 80 00 00 a0 ; mov word ptr [0x80], 0xa000
  c7 06 82 00 00 00 ; mov word ptr [0x82], 0
  b0 11             ; mov al, 0x11
  e6 20             ; out 0x20, al
  b0 20             ; mov al, 0x20
  e6 21             ; out 0x21, al
  b0 04             ; mov al, 4
  e6 21             ; out 0x21, al
  b0 01             ; mov al, 1
  e6 21             ; out 0x21, al
  b0 fe             ; mov al, 0xfe
  e6 21             ; out 0x21, al
  b0 34             ; mov al, 0x34
  e6 43             ; out 0x43, al
  b0 9c             ; mov al, 0x9c
  e6 40             ; out 0x40, al
  b0 2e             ; mov al, 0x2e
  e6 40             ; out 0x40, al
  31 db             ; xor bx, bx
  fb                ; sti
  ; again:
  f4                ; hlt
  83 fb 03          ; cmp bx, 3
  72 fa             ; jb again
  e6 f4             ; out 0xf4, al
  f4                ; hlt
`;
