import { Cpu } from "../../cpu/layout.ts";
import { codeLinear } from "../../cpu/lookup.ts";
import { Access, probe } from "../../cpu/memory.ts";
import { get32, get64, set32, set64, Vector } from "../../cpu/state.ts";
import { Flag } from "../../fpu/env.ts";
import { fn, type I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pendingX87 } from "../sse-common.ts";
import { pop } from "./stack.ts";

/** #NM by CR0.EM or CR0.TS: what instructions that do not wait (FN…) check too. */
export function deviceCheck(c: Insn): void {
  c.unlikely(get32(c, Cpu.X87_OFF), () => {
    c.fault(Vector.NM);
  });
}

/**
 * What all but control instructions begin with: #NM, #MF for an exception that is pending, and the instruction
 * pointer. FCS and FDS are kept 0, and FDP and FOP change with unmasked exceptions only (CPUID.(7,0).EBX bits
 * 13 and 6; SDM Vol. 1 sec. 8.1.8, 8.1.9).
 */
export function x87Check(c: Insn): void {
  deviceCheck(c);
  pendingX87(c);
}

/**
 * Opcode of the instruction at `rip`: the low three bits of its first byte, then the ModRM byte; 0 where the code
 * can no longer be read. Leaves no trace of that.
 */
const opcodeAt = fn("x87OpcodeAt", ["i64"], "i32", (f, rip) => {
  const cr2 = get64(f, Cpu.CR2);
  const at = f.variable("i64", codeLinear(f, rip));
  const left = f.variable("i32", f.i32(14));
  const first = f.variable("i32", f.i32(0));
  const result = f.variable("i32", f.i32(0));
  f.loop((label) => {
    const host = f.call<I32>(probe, at.get(), f.i32(Access.EXECUTE), get32(f, Cpu.TLB));
    f.unlikely(host.leU(1), () => {
      set32(f, Cpu.EVENT, 0);
      set64(f, Cpu.CR2, cr2);
      f.break(label);
    });
    const byte = f.load("i32.load8_u", host);
    f.if(first.get(), () => {
      result.set(first.get().and(7).shl(8).or(byte));
      f.break(label);
    });
    f.if(byte.and(0xf8).eq(0xd8), () => first.set(byte));
    at.set(at.get().add(1));
    left.set(left.get().sub(1));
    f.if(left.get().eqz(), () => f.break(label));
  });
  f.return(result.get());
});

/** Notes where the instruction and its memory operand are; FDP and FOP for an unmasked exception only. */
export function recordPointers(c: Insn, unmasked: I32): void {
  set64(c, Cpu.FIP, c.thisRip());
  c.unlikely(unmasked, () => {
    set32(c, Cpu.FOP, c.call<I32>(opcodeAt, c.thisRip()));
    if (c.variant.memory) set64(c, Cpu.FDP, c.offset());
  });
}

/** Pops `count` times unless an exception forbids it. */
export function popUnless(c: Insn, unmasked: I32, forbidding: number, count: number): void {
  if (count === 0) return;
  c.if(unmasked.and(forbidding).eqz(), () => {
    for (let i = 0; i < count; i++) pop(c);
  });
}

/**
 * Declares a non-control instruction. `describe` gives the unmasked exceptions as `endX87` does. `ModRM.rm` of
 * register forms is operand `Nq`, whose field b is i · 16.
 */
export function x87(
  name: string,
  encoding: string,
  operands: string,
  describe: (c: Insn) => I32,
  pops = 0,
): void {
  insn(name, encoding, operands, { feature: "fpu" }, (c) => {
    x87Check(c);
    const unmasked = describe(c);
    popUnless(c, unmasked, Flag.EARLY, pops);
    recordPointers(c, unmasked);
  });
}
