import { stackMask } from "../../cpu/address.ts";
import { condition } from "../../cpu/flags.ts";
import { Cpu, Gpr, Mode, Seg } from "../../cpu/layout.ts";
import { limitOf } from "../../cpu/mode.ts";
import { get32, get64, Vector } from "../../cpu/state.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pop, push } from "./move.ts";

/**
 * Near branches (SDM Vol. 1 sec. 7.3.8). With a 16-bit operand size the target is cut to 16 bits; branches
 * in 64-bit mode are always 64 bits wide. A target beyond the code segment's limit faults at the branch, before anything
 * is stored (SDM Vol. 2, JMP and the others).
 */
const near = { size64: "f64", ends: true } as const;

/** Where a branch with displacement goes, as a new RIP. */
const target = (c: Insn): I64 => {
  const rip = get64(c, Cpu.RIP_BASE).add(c.field("imm").s64());
  return c.opsize === 16 ? rip.and(0xffff) : rip;
};

/** Faults for a target that the code segment does not have. In 64-bit mode it has all. */
function checkLimit(c: Insn, rip: I64): void {
  if (c.opsize === 64) return;
  c.if(get32(c, Cpu.MODE).and(Mode.FLAT).eqz(), () => {
    c.faultIf(rip.and(0xffff_ffffn).gtU(limitOf(c, Seg.CS).u64()), Vector.GP);
  });
}

/** A branch with displacement. The decoder clears `d` bit 0 where it leaves its page. */
function branch(c: Insn): void {
  checkLimit(c, target(c));
  if (c.opsize === 16) c.branchTo(target(c));
  else {
    const inPage = c.field("imm").ltU(4096);
    c.if(inPage, () => c.end({ kind: "jump", link: c.uop.add(12).node, rip: target(c).node }));
    c.branchTo(target(c));
  }
}

/** A target from a register or memory: non-canonical ones fault here, before anything is stored. */
function checked(c: Insn, rip: I64): I64 {
  checkLimit(c, rip);
  if (c.opsize === 64) c.faultIf(rip.shl(16).shrS(16).ne(rip), Vector.GP);
  return rip;
}

insn("JMP", "E9", "Jz", near, branch);
insn("JMP", "EB", "Jb", near, branch);
insn("JMP", "FF /4", "Ev", near, (c) => c.branchTo(checked(c, c.read(0))));

for (let cc = 0; cc < 16; cc++) {
  const digit = cc.toString(16).toUpperCase();
  const describe = (c: Insn): void => c.if(condition(c, cc), () => branch(c));
  insn("Jcc", `7${digit}`, "Jb", { size64: "f64" }, describe);
  insn("Jcc", `0F 8${digit}`, "Jz", { size64: "f64" }, describe);
}

insn("CALL", "E8", "Jz", near, (c) => {
  checkLimit(c, target(c));
  push(c, c.opsize, c.nextRip());
  c.branchTo(target(c));
});
insn("CALL", "FF /2", "Ev", near, (c) => {
  const rip = c.let(checked(c, c.read(0)));
  push(c, c.opsize, c.nextRip());
  c.branchTo(rip);
});
insn("RET", "C3", "", { ...near, sizes: [16, 32, 64] }, (c) => {
  const { value, commit } = pop(c, c.opsize);
  checked(c, value);
  commit();
  c.branchTo(value);
});
insn("RET", "C2", "Iw", { ...near, sizes: [16, 32, 64] }, (c) => {
  const { value, commit } = pop(c, c.opsize);
  checked(c, value);
  commit(c.field("imm").and(0xffff).u64());
  c.branchTo(value);
});

/** RCX as wide as the address size, and how to store it back. */
function counter(c: Insn): { value: I64; mask: I64; set: (value: I64) => void } {
  const size = c.field("d").shrU(5).and(3);
  const mask = c.let(size.eqz().select(c.i64(0xffff), size.eq(1).select(c.i64(0xffff_ffffn), c.i64(-1))));
  const rcx = c.readGpr(Gpr.RCX, 64);
  return {
    value: rcx.and(mask),
    mask,
    // A 16-bit count leaves the rest of the register alone, a 32-bit one clears it.
    set: (value) =>
      c.writeGpr(Gpr.RCX, 64, size.eqz().select(rcx.and(mask.not()).or(value.and(mask)), value.and(mask))),
  };
}

for (const [opcode, wanted] of [
  ["E0", "ne"],
  ["E1", "e"],
  ["E2", ""],
] as const)
  insn("LOOP", opcode, "Jb", { size64: "f64" }, (c) => {
    const { value, mask, set } = counter(c);
    const rest = c.let(value.sub(1).and(mask));
    const more = c.let(rest.ne(0));
    const taken = c.let(wanted === "" ? more : more.and(condition(c, wanted === "e" ? 4 : 5)));
    c.if(taken, () => checkLimit(c, target(c)));
    set(rest);
    c.if(taken, () => branch(c));
  });
insn("JCXZ", "E3", "Jb", { size64: "f64" }, (c) => {
  c.if(counter(c).value.eqz(), () => branch(c));
});

insn("LEAVE", "C9", "", { size64: "d64", sizes: [16, 32, 64] }, (c) => {
  const mask = c.let(stackMask(c));
  const rbp = c.readGpr(Gpr.RBP, 64);
  const value = c.readAt(c.opsize, c.segmented(c.i32(Seg.SS), rbp.and(mask), c.opsize, false), true);
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  c.writeGpr(Gpr.RSP, 64, rsp.and(mask.not()).or(rbp.add(c.opsize / 8).and(mask)));
  c.writeGpr(Gpr.RBP, c.opsize, value);
});

// ENTER's second immediate, the nesting level, is in imm2.
insn("ENTER", "C8", "Iw,Ib", { size64: "d64", sizes: [16, 32, 64] }, (c) => {
  const bits = c.opsize;
  const bytes = bits / 8;
  const mask = c.let(stackMask(c));
  const rsp = get64(c, Cpu.GPR + 8 * Gpr.RSP);
  const rbp = c.readGpr(Gpr.RBP, 64);
  const level: I32 = c.let(c.field("imm2").and(31));
  const ss = c.i32(Seg.SS);
  const top = c.variable("i64", rsp);
  const store = (value: I64): void => {
    const to = c.let(top.get().sub(bytes));
    c.writeAt(bits, c.segmented(ss, to.and(mask), bits, true), value, true);
    top.set(to);
  };
  store(rbp);
  const frame = top.get();
  c.if(level.ne(0), () => {
    const i = c.variable("i32", c.i32(1));
    const from = c.variable("i64", rbp);
    c.loop((loop) => {
      c.if(i.get().geU(level), () => c.break(loop));
      from.set(from.get().sub(bytes));
      store(c.readAt(bits, c.segmented(ss, from.get().and(mask), bits, false), true));
      i.set(i.get().add(1));
    });
    store(frame);
  });
  const final = c.let(top.get().sub(c.field("imm").and(0xffff).u64()));
  // The new top must be writable (SDM Vol. 2A, ENTER).
  c.modifyAt(bits, c.segmented(ss, final.and(mask), bits, true), (old) => old, true);
  c.writeGpr(Gpr.RBP, bits, rbp.and(mask.not()).or(frame.and(mask)));
  c.writeGpr(Gpr.RSP, 64, rsp.and(mask.not()).or(final.and(mask)));
});
