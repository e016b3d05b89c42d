import { FlagKind } from "../cpu/flags.ts";
import { Cpu } from "../cpu/layout.ts";
import { get64 } from "../cpu/state.ts";
import type { I32, I64 } from "../ir/builder.ts";
import type { Stmt } from "../ir/ir.ts";
import { Insn } from "./insn.ts";
import type { InsnSpec, Variant } from "./registry.ts";

/**
 * CMP or TEST of registers with the conditional branch behind it, as one handler: the condition follows
 * from the operands, without a look at the flags. The branch's own micro-op stays in its slot, for whoever
 * jumps to it; this one reads its target from there.
 */
export function fusible(spec: InsnSpec, opsize: number): boolean {
  return (spec.name === "CMP" || spec.name === "TEST") && opsize !== 16;
}

/** Condition `cc` of `a` compared with `b` (CMP), or of `a & b` (TEST), as 0 or 1; `undefined` where it wants more. */
function compare(c: Insn, isTest: boolean, cc: number, bits: number, a: I64, b: I64): I32 {
  const top = 64 - bits;
  const x = a.shl(top);
  const y = b.shl(top);
  const result = isTest ? x.and(y) : x.sub(y);
  let value: I32;
  switch (cc >> 1) {
    case 0:
      value = isTest ? c.i32(0) : x.xor(y).and(x.xor(result)).shrU(63).wrap();
      break;
    case 1:
      value = isTest ? c.i32(0) : a.ltU(b);
      break;
    case 2:
      value = isTest ? result.eqz() : a.eq(b);
      break;
    case 3:
      value = isTest ? result.eqz() : a.leU(b);
      break;
    case 4:
      value = result.ltS(0);
      break;
    case 5:
      value = result.shrU(top).wrap().and(0xff).popcnt().and(1).xor(1);
      break;
    case 6:
      value = isTest ? result.ltS(0) : x.ltS(y);
      break;
    default:
      value = isTest ? result.leS(0) : x.leS(y);
  }
  return (cc & 1) === 1 ? value.eqz() : value;
}

export function fuse(variant: Variant, cc: number): { stmts: Stmt[]; temps: number } {
  const c = new Insn(variant);
  const isTest = variant.spec.name === "TEST";
  const bits = c.bits(0);
  const a = c.read(0);
  const b = c.read(1);
  if (isTest) c.flags(FlagKind.LOGIC, bits, undefined, a.and(b));
  else c.flags(FlagKind.SUB, bits, a, a.sub(b));
  c.if(compare(c, isTest, cc, bits, a, b), () => {
    const target = c.load("i32.load", c.uop, 24);
    const rip = get64(c, Cpu.RIP_BASE).add(target.s64());
    // The branch is the instruction behind this one: it is counted as if control had come from its slot.
    c.if(target.ltU(4096), () => c.end({ kind: "jump", link: c.uop.add(28).node, rip: rip.node, slots: 2 }));
    c.end({ kind: "branch", rip: rip.node, slots: 2 });
  });
  c.end({ kind: "skip" });
  return { stmts: c.stmts, temps: c.tempCount };
}
