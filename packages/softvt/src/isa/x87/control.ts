import { Cpu } from "../../cpu/layout.ts";
import { CR0, get32, get64, set32, Vector } from "../../cpu/state.ts";
import { Flag } from "../../fpu/env.ts";
import { initX87, loadControl, statusWord } from "../../fpu/status.ts";
import type { I32 } from "../../ir/builder.ts";
import type { Insn } from "../insn.ts";
import { insn } from "../registry.ts";
import { pendingX87 } from "../sse-common.ts";
import { deviceCheck, x87, x87Check } from "./common.ts";

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
