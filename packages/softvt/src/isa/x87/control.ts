import { Cpu } from "../../cpu/layout.ts";
import { CR0, get32, get64, set32, set64, Vector } from "../../cpu/state.ts";
import { type Builder, fn, type I32 } from "../../ir/builder.ts";
import { Flag } from "../../fpu/env.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pendingX87 } from "../sse-common.ts";
import { deviceCheck, x87, x87Check } from "./common.ts";

/** The control word's bits; bit 6 always reads as 1 (SDM Vol. 1 fig. 8-6). */
const FCW_BITS = 0x1f3f;
const FCW_ONE = 0x40;
/** ES and B. */
const SUMMARY = 0x8080;

/** Loads a control word: an exception that is flagged may thereby become pending, or no longer be. */
export const loadControl = fn("x87LoadControl", ["i32"], undefined, (f, value) => {
  set32(f, Cpu.FCW, value.and(FCW_BITS).or(FCW_ONE));
  f.call(updateSummary);
});

/** ES and B as they follow from flags and masks. */
export const updateSummary = fn("x87UpdateSummary", [], undefined, (f) => {
  const status = get32(f, Cpu.FSW);
  const pending = status.and(get32(f, Cpu.FCW).xor(-1)).and(Flag.ALL).ne(0);
  set32(f, Cpu.FSW, status.and(~SUMMARY).or(pending.select(f.i32(SUMMARY), f.i32(0))));
});

/** The state after FNINIT (SDM Vol. 3A table 9-1). */
export const initX87 = fn("x87Init", [], undefined, (f) => {
  set32(f, Cpu.FCW, 0x37f);
  for (const field of [Cpu.FSW, Cpu.TOP, Cpu.FOP, Cpu.FCS, Cpu.FDS]) set32(f, field, 0);
  set32(f, Cpu.FTW, 0xffff);
  set64(f, Cpu.FIP, 0);
  set64(f, Cpu.FDP, 0);
});

/** The status word with TOP in it. */
export const statusWord = (f: Builder): I32 => get32(f, Cpu.FSW).or(get32(f, Cpu.TOP).shl(11));

function control(name: string, encoding: string, operands: string, describe: (c: Insn) => void): void {
  insn(name, encoding, operands, { feature: "fpu" }, (c) => {
    deviceCheck(c);
    describe(c);
  });
}

control("FNINIT", "DB =E3", "", (c) => c.call(initX87));
control("FNCLEX", "DB =E2", "", (c) => set32(c, Cpu.FSW, get32(c, Cpu.FSW).and(0x7f00)));
control("FNSTCW", "D9 /7", "Mw=", (c) => c.write(0, get32(c, Cpu.FCW).u64()));
control("FNSTSW", "DD /7", "Mw=", (c) => c.write(0, statusWord(c).u64()));
control("FNSTSW", "DF =E0", "", (c) => c.writeGpr(0, 16, statusWord(c).u64()));
// What enabled and disabled the 8087's interrupts, and the 80287's protected mode: no operation since.
for (const [name, modrm] of [
  ["FNENI", "E0"],
  ["FNDISI", "E1"],
  ["FNSETPM", "E4"],
] as const)
  control(name, `DB =${modrm}`, "", () => {});

insn("FLDCW", "D9 /5", "Mw", { feature: "fpu" }, (c) => {
  x87Check(c);
  c.call(loadControl, c.read(0).wrap());
});

/** WAIT: unlike the others it is stopped by CR0.TS only with CR0.MP (SDM Vol. 3A table 2-2). */
insn("FWAIT", "9B", "", { feature: "fpu" }, (c) => {
  const both = CR0.MP | CR0.TS;
  c.faultIf(get64(c, Cpu.CR0).wrap().and(both).eq(both), Vector.NM);
  pendingX87(c);
});

x87("FNOP", "D9 =D0", "", (c) => c.i32(0));

/** Turns the stack without a look at it; C1 is cleared. */
const turn = (c: Insn, by: 1 | -1): I32 => {
  set32(c, Cpu.TOP, get32(c, Cpu.TOP).add(by).and(7));
  set32(c, Cpu.FSW, get32(c, Cpu.FSW).and(~Flag.UP));
  return c.i32(0);
};
x87("FDECSTP", "D9 =F6", "", (c) => turn(c, -1));
x87("FINCSTP", "D9 =F7", "", (c) => turn(c, 1));

const free = (c: Insn): I32 => {
  const shift = get32(c, Cpu.TOP).shl(1).add(c.field("b").shrU(3)).and(14);
  set32(c, Cpu.FTW, get32(c, Cpu.FTW).or(c.i32(3).shl(shift)));
  set32(c, Cpu.FSW, get32(c, Cpu.FSW).and(~Flag.UP));
  return c.i32(0);
};
x87("FFREE", "DD /0", "Nq", free);
// FFREE and pop: not in the SDM, but in every processor.
x87("FFREEP", "DF /0", "Nq", free, 1);
