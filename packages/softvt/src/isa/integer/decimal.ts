import { arithmeticFlags } from "../../cpu/flags.ts";
import { Cpu, Gpr } from "../../cpu/layout.ts";
import { get32, RFLAGS, set32, Vector } from "../../cpu/state.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";

/** Decimal adjustments and BOUND, gone in 64-bit mode (SDM Vol. 1 sec. 7.3.3), and flag control. */

const CF = 1;
const AF = 0x10;
const no64 = { mode: "no64" } as const;

function adjust(c: Insn, subtract: boolean): void {
  const flags = c.call<I32>(arithmeticFlags);
  const al = c.readGpr(Gpr.RAX, 8).wrap();
  const carry = flags.and(CF);
  const low = c.let(al.and(0xf).gtU(9).or(flags.shrU(4).and(1)));
  const high = c.let(al.gtU(0x99).or(carry));
  const fix = low.mul(6).add(high.mul(0x60));
  const result = c.let((subtract ? al.sub(fix) : al.add(fix)).and(0xff));
  // DAS also borrows when the low digit's adjustment passes zero.
  const borrow = subtract ? low.and(al.ltU(6)) : c.i32(0);
  c.writeGpr(Gpr.RAX, 8, result.u64());
  c.mixedFlags(8, result.u64(), high.or(borrow).or(low.mul(AF)));
}
insn("DAA", "27", "", no64, (c) => adjust(c, false));
insn("DAS", "2F", "", no64, (c) => adjust(c, true));

function ascii(c: Insn, subtract: boolean): void {
  const flags = c.call<I32>(arithmeticFlags);
  const ax = c.readGpr(Gpr.RAX, 16).wrap();
  const fix = c.let(ax.and(0xf).gtU(9).or(flags.shrU(4).and(1)));
  const moved = subtract ? ax.sub(fix.mul(0x106)) : ax.add(fix.mul(0x106));
  c.writeGpr(Gpr.RAX, 16, moved.and(0xff0f).u64());
  c.mixedFlags(8, moved.and(0x0f).u64(), fix.mul(CF | AF));
}
insn("AAA", "37", "", no64, (c) => ascii(c, false));
insn("AAS", "3F", "", no64, (c) => ascii(c, true));

insn("AAM", "D4", "Ib", no64, (c) => {
  const base = c.field("imm").and(0xff);
  c.faultIf(base.eqz(), Vector.DE);
  const al = c.readGpr(Gpr.RAX, 8).wrap();
  const low = c.let(al.remU(base));
  c.writeGpr(Gpr.RAX, 16, al.divU(base).shl(8).or(low).u64());
  c.mixedFlags(8, low.u64(), c.i32(0));
});
insn("AAD", "D5", "Ib", no64, (c) => {
  const ax = c.readGpr(Gpr.RAX, 16).wrap();
  const low = c.let(ax.add(ax.shrU(8).mul(c.field("imm").and(0xff))).and(0xff));
  c.writeGpr(Gpr.RAX, 16, low.u64());
  c.mixedFlags(8, low.u64(), c.i32(0));
});

insn("SALC", "D6", "", no64, (c) => {
  const carry = c.call<I32>(arithmeticFlags).and(CF);
  c.writeGpr(Gpr.RAX, 8, c.i32(0).sub(carry).u64());
});

insn("BOUND", "62", "Gv,M", { mode: "no64", sizes: [16, 32] }, (c) => {
  const bits = c.opsize;
  const index = c.readSigned(0);
  const va = c.let(c.address(bits * 2));
  const lower = c.readAt(bits, va).signExtend(bits);
  const upper = c.readAt(bits, va.add(bits / 8)).signExtend(bits);
  c.faultIf(index.ltS(lower).or(index.gtS(upper)), Vector.BR);
});

const flag = (name: string, opcode: string, change: (flags: I32) => I32): void =>
  insn(name, opcode, "", {}, (c) => c.explicitFlags(change(c.call<I32>(arithmeticFlags))));
flag("CMC", "F5", (f) => f.xor(CF));
flag("CLC", "F8", (f) => f.and(~CF));
flag("STC", "F9", (f) => f.or(CF));

insn("CLD", "FC", "", {}, (c) => set32(c, Cpu.RFLAGS, get32(c, Cpu.RFLAGS).and(~RFLAGS.DF)));
insn("STD", "FD", "", {}, (c) => set32(c, Cpu.RFLAGS, get32(c, Cpu.RFLAGS).or(RFLAGS.DF)));
