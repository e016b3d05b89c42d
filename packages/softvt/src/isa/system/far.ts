import { farReturn } from "../../cpu/return.ts";
import { farCall, farJump } from "../../cpu/transfer.ts";
import type { I32, I64 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { finishTransfer, readOperandAt, visible } from "./common.ts";

/** Far jumps, calls and returns (SDM Vol. 2 JMP, CALL, RET). */

/** The far pointer: an immediate or in memory. */
function pointer(c: Insn): { selector: I32; offset: I64 } {
  if (!c.isMemory(0)) return { selector: c.field("imm2").and(0xffff), offset: c.field("imm").u64() };
  const va = c.let(c.address(c.opsize + 16));
  const offset = readOperandAt(c, c.opsize, va);
  return { selector: c.let(readOperandAt(c, 16, va.add(c.opsize / 8)).wrap()), offset };
}

function jump(c: Insn): void {
  const { selector, offset } = pointer(c);
  c.call(farJump, selector, offset, visible(c, c.nextRip()));
  finishTransfer(c);
}

function call(c: Insn): void {
  const { selector, offset } = pointer(c);
  c.call(farCall, selector, offset, c.i32(c.opsize / 8), visible(c, c.nextRip()));
  finishTransfer(c);
}

insn("JMP", "EA", "Ap", { mode: "no64", sizes: [16, 32], ends: true }, jump);
insn("JMP", "FF /5", "Mp", { sizes: [16, 32, 64], ends: true }, jump);
insn("CALL", "9A", "Ap", { mode: "no64", sizes: [16, 32], ends: true }, call);
insn("CALL", "FF /3", "Mp", { sizes: [16, 32, 64], ends: true }, call);

insn("RETF", "CB", "", { sizes: [16, 32, 64], ends: true }, (c) => {
  c.call(farReturn, c.i32(c.opsize / 8), c.i32(0));
  finishTransfer(c);
});

insn("RETF", "CA", "Iw", { sizes: [16, 32, 64], ends: true }, (c) => {
  c.call(farReturn, c.i32(c.opsize / 8), c.field("imm").and(0xffff));
  finishTransfer(c);
});
