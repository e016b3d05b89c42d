import { effectiveAddress, linearAddress, segmentAddress } from "../cpu/address.ts";
import { arithmeticFlags, FlagKind, setCarryOverflow, setExplicit, setLazy, setMixed } from "../cpu/flags.ts";
import { Cpu, Event, gpr, Mode, Seg } from "../cpu/layout.ts";
import {
  type AccessOptions,
  modifyMemory,
  readMemory,
  readMemory128,
  readMemory256,
  writeMemory,
  writeMemory128,
  writeMemory256,
} from "../cpu/memory.ts";
import { get32, get64, raiseException, set32, set64, Vector } from "../cpu/state.ts";
import { VVVV_SHIFT } from "../cpu/uop.ts";
import { Builder, type I32, type I64, type V128 } from "../ir/builder.ts";
import type { LoadName, StoreName } from "../wasm/opcodes.ts";
import { type Operand, sizeBits } from "./operand.ts";
import type { Variant } from "./registry.ts";

const LOAD: Record<number, LoadName> = {
  8: "i64.load8_u",
  16: "i64.load16_u",
  32: "i64.load32_u",
  64: "i64.load",
};
const STORE: Record<number, StoreName> = { 8: "i64.store8", 16: "i64.store16", 64: "i64.store" };

/** From an XMM register to the upper half of its YMM register. */
const UPPER = Cpu.YMM_HIGH - Cpu.XMM;

/** Whether a vector in memory must be aligned: always, never, or unless the instruction has a VEX prefix. */
export type Alignment = "always" | "never" | "legacy";

/**
 * What an instruction's description is written against: a builder that knows the instruction's operands.
 *
 * General operands are `I64`, zero-extended from their size. An instruction that faults must do so (by a
 * memory access, `fault`) before it stores any of its result: it is executed again from the start.
 */
export class Insn extends Builder {
  readonly variant: Variant;

  constructor(variant: Variant) {
    super();
    this.variant = variant;
  }

  /** Operand size in bits: 16, 32 or 64. */
  get opsize(): number {
    return this.variant.opsize;
  }

  /** Whether it has a VEX prefix: then the rest of a vector register that it writes is cleared. */
  get isVex(): boolean {
    return this.variant.spec.vex !== undefined;
  }

  /** 128-bit parts of a vector: 2 where VEX.L is set. */
  get halves(): 1 | 2 {
    return this.variant.spec.vex?.l === 1 ? 2 : 1;
  }

  /**
   * Operand `index` of the description, as a source or not: where three operands stand for two, the first has a source of
   * its own between them.
   */
  #operand(index: number, isSource = false): Operand {
    const { operands, vex } = this.variant.spec;
    const operand = operands[vex?.threeOperand && (index > 0 || isSource) ? index + 1 : index];
    if (operand === undefined) throw new Error(`${this.variant.name}: no operand ${index}`);
    return operand;
  }

  #width(operand: Operand): number {
    return sizeBits(operand.size, this.opsize, this.halves === 2);
  }

  /** Width of operand `index` in bits. */
  bits(index: number): number {
    return this.#width(this.#operand(index));
  }

  /** Whether operand `index` is in memory in this form. */
  isMemory(index: number): boolean {
    const { kind } = this.#operand(index);
    return (
      kind === "M" || kind === "O" || (this.variant.memory && (kind === "E" || kind === "W" || kind === "Q"))
    );
  }

  #undo: (() => void) | undefined;

  /** Leaves to the dispatcher, which looks at EVENT. */
  leave(): void {
    this.#undo?.();
    this.end({ kind: "leave" });
  }

  /** Describes `body`, in which every way out but the normal one first does `undo`. */
  undoOnLeave(undo: () => void, body: () => void): void {
    this.#undo = undo;
    body();
    this.#undo = undefined;
  }

  /** Leaves if a call set EVENT. */
  leaveOnEvent(): void {
    this.unlikely(get32(this, Cpu.EVENT), () => this.leave());
  }

  /** Raises a fault at this instruction and leaves. */
  fault(vector: number, error: I32 | number = 0): void {
    this.call(raiseException, this.i32(vector), typeof error === "number" ? this.i32(error) : error);
    this.leave();
  }

  /** Faults where `cond` holds. */
  faultIf(cond: I32, vector: number, error: I32 | number = 0): void {
    this.unlikely(cond, () => this.fault(vector, error));
  }

  undefined(): void {
    this.fault(Vector.UD);
  }

  /** #GP(0) unless CPL is 0. */
  requireCpl0(): void {
    this.faultIf(get32(this, Cpu.CPL), Vector.GP);
  }

  /** Address of the register that field `field` names by its byte offset. */
  #registerAt(field: "a" | "b" | "c"): I32 {
    return this.cpu.add(this.field(field));
  }

  readGpr(index: number, bits: number): I64 {
    return this.load(LOAD[bits]!, this.cpu, gpr(index)) as I64;
  }

  /** Writes a general register by number: 32 bits clear the upper half, 8 and 16 keep the rest. */
  writeGpr(index: number, bits: number, value: I64): void {
    this.#store(bits, this.cpu, value, gpr(index));
  }

  #store(bits: number, address: I32, value: I64, offset: number): void {
    if (bits === 32) this.store("i64.store", address, value.zeroExtend(32), offset);
    else this.store(STORE[bits]!, address, value, offset);
  }

  /** Whether the memory operand goes by SS, as 0 or 1. */
  bySs(): I32 {
    return this.field("d").shrU(2).and(7).eq(Seg.SS);
  }

  #access(): AccessOptions {
    return { onEvent: () => this.leave(), stack: this.bySs() };
  }

  /** Linear address of the memory operand, segment checks done, for an access of `bits`. */
  address(bits: number, write = false): I64 {
    return linearAddress(this, this.variant.ea, bits, write, () => this.leave());
  }

  /** Linear address of `offset` in segment number `seg`, checked for an access of `bits`; leaves on a fault. */
  segmented(seg: I32, offset: I64, bits: number, write: boolean): I64 {
    const address = this.variable("i64", offset);
    // Flat segments (FS and GS never count as such) need no check, but that code is never written.
    const data = write ? seg.ltU(Seg.FS).and(seg.ne(Seg.CS)) : seg.ltU(Seg.FS);
    const flat = get32(this, Cpu.MODE).and(Mode.FLAT).ne(0).and(data);
    this.unlikely(flat.eqz(), () => {
      const bytes = this.i32(bits / 8);
      address.set(this.call<I64>(segmentAddress, seg, offset, bytes, this.i32(write ? 1 : 0)));
      this.leaveOnEvent();
    });
    return address.get();
  }

  /** Offset of the memory operand without its segment (LEA). */
  offset(): I64 {
    return effectiveAddress(this, this.variant.ea);
  }

  /** Register or constant that `operand` names, or `undefined` if it is in memory or an immediate. */
  #register(operand: Operand): { address: I32; offset: number } | undefined {
    switch (operand.kind) {
      case "G":
      case "Z":
        return { address: this.#registerAt("a"), offset: Cpu.GPR };
      case "E":
        return this.variant.memory ? undefined : { address: this.#registerAt("b"), offset: Cpu.GPR };
      case "B":
        return { address: this.cpu.add(this.#vvvv()), offset: Cpu.GPR };
      case "H":
        return { address: this.cpu.add(this.#vvvv()), offset: Cpu.XMM };
      case "L":
        return { address: this.cpu.add(this.immediateField().and(0xf0)), offset: Cpu.XMM };
      case "V":
        return { address: this.#registerAt("a"), offset: Cpu.XMM };
      case "W":
        return this.variant.memory ? undefined : { address: this.#registerAt("b"), offset: Cpu.XMM };
      case "P":
        return { address: this.#registerAt("a"), offset: Cpu.FPR };
      case "Q":
        return this.variant.memory ? undefined : { address: this.#registerAt("b"), offset: Cpu.FPR };
      case "fixed":
        if (operand.fixed === "1") return undefined;
        return {
          address: this.cpu,
          offset: gpr(operand.fixed === "CL" ? 1 : operand.fixed === "DX" ? 2 : 0),
        };
      default:
        return undefined;
    }
  }

  /** What field c holds of VEX.vvvv: memory forms have it behind their immediate. */
  #vvvv(): I32 {
    return this.variant.memory ? this.field("imm2").shrU(VVVV_SHIFT) : this.field("c");
  }

  /** Field that holds the immediate: memory forms keep their displacement in `imm`. */
  immediateField(): I32 {
    if (!this.variant.memory) return this.field("imm");
    const hasVvvv = this.variant.spec.operands.some(({ kind }) => kind === "B" || kind === "H");
    return hasVvvv ? this.field("imm2").and((1 << VVVV_SHIFT) - 1) : this.field("imm2");
  }

  /** Reads operand `index`, zero-extended to 64 bits. */
  read(index: number): I64 {
    const operand = this.#operand(index, true);
    const bits = this.#width(operand);
    const register = this.#register(operand);
    if (register !== undefined) return this.load(LOAD[bits]!, register.address, register.offset) as I64;
    switch (operand.kind) {
      case "I":
        if (operand.size === "v" && bits === 64)
          return this.field("imm").u64().or(this.field("imm2").u64().shl(32));
        return this.immediateField().s64().zeroExtend(this.#immediateBits(operand));
      case "fixed":
        return this.i64(1);
      case "S":
      case "C":
      case "D":
        return this.field("a").u64();
      default:
        return readMemory(this, bits, this.address(bits), this.#access());
    }
  }

  /** An immediate is as wide as the operand it goes with. */
  #immediateBits(operand: Operand): number {
    if (operand.size !== "b") return sizeBits(operand.size, this.opsize);
    const first = this.variant.spec.operands[0]!;
    return first === operand ? 8 : Math.max(8, Math.min(64, sizeBits(first.size, this.opsize) || 8));
  }

  readSigned(index: number): I64 {
    return this.read(index).signExtend(this.bits(index));
  }

  /** Writes the low bits of `value` to operand `index`. */
  write(index: number, value: I64): void {
    const operand = this.#operand(index);
    const bits = this.bits(index);
    const register = this.#register(operand);
    if (register !== undefined && this.isVex && register.offset === Cpu.XMM)
      this.#writeLane(index, bits, value);
    else if (register !== undefined) this.#store(bits, register.address, value, register.offset);
    else writeMemory(this, bits, this.address(bits, true), value, this.#access());
  }

  /** A scalar into a vector register by VEX: what stands above comes from the first source, or stays. */
  #writeLane(index: number, bits: number, value: I64): void {
    const rest = this.readVector(index);
    const whole =
      bits === 64
        ? this.op("i64x2.replace_lane", [rest, value], [0])
        : this.op("i32x4.replace_lane", [rest, value.wrap()], [0]);
    this.writeVector(index, whole);
  }

  /** Reads operand `index`, and writes what `change` makes of it; a memory operand's write is checked first. */
  modify(index: number, change: (old: I64) => I64): void {
    if (this.isMemory(index)) {
      const bits = this.bits(index);
      modifyMemory(this, bits, this.address(bits, true), change, this.#access());
    } else this.write(index, this.let(change(this.read(index))));
  }

  /** Linear address of a vector in memory: #GP(0) where it is not aligned and has to be. */
  #vectorAddress(bits: 128 | 256, alignment: Alignment, write = false): I64 {
    const va = this.let(this.address(bits, write));
    const isChecked = alignment === "always" || (alignment === "legacy" && !this.isVex);
    if (isChecked) this.faultIf(va.wrap().and(bits / 8 - 1), Vector.GP);
    return va;
  }

  /** Reads 128 bits of a vector register or memory. */
  readVector(index: number, alignment: Alignment = "legacy"): V128 {
    const register = this.#register(this.#operand(index, true));
    if (register !== undefined) return this.load("v128.load", register.address, register.offset);
    return readMemory128(this, this.#vectorAddress(128, alignment), this.#access());
  }

  /** Writes 128 bits to a vector register or memory. With VEX the rest of the register is cleared. */
  writeVector(index: number, value: V128, alignment: Alignment = "legacy"): void {
    const register = this.#register(this.#operand(index));
    if (register !== undefined) this.#storeVector(register, [value]);
    else writeMemory128(this, this.#vectorAddress(128, alignment, true), value, this.#access());
  }

  #storeVector({ address, offset }: { address: I32; offset: number }, [low, high]: readonly V128[]): void {
    this.store("v128.store", address, low!, offset);
    if (this.isVex) this.store("v128.store", address, high ?? this.v128(0n), offset + UPPER);
  }

  /** Reads a whole vector, which VEX.L says the length of, as its 128-bit parts. */
  readHalves(index: number, alignment: Alignment = "legacy"): readonly V128[] {
    if (this.halves === 1) return [this.readVector(index, alignment)];
    const register = this.#register(this.#operand(index, true));
    if (register === undefined)
      return readMemory256(this, this.#vectorAddress(256, alignment), this.#access());
    const { address, offset } = register;
    return [this.load("v128.load", address, offset), this.load("v128.load", address, offset + UPPER)];
  }

  writeHalves(index: number, values: readonly V128[], alignment: Alignment = "legacy"): void {
    if (values.length === 1) {
      this.writeVector(index, values[0]!, alignment);
      return;
    }
    const register = this.#register(this.#operand(index));
    if (register !== undefined) this.#storeVector(register, values);
    else writeMemory256(this, this.#vectorAddress(256, alignment, true), values, this.#access());
  }

  /** Reads `bits` at linear address `va` with the current privilege; leaves on a fault. */
  readAt(bits: number, va: I64, stack: I32 | boolean = false): I64 {
    return readMemory(this, bits, va, { onEvent: () => this.leave(), stack });
  }

  writeAt(bits: number, va: I64, value: I64, stack: I32 | boolean = false): void {
    writeMemory(this, bits, va, value, { onEvent: () => this.leave(), stack });
  }

  modifyAt(bits: number, va: I64, change: (old: I64) => I64, stack: I32 | boolean = false): void {
    modifyMemory(this, bits, va, change, { onEvent: () => this.leave(), stack });
  }

  /** Lazy flags of this instruction, unless they are known to be dead. */
  flags(kind: FlagKind, bits: number, a: I64 | undefined, r: I64): void {
    if (!this.variant.noFlags) setLazy(this, kind, bits, a, r);
  }

  /** ZF, SF, PF by `r`; CF, OF, AF as in `aux` (RFLAGS positions). */
  mixedFlags(bits: number, r: I64, aux: I32): void {
    if (!this.variant.noFlags) setMixed(this, bits, r, aux);
  }

  /** CF and OF change, by their bits of `flags`; the others stay. */
  carryOverflow(flags: I32): void {
    if (!this.variant.noFlags) setCarryOverflow(this, flags);
  }

  explicitFlags(flags: I32): void {
    if (!this.variant.noFlags) setExplicit(this, flags);
  }

  /** The arithmetic flags at their RFLAGS positions. */
  flagsImage(): I32 {
    return this.call<I32>(arithmeticFlags);
  }

  logicFlags(bits: number, r: I64): void {
    this.flags(FlagKind.LOGIC, bits, undefined, r);
  }

  /** RIP of the next instruction; outside 64-bit mode only its low 32 bits count. */
  nextRip(): I64 {
    const pos = this.field("pos");
    return get64(this, Cpu.RIP_BASE).add(pos.and(0xfff).add(pos.shrU(12)).u64());
  }

  /** RIP of this instruction; outside 64-bit mode only its low 32 bits count. */
  thisRip(): I64 {
    return get64(this, Cpu.RIP_BASE).add(this.field("pos").and(0xfff).u64());
  }

  /** Ends this instruction by a branch to `rip`; outside 64-bit mode only its low 32 bits count. */
  branchTo(rip: I64): void {
    this.end({ kind: "branch", rip: rip.node });
  }

  /** Ends this instruction by a branch to offset `pageOffset` of its own code page (may lie outside of it). */
  branchNear(pageOffset: I32, inPage: boolean): void {
    const rip = get64(this, Cpu.RIP_BASE).add(pageOffset.s64());
    if (inPage) this.end({ kind: "jump", link: this.uop.add(12).node, rip: rip.node });
    else this.branchTo(rip);
  }

  /** Ends this instruction, done; the code that follows is looked up anew (a mode may have changed). */
  resync(): void {
    set64(this, Cpu.RIP, this.nextRip());
    set32(this, Cpu.EVENT, Event.BRANCH);
    this.leave();
  }
}
