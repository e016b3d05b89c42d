import { arithmeticFlags, FlagKind } from "../../cpu/flags.ts";
import { Cpu, Gpr } from "../../cpu/layout.ts";
import { Vector } from "../../cpu/state.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { modifyWithFlags } from "./alu.ts";

/**
 * Exchange-and-something (SDM Vol. 2: XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B). vCPUs take turns on one thread,
 * between instructions: LOCK needs nothing here.
 */

const ZF = 0x40;

for (const [opcode, operands] of [
  ["C0", "Eb+,Gb+"],
  ["C1", "Ev+,Gv+"],
] as const)
  insn("XADD", `0F ${opcode}`, operands, { lock: true }, (c) => {
    const bits = c.bits(0);
    const b = c.read(1);
    if (!c.isMemory(0)) {
      const a = c.read(0);
      const sum = c.let(a.add(b));
      c.write(1, a);
      c.write(0, sum);
      c.flags(FlagKind.ADD, bits, a, sum);
      return;
    }
    let old: I64 = b;
    modifyWithFlags(c, (a) => {
      old = a;
      const sum = c.let(a.add(b));
      return { result: sum, flags: () => c.flags(FlagKind.ADD, bits, a, sum) };
    });
    c.write(1, old);
  });

for (const [opcode, operands] of [
  ["B0", "Eb+,Gb"],
  ["B1", "Ev+,Gv"],
] as const)
  insn("CMPXCHG", `0F ${opcode}`, operands, { lock: true }, (c) => {
    const bits = c.bits(0);
    const accumulator = c.readGpr(Gpr.RAX, bits);
    const b = c.read(1);
    if (!c.isMemory(0)) {
      const a = c.read(0);
      c.flags(FlagKind.SUB, bits, accumulator, accumulator.sub(a));
      c.if(
        a.eq(accumulator),
        () => c.write(0, b),
        () => c.writeGpr(Gpr.RAX, bits, a),
      );
      return;
    }
    // The destination is written either way (with its own value where they differ), as the manual has it.
    let old: I64 = b;
    modifyWithFlags(c, (a) => {
      old = a;
      return {
        result: a.eq(accumulator).select(b, a),
        flags: () => c.flags(FlagKind.SUB, bits, accumulator, accumulator.sub(a)),
      };
    });
    c.if(old.ne(accumulator), () => c.writeGpr(Gpr.RAX, bits, old));
  });

insn("CMPXCHG8B", "W0 0F C7 /1", "M", { lock: true, sizes: [16, 32] }, (c) => exchangePair(c, 32));
insn("CMPXCHG16B", "W1 0F C7 /1", "M", { lock: true, sizes: [64], mode: "only64", feature: "cx16" }, (c) =>
  exchangePair(c, 64),
);

/** Compares EDX:EAX (RDX:RAX) with memory; stores ECX:EBX (RCX:RBX) there, or loads from it. */
function exchangePair(c: Insn, bits: 32 | 64): void {
  const flags = c.call<I32>(arithmeticFlags).and(~ZF);
  const va = c.let(c.address(bits * 2, true));
  const finish = (equal: I32, low: I64, high: I64): void => {
    c.if(
      equal,
      () => c.explicitFlags(flags.or(ZF)),
      () => {
        c.writeGpr(Gpr.RAX, bits, low);
        c.writeGpr(Gpr.RDX, bits, high);
        c.explicitFlags(flags);
      },
    );
  };
  if (bits === 32) {
    const expected = c.readGpr(Gpr.RDX, 32).shl(32).or(c.readGpr(Gpr.RAX, 32));
    const wanted = c.readGpr(Gpr.RCX, 32).shl(32).or(c.readGpr(Gpr.RBX, 32));
    let old: I64 = expected;
    const change = (value: I64): I64 => {
      old = value;
      return value.eq(expected).select(wanted, value);
    };
    c.modifyAt(64, va, change, c.bySs());
    finish(old.eq(expected), old, old.shrU(32));
    return;
  }
  c.faultIf(va.wrap().and(15), Vector.GP);
  // Aligned to 16, both halves are on one page: the second access cannot fault once the first has not.
  const low = c.readAt(64, va, c.bySs());
  const high = c.readAt(64, va.add(8));
  const equal = c.let(low.eq(c.readGpr(Gpr.RAX, 64)).and(high.eq(c.readGpr(Gpr.RDX, 64))));
  c.writeAt(64, va, equal.select(c.readGpr(Gpr.RBX, 64), low));
  c.writeAt(64, va.add(8), equal.select(c.load("i64.load", c.cpu, Cpu.GPR + 8 * Gpr.RCX), high));
  finish(equal, low, high);
}
