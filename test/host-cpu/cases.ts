/** States for instruction forms: from a form to a run of it on the host's processor and on the engine under test. */

import { pickPlace, placeAddress } from "./addressing.ts";
import { REG } from "./encode.ts";
import {
  type ExpandOptions,
  expand,
  type Form,
  type FormOperand,
  type InstructionSpec,
  landing,
} from "./forms.ts";
import { HOST_LAYOUT, type MemoryBytes, type RunOptions } from "./host-cpu.ts";
import type { Lane } from "./operands.ts";
import type { Random } from "./random.ts";
import { type HostState, hostState, RFLAGS } from "./state.ts";

/** One test: the arguments of `HostCpu.run`, and what they were made from. */
export interface Case {
  name: string;
  form: Form;
  code: Uint8Array;
  state: HostState;
  options: RunOptions & { mode: 64 | 32; memory: MemoryBytes[] };
}

export interface CaseOptions extends ExpandOptions {
  /** States for each form; default 4. */
  perForm?: number;
}

/** Every form of an instruction, each with several states. The sequence depends on the seed alone. */
export function* cases(spec: InstructionSpec, random: Random, options: CaseOptions = {}): Generator<Case> {
  for (const form of expand(spec, random, options)) {
    for (let i = 0; i < (options.perForm ?? 4); i++) yield fill(form, random, options);
  }
}

/** Selectors worth loading in user mode: null, data, 32-bit and 64-bit code, and ones beyond every table. */
const SELECTORS = [0n, 3n, 0x2bn, 0x2bn, 0x23n, 0x33n, 0x2an, 0x10n, 0xfff8n, 0xfff4n];

/** A state with random values in which the form's operands lie where it says. */
export function fill(form: Form, random: Random, options: ExpandOptions = {}): Case {
  const { spec, mode } = form;
  const state = randomState(random, form);
  const memory: MemoryBytes[] = [];
  const filler = new Filler(form, random, state, memory, options.faults ?? true);
  for (const operand of form.operands) filler.operand(operand);
  filler.roles();

  for (const [register, value] of form.registers) state.gpr[register] = value;
  if (form.addressing?.fsBase !== undefined) state.fsBase = form.addressing.fsBase;
  if (form.addressing?.gsBase !== undefined) state.gsBase = form.addressing.gsBase;
  if (mode === 32) for (let i = 0; i < 16; i++) state.gpr[i] = i < 8 ? state.gpr[i]! & 0xffffffffn : 0n;
  return {
    name: form.name,
    form,
    code: form.code,
    state,
    options: { mode, memory: spec.role === "address" ? [] : memory },
  };
}

/** Registers, flags and, where the form uses them, SSE and x87 state, all random; RSP in the data window. */
export function randomState(random: Random, form?: Form): HostState {
  const state = hostState(stackPointer(random));
  for (let i = 0; i < 16; i++) if (i !== REG.RSP) state.gpr[i] = random.integer(64);
  state.rflags = random.u32() & (RFLAGS.STATUS | (random.oneIn(2) ? RFLAGS.DF : 0));

  const kinds = new Set<string>(form?.operands.map(({ kind }) => kind));
  const x87 = form && (form.spec.map ?? 0) === 0 && form.spec.opcode >= 0xd8 && form.spec.opcode <= 0xdf;
  if (!form || kinds.has("xmm") || kinds.has("mm")) randomSse(random, state);
  if (!form || kinds.has("st") || kinds.has("mm") || x87) randomX87(random, state);
  return state;
}

function stackPointer(random: Random): bigint {
  const { DATA, DATA_BYTES } = HOST_LAYOUT;
  const address = BigInt(DATA + random.between(0x800, DATA_BYTES - 0x800));
  return random.oneIn(4) ? address : address & ~15n;
}

function randomSse(random: Random, state: HostState): void {
  const lane = random.pick(["i8", "i16", "i32", "i64", "f32", "f64"] as const);
  for (let i = 0; i < 16; i++) {
    state.fx.setXmm(i, random.vector(lane));
    state.fx.setYmmHigh(i, random.vector(lane));
  }
  const rounding = random.below(4) << 13;
  const flushToZero = random.oneIn(8) ? 0x8000 : 0;
  const denormalsAreZero = random.oneIn(8) ? 0x40 : 0;
  const masks = random.oneIn(8) ? random.u32() & 0x1f80 : 0x1f80;
  const sticky = random.oneIn(4) ? random.u32() & 0x3f : 0;
  state.fx.mxcsr = masks | rounding | flushToZero | denormalsAreZero | sticky;
}

function randomX87(random: Random, state: HostState): void {
  const { fx } = state;
  const precision = random.oneIn(4) ? random.pick([0, 2]) : 3;
  const masks = random.oneIn(8) ? random.u32() & 0x3f : 0x3f;
  fx.fcw = 0x40 | masks | (precision << 8) | (random.below(4) << 10);
  // Condition codes and TOP at random; exceptions only if masked, so that nothing is pending at the start.
  const sticky = random.oneIn(4) ? random.u32() & masks : 0;
  fx.fsw = (random.u32() & 0x7f00) | sticky;
  fx.ftw = random.oneIn(2) ? 0xff : random.u32() & 0xff;
  for (let i = 0; i < 8; i++) fx.setSt(i, random.float(80));
}

class Filler {
  /** The last integer operand: half-way to equal operands, which chance alone would not make. */
  #last: bigint | undefined;

  constructor(
    readonly form: Form,
    readonly random: Random,
    readonly state: HostState,
    readonly memory: MemoryBytes[],
    readonly faults: boolean,
  ) {}

  operand(operand: FormOperand): void {
    const { state, random } = this;
    switch (operand.kind) {
      case "gpr": {
        const shift = operand.high ? 8n : 0n;
        const mask = ((1n << BigInt(operand.bits)) - 1n) << shift;
        const value = this.#integer(operand.bits) << shift;
        state.gpr[operand.register] = (state.gpr[operand.register]! & ~mask) | (value & mask);
        break;
      }
      case "xmm":
        state.fx.setXmm(operand.register, random.vector(operand.lane as "i8"));
        state.fx.setYmmHigh(operand.register, random.vector(operand.lane as "i8"));
        break;
      case "mm":
        state.fx.setMm(operand.register, BigInt.asUintN(64, random.vector(operand.lane as "i8")));
        break;
      case "memory":
        this.#put(operand.address, this.#bytes(operand.bytes, operand.lane));
        break;
      default:
        break;
    }
  }

  roles(): void {
    const { form, random, state } = this;
    const first = form.operands[0];
    switch (form.spec.role) {
      case "branch":
        this.#setOperand(
          first,
          BigInt(random.oneIn(8) ? 0x60000000 + random.below(0x10000) : landing(random)),
        );
        this.#placeStack();
        break;
      case "far-branch": {
        const selector = random.oneIn(8) ? random.pick(SELECTORS) : random.oneIn(2) ? 0x23n : 0x33n;
        const offsetBits = BigInt(form.operandBits);
        this.#setOperand(
          first,
          (selector << offsetBits) | BigInt.asUintN(form.operandBits, BigInt(landing(random))),
        );
        break;
      }
      case "return":
        this.#placeStack();
        this.#put(state.gpr[REG.RSP]!, littleEndian(BigInt(landing(random)), 8));
        break;
      case "stack":
        this.#placeStack();
        break;
      case "frame":
        this.#placeStack();
        state.gpr[REG.RBP] = stackPointer(random);
        this.#put(state.gpr[REG.RBP]! - 64n, random.bytes(128));
        break;
      case "far-return":
      case "interrupt-return":
        this.#placeFarReturn(form.spec.role === "interrupt-return");
        break;
      case "string":
        // Few different bytes, so that repeated comparisons go on for a while.
        for (const register of [REG.RSI, REG.RDI]) {
          const around = random.bytes(512).map((byte) => byte & (random.oneIn(8) ? 1 : 0));
          const address = form.registers.get(register)!;
          const narrow = form.name.includes("narrow") || form.mode === 32;
          this.#put((narrow ? address & 0xffffffffn : address) - 256n, around);
        }
        break;
      case "bits":
        this.#boundBitOffset();
        break;
      case "compare":
        if (random.oneIn(2)) this.#matchAccumulator();
        break;
      case "selector":
        this.#setSelector();
        break;
      case "table":
        this.#put(form.registers.get(REG.RBX)! & 0xffffffffn, random.bytes(256));
        break;
      default:
        break;
    }
  }

  /** RSP somewhere in the window with content around it; sometimes where a push or pop faults. */
  #placeStack(): void {
    const { random, state } = this;
    if (this.form.addressing?.registers.has(REG.RSP)) return;
    if (this.faults && random.oneIn(4)) {
      const place = pickPlace(random);
      state.gpr[REG.RSP] = placeAddress(
        place === "non-canonical" && this.form.mode === 32 ? "edge" : place,
        8,
        random,
      );
    } else state.gpr[REG.RSP] = stackPointer(random);
    this.#put(state.gpr[REG.RSP]! - 32n, random.bytes(96));
  }

  /** RIP and CS, and for IRET also RFLAGS, RSP and SS (which 32-bit code leaves on the stack here). */
  #placeFarReturn(interrupt: boolean): void {
    const { form, random, state } = this;
    this.#placeStack();
    const bytes = form.operandBits / 8;
    const flags = random.u32() & (RFLAGS.STATUS | RFLAGS.DF | RFLAGS.ID | RFLAGS.AC);
    const selector = random.oneIn(8) ? random.pick(SELECTORS) : random.oneIn(2) ? 0x23n : 0x33n;
    const frame = [BigInt(landing(random)), selector];
    if (interrupt)
      frame.push(BigInt(flags), stackPointer(random), random.oneIn(8) ? random.pick(SELECTORS) : 0x2bn);
    for (const [i, word] of frame.entries()) {
      this.#put(state.gpr[REG.RSP]! + BigInt(i * bytes), littleEndian(word, bytes));
    }
  }

  /** A bit offset that stays within 4 KiB of the memory operand, both ways. */
  #boundBitOffset(): void {
    const { form, random, state } = this;
    const offset = form.operands[1];
    if (form.operands[0]?.kind !== "memory" || offset?.kind !== "gpr") return;
    const value = BigInt.asUintN(offset.bits, BigInt(random.between(-0x8000, 0x7fff)));
    state.gpr[offset.register] = offset.bits === 16 ? (random.u64() & ~0xffffn) | value : value;
  }

  #matchAccumulator(): void {
    const { form, state } = this;
    const first = form.operands[0];
    if (first?.kind === "gpr") {
      const value = state.gpr[first.register]! >> (first.high ? 8n : 0n);
      state.gpr[REG.RAX] = (state.gpr[REG.RAX]! & ~0xffn) | (value & 0xffn);
      if (first.bits > 8) state.gpr[REG.RAX] = value;
    } else if (first?.kind === "memory") {
      const patch = this.memory.find(({ address }) => BigInt(address) === first.address);
      if (!patch) return;
      const value = patch.bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
      // CMPXCHG8B and 16B compare EDX:EAX and RDX:RAX, which are wider than their operand size says.
      const wide = first.bytes > form.operandBits / 8;
      const half = BigInt(first.bytes * 4);
      state.gpr[REG.RAX] = wide ? BigInt.asUintN(Number(half), value) : value;
      if (wide) state.gpr[REG.RDX] = value >> half;
    }
  }

  #setSelector(): void {
    const { form, random } = this;
    const selector = random.pick(SELECTORS);
    for (const operand of form.operands) {
      if (operand.kind === "memory" && operand.bytes > 2 && operand.access === "read") {
        const offsetBits = BigInt(8 * (operand.bytes - 2));
        this.#setOperand(operand, (selector << offsetBits) | (random.u64() & ((1n << offsetBits) - 1n)));
      } else if (operand.access === "read") this.#setOperand(operand, selector);
    }
  }

  #setOperand(operand: FormOperand | undefined, value: bigint): void {
    if (operand?.kind === "gpr") this.state.gpr[operand.register] = value;
    else if (operand?.kind === "memory") this.#put(operand.address, littleEndian(value, operand.bytes));
  }

  #integer(bits: number): bigint {
    const repeat = this.#last !== undefined && this.random.oneIn(5);
    const value = repeat ? this.#last! : this.random.integer(bits as 8 | 16 | 32 | 64);
    this.#last = value;
    return value;
  }

  #bytes(count: number, lane: Lane): Uint8Array {
    const { random } = this;
    if (lane === "f80") return littleEndian(random.float(80), count);
    if (lane === "bytes" || count > 32) return random.bytes(count);
    if (count > 16)
      return Uint8Array.of(...this.#bytes(16, lane), ...littleEndian(random.vector(lane), count - 16));
    if (count <= 8 && lane.startsWith("i")) return littleEndian(this.#integer(8 * count), count);
    return littleEndian(random.vector(lane), count);
  }

  /** Patches the part of the bytes that lies in the data window; later patches win. */
  #put(address: bigint, bytes: Uint8Array): void {
    const { DATA, DATA_BYTES } = HOST_LAYOUT;
    const from = address - BigInt(DATA);
    if (from <= -BigInt(bytes.length) || from >= BigInt(DATA_BYTES)) return;
    const start = Number(from);
    const part = bytes.subarray(Math.max(0, -start), DATA_BYTES - start);
    this.memory.push({ address: DATA + Math.max(0, start), bytes: part });
  }
}

function littleEndian(value: bigint, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => Number((value >> BigInt(8 * i)) & 0xffn));
}
