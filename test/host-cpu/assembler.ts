/** A small assembler over `encode`, enough to write the native side of the host oracle readably. */

import { type Encoding, encode, type Mem } from "./encode.ts";

/** Condition codes as in Jcc, SETcc and CMOVcc (SDM Vol. 1 app. B). */
export const CC = { B: 2, AE: 3, E: 4, NE: 5, BE: 6, A: 7 } as const;

/** Emits 64-bit code for a fixed address; forward jumps are patched by `finish`. */
export class Assembler {
  #bytes: number[] = [];
  #labels = new Map<string, number>();
  #fixups: { at: number; label: string }[] = [];

  constructor(readonly base: bigint) {}

  label(name: string): void {
    this.#labels.set(name, this.#bytes.length);
  }

  /** @throws {RangeError} for an unknown label. */
  address(name: string): bigint {
    const offset = this.#labels.get(name);
    if (offset === undefined) throw new RangeError(`assembler: no label ${name}`);
    return this.base + BigInt(offset);
  }

  op(e: Encoding): void {
    this.#bytes.push(...encode(e));
  }

  raw(...bytes: number[]): void {
    this.#bytes.push(...bytes);
  }

  /** mov r64, imm64 */
  movImm(register: number, value: number | bigint): void {
    this.op({ opcode: 0xb8, w: true, opcodeReg: register, immediates: [{ value, bytes: 8 }] });
  }

  /** mov r64, r64 */
  mov(to: number, from: number): void {
    this.op({ opcode: 0x8b, w: true, reg: to, rm: from });
  }

  /** mov r64, [mem] */
  load(register: number, mem: Mem): void {
    this.op({ opcode: 0x8b, w: true, reg: register, rm: mem });
  }

  /** mov [mem], r64 */
  store(mem: Mem, register: number): void {
    this.op({ opcode: 0x89, w: true, reg: register, rm: mem });
  }

  /** mov qword [mem], simm32 */
  storeImm(mem: Mem, value: number): void {
    this.op({ opcode: 0xc7, w: true, reg: 0, rm: mem, immediates: [{ value, bytes: 4 }] });
  }

  lea(register: number, mem: Mem): void {
    this.op({ opcode: 0x8d, w: true, reg: register, rm: mem });
  }

  /** cmp r64, [mem] */
  cmp(register: number, mem: Mem): void {
    this.op({ opcode: 0x3b, w: true, reg: register, rm: mem });
  }

  /** cmp qword [mem], simm8 */
  cmpImm(mem: Mem, value: number): void {
    this.op({ opcode: 0x83, w: true, reg: 7, rm: mem, immediates: [{ value, bytes: 1 }] });
  }

  push(register: number): void {
    this.op({ opcode: 0x50, opcodeReg: register });
  }

  pop(register: number): void {
    this.op({ opcode: 0x58, opcodeReg: register });
  }

  /** push qword [mem] */
  pushMem(mem: Mem): void {
    this.op({ opcode: 0xff, reg: 6, rm: mem });
  }

  jmp(label: string): void {
    this.#branch([0xe9], label);
  }

  jcc(condition: number, label: string): void {
    this.#branch([0x0f, 0x80 | condition], label);
  }

  call(label: string): void {
    this.#branch([0xe8], label);
  }

  ret(): void {
    this.raw(0xc3);
  }

  /** @throws {RangeError} for a jump to a label that was never placed. */
  finish(): Uint8Array {
    const code = Uint8Array.from(this.#bytes);
    const view = new DataView(code.buffer);
    for (const { at, label } of this.#fixups) {
      view.setInt32(at, Number(this.address(label) - this.base) - (at + 4), true);
    }
    return code;
  }

  #branch(opcode: readonly number[], label: string): void {
    this.#bytes.push(...opcode);
    this.#fixups.push({ at: this.#bytes.length, label });
    this.#bytes.push(0, 0, 0, 0);
  }
}
